use bson::RawDocument;
use oplogue_api::{Event, Op, Result};

use super::{
    json::detail,
    update::{self, Edit, entries},
};
use crate::extjson::{self, document, instant, value};

/// The colours of a terminal, or nothing.
#[derive(Clone, Copy)]
struct Ink(bool);

impl Ink {
    fn on(self, out: &mut Vec<u8>, code: &str) {
        if self.0 {
            out.extend_from_slice(b"\x1b[");
            out.extend_from_slice(code.as_bytes());
            out.push(b'm');
        }
    }
    fn text(self, out: &mut Vec<u8>, code: &str, text: &str) {
        self.on(out, code);
        show(out, text);
        self.on(out, "0");
    }
}

const DIM: &str = "2";
const BOLD: &str = "1";

fn colour(op: Op) -> &'static str {
    match op {
        Op::Insert => "32",
        Op::Update | Op::Replace => "33",
        Op::Delete => "31",
        Op::Gap | Op::DeadLetter => "1;31",
        _ => "35",
    }
}

/// Appends an event for people: a headline (time in UTC, operation, namespace, key) and a line for everything that changed.
///
/// # Errors
/// `Data` when a part of the event cannot be read; the buffer then ends somewhere inside.
pub(super) fn block(out: &mut Vec<u8>, event: &Event, colours: bool) -> Result<()> {
    let ink = Ink(colours);
    ink.on(out, DIM);
    time(out, event);
    ink.on(out, "0");
    out.push(b' ');
    // Columns, as long as names are short.
    ink.text(out, colour(event.op), &format!("{:7}", event.op.name()));
    out.push(b' ');
    ink.text(out, BOLD, if event.ns.as_str().is_empty() { "(deployment)" } else { event.ns.as_str() });
    if let Some(to) = &event.to {
        out.extend_from_slice(b" -> ");
        ink.text(out, BOLD, to.as_str());
    }
    if let Some(key) = &event.key {
        out.push(b' ');
        shown(out, |json| document(json, key))?;
    }
    if let Some(txn) = &event.txn {
        ink.text(out, DIM, &format!(" txn {}", txn.number));
    }
    out.push(b'\n');
    if let Some(change) = &event.change {
        changes(out, ink, event, &change.decode()?)?;
    } else if let Some(after) = &event.after {
        fields(out, ink, "", after)?;
    } else if let Some(before) = &event.before {
        fields(out, ink, "was ", before)?;
    }
    if let Some(detail) = detail(event) {
        fields(out, ink, "", detail?)?;
    }
    Ok(())
}

/// The wall clock of the server where it gave it, else the cluster time, which has no fractions.
fn time(out: &mut Vec<u8>, event: &Event) {
    let millis = event.wall.unwrap_or(i64::from(event.time.time) * 1000);
    let mut text = Vec::new();
    // Years of four digits; a clock that is further off shows as the time of the cluster.
    let (first, last) = (0, 253_402_300_799_999);
    let sound = if (first..=last).contains(&millis) { millis } else { i64::from(event.time.time) * 1000 };
    instant(&mut text, sound);
    // The same width for all: 2026-11-21 03:04:05.678
    text.retain(|b| *b != b'Z');
    if text.len() == 19 {
        text.extend_from_slice(b".000");
    }
    out.extend(text.into_iter().map(|b| if b == b'T' { b' ' } else { b }));
}

fn changes(out: &mut Vec<u8>, ink: Ink, event: &Event, update: &oplogue_api::Update<'_>) -> Result<()> {
    let all = entries(update);
    if all.is_empty() {
        ink.text(out, DIM, "    nothing changed");
        out.push(b'\n');
    }
    for entry in all {
        let sign = match entry.edit {
            Edit::Set(_) => "=",
            Edit::Unset => "-",
            Edit::Truncate(_) => "<",
        };
        out.extend_from_slice(b"  ");
        ink.text(out, colour(event.op), sign);
        out.push(b' ');
        match &entry.dotted {
            Some(dotted) => ink.text(out, DIM, dotted),
            None => shown(out, |json| update::path(json, entry.path))?,
        }
        match entry.edit {
            Edit::Set(new) => {
                out.extend_from_slice(b": ");
                shown(out, |json| value(json, new))?;
            }
            Edit::Unset => {}
            Edit::Truncate(length) => show(out, &format!(": cut to {length}")),
        }
        out.push(b'\n');
    }
    Ok(())
}

fn fields(out: &mut Vec<u8>, ink: Ink, prefix: &str, doc: &RawDocument) -> Result<()> {
    for (name, value) in extjson::fields(doc)? {
        out.extend_from_slice(b"    ");
        ink.text(out, DIM, &format!("{prefix}{name}"));
        out.extend_from_slice(b": ");
        show(out, &String::from_utf8_lossy(&value));
        out.push(b'\n');
    }
    Ok(())
}

/// Appends what `write` writes as JSON, fit for a terminal.
fn shown(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
    let mut json = Vec::new();
    write(&mut json)?;
    show(out, &String::from_utf8_lossy(&json));
    Ok(())
}

/// Appends text, with control characters spelt out: what is in a database must not steer the terminal.
fn show(out: &mut Vec<u8>, text: &str) {
    let mut buffer = [0; 4];
    for c in text.chars() {
        if c.is_control() {
            out.extend_from_slice(format!("\\u{:04x}", c as u32).as_bytes());
        } else {
            out.extend_from_slice(c.encode_utf8(&mut buffer).as_bytes());
        }
    }
}
