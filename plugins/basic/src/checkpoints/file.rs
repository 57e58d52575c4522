use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use bson::{Binary, Bson, Document, RawArray, RawBsonRef, RawDocument, RawDocumentBuf, Timestamp, spec::BinarySubtype};
use oplogue_api::{Checkpoint, Doc, Error, Position, Result};
use serde::Deserialize;

use super::io_error;
use crate::{extjson, fingerprint::fingerprint};

/// The version of the format below; a file of another one is refused.
const VERSION: u32 = 1;

/// Longer names than this are cut and told apart by a hash, since file systems take 255 bytes.
const LONGEST_NAME: usize = 120;

/// A name for the files of a route: letters, digits, `-`, `_` and inner dots as they are, all other bytes as `%XX`.
pub(super) fn file_name(route: &str) -> String {
    let mut name = String::new();
    for (i, byte) in route.bytes().enumerate() {
        // No leading dot: the file would be hidden, and `..` would be a folder.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') || (byte == b'.' && i > 0) {
            name.push(byte as char);
        } else {
            name.push_str(&format!("%{byte:02X}"));
        }
    }
    if name.is_empty() {
        name.push('%');
    }
    if name.len() > LONGEST_NAME {
        let hash = fingerprint(route.as_bytes());
        name.truncate(LONGEST_NAME - 18);
        name.push_str(&format!("%-{hash:016x}"));
    }
    name
}

/// The file that holds the checkpoint of a route.
pub(super) struct CheckpointFile {
    dir: PathBuf,
    path: PathBuf,
    route: String,
}

/// The file as it is read: extended JSON, canonical in the token.
#[derive(Deserialize)]
struct Content {
    version: u32,
    route: String,
    generation: u64,
    time: Timestamp,
    /// A document; or binary holding one, where extended JSON would not give the same bytes back.
    token: Bson,
}

impl CheckpointFile {
    pub(super) fn new(dir: &Path, route: &str) -> CheckpointFile {
        CheckpointFile {
            dir: dir.to_owned(),
            path: dir.join(file_name(route) + ".checkpoint.json"),
            route: route.to_owned(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is stored.
    ///
    /// # Errors
    /// `Operator` for a file that cannot be read or is damaged: it is never taken for none (I4).
    pub(super) fn read(&self) -> Result<Option<Checkpoint>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error(&self.path, "cannot be read", e)),
        };
        parse(&bytes, &self.route).map(Some).map_err(|why| {
            Error::operator(format!("the checkpoint file {} is damaged: {why}", self.path.display())).hint(
                "put a sound copy in its place, or set where the route goes on with `oplogue position set`, or let it \
                 begin where its source says with `oplogue position reset`",
            )
        })
    }

    /// Replaces what is stored, durably.
    pub(super) fn write(&self, route: &str, checkpoint: &Checkpoint) -> Result<()> {
        let text = render(route, checkpoint)?;
        let temporary = self.path.with_extension("json.tmp");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            self.sync_dir()
        };
        write().map_err(|e| io_error(&self.path, "could not be written", e))
    }

    /// Removes what is stored, durably.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Ok(()) => self.sync_dir().map_err(|e| io_error(&self.dir, "could not be written", e)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(io_error(&self.path, "could not be removed", e)),
        }
    }

    /// A rename is durable only when its folder is.
    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

// The reasons quote nothing of the file: a position may hold a document key.
fn parse(bytes: &[u8], route: &str) -> Result<Checkpoint, String> {
    if bytes.is_empty() {
        return Err("it is empty".to_owned());
    }
    let content: Content = serde_json::from_slice(bytes).map_err(|e| {
        let place = format!("line {}, column {}", e.line(), e.column());
        match e.classify() {
            serde_json::error::Category::Eof => format!("it ends too early, at {place}"),
            serde_json::error::Category::Syntax => format!("it is no JSON at {place}"),
            _ => format!("it is not what a checkpoint looks like at {place}"),
        }
    })?;
    if content.version != VERSION {
        return Err(format!("it is of version {}, and this oplogue knows version {VERSION}", content.version));
    }
    if content.route != route {
        return Err("it belongs to another route".to_owned());
    }
    if content.generation == 0 {
        return Err("its generation is 0".to_owned());
    }
    let token = match content.token {
        Bson::Document(token) => {
            RawDocumentBuf::try_from(&token).map(Doc::from).map_err(|_| "its token is no document".to_owned())?
        }
        Bson::Binary(Binary { bytes, .. }) => {
            Doc::new(bytes.into()).map_err(|_| "its token is no document".to_owned())?
        }
        _ => return Err("its token is no document".to_owned()),
    };
    Ok(Checkpoint { position: Position { token, time: content.time }, generation: content.generation })
}

