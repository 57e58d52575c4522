//! What is replayed: a file of the sink `file`, or a dump of an oplog.

use std::{
    fs::File,
    io::{BufReader, ErrorKind as IoErrorKind, Read},
    path::{Path, PathBuf},
};

use oplogue_api::{
    Context, Doc, Error, Event, Interest, Op, Options, Registry, Result, Source, StartAt, bson::RawDocumentBuf,
};

/// How many events are taken at once.
const MOST: usize = 500;
/// An event holds a few documents of 16 MB at most.
const LARGEST: usize = 256 << 20;

/// Where an event goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// At the beginning of the chain: it was captured.
    Chain,
    /// At a transform, which refused it, and then at the sink: the transforms behind have edited it already.
    Transform(String),
    /// At the sink.
    Sink,
}

/// An event to replay.
#[derive(Clone)]
pub struct Captured {
    pub event: Event,
    pub stage: Stage,
    /// The route that gave it up.
    pub route: Option<String>,
}

impl Captured {
    /// An event for the whole chain of any route.
    pub fn new(event: Event) -> Captured {
        Captured { event, stage: Stage::Chain, route: None }
    }
}

/// Something that is read.
pub enum Entry {
    Event(Box<Captured>),
    /// A letter, or an entry of a dump, that no event can be made of.
    Undecodable(Error),
}

/// An open file.
pub enum Input {
    Events { reader: BufReader<File>, path: PathBuf, at: u64 },
    Dump(Box<dyn Source>),
}

impl Input {
    /// Looks what the file holds, and opens it.
    ///
    /// # Errors
    /// `Operator` where it holds neither events nor a dump.
    pub async fn open(path: &Path, registry: &Registry) -> Result<Input> {
        let file = File::open(path).map_err(|e| {
            Error::operator(format!("{} cannot be opened", path.display()))
                .hint("name a file of the sink `file`, or the oplog.bson of a dump")
                .caused_by(e)
        })?;
        let mut input = Input::Events { reader: BufReader::new(file), path: path.to_owned(), at: 0 };
        let Input::Events { reader, .. } = &mut input else { return Ok(input) };
        let is_dump = match document(reader) {
            // The operations of an oplog are letters; those of events are words.
            Ok(Some(first)) => first.get_str("op").is_ok_and(|op| Op::named(op).is_err()) && first.get("ts").is_ok(),
            Ok(None) => false,
            // Compressed, perhaps.
            Err(_) => path.extension().is_some_and(|e| e == "gz"),
        };
        if is_dump {
            let plugin = registry.sources.get("bson-dump").ok_or_else(|| {
                Error::operator("this program has no source `bson-dump`").hint("use the one that has")
            })?;
            let mut options = toml::Table::new();
            options.insert("path".into(), path.display().to_string().into());
            let mut source =
                (plugin.build)(&Context { name: "replay".into(), ..Context::default() }, &Options::new(options))?;
            source.open(StartAt::Configured, &Interest::default()).await?;
            return Ok(Input::Dump(source));
        }
        *reader = BufReader::new(File::open(path).map_err(|e| broken(path, 0, &e.to_string()))?);
        Ok(input)
    }

    /// The next of them; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Entry>> {
        match self {
            Input::Events { reader, path, at } => {
                let mut all = Vec::new();
                while all.len() < MOST {
                    match document(reader) {
                        Ok(None) => break,
                        Ok(Some(document)) => {
                            let size = document.as_bytes().len() as u64;
                            all.push(captured(&document).unwrap_or_else(Entry::Undecodable));
                            *at += size;
                        }
                        Err(what) => return Err(broken(path, *at, &what)),
                    }
                }
                Ok(all)
            }
            Input::Dump(source) => {
                while let Some(batch) = source.next().await? {
                    let events = batch.events.into_iter().map(|event| Entry::Event(Box::new(Captured::new(event))));
                    let bad = batch.bad.into_iter().map(|bad| Entry::Undecodable(bad.error));
                    let all: Vec<_> = events.chain(bad).collect();
                    if !all.is_empty() {
                        return Ok(all);
                    }
                }
                Ok(Vec::new())
            }
        }
    }
}

fn broken(path: &Path, at: u64, what: &str) -> Error {
    Error::operator(format!("{}: {what} at byte {at}", path.display()))
        .hint("name a file of the sink `file`, or the oplog.bson of a dump; what is before this place was replayed")
}

/// The next document; `None` at the end.
fn document(reader: &mut impl Read) -> Result<Option<Doc>, String> {
    let mut size = [0; 4];
    match reader.read_exact(&mut size) {
        Ok(()) => {}
        Err(e) if e.kind() == IoErrorKind::UnexpectedEof => return Ok(None),
        Err(e) => return Err(e.to_string()),
    }
    let length = match usize::try_from(i32::from_le_bytes(size)) {
        Ok(length) if (5..=LARGEST).contains(&length) => length,
        _ => return Err("there is no BSON document".into()),
    };
    let mut bytes = Vec::new();
    bytes.extend(size);
    reader.take(length as u64 - 4).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() < length {
        return Err("the file breaks off in a document".into());
    }
    RawDocumentBuf::from_bytes(bytes)
        .map(|document| Some(document.into()))
        .map_err(|_| "there is no BSON document".into())
}

fn captured(document: &Doc) -> Result<Entry> {
    let event = Event::from_document(document)?;
    if event.op != Op::DeadLetter {
        return Ok(Entry::Event(Box::new(Captured::new(event))));
    }
    let letter = event.raw;
    let Ok(inner) = letter.get_document("event") else {
        return Err(Error::data("the source could not decode it: it can be looked at, but not delivered"));
    };
    let event = Event::from_document(&letter.slice(inner))?;
    let stage = letter.get_str("by").map_or(Stage::Sink, |by| Stage::Transform(by.to_owned()));
    Ok(Entry::Event(Box::new(Captured { event, stage, route: letter.get_str("route").ok().map(str::to_owned) })))
}
