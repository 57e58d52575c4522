//! The open connection of a link.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use super::address::Address;

/// An open connection, and where it leads. Clones are the same connection, which is closed with the last of them.
#[derive(Clone)]
pub struct Open {
    pub connection: MultiplexedConnection,
    pub address: Address,
    gone: watch::Receiver<bool>,
}

impl Open {
    /// Returns when whoever uses this connection is to let go of it at once.
    pub async fn gone(&self) {
        // A slot that has just forgotten it leaves calls under way alone.
        if self.gone.clone().wait_for(|gone| *gone).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Holds at most one open connection.
#[derive(Default)]
pub struct Slot {
    open: Mutex<Option<(Open, watch::Sender<bool>)>>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<(Open, watch::Sender<bool>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self) -> Option<Open> {
        self.lock().as_ref().map(|(open, _)| open.clone())
    }

    /// Keeps the connection, unless `valid` says that it is not wanted any more.
    pub fn put(
        &self,
        connection: MultiplexedConnection,
        address: Address,
        valid: impl FnOnce() -> bool,
    ) -> Option<Open> {
        let mut slot = self.lock();
        if !valid() {
            return None;
        }
        let (sender, gone) = watch::channel(false);
        let open = Open { connection, address, gone };
        *slot = Some((open.clone(), sender));
        Some(open)
    }

    /// Forgets whatever it holds. Calls under way come to their end.
    pub fn clear(&self) {
        *self.lock() = None;
    }

    /// Forgets this connection, if it still holds it.
    pub fn forget(&self, open: &Open) {
        let mut slot = self.lock();
        if slot.as_ref().is_some_and(|(held, _)| held.gone.same_channel(&open.gone)) {
            *slot = None;
        }
    }

    /// Hangs up, and ends the calls under way.
    pub fn drop_now(&self) {
        if let Some((_, sender)) = self.lock().take() {
            sender.send_replace(true);
        }
    }

    /// The same, if it still holds this connection.
    pub fn drop_this(&self, open: &Open) {
        let mut slot = self.lock();
        if let Some((_, sender)) = slot.take_if(|(held, _)| held.gone.same_channel(&open.gone)) {
            sender.send_replace(true);
        }
    }

    /// [`Slot::drop_now`], if it leads elsewhere.
    pub fn drop_unless(&self, address: &Address) {
        let leads_elsewhere = self.lock().as_ref().is_some_and(|(open, _)| open.address != *address);
        if leads_elsewhere {
            self.drop_now();
        }
    }
}