fn render(route: &str, checkpoint: &Checkpoint) -> Result<Vec<u8>> {
    let Position { token, time } = &checkpoint.position;
    let mut out = Vec::new();
    out.extend_from_slice(b"{\n  \"version\": ");
    extjson::plain(&mut out, &VERSION)?;
    out.extend_from_slice(b",\n  \"route\": ");
    extjson::text(&mut out, route)?;
    out.extend_from_slice(b",\n  \"generation\": ");
    extjson::plain(&mut out, &checkpoint.generation)?;
    out.extend_from_slice(b",\n  \"time\": ");
    extjson::value(&mut out, RawBsonRef::Timestamp(*time))?;
    // For people only: when it was saved.
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        out.extend_from_slice(b",\n  \"saved\": ");
        extjson::datetime(&mut out, i64::try_from(now.as_millis()).unwrap_or(i64::MAX))?;
    }
    out.extend_from_slice(b",\n  \"token\": ");
    write_token(&mut out, token)?;
    out.extend_from_slice(b"\n}\n");
    Ok(out)
}

fn write_token(out: &mut Vec<u8>, token: &Doc) -> Result<()> {
    let start = out.len();
    let readable = canonical(out, RawBsonRef::Document(token), 0).is_ok()
        && serde_json::from_slice::<Document>(&out[start..])
            .ok()
            .and_then(|back| RawDocumentBuf::try_from(&back).ok())
            .is_some_and(|back| back.as_bytes() == token.as_bytes());
    if !readable {
        // Such as `{"$date": 5}`, which extended JSON takes for a date.
        out.truncate(start);
        let binary = bson::RawBinaryRef { subtype: BinarySubtype::Generic, bytes: token.as_bytes() };
        extjson::value(out, RawBsonRef::Binary(binary))?;
    }
    Ok(())
}

/// Canonical extended JSON, which keeps the types of numbers.
fn canonical(out: &mut Vec<u8>, value: RawBsonRef<'_>, depth: usize) -> Result<()> {
    // Deeper ones are kept as binary: serde_json reads 128 levels.
    if depth > 60 {
        return Err(Error::data("a position is nested too deep to be shown"));
    }
    match value {
        RawBsonRef::Document(doc) => members(out, doc, [b'{', b'}'], depth),
        RawBsonRef::Array(array) => members(out, of_array(array)?, [b'[', b']'], depth),
        RawBsonRef::Int32(n) => number(out, "$numberInt", &n.to_string()),
        RawBsonRef::Int64(n) => number(out, "$numberLong", &n.to_string()),
        RawBsonRef::Double(d) if d.is_finite() => number(out, "$numberDouble", &format!("{d:?}")),
        RawBsonRef::DateTime(d) => {
            out.extend_from_slice(b"{\"$date\":");
            number(out, "$numberLong", &d.timestamp_millis().to_string())?;
            out.push(b'}');
            Ok(())
        }
        other => extjson::value(out, other),
    }
}

fn members(out: &mut Vec<u8>, doc: &RawDocument, [open, close]: [u8; 2], depth: usize) -> Result<()> {
    out.push(open);
    for (i, element) in doc.iter().enumerate() {
        let (name, value) = element.map_err(|_| Error::data("a position is damaged"))?;
        if i > 0 {
            out.extend_from_slice(b", ");
        }
        if open == b'{' {
            extjson::text(out, name.as_str())?;
            out.extend_from_slice(b": ");
        }
        canonical(out, value, depth + 1)?;
    }
    out.push(close);
    Ok(())
}

fn of_array(array: &RawArray) -> Result<&RawDocument> {
    RawDocument::from_bytes(array.as_bytes()).map_err(|_| Error::data("a position is damaged"))
}

fn number(out: &mut Vec<u8>, name: &str, text: &str) -> Result<()> {
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    extjson::text(out, text)?;
    out.push(b'}');
    Ok(())
}
