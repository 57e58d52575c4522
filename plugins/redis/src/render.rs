//! From an event to the message that redis-oplog understands, and the channels it goes to.
//!
//! The bytes are those of oplogtoredis wherever that publishes anything, so that one can take the place of the other; ids it
//! drops or misdirects (numbers, booleans, null, texts that need an escape) go where Meteor's `MongoID.idStringify`
//! listens for them.

use oplogue_api::{Error, Event, Op, Result};

use crate::{
    changed::Detail,
    fields::FieldList,
    json::{write_hex, write_text},
    number::write_number,
    pack::Pack,
    raw::{Element, find, kind},
};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendered {
    /// A message was added.
    Message,
    /// The position was lost before this event: what is marked as sent beyond it must not be believed any more.
    Gap,
    /// A barrier: the protocol has no message for it.
    Barrier,
    /// Meteor has no channel and no text for an id of this type, so no subscriber can exist.
    NoChannel,
}

/// Renders events into a [`Pack`], four fields each: id, collection channel (empty: that of the event before), channel of
/// the document, message. A gap has an id and three empty fields.
pub struct Renderer {
    prefix: Option<Vec<u8>>,
    fields: FieldList,
    /// The collection channel of the last message, valid within one pack.
    channel: Vec<u8>,
}

/// How many fields of the pack an event takes.
pub const FIELDS_PER_EVENT: usize = 4;

impl Renderer {
    /// With the channel prefix (`None`: the name of the event's database and a dot) and the detail of `f`.
    pub fn new(prefix: Option<&str>, detail: Detail) -> Renderer {
        Renderer { prefix: prefix.map(|p| p.as_bytes().to_vec()), fields: FieldList::new(detail), channel: Vec::new() }
    }

    /// To be called before the first event of a pack.
    pub fn begin(&mut self) {
        self.channel.clear();
    }

    /// Adds the event to the pack.
    ///
    /// # Errors
    /// `Data` when it has no id or does not say what it changed; the pack is as before then.
    pub fn render(&mut self, pack: &mut Pack, event: &Event) -> Result<Rendered> {
        if event.op == Op::Gap {
            pack.push(&event_id(event)[..TIME_DIGITS]);
            for _ in 1..FIELDS_PER_EVENT {
                pack.push(b"");
            }
            return Ok(Rendered::Gap);
        }
        if event.op.is_barrier() {
            return Ok(Rendered::Barrier);
        }
        let key = event.key.as_ref().ok_or_else(|| Error::data("the event has no document key"))?;
        let id = find(key.as_bytes(), "_id")?.ok_or_else(|| Error::data("the document key has no _id"))?;
        let mark = pack.mark();
        let rendered = self.message(pack, event, &id);
        if !matches!(rendered, Ok(Rendered::Message)) {
            pack.rewind(mark);
        }
        rendered
    }

    /// The four fields, without taking anything back when it fails.
    fn message(&mut self, pack: &mut Pack, event: &Event, id: &Element<'_>) -> Result<Rendered> {
        pack.push(&event_id(event));
        let ns = &event.ns;
        let (front, back): (&[u8], &[u8]) = match &self.prefix {
            None => (ns.as_str().as_bytes(), b""),
            Some(prefix) => (prefix, ns.coll().as_bytes()),
        };
        let same = self.channel.len() == front.len() + back.len()
            && self.channel.starts_with(front)
            && self.channel.ends_with(back);
        if same && !self.channel.is_empty() {
            pack.push(b"");
        } else {
            self.channel.clear();
            self.channel.extend_from_slice(front);
            self.channel.extend_from_slice(back);
            pack.push(&self.channel);
        }
        let has_channel = pack.push_with(|out| {
            out.extend_from_slice(&self.channel);
            out.extend_from_slice(b"::");
            write_suffix(out, id)
        });
        if !has_channel {
            self.channel.clear();
            return Ok(Rendered::NoChannel);
        }
        let written = pack.push_with(|out| {
            out.extend_from_slice(match event.op {
                Op::Insert => b"{\"e\":\"i\",\"d\":{\"_id\":",
                Op::Delete => b"{\"e\":\"r\",\"d\":{\"_id\":",
                _ => b"{\"e\":\"u\",\"d\":{\"_id\":",
            });
            write_id(out, id);
            out.extend_from_slice(b"},\"f\":");
            self.fields.write(out, &[], event)?;
            out.push(b'}');
            Ok(())
        });
        if written.is_err() {
            // The channel of the pack's last event is not known any more.
            self.channel.clear();
        }
        written.map(|()| Rendered::Message)
    }
}

