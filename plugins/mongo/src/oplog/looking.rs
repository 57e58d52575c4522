//! A batch whose documents are being looked up: which keys to ask for, what was found, where the batch may be cut.

use std::collections::{HashMap, HashSet};

use bson::{RawDocument, RawDocumentBuf, Timestamp, raw::cstr};
use oplogue_api::{BadEvent, Doc, Event, Namespace, hash_key, same_key};

use super::position::Place;

/// The ids of one look-up are at most so many bytes, one large id excepted.
pub(crate) const MOST_ID_BYTES: usize = 1 << 20;

/// What was decoded, and the places in it at which reading may be resumed.
#[derive(Default)]
pub(super) struct Decoded {
    pub events: Vec<Event>,
    pub bad: Vec<BadEvent>,
    /// Kept only where the batch may have to be cut.
    pub stops: Option<Vec<Stop>>,
}

/// Behind an oplog entry.
pub(super) struct Stop {
    /// How many events come before.
    events: usize,
    /// How many bad ones do.
    bad: usize,
    place: Place,
}

impl Decoded {
    /// An entry ends here.
    pub fn stop(&mut self, place: Place) {
        let Some(stops) = &mut self.stops else { return };
        let (events, bad) = (self.events.len(), self.bad.len());
        match stops.last_mut() {
            Some(last) if (last.events, last.bad) == (events, bad) => last.place = place,
            _ => stops.push(Stop { events, bad, place }),
        }
    }

    /// Takes off what is up to the `n`-th event. The place is that of the last entry that ends in it: a transaction that
    /// is cut comes again from its beginning, until its last part is delivered. `None`: no entry ends in it.
    pub fn take(&mut self, n: usize) -> (Vec<Event>, Vec<BadEvent>, Option<Place>) {
        let stops = self.stops.get_or_insert_default();
        let over = stops.partition_point(|stop| stop.events <= n);
        let stop = stops[..over].last();
        let bad = stop.map_or(0, |stop| stop.bad).max(self.bad.partition_point(|bad| bad.before < n));
        let place = stop.map(|stop| stop.place);
        stops.drain(..over);
        for stop in stops {
            stop.events -= n;
            stop.bad -= bad;
        }
        let rest = self.events.split_off(n);
        let events = std::mem::replace(&mut self.events, rest);
        let rest = self.bad.split_off(bad);
        let bad = std::mem::replace(&mut self.bad, rest);
        for bad in &mut self.bad {
            bad.before -= n;
        }
        (events, bad, place)
    }
}

/// One question to the server.
pub(super) struct Plan {
    pub groups: Vec<Group>,
    /// The events before this one have all they get when this is answered.
    pub until: usize,
    /// The time of the last event of it: no older image will do.
    pub time: Timestamp,
    pub keys: usize,
}

/// The documents of one namespace.
pub(crate) struct Group {
    pub ns: Namespace,
    pub wanted: Vec<Wanted>,
    by_id: HashMap<Vec<u8>, usize>,
}

pub(crate) struct Wanted {
    /// `{_id: …}`, encoded.
    pub id: RawDocumentBuf,
    /// The updates of this document.
    events: Vec<usize>,
    pub found: Option<Doc>,
}

impl Plan {
    /// For the events from `from` on, as far as `most_keys` and [`MOST_ID_BYTES`] allow.
    pub fn new(events: &[Event], from: usize, most_keys: usize, mut is_wanted: impl FnMut(&Event) -> bool) -> Plan {
        let mut plan =
            Plan { groups: Vec::new(), until: events.len(), time: Timestamp { time: 0, increment: 0 }, keys: 0 };
        let mut by_ns: HashMap<&Namespace, usize> = HashMap::new();
        let mut bytes = 0;
        for (n, event) in events.iter().enumerate().skip(from) {
            if !is_wanted(event) {
                continue;
            }
            let Some(id) = event.key.as_ref().and_then(|key| id_of(key)) else { continue };
            let known = by_ns.get(&event.ns).map(|group| &mut plan.groups[*group]);
            let at = known.and_then(|group| group.by_id.get(id.as_bytes()).map(|at| &mut group.wanted[*at]));
            match at {
                Some(wanted) => wanted.events.push(n),
                None => {
                    let size = id.as_bytes().len();
                    if plan.keys > 0 && (plan.keys >= most_keys || bytes + size > MOST_ID_BYTES) {
                        plan.until = n;
                        break;
                    }
                    let group = *by_ns.entry(&event.ns).or_insert_with(|| {
                        plan.groups.push(Group::new(event.ns.clone()));
                        plan.groups.len() - 1
                    });
                    plan.groups[group].add(id, vec![n]);
                    plan.keys += 1;
                    bytes += size;
                }
            }
            plan.time = plan.time.max(event.time);
        }
        plan
    }

    /// Gives the updates what was found. Those of documents that are gone stay without.
    pub fn attach(self, events: &mut [Event]) {
        for wanted in self.groups.into_iter().flat_map(|group| group.wanted) {
            let Some(found) = wanted.found else { continue };
            for n in wanted.events {
                events[n].after = Some(found.clone());
            }
        }
    }
}

impl Group {
    pub fn new(ns: Namespace) -> Group {
        Group { ns, wanted: Vec::new(), by_id: HashMap::new() }
    }

    /// Asks for the document with `id`, which is `{_id: …}` and not asked for yet.
    pub fn add(&mut self, id: RawDocumentBuf, events: Vec<usize>) {
        self.by_id.insert(id.as_bytes().to_vec(), self.wanted.len());
        self.wanted.push(Wanted { id, events, found: None });
    }

    /// Whether a document is asked for.
    pub fn has(&self, id: &RawDocument) -> bool {
        self.by_id.contains_key(id.as_bytes())
    }

    /// Takes in an answer. What it gives back are the ids to ask for one by one: those of which a document is there
    /// whose id is written otherwise and may still be the same to the server (`1`, `1.0` and `NumberLong(1)` are).
    pub fn found(&mut self, documents: Vec<Doc>) -> Vec<usize> {
        let mut others = Vec::new();
        for document in documents {
            let at = id_of(&document).and_then(|id| self.by_id.get(id.as_bytes()).copied());
            match at {
                Some(at) => self.wanted[at].found = Some(document),
                None => others.push(document),
            }
        }
        let missing: Vec<usize> = (0..self.wanted.len()).filter(|at| self.wanted[*at].found.is_none()).collect();
        if missing.is_empty() {
            return missing;
        }
        let there: HashSet<u64> =
            self.wanted.iter().filter_map(|w| w.found.as_ref()).chain(&others).map(|d| hash_key(d)).collect();
        missing.into_iter().filter(|at| there.contains(&hash_key(&self.wanted[*at].id))).collect()
    }

    /// Takes in the answer for one id. A collection whose collation ignores case answers `a` with `A`, and it is the
    /// server that knows decimals; so both must agree that it is the same document.
    pub fn found_one(&mut self, at: usize, documents: Vec<Doc>) {
        let wanted = &mut self.wanted[at];
        wanted.found = documents.into_iter().find(|document| same_key(document, &wanted.id));
    }
}

/// `{_id: …}` of a document or of a document key, which may hold a shard key as well.
pub(crate) fn id_of(doc: &RawDocument) -> Option<RawDocumentBuf> {
    let id = doc.get("_id").ok().flatten()?;
    let mut key = RawDocumentBuf::new();
    key.append(cstr!("_id"), id);
    Some(key)
}
