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
    /// What the last call tried to store, in case only its reply was lost.
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
        let claimed = if self.store.is_shared() { Ok(()) } else { self.save(&position).await };
        self.saved.get_or_insert(position);
        claimed
    }

    /// Stores `mark` unless it is stored already. On return the store holds `mark` or, where the store is shared with a
    /// twin of this route, a position that the twin has put there: see [`Saver::saved`].
    ///
    /// # Errors
    /// Those of the store, and `Operator` when another process has moved the checkpoint of this route.
    pub async fn save(&mut self, mark: &Position) -> Result<()> {
        // A twin may move the checkpoint between our look and our write, but each such round is progress of the route.
        for _ in 0..8 {
            if self.saved.as_ref() == Some(mark) {
                return Ok(());
            }
            let next = Checkpoint { position: mark.clone(), generation: self.generation + 1 };
            let known = self.tried.replace(next.clone());
            let stored = match self.store.save(&self.route, &next).await? {
                Saved::Stored => next,
                // Our own earlier save, the reply to which was lost.
                Saved::Superseded(other) if known.as_ref() == Some(&other) => {
                    self.accept(other);
                    continue;
                }
                Saved::Superseded(other) if self.store.is_shared() => {
                    let ahead = other.position.time >= mark.time;
                    self.accept(other);
                    if ahead {
                        return Ok(());
                    }
                    continue;
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
            };
            self.accept(stored);
            return Ok(());
        }
        Err(Error::transient(format!("the checkpoint of route `{}` is being moved by others all the time", self.route)))
    }

    fn accept(&mut self, stored: Checkpoint) {
        self.generation = stored.generation;
        self.saved = Some(stored.position);
        self.tried = None;
    }
}
