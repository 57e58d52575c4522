//! `coalesce = true`: several events of one document, waiting in one call of the script, become one message.
//!
//! A message of the last event stands for the run: the union of what changed (`f`), the channels of all, the last document.
//! Subscribers read the document, or take it from the message, in the state after the run, so none can tell the difference
//! but by the messages they did not get. What they do with a message decides which events may be told as one:
//!
//! - insert, then updates: as an **update**. A subscriber that does not have the document adds it on an update too; one that has it
//!   already (it asked between the insert and the update) passes over an insert, and would miss the update.
//! - A deletion ends a run and is told by itself, and so is what comes after it.

use std::collections::HashMap;

use oplogue_api::{Doc, Event, Namespace, Op, hash_key, same_key};

use crate::render::Renderer;

/// Where a call that begins at `start` ends, for at most so many events and about so many bytes.
pub fn window(events: &[Event], start: usize, most_events: usize, most_bytes: usize) -> usize {
    let size = |doc: &Option<Doc>| doc.as_ref().map_or(0, |doc| doc.as_bytes().len());
    let mut bytes = 0;
    let mut end = start;
    while end < events.len() {
        let full = end - start >= most_events || bytes >= most_bytes;
        // Events of one id stay together: the watermark cannot stand between them.
        if full && events[end - 1].id() != events[end].id() {
            break;
        }
        bytes += events[end].size() + size(&events[end].after) + size(&events[end].before);
        end += 1;
    }
    end
}

/// Which events of a slice are told with a later one. Empty when nothing is put together.
#[derive(Default)]
pub struct Runs {
    /// Where in the slice the plan begins.
    start: usize,
    /// For each event from there on.
    places: Vec<Place>,
}

#[derive(Clone, Copy, Default)]
struct Place {
    /// The event before it in its run.
    earlier: Option<usize>,
    /// Told with a later event.
    merged: bool,
}

impl Runs {
    /// Plans for the events from `start` to before `end`.
    pub fn plan(&mut self, renderer: &mut Renderer, events: &[Event], start: usize, end: usize) {
        self.start = start;
        self.places.clear();
        self.places.resize(end - start, Place::default());
        let mut last: HashMap<(&Namespace, u64), usize> = HashMap::new();
        for (n, event) in events[start..end].iter().enumerate() {
            let Some(key) = event.key.as_ref().filter(|_| !event.op.is_barrier()) else {
                // Before and after a barrier, a name may mean different collections.
                last.clear();
                continue;
            };
            let hash = (&event.ns, hash_key(key));
            match renderer.leaves_out(event) {
                Ok(false) if event.op != Op::Delete => {}
                Ok(true) => continue,
                // A deletion, or an event that cannot be told at all.
                _ => {
                    last.remove(&hash);
                    continue;
                }
            }
            let before = last.insert(hash, n).filter(|before| {
                let other = &events[start + before].key;
                // An insert begins a document, whatever its id did before.
                event.op != Op::Insert && other.as_ref().is_some_and(|other| same_key(other, key))
            });
            if let Some(before) = before {
                self.places[n].earlier = Some(before);
                self.places[before].merged = true;
            }
        }
    }

    /// Whether anything is put together.
    pub fn any(&self) -> bool {
        self.places.iter().any(|place| place.merged)
    }

    /// Whether the event is told with a later one.
    pub fn is_merged(&self, at: usize) -> bool {
        at >= self.start && self.places.get(at - self.start).is_some_and(|place| place.merged)
    }

    /// The events that are told with this one, in order.
    pub fn earlier<'a>(&self, events: &'a [Event], at: usize) -> Vec<&'a Event> {
        let mut run = Vec::new();
        let mut next = self.places.get(at.wrapping_sub(self.start)).and_then(|place| place.earlier);
        while let Some(n) = next {
            run.push(&events[self.start + n]);
            next = self.places[n].earlier;
        }
        run.reverse();
        run
    }

    /// The first event that has not been told when everything before `at` has been: what was put together with an event from
    /// `at` on has not.
    pub fn first_untold(&self, at: usize) -> usize {
        let untold = self.places.iter().enumerate().skip(at.saturating_sub(self.start)).filter_map(|(n, _)| {
            let mut first = n;
            while let Some(earlier) = self.places[first].earlier {
                first = earlier;
            }
            Some(self.start + first).filter(|first| *first < at)
        });
        untold.min().unwrap_or(at)
    }
}

#[cfg(test)]
#[path = "coalesce_tests.rs"]
mod tests;
