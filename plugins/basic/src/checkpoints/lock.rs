use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use oplogue_api::{Error, Result};

use super::{file::file_name, io_error};

/// That this process alone writes the checkpoint of a route. Let go of when dropped, and by the system when the
/// process dies; the file of the lock stays, since removing it would let two processes lock two files of one name.
pub(super) struct RouteLock {
    turn: Mutex<()>,
    _file: File,
}

/// The locks of this process. Stores in one process share them: the generation keeps those apart.
static HELD: Mutex<Option<HashMap<PathBuf, Weak<RouteLock>>>> = Mutex::new(None);

impl RouteLock {
    /// Takes the lock of a route, in a folder that must be there.
    ///
    /// # Errors
    /// `Operator` when another process has it.
    pub(super) fn take(dir: &Path, route: &str) -> Result<Arc<RouteLock>> {
        let dir = dir.canonicalize().map_err(|e| io_error(dir, "cannot be opened", e))?;
        let path = dir.join(file_name(route) + ".lock");
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get_or_insert_default();
        held.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = held.get(&path).and_then(Weak::upgrade) {
            return Ok(lock);
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| io_error(&path, "cannot be opened", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::operator(format!(
                    "another process keeps the checkpoint of this route in the same folder: it has locked {}",
                    path.display()
                ))
                .hint("stop the other oplogue, or give one of the two another folder (`dir` of `[state]`)"));
            }
            Err(TryLockError::Error(e)) => return Err(io_error(&path, "cannot be locked", e)),
        }
        let lock = Arc::new(RouteLock { turn: Mutex::new(()), _file: file });
        held.insert(path, Arc::downgrade(&lock));
        Ok(lock)
    }

    /// Waits until no other store of this process reads and writes.
    pub(super) fn enter(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