/// Digits of an event id, and of the time in it.
pub const ID_DIGITS: usize = 30;
/// See [`ID_DIGITS`].
pub const TIME_DIGITS: usize = 20;

/// The canonical position of an event (seconds, increment, index) as digits of fixed width, so that the order of texts is
/// the order of positions. Digits alone sort alike in every locale, which Lua's comparison depends on.
pub fn event_id(event: &Event) -> [u8; ID_DIGITS] {
    let mut out = [b'0'; ID_DIGITS];
    digits(&mut out[..10], event.time.time);
    digits(&mut out[10..20], event.time.increment);
    digits(&mut out[20..], event.index);
    out
}

/// Cluster time as digits: how [`event_id`] begins.
pub fn time_digits(time: bson::Timestamp) -> [u8; TIME_DIGITS] {
    let mut out = [b'0'; TIME_DIGITS];
    digits(&mut out[..10], time.time);
    digits(&mut out[10..], time.increment);
    out
}

/// The cluster time that [`time_digits`] wrote.
pub fn parse_time(text: &[u8]) -> Option<bson::Timestamp> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() == TIME_DIGITS)?;
    Some(bson::Timestamp { time: text[..10].parse().ok()?, increment: text[10..].parse().ok()? })
}

fn digits(out: &mut [u8], mut n: u32) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

/// The number that an id is, as JavaScript's driver gives it to Meteor.
fn number(id: &Element<'_>) -> Option<f64> {
    match id.kind {
        kind::DOUBLE => id.value.try_into().ok().map(f64::from_le_bytes),
        kind::INT32 => id.value.try_into().ok().map(|v| f64::from(i32::from_le_bytes(v))),
        kind::INT64 => id.value.try_into().ok().map(|v| i64::from_le_bytes(v) as f64),
        _ => None,
    }
}

/// Appends what `MongoID.idStringify` makes of the id; `false` for a type that it refuses.
fn write_suffix(out: &mut Vec<u8>, id: &Element<'_>) -> bool {
    match id.kind {
        kind::STRING => {
            let text = id.text().unwrap_or_default();
            let like_object_id = text.len() == 24 && text.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if like_object_id || matches!(text.first(), Some(b'-' | b'~' | b'{')) {
                out.push(b'-');
            }
            out.extend_from_slice(text);
        }
        kind::OBJECT_ID => write_hex(out, id.value),
        kind::BOOL => out.extend_from_slice(if id.value == [0] { b"~false" } else { b"~true" }),
        kind::NULL => out.extend_from_slice(b"~null"),
        _ => match number(id) {
            Some(d) if d.is_finite() => {
                out.push(b'~');
                write_number(out, d);
            }
            // JSON.stringify(NaN)
            Some(_) => out.extend_from_slice(b"~null"),
            None => return false,
        },
    }
    true
}

/// Appends the id as EJSON, for the types that [`write_suffix`] knows.
fn write_id(out: &mut Vec<u8>, id: &Element<'_>) {
    match id.kind {
        kind::STRING => write_text(out, id.text().unwrap_or_default()),
        kind::OBJECT_ID => {
            out.extend_from_slice(b"{\"$type\":\"oid\",\"$value\":\"");
            write_hex(out, id.value);
            out.extend_from_slice(b"\"}");
        }
        kind::BOOL => out.extend_from_slice(if id.value == [0] { b"false" } else { b"true" }),
        _ => match number(id) {
            Some(d) if d.is_finite() => write_number(out, d),
            Some(d) => out.extend_from_slice(match d {
                f64::INFINITY => b"{\"$InfNaN\":1}",
                f64::NEG_INFINITY => b"{\"$InfNaN\":-1}",
                _ => b"{\"$InfNaN\":0}",
            }),
            None => out.extend_from_slice(b"null"),
        },
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
