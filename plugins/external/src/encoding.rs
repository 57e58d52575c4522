//! Frames: how messages follow each other on a pipe.

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf};
use bytes::{Buf, BytesMut};
use oplogue_api::Doc;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How messages are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// BSON documents, one behind the other: each begins with its length.
    #[default]
    Bson,
    /// A line each: JSON, in which events and positions are canonical extended JSON.
    Json,
}

impl Encoding {
    /// The message as it is sent.
    pub fn encode(self, message: RawDocumentBuf) -> Result<Vec<u8>, String> {
        match self {
            Encoding::Bson => Ok(message.into_bytes()),
            Encoding::Json => {
                let mut line = serde_json::to_vec(&json(&message)?).map_err(|e| e.to_string())?;
                line.push(b'\n');
                Ok(line)
            }
        }
    }
}

/// The members of the message itself are plain JSON; what they hold is canonical, and so loses no type. The options come from
/// TOML, whose types JSON has.
fn json(message: &RawDocument) -> Result<Value, String> {
    let mut out = Map::new();
    for member in message.iter() {
        let (name, value) = member.map_err(|e| e.to_string())?;
        let value = match value {
            RawBsonRef::Int32(n) => n.into(),
            RawBsonRef::Int64(n) => n.into(),
            other => {
                let owned = Bson::try_from(other).map_err(|e| e.to_string())?;
                if name.as_str() == "options" { owned.into_relaxed_extjson() } else { owned.into_canonical_extjson() }
            }
        };
        out.insert(name.as_str().to_owned(), value);
    }
    Ok(Value::Object(out))
}

/// Why there is no frame.
#[derive(Debug, PartialEq, Eq)]
pub enum NoFrame {
    /// The pipe has ended.
    Ended,
    /// What came is no frame; in words that follow "the child".
    Garbage(String),
}

/// What has come and is not read yet.
pub struct Frames {
    encoding: Encoding,
    most: usize,
    buffer: BytesMut,
    /// How much of the buffer holds no end of a line.
    searched: usize,
}

/// No more than this is made room for in advance, whatever a frame claims to be.
const STEP: usize = 64 << 10;

impl Frames {
    pub fn new(encoding: Encoding, most: usize) -> Frames {
        Frames { encoding, most, buffer: BytesMut::new(), searched: 0 }
    }

