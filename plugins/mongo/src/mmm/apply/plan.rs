//! What is to be done with each event of a transaction.

use std::collections::HashMap;

use bson::{RawDocument, RawDocumentBuf};
use oplogue_api::{Event, Result, hash_key};

use super::{Place, Retry, Tactics, Writes};
use crate::mmm::{
    arbiter,
    options::Conflicts,
    records::{self, By},
    sight::Sight,
    state::{Peer, State},
    statements::{Applied, Kind, statement},
    subjects::Subjects,
    verdict::{Earlier, Verdict, verdict},
    window::Window,
    word::{Audience, Word, is_word},
};

/// What is to be done with each event, the documents that are read for it, and what is known to be written beside.
pub(in crate::mmm) type Planned = (Vec<Plan>, Subjects, Writes);

/// What is to be done with an event.
pub(in crate::mmm) enum Plan {
    Nothing,
    Statement(Kind, RawDocumentBuf),
    /// Outside of the transaction: its collection takes none.
    Plain,
    /// At hand, with the document that the peer has.
    Read(Verdict),
}

impl Peer {
    /// What is to be done with each event; the documents that must be read for it are entered as subjects.
    pub(super) fn plans(
        &self,
        state: &State,
        events: &[Event],
        sight: &Sight,
        tactics: &mut Tactics,
        subjects: &mut Subjects,
        writes: &mut Writes,
    ) -> Result<Vec<Plan>, Retry> {
        let mut plans = Vec::with_capacity(events.len());
        let mut earlier: HashMap<u64, Earlier> = HashMap::new();
        let mut left: HashMap<Place, Word> = HashMap::new();
        let mut again = false;
        for (n, event) in events.iter().enumerate() {
            for (word, is_open) in arbiter::questions(&self.settings, state, event, sight.of(n).1)? {
                let before = earlier.entry(word.hash()?).or_default();
                before.said = before.said.into_iter().chain([word.base]).min();
                again |= is_open && tactics.again.note(word)?;
            }
            let wanted = self.settings.wants(&event.ns) && !event.op.is_barrier();
            let wanted = wanted && !self.settings.is_between_others(&event.ns);
            let Some(key) = event.key.as_deref().filter(|_| wanted) else {
                plans.push(Plan::Nothing);
                continue;
            };
            if sight.is_left_out(n, &self.settings, state.had()) {
                plans.push(Plan::Nothing);
                continue;
            }
            let place = (event.ns.clone(), hash_key(key));
            let hash = Window::hash(&event.ns, key);
            if sight.is_partly_had(n, state.had()) {
                again |= tactics.partly.insert(event.id());
                tactics.read.insert(place.clone());
            }
            // Even if there is nothing to be done here: elsewhere the word is waited for.
            let mut before = earlier.get(&hash).copied().unwrap_or_default();
            if let Some(base) = arbiter::base(&self.settings, state, &event.ns, hash, sight.of(n).1, before.said)? {
                again |= tactics.again.note(Word::on(event, key, base, Audience::All)?)?;
                before.said = Some(base);
                earlier.insert(hash, before);
            } else if let Some(word) = arbiter::forward(&self.settings, state, event, key)? {
                again |= tactics.again.note(word)?;
            }
            if let Some(code) = tactics.refused.get(&n) {
                let by = By::new(&self.settings.link, sight, n, &self.settings);
                writes.records.push(records::refused(by, event, *code)?);
                writes.outcome.refused += 1;
                plans.push(Plan::Nothing);
                continue;
            }
            if state.transactional.get(&event.ns) == Some(&false) {
                plans.push(Plan::Plain);
                continue;
            }
            if state.included.get(&place).is_some_and(|at| event.time <= *at) {
                if self.settings.forwards {
                    // It is there in the name of an earlier one, and is touched in its own.
                    again |= tactics.read.insert(place);
                    let subject = subjects.enter(&event.ns, key);
                    let subject = subjects.get(subject);
                    (subject.event, subject.is_won) = (n, true);
                }
                plans.push(Plan::Nothing);
                continue;
            }
            let verdict = verdict(&self.settings, state, event, hash, (sight, n), before)?;
            if matches!(verdict, Verdict::TooNew) {
                return Err(tactics.look_again());
            }
            match &verdict {
                Verdict::Wait if !left.contains_key(&place) => {
                    left.insert(place.clone(), Word::on(event, key, event.time, Audience::All)?);
                }
                // The word on what was left out before.
                Verdict::Apply if is_word(event) => {
                    left.remove(&place);
                }
                _ => {}
            }
            if let Verdict::Remote(conflict) = &verdict {
                earlier.insert(hash, Earlier { beaten: Some(conflict.upto), ..before });
            }
            let is_unknown =
                self.is_behind(event, tactics) || state.is_covered(event.time) || tactics.partly.contains(&event.id());
            let plan = match verdict {
                Verdict::Apply if !is_unknown && !tactics.read.contains(&place) => self.plan(event, key, state)?,
                Verdict::Wait => Plan::Nothing,
                verdict => Plan::Read(verdict),
            };
            if matches!(plan, Plan::Read(_)) {
                // Earlier events of the same document must be applied here as well.
                again |= tactics.read.insert(place);
                subjects.enter(&event.ns, key);
            }
            plans.push(plan);
        }
        for word in left.into_values() {
            again |= tactics.waits.note(word)?;
        }
        if again {
            return Err(Retry::Otherwise);
        }
        Ok(plans)
    }

    /// Whether what the event follows from may not be here. Of merged namespaces all comes over one link, in order.
    pub(super) fn is_behind(&self, event: &Event, tactics: &Tactics) -> bool {
        tactics.is_behind && self.settings.policy(&event.ns).conflicts != Conflicts::Merge
    }

    fn plan(&self, event: &Event, key: &RawDocument, state: &State) -> Result<Plan> {
        Ok(match statement(event, key, state.abilities, self.settings.stamp.as_ref())? {
            Applied::Statement(kind, statement) => Plan::Statement(kind, statement),
            Applied::Read => Plan::Read(Verdict::Apply),
        })
    }
}
