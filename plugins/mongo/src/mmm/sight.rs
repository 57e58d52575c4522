//! For each of some events, what it has seen and what its clock is.

use std::sync::Arc;

use bson::{Document, Timestamp};
use oplogue_api::{Event, EventId, Op, Position, Result};
use tracing::warn;

use super::{
    forward::{self, From, Group, Made, tell, with_own, without_own},
    marker::{LogState, Marker},
    options::{Conflicts, Settings},
    seen::{Seen, Stream},
    state::{State, is_marker},
    touched::Touched,
    window::{Window, encode_write},
    word::Word,
};

/// See the module.
pub(super) struct Sight {
    /// For each event, its clock, and the place of what it has seen.
    events: Vec<(i64, usize)>,
    seen: Vec<Seen>,
    /// What all of them have seen, at least.
    saw: Seen,
    /// Where the link forwards, who has made each of them; `None`: it does not go on.
    made: Vec<Option<Made>>,
    /// A link to the node that does not tell whose the writes are that it brings.
    pub untold: Option<String>,
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
            saw: stream.seen.clone(),
            made: Vec::new(),
            untold: None,
            known: Timestamp { time: 0, increment: 0 },
            stream: Stream::default(),
            clock: 0,
            last: None,
            writes: Vec::new(),
            fields: Touched::default(),
        };
        let own: Arc<str> = settings.link.node.as_str().into();
        // Where the link forwards, the place of what the node itself has seen by now; and that of the first group of a transaction.
        let (mut own_place, mut told_place) = (None, None);
        for event in events {
            if is_marker(event) {
                pass(&mut stream, event, &settings.link.node);
                (own_place, told_place) = (None, None);
                if !settings.forwards && sight.seen.last() != Some(&stream.seen) {
                    sight.seen.push(stream.seen.clone());
                }
            }
            let is_wanted = !is_marker(event) && !event.op.is_barrier() && settings.wants(&event.ns);
            let key = event.key.as_ref().filter(|_| is_wanted);
            if settings.forwards {
                let (clock, made) = match key {
                    None => (stream.clock_of(event), None),
                    Some(key) => {
                        let hash = Window::hash(&event.ns, key);
                        sight.made_by(&mut stream, event, hash, &own, &mut own_place, &mut told_place)
                    }
                };
                if made.is_some() {
                    sight.clock = sight.clock.max(clock);
                    sight.last = Some(event.id());
                } else {
                    sight.events.push((clock, 0));
                }
                sight.made.push(made);
                continue;
            }
            let clock = stream.clock_of(event);
            sight.events.push((clock, sight.seen.len() - 1));
            if let Some(key) = key {
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

    /// Whose an event is that may go on. If it does, its clock and the place of what it has seen are entered.
    fn made_by(
        &mut self,
        stream: &mut Stream,
        event: &Event,
        hash: u64,
        own: &Arc<str>,
        own_place: &mut Option<usize>,
        told_place: &mut Option<usize>,
    ) -> (i64, Option<Made>) {
        if stream.told.as_ref().is_some_and(|told| !told.is_of(event)) {
            stream.end();
            *own_place = None;
        }
        let is_delete = event.op == Op::Delete;
        if let Some(told) = &stream.told {
            let (groups, writes) = match &told.from {
                From::Elsewhere => return (0, None),
                From::Untold(link) => {
                    self.untold = Some(link.clone());
                    return (0, None);
                }
                From::Told { groups, writes } => (groups, writes),
            };
            if let Some((one, group)) = writes.get(&hash).and_then(|one| Some((one, one.group?))) {
                let first = *told_place.get_or_insert_with(|| {
                    let first = self.seen.len();
                    self.seen.extend(groups.iter().map(|(_, seen)| seen.clone()));
                    first
                });
                let node = Arc::clone(&groups[group].0);
                self.events.push((one.clock, first + group));
                let made = Made { node, time: one.time, first: one.first, hash, is_delete: one.is_delete };
                return (one.clock, Some(made));
            }
            // What the router of the node has decided is the node's own write.
        }
        let place = *own_place.get_or_insert_with(|| {
            self.seen.push(with_own(&stream.seen, own));
            self.seen.len() - 1
        });
        let clock = stream.clock_of(event);
        self.events.push((clock, place));
        (clock, Some(Made { node: Arc::clone(own), time: event.time, first: event.time, hash, is_delete }))
    }

    pub fn of(&self, n: usize) -> (i64, &Seen) {
        let (clock, place) = self.events[n];
        (clock, &self.seen[place])
    }

    /// The node that has made an event.
    pub fn by<'a>(&'a self, n: usize, settings: &'a Settings) -> &'a str {
        self.made(n).map_or(&settings.link.node, |made| &made.node)
    }

    /// Who has made an event, where the link forwards and it may go on.
    pub fn made(&self, n: usize) -> Option<&Made> {
        self.made.get(n)?.as_ref()
    }

    /// Whether the event does not go on: the peer has made it, or has it already.
    pub fn is_left_out(&self, n: usize, settings: &Settings, had: &Seen) -> bool {
        let Some(made) = self.made.get(n) else { return false };
        made.as_ref().is_none_or(|made| {
            *made.node == *settings.link.peer || had.of(&made.node).is_some_and(|upto| upto >= made.time)
        })
    }

    /// Whether the peer has a part of the writes already that are one here.
    pub fn is_partly_had(&self, n: usize, had: &Seen) -> bool {
        self.made(n)
            .is_some_and(|made| made.first < made.time && had.of(&made.node).is_some_and(|upto| upto >= made.first))
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
        let mut marker = Marker {
            seq: before.seq + 1,
            position: position.clone(),
            // What comes behind it tells nothing about how far the log is applied: other links would wait for it in vain.
            done: self.last.unwrap_or(before.done).max(before.done),
            clock: before.clock.max(self.clock).max(whole),
            saw: self.saw.all().to_vec(),
            seen: self.stream.seen.all().to_vec(),
            writes: self.writes.clone(),
            fields: self.fields.clone(),
            again,
            waits,
            unsettled: self.stream.unsettled.clone(),
            log: LogState { clock: self.stream.clock, ..before.log },
            forward: before.forward.map(forward::Forward::alone),
            ..before
        };
        self.tell(state, &mut marker);
        Ok(marker)
    }

    /// Whose the writes are.
    fn tell(&self, state: &State, marker: &mut Marker) {
        let Some(forward) = &mut marker.forward else { return };
        let mut last = None;
        for (n, made) in self.made.iter().enumerate() {
            let Some(made) = made else { continue };
            let is_had = |upto: Timestamp| upto >= made.time;
            if *made.node == *marker.link.peer || state.had().of(&made.node).is_some_and(is_had) {
                continue;
            }
            let (clock, place) = self.events[n];
            if last != Some((&made.node, place)) {
                let saw = without_own(&self.seen[place], &made.node);
                forward.groups.push(Group { node: made.node.to_string(), saw, of: 0 });
                last = Some((&made.node, place));
            }
            let times = [made.first, made.time];
            for time in &times[usize::from(made.first == made.time)..] {
                tell(&mut marker.writes, made.hash, *time, clock, made.is_delete);
                if let Some(group) = forward.groups.last_mut() {
                    group.of += 1;
                }
            }
        }
    }
}

/// Takes note of a marker in the stream.
pub(super) fn pass(stream: &mut Stream, event: &Event, node: &str) {
    let marker = event.after.as_deref().and_then(|after| Document::try_from(after).ok());
    let marker = marker.and_then(|marker| Marker::decode(&marker));
    if marker.is_none() && event.op != Op::Delete {
        warn!("a marker of an unknown shape is in the source: it was edited, or is of another version");
    }
    match marker {
        marker if stream.forwards && event.txn.is_some() => stream.begin(event, marker.as_ref(), node),
        Some(marker) => {
            stream.end();
            stream.pass(&marker, node);
        }
        None => {}
    }
}
