//! For each of some events, what it has seen and what its clock is.

use bson::{Document, Timestamp};
use oplogue_api::{Event, EventId, Op, Result};
use tracing::warn;

use super::{
    marker::{LogState, Marker},
    options::{Conflicts, Settings},
    seen::{Seen, Stream},
    state::{State, is_marker},
    touched::Touched,
    window::{Window, encode_write},
    word::Word,
};
use oplogue_api::Position;

/// See the module.
pub(super) struct Sight {
    /// For each event, its clock, and the place of what it has seen.
    events: Vec<(i64, usize)>,
    seen: Vec<Seen>,
    /// How far the log of the peer was read before the transaction began: what is there so far is surely in its snapshot.
    pub known: Timestamp,
    /// What the source has told behind the last event.
    pub stream: Stream,
    /// The greatest clock of the writes.
    clock: i64,
    /// The last of them.
    last: Option<EventId>,
    writes: Vec<u8>,
    fields: Touched,
}

impl Sight {
    /// `exact`: whether the marker must tell the time and clock of each write, and to an arbiter its fields.
    ///
    /// # Errors
    /// `Data` where a change is damaged.
    pub fn new(before: &Stream, events: &[Event], exact: bool, settings: &Settings) -> Result<Sight> {
        let mut stream = before.clone();
        let mut sight = Sight {
            events: Vec::with_capacity(events.len()),
            seen: vec![stream.seen.clone()],
            known: Timestamp { time: 0, increment: 0 },
            stream: Stream::default(),
            clock: 0,
            last: None,
            writes: Vec::new(),
            fields: Touched::default(),
        };
        for event in events {
            if is_marker(event) {
                pass(&mut stream, event, &settings.link.node);
                if sight.seen.last() != Some(&stream.seen) {
                    sight.seen.push(stream.seen.clone());
                }
            }
            let clock = stream.clock_of(event);
            sight.events.push((clock, sight.seen.len() - 1));
            if let (Some(key), false) =
                (&event.key, is_marker(event) || event.op.is_barrier() || !settings.wants(&event.ns))
            {
                sight.clock = sight.clock.max(clock);
                sight.last = Some(event.id());
                if exact && !settings.is_between_others(&event.ns) {
                    let hash = Window::hash(&event.ns, key);
                    encode_write(&mut sight.writes, hash, event, clock);
                    if !settings.is_preferred() && settings.policy(&event.ns).conflicts == Conflicts::Merge {
                        sight.fields.note(hash, event)?;
                    }
                }
            }
        }
        sight.stream = stream;
        Ok(sight)
    }

    pub fn of(&self, n: usize) -> (i64, &Seen) {
        let (clock, place) = self.events[n];
        (clock, &self.seen[place])
    }

    /// The marker of a transaction with these events. `whole`: the time of the latest document that was taken whole, in which there
    /// may be writes later than all of these.
    pub fn marker(
        &self,
        state: &State,
        position: &Position,
        whole: Option<Timestamp>,
        [again, waits]: [Vec<Word>; 2],
    ) -> Result<Marker> {
        let before = state.marker()?.clone();
        let whole = whole.map_or(0, |at| i64::from(at.time) * 1000 + 999);
        Ok(Marker {
            seq: before.seq + 1,
            position: position.clone(),
            // What comes behind it tells nothing about how far the log is applied: other links would wait for it in vain.
            done: self.last.unwrap_or(before.done).max(before.done),
            clock: before.clock.max(self.clock).max(whole),
            saw: self.seen[0].all().to_vec(),
            seen: self.stream.seen.all().to_vec(),
            writes: self.writes.clone(),
            fields: self.fields.clone(),
            again,
            waits,
            unsettled: self.stream.unsettled.clone(),
            log: LogState { clock: self.stream.clock, ..before.log },
            ..before
        })
    }
}

/// Takes note of a marker in the stream.
pub(super) fn pass(stream: &mut Stream, event: &Event, node: &str) {
    let marker = event.after.as_deref().and_then(|after| Document::try_from(after).ok());
    match marker.and_then(|marker| Marker::decode(&marker)) {
        Some(marker) => stream.pass(&marker, node),
        None if event.op == Op::Delete => {}
        None => warn!("a marker of an unknown shape is in the source: it was edited, or is of another version"),
    }
}
