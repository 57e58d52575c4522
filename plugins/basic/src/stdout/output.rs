use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use oplogue_api::{Error, Result};
use tokio::sync::{mpsc, oneshot};

/// A writer with a thread of its own, so that a blocked pipe holds up neither the runtime nor the end of the process.
///
/// Clones share the thread and write one after the other, never one inside the other's line.
#[derive(Clone)]
pub(super) struct Output {
    jobs: mpsc::Sender<Job>,
    ended: Arc<AtomicBool>,
}

struct Job {
    lines: Vec<u8>,
    done: oneshot::Sender<io::Result<Vec<u8>>>,
}

impl Output {
    /// The standard output, which all sinks of the process share.
    pub(super) fn stdout() -> Output {
        static STDOUT: OnceLock<Output> = OnceLock::new();
        STDOUT.get_or_init(|| Output::new(Box::new(Stdout::default()))).clone()
    }

    pub(super) fn new(writer: Box<dyn Write + Send>) -> Output {
        // One job at a time: while the reader of a pipe sleeps, batches wait in their lanes, not here (I6).
        let (jobs, mut queue) = mpsc::channel::<Job>(1);
        let mut lines = Lines { writer, rest: Vec::new() };
        let started = thread::Builder::new().name("stdout".to_owned()).spawn(move || {
            while let Some(Job { lines: text, done }) = queue.blocking_recv() {
                let result = lines.write(&text);
                // Nobody waits any more when the route was stopped; the lines are out all the same.
                let _ = done.send(result.map(|()| text));
            }
        });
        if let Err(e) = started {
            tracing::error!(error = %e, "no thread could be started for the standard output");
        }
        Output { jobs, ended: Arc::default() }
    }

    /// Writes whole lines. Gives the buffer back.
    ///
    /// # Errors
    /// [`Error::ended`] when the reader has gone; `Transient` otherwise.
    pub(super) async fn write(&self, lines: Vec<u8>) -> Result<Vec<u8>> {
        self.is_open()?;
        let (done, result) = oneshot::channel();
        let gone = || Error::bug("the thread of the standard output has ended");
        self.jobs.send(Job { lines, done }).await.map_err(|_| gone())?;
        match result.await.map_err(|_| gone())? {
            Ok(buffer) => Ok(buffer),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {
                self.ended.store(true, Relaxed);
                self.is_open().map(|()| Vec::new())
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                Err(Error::transient("the standard output could not be written")
                    .hint("make room on the disk that it goes to")
                    .caused_by(e))
            }
            Err(e) => Err(Error::transient("the standard output could not be written")
                .hint("look at where the standard output goes to")
                .caused_by(e)),
        }
    }

    pub(super) fn is_open(&self) -> Result<()> {
        match self.ended.load(Relaxed) {
            true => Err(Error::ended("the reader of the standard output has closed it")),
            false => Ok(()),
        }
    }
}

struct Lines {
    writer: Box<dyn Write + Send>,
    /// What is missing of a line that broke off in an error: it is written first when writing works again, since the
    /// events behind it are written once more as whole lines.
    rest: Vec<u8>,
}

impl Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let rest = std::mem::take(&mut self.rest);
        let (written, result) = write_all(&mut *self.writer, &rest);
        if result.is_err() {
            self.rest = rest[written..].to_vec();
            return result;
        }
        let (written, result) = write_all(&mut *self.writer, text);
        if result.is_err() && written > 0 && text[written - 1] != b'\n' {
            let end = text[written..].iter().position(|b| *b == b'\n').map_or(text.len(), |n| written + n + 1);
            self.rest = text[written..end].to_vec();
        }
        result?;
        self.writer.flush()
    }
}

/// Like `Write::write_all`, but says how far it came, and waits where a terminal was set not to block by another process.
fn write_all(writer: &mut dyn Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut at = 0;
    while at < bytes.len() {
        match writer.write(&bytes[at..]) {
            Ok(0) => return (at, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => at += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(5)),
            Err(e) => return (at, Err(e)),
        }
    }
    (at, Ok(()))
}

/// The standard output itself: without std's line buffer, which costs a copy, and which takes a closed descriptor for success.
#[derive(Default)]
struct Stdout {
    file: Option<File>,
}

impl Stdout {
    fn open() -> io::Result<File> {
        use std::os::fd::AsFd;
        let mut file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        if breaks_off(&file, Path::new("/dev/stdout")) {
            file.write_all(b"\n")?;
        }
        Ok(file)
    }
}

/// Whether it is a file whose last line has no end: the process that wrote it was killed. A line of ours would be stuck to it.
/// `path` is the same file by name, since the descriptor itself may be for writing only.
pub(super) fn breaks_off(file: &File, path: &Path) -> bool {
    let is_file = file.metadata().is_ok_and(|m| m.is_file() && m.len() > 0);
    let last = || -> io::Result<u8> {
        let mut reader = File::open(path)?;
        reader.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        reader.read_exact(&mut last)?;
        Ok(last[0])
    };
    is_file && last().is_ok_and(|b| b != b'\n')
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(Stdout::open()?),
        };
        file.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
