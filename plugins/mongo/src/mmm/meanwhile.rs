//! Writing while the log of the peer is read, where nothing is expected in it.

use oplogue_api::{Error, Event, Result};

use super::{
    apply::{Planned, Retry, Tactics, Writes},
    marker::Marker,
    options::Conflicts,
    seen::Seen,
    sight::Sight,
    state::{Peer, State},
    txn::Transaction,
    window::{Window, Write},
};

impl Peer {
    /// By what is known so far nothing is in the way of any event: they are written while the log is read, and it is looked at again
    /// before the commit.
    pub(super) async fn write_meanwhile(
        &self,
        transaction: &mut Transaction<'_>,
        state: &mut State,
        events: &[Event],
        (sight, marker): (&Sight, &Marker),
        planned: Planned,
        tactics: &mut Tactics,
    ) -> Result<Writes, Retry> {
        let client = self.client().await?;
        // Should this be dropped half-way, the window is made anew.
        let Some(mut window) = state.window.take() else { return Err(Error::bug("there is no window").into()) };
        let had = window.had().clone();
        let (pulled, written) = tokio::join!(
            window.pull(client),
            self.carry_out(transaction, state, events, (sight, marker), planned, tactics)
        );
        let is_overtaken = pulled.is_ok() && self.is_overtaken(&window, &had, events, sight);
        state.window = Some(window);
        pulled?;
        if is_overtaken {
            // What was refused or not found may have its reason there.
            tactics.read.clear();
            return Err(tactics.look_again());
        }
        written
    }

    /// Whether something has come that any of the events would have met.
    fn is_overtaken(&self, window: &Window, had: &Seen, events: &[Event], sight: &Sight) -> bool {
        // It has come by another way too, or a part of it; or DDL of which it is not known whose it is.
        let is_news = |n: usize| {
            let is_left = |had| sight.is_left_out(n, &self.settings, had);
            is_left(window.had()) && !is_left(had)
                || sight.is_partly_had(n, window.had()) && !sight.is_partly_had(n, had)
        };
        if self.settings.forwards && (window.is_run_missing || had != window.had() && (0..events.len()).any(is_news)) {
            return true;
        }
        if !window.has_entered_since(sight.known) {
            return false;
        }
        let is_new = |write: &Write| write.time > sight.known;
        let looks = |event: &Event| {
            self.settings.wants(&event.ns) && self.settings.policy(&event.ns).conflicts != Conflicts::Origin
        };
        events.iter().enumerate().filter(|(_, event)| looks(event)).any(|(n, event)| {
            let (_, seen) = sight.of(n);
            let is_met = |key| window.concurrent(Window::hash(&event.ns, key), seen).any(is_new);
            window.is_removed(&event.ns, seen) || event.key.as_deref().is_some_and(is_met)
        })
    }
}