    /// Whether something has come that nobody has taken.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Reads some bytes; 0 at the end. Cancel-safe.
    pub async fn fill(&mut self, from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<usize> {
        self.buffer.reserve(STEP);
        from.read_buf(&mut self.buffer).await
    }

    /// The next frame. Cancel-safe.
    pub async fn next(&mut self, from: &mut (impl AsyncRead + Unpin)) -> Result<Doc, NoFrame> {
        loop {
            if let Some(frame) = self.take().map_err(NoFrame::Garbage)? {
                return Ok(frame);
            }
            // A read that fails says no more than an end.
            if self.fill(from).await.unwrap_or(0) == 0 {
                return Err(match self.buffer.len() {
                    0 => NoFrame::Ended,
                    n if self.encoding == Encoding::Bson => {
                        NoFrame::Garbage(format!("ended its output inside a message, behind {n} bytes of it"))
                    }
                    n => NoFrame::Garbage(format!("ended its output inside a line, behind {n} bytes of it")),
                });
            }
        }
    }

    /// The first frame of the buffer, if it is whole.
    fn take(&mut self) -> Result<Option<Doc>, String> {
        match self.encoding {
            Encoding::Bson => self.take_bson(),
            Encoding::Json => self.take_json(),
        }
    }

    fn take_bson(&mut self) -> Result<Option<Doc>, String> {
        let Some(mut length) = self.buffer.get(..4) else { return Ok(None) };
        let length = length.get_i32_le();
        let most = self.most;
        match usize::try_from(length) {
            Ok(length) if length > most => {
                Err(format!("began a message of {length} bytes, which is more than `max_frame` = {most}"))
            }
            Ok(length) if length < 5 => {
                Err(format!("began a message of {length} bytes: it wrote no BSON to its stdout"))
            }
            Ok(length) if self.buffer.len() < length => Ok(None),
            Ok(length) => Doc::new(self.buffer.split_to(length).freeze())
                .map(Some)
                .map_err(|_| format!("sent a message of {length} bytes that is no BSON document")),
            Err(_) => Err(format!("began a message of {length} bytes: it wrote no BSON to its stdout")),
        }
    }

    fn take_json(&mut self) -> Result<Option<Doc>, String> {
        let end = self.buffer[self.searched..].iter().position(|b| *b == b'\n').map(|at| at + self.searched);
        let most = self.most;
        if end.unwrap_or(self.buffer.len()) > most {
            return Err(format!("sent a line of more than `max_frame` = {most} bytes"));
        }
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return Ok(None);
        };
        self.searched = 0;
        let line = self.buffer.split_to(end + 1);
        // I8: what the parser says of it may quote it.
        let value: Map<String, Value> = serde_json::from_slice(&line)
            .map_err(|e| format!("sent a line that is no JSON object (column {})", e.column()))?;
        let document = Document::try_from(value).map_err(|_| "sent a line that is no extended JSON".to_owned())?;
        let raw = RawDocumentBuf::try_from(&document).map_err(|_| "sent a name that holds a NUL".to_owned())?;
        Ok(Some(raw.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Timestamp, doc, rawdoc};

    async fn read(encoding: Encoding, most: usize, bytes: &[u8]) -> Result<Vec<Doc>, NoFrame> {
        let mut frames = Frames::new(encoding, most);
        let (mut bytes, mut all) = (bytes, Vec::new());
        loop {
            match frames.next(&mut bytes).await {
                Ok(doc) => all.push(doc),
                Err(NoFrame::Ended) => return Ok(all),
                Err(e) => return Err(e),
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        let message = rawdoc! {"id": 7i64, "call": "write", "events": [{"time": Timestamp {time: 1, increment: 2}, "n": 1i64,
        "$set": {"a": bson::oid::ObjectId::from_bytes([7; 12])}, "z": 1, "a": 1.0, "": null}]};
        for encoding in [Encoding::Bson, Encoding::Json] {
            let mut bytes = encoding.encode(message.clone()).unwrap();
            bytes.extend(encoding.encode(rawdoc! {"id": 8}).unwrap());
            let got = read(encoding, 10_000, &bytes).await.unwrap();
            assert_eq!(got.len(), 2);
            let (a, b) = (Document::try_from(&*got[0]).unwrap(), Document::try_from(&*message).unwrap());
            assert_eq!(a.get("events"), b.get("events"), "{encoding:?}");
            assert!(got[1].get("id").unwrap().unwrap().as_i32().is_some());
        }
    }

    #[test]
    fn in_json_the_message_is_plain_and_what_it_holds_is_canonical() {
        let message = rawdoc! {"id": 1i64, "wait": 5, "options": {"limit": 3}, "events": [{"n": 3}]};
        let line = String::from_utf8(Encoding::Json.encode(message).unwrap()).unwrap();
        assert_eq!(
            line,
            "{\"id\":1,\"wait\":5,\"options\":{\"limit\":3},\"events\":[{\"n\":{\"$numberInt\":\"3\"}}]}\n"
        );
    }

    #[tokio::test]
    async fn garbage_is_told_without_quoting_it() {
        let large = [100_000_000i32.to_le_bytes().as_slice(), b"secret"].concat();
        let bson: [(&[u8], &str); 7] = [
            (b"\xff\xff\xff\xffsecret", "began a message of -1 bytes"),
            (b"\0\0\0\0secret", "began a message of 0 bytes"),
            (b"\x04\0\0\0", "began a message of 4 bytes"),
            (b"secret, 100", "which is more than"),
            (&large, "began a message of 100000000 bytes, which is more than `max_frame` = 1000"),
            (b"\x06\0\0\0\0\x01", "no BSON document"),
            (b"\x20\0\0\0secret", "ended its output inside a message"),
        ];
        let json: [(&[u8], &str); 5] = [
            (b"secret\n", "no JSON object"),
            (b"[\"secret\"]\n", "no JSON object"),
            (b"{\"a\": {\"$oid\": \"secret\"}}\n", "no extended JSON"),
            (b"{\"a\": 1", "ended its output inside a line"),
            (&[b'x'; 2000], "a line of more than `max_frame` = 1000"),
        ];
        let all = bson.map(|case| (Encoding::Bson, case)).into_iter().chain(json.map(|case| (Encoding::Json, case)));
        for (encoding, (bytes, words)) in all {
            let Err(NoFrame::Garbage(said)) = read(encoding, 1000, bytes).await else { panic!("{words}: taken") };
            assert!(said.contains(words), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
    }

    #[tokio::test]
    async fn a_frame_costs_what_has_come_of_it_and_not_what_it_claims() {
        let mut frames = Frames::new(Encoding::Bson, 1 << 30);
        let mut bytes: &[u8] = &[0, 0, 0, 0x20, 1, 2, 3];
        assert!(matches!(frames.next(&mut bytes).await, Err(NoFrame::Garbage(_))));
        assert!(frames.buffer.capacity() < 1 << 20);
    }

    #[test]
    fn documents_of_the_kit_survive_canonical_json() {
        let doc = doc! {"nan": f64::NAN, "dec": "1.5".parse::<bson::Decimal128>().unwrap(), "d": bson::DateTime::from_millis(-1)};
        let text = Bson::Document(doc).into_canonical_extjson().to_string();
        assert!(text.contains("$numberDecimal") && text.contains("NaN"));
    }
}
