//! Events of a whole database (dropDatabase) name no collection. Such an event passes when some collection of the database
//! could: when there is a name of printable ASCII letters whose namespace passes. That is decided by walking the automata of
//! all patterns side by side, from behind `database.`, until a state is reached in which a positive one matches and no
//! negative one does.

use std::collections::{HashSet, VecDeque};

use regex_automata::{
    Anchored, Input, MatchKind,
    hybrid::{LazyStateID, dfa},
};

use super::patterns::Patterns;

/// How many combinations of states are looked at, at most. Beyond it, the event passes.
const MOST_STATES: usize = 5_000;

pub(super) struct Automaton(dfa::DFA);

impl Automaton {
    /// The automaton of a regular expression; none for one that needs more than an automaton of bytes can do.
    pub(super) fn new(regex: &str) -> Option<Automaton> {
        let config = dfa::Config::new()
            .match_kind(MatchKind::All)
            .unicode_word_boundary(true)
            .cache_capacity(1 << 20)
            .skip_cache_capacity_check(true)
            // A cleared cache would make states that are kept mean others.
            .minimum_cache_clear_count(Some(0));
        dfa::Builder::new().configure(config).build(regex).ok().map(Automaton)
    }
}

struct Walk<'a> {
    dfa: &'a dfa::DFA,
    cache: dfa::Cache,
}

impl Walk<'_> {
    fn new(dfa: &dfa::DFA) -> Walk<'_> {
        Walk { cache: dfa.create_cache(), dfa }
    }
    fn start(&mut self, text: &str) -> Option<LazyStateID> {
        let mut state = self.dfa.start_state_forward(&mut self.cache, &Input::new("").anchored(Anchored::Yes)).ok()?;
        for byte in text.bytes() {
            state = self.step(state, byte)?;
        }
        Some(state)
    }
    fn step(&mut self, state: LazyStateID, byte: u8) -> Option<LazyStateID> {
        self.dfa.next_state(&mut self.cache, state, byte).ok().filter(|next| !next.is_quit())
    }
    fn matches(&mut self, state: LazyStateID) -> Option<bool> {
        self.dfa.next_eoi_state(&mut self.cache, state).ok().map(|end| end.is_match())
    }
}

impl Patterns {
    /// Whether some namespace of the database passes.
    pub(super) fn match_some_collection_of(&self, db: &str) -> bool {
        // What cannot be decided passes: an event too many is better than a lost one.
        self.search(db).unwrap_or(true)
    }

    fn search(&self, db: &str) -> Option<bool> {
        let all = self.positive.iter().chain(&self.negative);
        let mut walks: Vec<Walk<'_>> =
            all.map(|p| p.automaton.as_ref().map(|a| Walk::new(&a.0))).collect::<Option<_>>()?;
        let prefix = format!("{db}.");
        let start: Vec<LazyStateID> = walks.iter_mut().map(|w| w.start(&prefix)).collect::<Option<_>>()?;
        let mut seen = HashSet::from([start.clone()]);
        let mut queue = VecDeque::from([start]);
        while let Some(states) = queue.pop_front() {
            for byte in b' '..=b'~' {
                let next: Vec<LazyStateID> =
                    walks.iter_mut().zip(&states).map(|(w, s)| w.step(*s, byte)).collect::<Option<_>>()?;
                // Looked at again when seen before only by way of the start, which is no collection yet.
                if self.accepts(&mut walks, &next)? {
                    return Some(true);
                }
                if seen.insert(next.clone()) {
                    if seen.len() > MOST_STATES {
                        return None;
                    }
                    queue.push_back(next);
                }
            }
        }
        Some(false)
    }

    fn accepts(&self, walks: &mut [Walk<'_>], states: &[LazyStateID]) -> Option<bool> {
        let mut positive = self.positive.is_empty();
        for (i, (walk, state)) in walks.iter_mut().zip(states).enumerate() {
            let matches = walk.matches(*state)?;
            if i < self.positive.len() {
                positive |= matches;
            } else if matches {
                return Some(false);
            }
        }
        Some(positive)
    }
}
