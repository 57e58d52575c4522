use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use oplogue_api::{Doc, Error, Result};

/// An entry holds a document of 16 MB at most, and a little around it.
const LARGEST: i32 = 16 * 1024 * 1024 + 64 * 1024;
/// The length prefix and the terminator.
const SMALLEST: i32 = 5;
/// The magic number, and deflate, the only method there is.
const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
/// What an archive (`mongodump --archive`) begins with.
const ARCHIVE: i32 = 0x8199_e26d_u32 as i32;

/// The documents of a dump, one behind the other.
pub(super) struct Entries {
    path: PathBuf,
    input: Input,
    /// Where the next document begins, in the unpacked data.
    offset: u64,
    packed: bool,
}

enum Input {
    Plain(BufReader<File>),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

impl Read for Input {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Input::Plain(input) => input.read(bytes),
            Input::Gzip(input) => input.read(bytes),
        }
    }
}

/// Some documents in one piece of memory.
#[derive(Default)]
pub(super) struct Chunk {
    /// The documents, each with the offset behind it.
    pub(super) entries: Vec<(Doc, u64)>,
    /// What is wrong with the file behind them.
    pub(super) damage: Option<Error>,
}

impl Entries {
    pub(super) fn open(path: &Path) -> Result<Entries> {
        let cannot = |e: io::Error| {
            Error::operator(format!("the dump {} cannot be opened", path.display()))
                .hint("set `path` to a file that oplogue may read, such as dump/oplog.bson")
                .caused_by(e)
        };
        let mut file = File::open(path).map_err(cannot)?;
        if !file.metadata().map_err(cannot)?.is_file() {
            return Err(Error::operator(format!("the dump {} is no file", path.display()))
                .hint("set `path` to the file itself: oplog.bson, or oplog.rs.bson in the folder local"));
        }
        let mut start = [0; 8];
        let there = read_up_to(&mut file, &mut start).map_err(cannot)?;
        let packed = there == 8 && start[..3] == GZIP && !is_entry(&mut file, &start).map_err(cannot)?;
        file.seek(SeekFrom::Start(0)).map_err(cannot)?;
        let file = BufReader::with_capacity(256 * 1024, file);
        let input = if packed { Input::Gzip(Box::new(MultiGzDecoder::new(file))) } else { Input::Plain(file) };
        Ok(Entries { path: path.to_owned(), input, offset: 0, packed })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Goes forward to a place where a document begins.
    pub(super) fn skip_to(&mut self, offset: u64) -> Result<()> {
        let distance = offset.checked_sub(self.offset).ok_or_else(|| Error::bug("a dump is read backwards"))?;
        let skipped = match &mut self.input {
            Input::Plain(input) => i64::try_from(distance)
                .map_err(io::Error::other)
                .and_then(|distance| input.seek_relative(distance))
                .map(|()| distance),
            Input::Gzip(input) => io::copy(&mut input.take(distance), &mut io::sink()),
        };
        match skipped {
            Ok(n) if n == distance => {
                self.offset = offset;
                Ok(())
            }
            Ok(n) => Err(self.damage(self.offset + n, "it ends there")),
            Err(e) => Err(self.failure(e)),
        }
    }

    /// Reads one document; `None` at the end of the file.
    pub(super) fn one(&mut self) -> Result<Option<Doc>> {
        let mut chunk = self.read(1, 0);
        match (chunk.entries.pop(), chunk.damage) {
            (Some((doc, _)), _) => Ok(Some(doc)),
            (None, Some(damage)) => Err(damage),
            (None, None) => Ok(None),
        }
    }

    /// Reads documents until there are `count` of them or they come to `size` bytes; none at the end of the file.
    pub(super) fn read(&mut self, count: usize, size: usize) -> Chunk {
        let mut bytes = Vec::new();
        let mut ends = Vec::new();
        let mut chunk = Chunk::default();
        while ends.len() < count && (ends.is_empty() || bytes.len() < size) {
            let start = bytes.len();
            match self.append(&mut bytes) {
                Ok(true) => ends.push(bytes.len()),
                Ok(false) => break,
                Err(e) => {
                    bytes.truncate(start);
                    chunk.damage = Some(e);
                    break;
                }
            }
        }
        let bytes = Bytes::from(bytes);
        let mut start = 0;
        let begin = self.offset;
        for end in ends {
            match Doc::new(bytes.slice(start..end)) {
                Ok(doc) => chunk.entries.push((doc, begin + end as u64)),
                Err(_) => {
                    chunk.damage = Some(self.damage(begin + start as u64, "no document begins there"));
                    break;
                }
            }
            self.offset = begin + end as u64;
            start = end;
        }
        chunk
    }

    /// Appends the bytes of one document; `false` at the end of the file.
    fn append(&mut self, bytes: &mut Vec<u8>) -> Result<bool> {
        // The offset is moved on only when the whole chunk is known to be sound.
        let at = self.offset + bytes.len() as u64;
        let mut prefix = [0; 4];
        match read_up_to(&mut self.input, &mut prefix) {
            Ok(0) => return Ok(false),
            Ok(4) => {}
            Ok(_) => return Err(self.damage(at, "it breaks off inside an entry that begins there")),
            Err(e) => return Err(self.broken(at, e)),
        }
        let length = i32::from_le_bytes(prefix);
        if length == ARCHIVE && at == 0 {
            return Err(Error::operator(format!("{} is an archive of mongodump", self.path.display())).hint(
                "make the dump without --archive, or unpack it with mongorestore, and set `path` to oplog.bson",
            ));
        }
        if !(SMALLEST..=LARGEST).contains(&length) {
            return Err(self.damage(at, &format!("the length of an entry there is {length}")));
        }
        let start = bytes.len();
        // In steps, so that a damaged length alone does not take memory.
        bytes.extend_from_slice(&prefix);
        let wanted = length as u64 - 4;
        match (&mut self.input).take(wanted).read_to_end(bytes) {
            Ok(n) if n as u64 == wanted => {}
            Ok(_) => return Err(self.damage(at, "it breaks off inside an entry that begins there")),
            Err(e) => return Err(self.broken(at, e)),
        }
        if bytes.last() != Some(&0) {
            bytes.truncate(start);
            return Err(self.damage(at, "an entry that begins there has no end"));
        }
        Ok(true)
    }

    fn broken(&self, at: u64, e: io::Error) -> Error {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => self.damage(at, "the gzip data break off behind it"),
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                self.damage(at, "the gzip data behind it are damaged")
            }
            _ => self.failure(e),
        }
    }

    fn failure(&self, e: io::Error) -> Error {
        Error::transient(format!("the dump {} could not be read", self.path.display()))
            .hint("look at the disk that it is on")
            .caused_by(e)
    }

    fn damage(&self, at: u64, what: &str) -> Error {
        let (data, cut) = match self.packed {
            true => (" of the unpacked data", format!("zcat FILE | head -c {at} > SOUND")),
            false => ("", format!("head -c {at} FILE > SOUND")),
        };
        Error::operator(format!("the dump {} is damaged at byte {at}{data}: {what}", self.path.display())).hint(
            format!(
                "make the dump again, or go without the rest: everything before that byte was replayed, and \
             `{cut}` cuts it there"
            ),
        )
    }
}

/// Whether a file that begins like gzip data begins with an entry all the same: one of 559,903 bytes has these three bytes in
/// its length. Then that many bytes end in NUL, and a type and the letters of a name follow the length, where gzip has a time.
fn is_entry(file: &mut File, start: &[u8; 8]) -> io::Result<bool> {
    let length = i32::from_le_bytes([start[0], start[1], start[2], start[3]]);
    if !(SMALLEST..=LARGEST).contains(&length) {
        return Ok(false);
    }
    file.seek(SeekFrom::Start(length as u64 - 1))?;
    let mut last = [1];
    let ends = read_up_to(file, &mut last)? == 1 && last[0] == 0;
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == 0;
    Ok(ends && (1..=0x13).contains(&start[4]) && start[5].is_ascii_lowercase() && start[6..].iter().all(is_name))
}

/// Like `read_exact`, but says how much there was.
fn read_up_to(input: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < bytes.len() {
        match input.read(&mut bytes[n..]) {
            Ok(0) => break,
            Ok(more) => n += more,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}
