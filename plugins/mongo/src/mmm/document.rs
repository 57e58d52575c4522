//! What a document is after a change, where it is applied here and not by the server.

use bson::{RawDocument, RawDocumentBuf, Timestamp};
use oplogue_api::{Change, Doc, Error, Event, Op, Result, oplog};

use super::{
    arbiter::Fields,
    paths::{self, FieldPath},
    shape,
    verdict::{Conflict, Verdict},
    word::is_word,
};

/// A document as the origin has it.
#[derive(Clone)]
pub(super) struct Whole {
    pub document: Option<Doc>,
    /// What is not later than this is in it. `None`: not known.
    pub at: Option<Timestamp>,
    pub wanted: Why,
}

/// Why a whole document is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The change cannot be applied otherwise, and that is no conflict.
    Unknown,
    /// The document is not as it was at the origin.
    Differs(&'static str),
    /// Other writes are concurrent with the change.
    Concurrent,
}

/// What a document is after a change.
pub(super) enum Now {
    Same,
    Is(Option<RawDocumentBuf>),
    /// It was not as it must have been at the origin: the name of the conflict, and what it is now.
    Differs(&'static str, Option<RawDocumentBuf>),
    /// It was not as it must have been at the origin, and took nothing from there but the fields of the change: the name of the conflict,
    /// if it is one, and what it is now.
    Partly(Option<&'static str>, RawDocumentBuf),
    /// The change has won over others: what it is now.
    Won(Conflict, Option<RawDocumentBuf>),
    /// The change has lost: what it would have been.
    Lost(Conflict, Option<RawDocumentBuf>),
    /// The change was merged with others: what the document is now, which fields it took from the origin's, and which it kept.
    Merged(Conflict, Option<RawDocumentBuf>, [Vec<FieldPath>; 2]),
    /// The change has lost together with its collection.
    Homeless,
    /// Only the origin knows.
    Wanted(Why),
}

/// `is_unknown`: what the document was at the origin is not known, since an initial copy may hold later changes, or earlier ones
/// of another node are not here yet. `is_merged`: the peer merges fields.
pub(super) fn apply(
    event: &Event,
    now: Option<&RawDocument>,
    whole: Option<&Whole>,
    (is_unknown, is_merged): (bool, bool),
    verdict: Verdict,
) -> Result<Now> {
    let conflict = match verdict {
        Verdict::Stale | Verdict::Wait => return Ok(Now::Same),
        Verdict::Fields(fields) => return merged(event, now, whole, fields),
        Verdict::TooNew => return Err(Error::bug("a verdict that is none")),
        Verdict::Removed => return Ok(Now::Homeless),
        Verdict::Apply => return alone(event, now, whole, (is_unknown, is_merged)),
        Verdict::Remote(conflict) | Verdict::Local(conflict) if event.op == Op::Delete && now.is_none() => {
            // Deleted at both sides: nobody has lost anything.
            let _ = conflict;
            return Ok(Now::Same);
        }
        Verdict::Remote(conflict) => (conflict, true),
        Verdict::Local(conflict) => (conflict, false),
    };
    let (conflict, won) = conflict;
    let version = match (whole, event.op, &event.after) {
        // Later events of the transaction are in it, and are left out for that.
        (Some(whole), ..) => whole.document.as_deref().and_then(owned),
        (None, Op::Delete, _) => None,
        (None, Op::Insert | Op::Replace, Some(after)) => owned(after),
        _ => return Ok(Now::Wanted(Why::Concurrent)),
    };
    Ok(match won {
        true => Now::Won(conflict, version),
        false if same(now, version.as_deref()) => Now::Same,
        false => Now::Lost(conflict, version),
    })
}

/// What came, in the fields that nothing here keeps.
fn merged(event: &Event, now: Option<&RawDocument>, whole: Option<&Whole>, fields: Fields) -> Result<Now> {
    let (Some(change), Some(whole)) = (&event.change, whole) else { return Ok(Now::Wanted(Why::Concurrent)) };
    // It is gone there by now; that comes as well, and is concurrent too.
    let Some(theirs) = whole.document.as_deref() else { return Ok(Now::Same) };
    let Some(ours) = now else { return Ok(Now::Merged(fields.conflict, owned(theirs), [Vec::new(), Vec::new()])) };
    let within = |path: &FieldPath| path.within([Some(ours), Some(theirs)]);
    let kept = fields.kept.iter().map(within).collect::<Result<Vec<_>>>()?;
    let changed = FieldPath::all(change)?.iter().map(within).collect::<Result<Vec<_>>>()?;
    let (lost, taken): (Vec<_>, Vec<_>) = changed.into_iter().partition(|path| kept.iter().any(|k| k.overlaps(path)));
    let document = paths::take(ours, theirs, &taken)?;
    Ok(match lost.is_empty() && document.as_bytes() == ours.as_bytes() {
        true => Now::Same,
        false => Now::Merged(fields.conflict, Some(document), [taken, lost]),
    })
}

/// What came, in the fields of the change and no others: the origin may lack what it has left out.
fn partly(change: &Change, now: &RawDocument, whole: &Whole) -> Result<Now> {
    // It is gone there by now; that comes as well.
    let Some(theirs) = whole.document.as_deref() else { return Ok(Now::Same) };
    let within = |path: &FieldPath| path.within([Some(now), Some(theirs)]);
    let changed = FieldPath::all(change)?.iter().map(within).collect::<Result<Vec<_>>>()?;
    let document = paths::take(now, theirs, &changed)?;
    let kind = match whole.wanted {
        Why::Differs(kind) => Some(kind),
        Why::Unknown | Why::Concurrent => None,
    };
    Ok(match (kind, document.as_bytes() == theirs.as_bytes()) {
        (_, true) if document.as_bytes() == now.as_bytes() => Now::Same,
        (Some(kind), true) => Now::Differs(kind, Some(document)),
        (None, true) => Now::Is(Some(document)),
        (kind, false) => Now::Partly(kind, document),
    })
}

fn alone(
    event: &Event,
    now: Option<&RawDocument>,
    whole: Option<&Whole>,
    (is_unknown, is_merged): (bool, bool),
) -> Result<Now> {
    if let Some(whole) = whole {
        // The change is in the document that the origin gave.
        let document = whole.document.as_deref();
        if let (true, Op::Update, Some(change), Some(now)) = (is_merged, event.op, &event.change, now) {
            return partly(change, now, whole);
        }
        return Ok(match whole.wanted {
            _ if same(now, document) => Now::Same,
            Why::Differs(kind) => Now::Differs(kind, document.and_then(owned)),
            _ => Now::Is(document.and_then(owned)),
        });
    }
    Ok(match (event.op, &event.after, &event.change, now) {
        _ if is_unknown || is_word(event) => Now::Wanted(Why::Unknown),
        (Op::Insert, Some(after), _, None) | (Op::Replace, Some(after), _, Some(_)) => Now::Is(owned(after)),
        (Op::Insert, Some(after), _, Some(now)) if now.as_bytes() == after.as_bytes() => Now::Same,
        (Op::Insert, Some(after), _, Some(_)) => Now::Differs("exists", owned(after)),
        (Op::Replace, Some(after), _, None) => Now::Differs("missing", owned(after)),
        (Op::Delete, ..) => Now::Is(None),
        (Op::Update, _, Some(Change::OplogV2(diff)), Some(now)) => match shape::fits(diff, now)? {
            true => Now::Is(Some(oplog::apply(diff, now)?)),
            false => Now::Wanted(Why::Differs("shape")),
        },
        (Op::Update, _, _, None) => Now::Wanted(Why::Differs("missing")),
        (Op::Update, ..) => Now::Wanted(Why::Unknown),
        _ => return Err(Error::data("an event that lacks what its operation needs")),
    })
}

pub(super) fn same(a: Option<&RawDocument>, b: Option<&RawDocument>) -> bool {
    a.map(RawDocument::as_bytes) == b.map(RawDocument::as_bytes)
}

fn owned(document: &RawDocument) -> Option<RawDocumentBuf> {
    Some(document.to_owned())
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;
    use oplogue_api::Namespace;

    use super::*;
    use crate::mmm::window::Write;

    /// The change of the origin does not fit the document here. Where fields are merged nothing but its fields is taken.
    #[test]
    fn an_update_brings_no_field_that_it_does_not_name_to_where_fields_are_merged() {
        let change = Change::OplogV2(Doc::from(rawdoc! {"sn": {"u": {"x": 2}}}));
        let time = Timestamp { time: 1, increment: 1 };
        let event = Event { change: Some(change), ..Event::new(Op::Update, Namespace::new("a.b"), time, Doc::empty()) };
        let here = rawdoc! {"_id": 1, "theirs": 1, "n": 5};
        let after = |here: &RawDocument, there: Option<RawDocumentBuf>, is_merged| {
            let whole = Whole { document: there.map(Doc::from), at: Some(time), wanted: Why::Differs("shape") };
            match apply(&event, Some(here), Some(&whole), (false, is_merged), Verdict::Apply).unwrap() {
                Now::Same => ("same", None),
                Now::Partly(_, document) => ("partly", Some(document)),
                Now::Differs(_, document) => ("differs", document),
                _ => ("another", None),
            }
        };
        let there = rawdoc! {"_id": 1, "n": {"x": 2}, "ours": 1};
        let merged = rawdoc! {"_id": 1, "theirs": 1, "n": {"x": 2}};
        assert_eq!(after(&here, Some(there.clone()), true), ("partly", Some(merged)));
        assert_eq!(after(&here, Some(there.clone()), false), ("differs", Some(there.clone())));
        assert_eq!(after(&there, Some(there.clone()), true), ("same", None));
        assert_eq!(after(&rawdoc! {"_id": 1, "n": 5}, Some(rawdoc! {"_id": 1, "n": {"x": 2}}), true).0, "differs");
        assert_eq!(after(&here, None, true), ("same", None), "its delete comes as well");
    }

    /// A transaction inserts a document and changes it. Where it is taken whole, the change is in it and is not applied again: so the
    /// insert must not bring less.
    #[test]
    fn a_document_that_is_taken_whole_is_so_from_the_first_event_of_its_transaction() {
        let time = Timestamp { time: 5, increment: 1 };
        let after = rawdoc! {"_id": 1, "x": 1};
        let insert =
            Event { after: Some(after.into()), ..Event::new(Op::Insert, Namespace::new("a.b"), time, Doc::empty()) };
        let document = rawdoc! {"_id": 1, "x": 1, "y": 2};
        let whole = Whole { document: Some(document.clone().into()), at: Some(time), wanted: Why::Unknown };
        let conflict = || Conflict {
            kind: "insert-insert",
            node: "b".into(),
            write: Write::for_tests(time),
            upto: time,
            is_new: false,
        };
        let now = rawdoc! {"_id": 1};
        let won = apply(&insert, Some(&now), Some(&whole), (false, false), Verdict::Remote(conflict())).unwrap();
        assert!(matches!(won, Now::Won(_, Some(version)) if version == document));
        let alone = apply(&insert, Some(&now), None, (false, false), Verdict::Remote(conflict())).unwrap();
        assert!(matches!(alone, Now::Won(_, Some(version)) if version == rawdoc! {"_id": 1, "x": 1}));
    }
}
