//! From the events of a write to what one call of the script gets of them.

use oplogue_api::{Error, Event};

use crate::{
    coalesce::{Runs, window},
    options::Resync,
    pack::Pack,
    render::{Rendered, Renderer},
};

/// The most events, and about the most bytes, in one call of the script: while it runs, Redis does nothing else.
const MOST_EVENTS: usize = 1024;
/// See [`MOST_EVENTS`].
const MOST_BYTES: usize = 1 << 20;

/// What is reused from call to call.
pub struct Work {
    renderer: Renderer,
    /// What the next call gets.
    pub pack: Pack,
    /// For each event of the pack its place in the slice.
    pub packed: Vec<usize>,
    /// The position was lost within the pack.
    pub has_gap: bool,
    /// Places of events without a message of their own, since they were last cleared.
    pub ignored: Vec<usize>,
    coalesce: bool,
    /// Events that are told together; none without `coalesce`.
    pub runs: Runs,
}

/// Why a pack ends before the events do.
pub enum Cut {
    /// It is full.
    Full,
    /// The event at `next` cannot be rendered.
    Bad(Error),
    /// Subscribers are to load their data again before the event at `next`, a barrier, is passed.
    Resync,
}

impl Work {
    /// Nothing so far.
    pub fn new(renderer: Renderer, coalesce: bool) -> Work {
        Work {
            renderer,
            pack: Pack::new(),
            packed: Vec::new(),
            has_gap: false,
            ignored: Vec::new(),
            coalesce,
            runs: Runs::default(),
        }
    }

    /// Renders events from `next` on until the pack is full, and moves `next` behind them. `passed`: the subscribers have been
    /// told of the barrier at `next`.
    pub fn fill(&mut self, events: &[Event], next: &mut usize, resync: &[Resync], passed: bool) -> Option<Cut> {
        let (start, ignored) = (*next, self.ignored.len());
        let mut cut = None;
        let mut end = if self.coalesce { window(events, start, MOST_EVENTS, MOST_BYTES) } else { events.len() };
        loop {
            *next = start;
            self.ignored.truncate(ignored);
            if self.coalesce {
                self.runs.plan(&mut self.renderer, events, start, end);
            }
            match self.fill_until(&events[..end], next, resync, passed) {
                None => return cut.or((end < events.len()).then_some(Cut::Full)),
                // Of several events together it is not known which one is wrong: the next call tries the last by itself.
                Some((Cut::Bad(_), false)) => cut = Some(Cut::Full),
                Some((other, _)) => cut = Some(other),
            }
            if self.runs.first_untold(*next) == *next {
                return cut;
            }
            // What was to be told with an event that is not reached is told without it.
            end = *next;
        }
    }

    /// One pass. A cut comes with whether its event stood alone.
    fn fill_until(
        &mut self,
        events: &[Event],
        next: &mut usize,
        resync: &[Resync],
        mut passed: bool,
    ) -> Option<(Cut, bool)> {
        self.pack.clear(2 * MOST_BYTES);
        self.renderer.begin();
        self.packed.clear();
        self.has_gap = false;
        let begin = *next;
        while let Some(event) = events.get(*next) {
            let full = self.packed.len() >= MOST_EVENTS || self.pack.size() >= MOST_BYTES;
            // Events of one id stay together: the watermark cannot stand between them.
            if full && !self.coalesce && *next > begin && events[*next - 1].id() != event.id() {
                return Some((Cut::Full, true));
            }
            let concerns = Resync::of(event.op);
            if concerns.is_some_and(|word| resync.contains(&word)) && !std::mem::take(&mut passed) {
                return Some((Cut::Resync, true));
            }
            if self.runs.is_merged(*next) {
                self.ignored.push(*next);
                *next += 1;
                continue;
            }
            let earlier = self.runs.earlier(events, *next);
            match self.renderer.render(&mut self.pack, &earlier, event) {
                Ok(Rendered::Message) => self.packed.push(*next),
                Ok(Rendered::Gap { is_packed }) => {
                    self.has_gap = true;
                    if is_packed {
                        self.packed.push(*next);
                    }
                    self.ignored.push(*next);
                }
                Ok(Rendered::Barrier) => {
                    if concerns.is_some_and(|word| !resync.contains(&word)) {
                        tracing::warn!(op = event.op.name(), ns = %event.ns, "subscribers are not told: redis-oplog has no message for it");
                    }
                    self.ignored.push(*next);
                }
                Ok(Rendered::LeftOut | Rendered::NoChannel) => self.ignored.push(*next),
                Err(e) => {
                    let bad = Cut::Bad(e.at(format_args!("{} of {}", event.op.name(), event.ns)));
                    return Some((bad, earlier.is_empty()));
                }
            }
            *next += 1;
        }
        None
    }
}
