//! The `file` checkpoint store: one file a route, in extended JSON, because people look at it at three in the morning.

mod file;
mod lock;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use oplogue_api::{
    Checkpoint, CheckpointStore, Error, Field, FieldType, Finding, Position, Registry, Result, Saved, async_trait,
};
use serde::Deserialize;

use file::CheckpointFile;
use lock::RouteLock;

const FIELDS: &[Field] =
    &[Field::new("dir", FieldType::String, "The folder of the files; the folder of `[state]` when absent")];

pub(crate) fn register(r: &mut Registry) {
    r.store("file", "Keeps checkpoints in files, one a route", FIELDS, |context, options| {
        let options: StoreOptions = options.parse()?;
        let dir = options.dir.unwrap_or_else(|| context.state_dir.clone());
        if dir.as_os_str().is_empty() {
            return Err(Error::option("dir", "the folder for checkpoints has no name")
                .hint("set `dir`, or leave it out for the one of `[state]`"));
        }
        Ok(Arc::new(FileStore::new(dir)))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreOptions {
    dir: Option<PathBuf>,
}

/// Checkpoints in a folder. Every file is replaced as a whole (temporary file, sync, rename, sync of the folder), so
/// that a crash leaves the old one or the new one; a lock beside it keeps a second process out.
pub struct FileStore(Arc<Folder>);

struct Folder {
    dir: PathBuf,
    locks: Mutex<HashMap<String, Arc<RouteLock>>>,
}

impl FileStore {
    /// A store in `dir`, which is made when the first checkpoint is saved.
    pub fn new(dir: impl Into<PathBuf>) -> FileStore {
        FileStore(Arc::new(Folder { dir: dir.into(), locks: Mutex::default() }))
    }

    /// Does something with the folder on a thread that may wait for the disk. It is done to its end even if nobody waits for it
    /// any more; saving the same once more is harmless.
    async fn at_the_disk<T: Send + 'static>(&self, work: impl FnOnce(&Folder) -> T + Send + 'static) -> Result<T> {
        let folder = self.0.clone();
        tokio::task::spawn_blocking(move || work(&folder))
            .await
            .map_err(|e| Error::bug("the thread for checkpoint files failed").caused_by(e))
    }
}

impl Folder {
    fn file(&self, route: &str) -> CheckpointFile {
        CheckpointFile::new(&self.dir, route)
    }

    /// The lock of a route, which this store then keeps for as long as it lives. The folder must be there.
    fn lock(&self, route: &str) -> Result<Arc<RouteLock>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(route) {
            return Ok(lock.clone());
        }
        let lock = RouteLock::take(&self.dir, route)?;
        locks.insert(route.to_owned(), lock.clone());
        Ok(lock)
    }

    /// Looks only: `oplogue position show` does so beside a router that holds the lock. But whoever can have the lock takes
    /// it now, so that a second router is noticed when it saves first.
    fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        if self.dir.is_dir()
            && let Err(e) = self.lock(route)
        {
            tracing::debug!(route, error = %e, "read without the lock");
        }
        self.file(route).read()
    }

    fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        let file = self.file(route);
        fs::create_dir_all(&self.dir).map_err(|e| io_error(&self.dir, "could not be made", e))?;
        let lock = self.lock(route)?;
        let _guard = lock.enter();
        match file.read()? {
            Some(current) if current == *checkpoint => return Ok(Saved::Stored),
            Some(current) if current.generation.checked_add(1) != Some(checkpoint.generation) => {
                return Ok(Saved::Superseded(current));
            }
            // Writing a new one would hide that somebody has taken the old one away, on purpose perhaps.
            None if checkpoint.generation != 1 => {
                return Err(Error::operator(format!("the checkpoint file {} is gone", file.path().display())).hint(
                    "if it was removed on purpose, start the route again: it then begins where its source says; \
                     otherwise put the file back first",
                ));
            }
            _ => {}
        }
        file.write(route, checkpoint)?;
        Ok(Saved::Stored)
    }

    fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        let file = self.file(route);
        if position.is_none() && !self.dir.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.dir).map_err(|e| io_error(&self.dir, "could not be made", e))?;
        let lock = self.lock(route)?;
        let _guard = lock.enter();
        let Some(position) = position else { return file.remove() };
        // A damaged file is what one resets: it starts anew then.
        let generation = file.read().ok().flatten().map_or(0, |c| c.generation).saturating_add(1);
        file.write(route, &Checkpoint { position: position.clone(), generation })
    }

    fn check(&self) -> Finding {
        match writable(&self.dir) {
            Ok(true) => Finding::ok(format!("checkpoints can be kept in {}", self.dir.display())),
            Ok(false) => Finding::ok(format!("{} will be made for checkpoints", self.dir.display())),
            Err(e) => e.into(),
        }
    }
}

/// Whether `dir` is there; an error when it, or the nearest folder above it that is there, cannot be written to.
fn writable(dir: &Path) -> Result<bool> {
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => {
            // Permission bits do not tell (owner, ACLs, read-only mounts); a nameless trace-free try does.
            let probe = dir.join(format!(".oplogue-probe-{}", std::process::id()));
            fs::File::create(&probe).map_err(|e| io_error(dir, "cannot be written to", e))?;
            fs::remove_file(&probe).map_err(|e| io_error(dir, "cannot be written to", e))?;
            Ok(true)
        }
        Ok(_) => Err(Error::operator(format!("{} is not a folder", dir.display()))
            .hint("give another `dir`, or move the file away")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let parent = match dir.parent() {
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => return Err(io_error(dir, "could not be made", e)),
            };
            writable(parent).map(|_| false)
        }
        Err(e) => Err(io_error(dir, "cannot be looked at", e)),
    }
}

/// An error of the file system, with its path and whether waiting may help.
fn io_error(path: &Path, what: &str, e: io::Error) -> Error {
    use io::ErrorKind::{Interrupted, QuotaExceeded, ResourceBusy, StorageFull, TimedOut};
    let message = format!("{} {what}", path.display());
    match e.kind() {
        StorageFull | QuotaExceeded => Error::transient(message).hint("make room on that disk"),
        Interrupted | ResourceBusy | TimedOut => Error::transient(message).hint("look at that disk"),
        _ => Error::operator(message).hint("give oplogue the right to read and write there, or set another `dir`"),
    }
    .caused_by(e)
}

#[async_trait]
impl CheckpointStore for FileStore {
    async fn load(&self, route: &str) -> Result<Option<Checkpoint>> {
        let route = route.to_owned();
        self.at_the_disk(move |folder| folder.load(&route)).await?
    }
    async fn save(&self, route: &str, checkpoint: &Checkpoint) -> Result<Saved> {
        let (route, checkpoint) = (route.to_owned(), checkpoint.clone());
        self.at_the_disk(move |folder| folder.save(&route, &checkpoint)).await?
    }
    async fn reset(&self, route: &str, position: Option<&Position>) -> Result<()> {
        let (route, position) = (route.to_owned(), position.cloned());
        self.at_the_disk(move |folder| folder.reset(&route, position.as_ref())).await?
    }
    async fn check(&self) -> Vec<Finding> {
        match self.at_the_disk(Folder::check).await {
            Ok(finding) => vec![finding],
            Err(e) => vec![e.into()],
        }
    }
}
