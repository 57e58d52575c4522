//! Rules applied to whole events: key, documents and change alike.

use oplogue_api::{
    BadEvent, Batch, Doc, Error, Event, Namespace, Op, Result,
    bson::{RawDocumentBuf, Timestamp, cstr},
};

use super::{change, document, tree::Rules};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Edited,
    /// An update of which nothing is left.
    Emptied,
}

/// Edits an event. What was taken out is not left in `raw` either, which is empty then.
///
/// # Errors
/// `Data`: the event is damaged, and as it was.
pub(super) fn edit(rules: &Rules, event: &mut Event, scratch: &mut Vec<u8>) -> Result<Outcome> {
    if event.op.is_barrier() {
        return Ok(Outcome::Same);
    }
    let mut part = |doc: &Option<Doc>| match doc {
        Some(doc) => document::edit(rules, doc, scratch),
        None => Ok(None),
    };
    let (key, after, before) = (part(&event.key)?, part(&event.after)?, part(&event.before)?);
    let change = match &event.change {
        Some(change) => change::edit(rules, change, scratch)?,
        None => None,
    };
    if key.is_none() && after.is_none() && before.is_none() && change.is_none() {
        return Ok(Outcome::Same);
    }
    let is_emptied = event.op == Op::Update && change.as_ref().is_some_and(change::says_nothing);
    for (place, new) in [(&mut event.key, key), (&mut event.after, after), (&mut event.before, before)] {
        if new.is_some() {
            *place = new;
        }
    }
    if change.is_some() {
        event.change = change;
    }
    event.raw = Doc::empty();
    Ok(if is_emptied { Outcome::Emptied } else { Outcome::Edited })
}

/// Gives every event to `edit`, which says whether it goes on, and leaves one that it fails on as it was: that one is a bad event from then
/// on. With `hides`, it keeps nothing of what it held. Events that are bad already are edited as well, since they may go on one day.
pub(super) fn each(batch: &mut Batch, hides: bool, mut edit: impl FnMut(&mut Event) -> Result<bool>) {
    for bad in &mut batch.bad {
        if let Some(event) = &mut bad.event
            && edit(event).is_err()
            && hides
        {
            (bad.raw, bad.event) = (without_content(Some(event.op), Some(&event.ns), event.time), None);
        }
    }
    let mut failed: Vec<(usize, Error)> = Vec::new();
    // Whether each leaves, once one does.
    let mut leaves: Vec<bool> = Vec::new();
    for (i, event) in batch.events.iter_mut().enumerate() {
        let stays = edit(event).unwrap_or_else(|e| {
            failed.push((i, e));
            false
        });
        if !stays && leaves.is_empty() {
            leaves.resize(i, false);
        }
        if !stays || !leaves.is_empty() {
            leaves.push(!stays);
        }
    }
    if leaves.is_empty() {
        return;
    }
    let mut given = std::mem::take(&mut batch.bad).into_iter().peekable();
    let mut failed = failed.into_iter().peekable();
    let events = std::mem::take(&mut batch.events);
    batch.events.reserve(events.len());
    for (i, (event, leaves)) in events.into_iter().zip(leaves).enumerate() {
        let before = batch.events.len();
        while let Some(next) = given.next_if(|b| b.before <= i) {
            batch.bad.push(BadEvent { before, ..next });
        }
        if !leaves {
            batch.events.push(event);
        } else if let Some((_, error)) = failed.next_if(|(at, _)| *at == i) {
            batch.bad.push(if hides {
                let raw = without_content(Some(event.op), Some(&event.ns), event.time);
                BadEvent::undecodable(before, event.time, Some(event.ns), raw, error)
            } else {
                BadEvent::refused(before, event, error)
            });
        }
    }
    let before = batch.events.len();
    batch.bad.extend(given.map(|next| BadEvent { before, ..next }));
}

/// Leaves of the entries that could not be decoded nothing but what they are: nobody can say what is in them.
pub(super) fn hide_bad(batch: &mut Batch, mut concerns: impl FnMut(Option<&Namespace>) -> bool) {
    for bad in &mut batch.bad {
        if !super::document::is_empty(&bad.raw) && concerns(bad.ns.as_ref()) {
            bad.raw = without_content(None, bad.ns.as_ref(), bad.time);
        }
    }
}

/// `{op?, ns?, time}`: enough to find it in the oplog.
fn without_content(op: Option<Op>, ns: Option<&Namespace>, time: Timestamp) -> Doc {
    let mut doc = RawDocumentBuf::new();
    if let Some(op) = op {
        doc.append(cstr!("op"), op.name());
    }
    if let Some(ns) = ns {
        doc.append(cstr!("ns"), ns.as_str());
    }
    doc.append(cstr!("time"), time);
    doc.into()
}
