//! A route's checkpoint: loading it, claiming it, moving it.

use std::sync::Arc;

use oplogue_api::{Checkpoint, CheckpointStore, Error, Position, Result, Saved};

/// Saves the checkpoint of one route.
pub struct Saver {
    store: Arc<dyn CheckpointStore>,
    route: String,
    /// Of the checkpoint that is stored, as far as is known; 0 for none.
    generation: u64,
    /// The position that is stored, as far as is known.
    saved: Option<Position>,
    /// What may be stored, since the reply to that is missing: it is tried again as it is until that is known.
    tried: Option<Checkpoint>,
}

impl Saver {
    /// Reads what is stored for `route`.
    pub async fn load(store: Arc<dyn CheckpointStore>, route: &str) -> Result<Saver> {
        let stored = store.load(route).await?;
        let (generation, saved) = match stored {
            Some(c) => (c.generation, Some(c.position)),
            None => (0, None),
        };
        Ok(Saver { store, route: route.to_owned(), generation, saved, tried: None })
    }

    /// The stored position.
    pub fn saved(&self) -> Option<&Position> {
        self.saved.as_ref()
    }

    /// Takes the checkpoint over: an older process that still runs this route finds it moved at its next save, and stops.
    /// A store that is shared by twins is left alone.
    pub async fn claim(&mut self) -> Result<()> {
        let Some(position) = self.saved.take() else { return Ok(()) };
        let claimed = if self.store.is_shared() { Ok(true) } else { self.save(&position).await };
        self.saved.get_or_insert(position);
        match claimed? {
            true => Ok(()),
            // C15: an older process would not notice.
            false => Err(Error::bug("the store does not let the checkpoint be taken over")),
        }
    }

    /// Stores where a route without a checkpoint begins. On return the store holds `start` or, where the store is shared with
    /// a twin of this route, the place where the twin has begun: see [`Saver::saved`].
    ///
    /// A twin that was first is followed although its place is earlier: it already delivers from there, and a later place
    /// would count what lies between as delivered by somebody (I1).
    ///
    /// # Errors
    /// Those of [`Saver::save`].
    pub async fn begin(&mut self, start: &Position) -> Result<()> {
        let first = Checkpoint { position: start.clone(), generation: self.generation + 1 };
        let held = || Error::bug("the store does not keep the first checkpoint of a route");
        if self.saved.is_some() || !self.store.is_shared() {
            return self.save(start).await?.then_some(()).ok_or_else(held);
        }
        let stored = match self.store.save(&self.route, &first).await? {
            Saved::Stored => first,
            Saved::Superseded(other) => other,
            Saved::Held => return Err(held()),
        };
        self.accept(stored);
        Ok(())
    }

    /// Stores `mark` unless it is stored already. On return of `true` the store holds `mark` or, where the store is shared with a
    /// twin of this route, a position that the twin has put there: see [`Saver::saved`]. `false`: the store found `mark` not worth
    /// a write ([`Saved::Held`]), and holds an earlier position.
    ///
    /// # Errors
    /// Those of the store, and `Operator` when another process has moved the checkpoint of this route.
    pub async fn save(&mut self, mark: &Position) -> Result<bool> {
        // A twin may move the checkpoint between our look and our write, but each such round is progress of the route.
        for _ in 0..8 {
            if self.saved.as_ref() == Some(mark) {
                return Ok(true);
            }
            let next = Checkpoint { position: mark.clone(), generation: self.generation + 1 };
            let next = self.tried.get_or_insert(next).clone();
            match self.store.save(&self.route, &next).await? {
                // It may be an earlier try: then comes `mark`.
                Saved::Stored => self.accept(next),
                // An earlier try may be held, and `mark` be worth it.
                Saved::Held => {
                    self.tried = None;
                    if next.position == *mark {
                        return Ok(false);
                    }
                }
                Saved::Superseded(other) if self.store.is_shared() => {
                    let ahead = other.position.time >= mark.time;
                    self.accept(other);
                    if ahead {
                        return Ok(true);
                    }
                }
                Saved::Superseded(other) => {
                    return Err(Error::operator(format!(
                        "another process has moved the checkpoint of route `{}` (generation {}, expected {})",
                        self.route, other.generation, self.generation
                    ))
                    .hint(
                        "run one instance of a route per checkpoint: stop the other one, or give this one a name or \
                         a state of its own",
                    ));
                }
            }
        }
        Err(Error::transient(format!("the checkpoint of route `{}` is being moved by others all the time", self.route)))
    }

    fn accept(&mut self, stored: Checkpoint) {
        self.generation = stored.generation;
        self.saved = Some(stored.position);
        self.tried = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, rawdoc};
    use oplogue_api::ErrorKind;
    use oplogue_testkit::{
        faults::{Fault, FaultyStore, Schedule},
        sample::MemoryStore,
    };

    fn at(n: u32) -> Position {
        Position { token: rawdoc! {"n": n as i32}.into(), time: Timestamp { time: n, increment: 0 } }
    }

    #[tokio::test]
    async fn of_two_twins_that_start_together_the_second_begins_where_the_first_did() {
        for (first, second) in [(5, 9), (9, 5)] {
            let store = MemoryStore::shared();
            let shared: Arc<dyn CheckpointStore> = Arc::new(store.clone());
            let mut one = Saver::load(Arc::clone(&shared), "r").await.unwrap();
            let mut two = Saver::load(shared, "r").await.unwrap();
            one.begin(&at(first)).await.unwrap();
            two.begin(&at(second)).await.unwrap();
            assert_eq!([one.saved(), two.saved()], [Some(&at(first)); 2]);
            assert_eq!(store.get("r").unwrap().position, at(first));
            two.save(&at(10)).await.unwrap();
            one.save(&at(8)).await.unwrap();
            assert_eq!(store.get("r").unwrap().position, at(10), "the furthest is kept");
        }
    }

    #[tokio::test]
    async fn a_lost_reply_and_a_failure_behind_it_are_not_taken_for_another_process() {
        let schedule = Schedule::new(1)
            .then(1, Fault::FailAfterWrite(ErrorKind::Transient))
            .then(1, Fault::Reject(ErrorKind::Transient));
        let store = MemoryStore::new();
        let mut saver = Saver::load(Arc::new(store.clone()), "r").await.unwrap();
        saver.store = Arc::new(FaultyStore::new(Arc::clone(&saver.store), schedule));
        assert!(saver.save(&at(1)).await.is_err());
        assert!(saver.save(&at(2)).await.is_err());
        saver.save(&at(3)).await.unwrap();
        assert_eq!(store.get("r").unwrap(), Checkpoint { position: at(3), generation: 2 });
    }

    #[tokio::test]
    async fn a_store_of_one_writer_refuses_the_second_to_begin() {
        let store: Arc<dyn CheckpointStore> = Arc::new(MemoryStore::new());
        let mut one = Saver::load(Arc::clone(&store), "r").await.unwrap();
        let mut two = Saver::load(store, "r").await.unwrap();
        one.begin(&at(1)).await.unwrap();
        assert_eq!(two.begin(&at(2)).await.unwrap_err().kind(), ErrorKind::Operator);
    }
}
