use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    io::{self, BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use oplogue_api::{Error, Result};
use tracing::warn;

/// The file, which this process alone writes. Sinks with one path share it.
pub(super) struct Appender {
    path: PathBuf,
    /// Whose turn it is to append.
    pub turn: Arc<tokio::sync::Mutex<()>>,
    state: Mutex<State>,
}

struct State {
    file: File,
    /// The end of the last whole write.
    end: u64,
    /// The last write failed; a part of it may lie behind `end`.
    is_torn: bool,
}

/// An event holds a few documents of 16 MB at most: what begins with more than this is no event.
const LARGEST: u64 = 256 << 20;

/// The files of this process that are open.
static OPEN: Mutex<Option<HashMap<PathBuf, Weak<Appender>>>> = Mutex::new(None);

impl Appender {
    /// Opens the file, or makes it. What a killed process has left of a last document is cut off: it was never confirmed.
    ///
    /// # Errors
    /// `Operator` where another process has it, or it holds something else; `Transient` where the disk fails.
    pub fn open(path: &Path) -> Result<Arc<Appender>> {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        open.retain(|_, appender| appender.strong_count() > 0);
        let mut options = File::options();
        let file = options
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| failed(path, "opened", e))?;
        let path = path.canonicalize().map_err(|e| failed(path, "opened", e))?;
        if let Some(appender) = open.get(&path).and_then(Weak::upgrade) {
            return Ok(appender);
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::operator(format!("another process writes to {}", path.display()))
                    .hint("stop the other oplogue, or give one of the two another file"));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&path, "locked", e)),
        }
        let length = file.metadata().map_err(|e| failed(&path, "read", e))?.len();
        let end = whole(&file, length).map_err(|e| failed(&path, "read", e))?;
        let Some(end) = end else {
            return Err(Error::operator(format!("{} holds something else than BSON documents", path.display()))
                .hint("name a new file in `path`; nothing was changed"));
        };
        if end < length {
            warn!(path = %path.display(), bytes = length - end, "cut off the beginning of a document that was never confirmed");
            file.set_len(end).map_err(|e| failed(&path, "written", e))?;
        }
        sync_folder(&path);
        let state = Mutex::new(State { file, end, is_torn: false });
        let appender = Arc::new(Appender { path: path.clone(), turn: Arc::default(), state });
        open.insert(path, Arc::downgrade(&appender));
        Ok(appender)
    }

    /// Appends whole documents, durably.
    ///
    /// # Errors
    /// `Transient`: nothing of them counts as written.
    pub fn append(&self, bytes: &[u8]) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let end = state.end;
        let mut write = || {
            if state.is_torn {
                state.file.set_len(end)?;
            }
            state.is_torn = true;
            state.file.seek(SeekFrom::Start(end))?;
            state.file.write_all(bytes)?;
            state.file.sync_data()
        };
        write().map_err(|e| failed(&self.path, "written", e))?;
        state.is_torn = false;
        state.end = end + bytes.len() as u64;
        Ok(())
    }

    /// There is no way to ask a disk but to write.
    pub fn is_well(&self) -> Result<()> {
        match self.state.lock().unwrap_or_else(PoisonError::into_inner).is_torn {
            true => Err(Error::transient(format!("the last write to {} failed", self.path.display()))),
            false => Ok(()),
        }
    }
}

/// The end of the last whole document; `None` where the file does not look like documents at all.
fn whole(file: &File, length: u64) -> io::Result<Option<u64>> {
    let mut reader = BufReader::new(file);
    let mut at = 0;
    while length - at >= 5 {
        let mut size = [0; 4];
        reader.read_exact(&mut size)?;
        let size = match u64::try_from(i32::from_le_bytes(size)) {
            Ok(size) if (5..=LARGEST).contains(&size) => size,
            _ => return Ok(None),
        };
        if at + size > length {
            break;
        }
        reader.seek_relative(size as i64 - 5)?;
        let mut last = [1];
        reader.read_exact(&mut last)?;
        if last != [0] {
            return Ok(None);
        }
        at += size;
    }
    Ok(Some(at))
}

/// That the file is there after a power cut as well.
fn sync_folder(path: &Path) {
    if let Some(folder) = path.parent()
        && let Ok(folder) = File::open(folder)
    {
        // Not every file system can.
        let _ = folder.sync_all();
    }
}

/// Whether the file could be written, without touching it.
pub(super) fn check(path: &Path) -> Result<String> {
    match path.metadata() {
        Ok(found) if !found.is_file() => {
            Err(Error::operator(format!("{} is no file", path.display())).hint("name a file in `path`"))
        }
        Ok(found) if found.permissions().readonly() => {
            Err(Error::operator(format!("{} must not be written", path.display())).hint("change its permissions"))
        }
        Ok(found) => Ok(format!("{} is there, {} bytes", path.display(), found.len())),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match folder.is_dir() {
                true => Ok(format!("{} is made at the first start", path.display())),
                false => Err(Error::operator(format!("the folder {} is not there", folder.display()))
                    .hint("make it, or name another file in `path`")),
            }
        }
        Err(e) => Err(failed(path, "looked at", e)),
    }
}

fn failed(path: &Path, what: &str, e: io::Error) -> Error {
    let message = format!("{} could not be {what}", path.display());
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::transient(message).hint("make room on the disk").caused_by(e)
        }
        io::ErrorKind::NotFound
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::ReadOnlyFilesystem => {
            Error::operator(message).hint("look at the path and at the rights of whoever runs oplogue").caused_by(e)
        }
        _ => Error::transient(message).caused_by(e),
    }
}
