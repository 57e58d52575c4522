//! What a child says.

use bson::{RawBsonRef, RawDocument, Timestamp};
use oplogue_api::{Doc, Error, ErrorKind, Ordering, Position, Result};

use crate::{PROTOCOL, log::printable};

/// The most of a text of the child that goes on into errors.
const LONGEST: usize = 300;

/// A whole number, in whichever type a language writes it.
pub fn number(value: RawBsonRef<'_>) -> Option<i64> {
    match value {
        RawBsonRef::Int32(n) => Some(n.into()),
        RawBsonRef::Int64(n) => Some(n),
        RawBsonRef::Double(n) if n.fract() == 0.0 && n.abs() < 9e15 => Some(n as i64),
        _ => None,
    }
}

pub fn get<'a>(answer: &'a RawDocument, name: &str) -> Option<RawBsonRef<'a>> {
    // What cannot be read is as good as absent; null, too.
    answer.get(name).ok().flatten().filter(|value| value.as_null().is_none())
}

/// The number of the request that it answers.
pub fn id(answer: &RawDocument) -> Option<i64> {
    number(get(answer, "id")?)
}

/// A text of the child, as it may go into an error.
fn text(from: &RawDocument, name: &str) -> Option<String> {
    Some(printable(get(from, name)?.as_str()?).chars().take(LONGEST).collect())
}

/// The child broke the protocol. `what` follows "the child".
pub fn wrong(what: impl std::fmt::Display) -> Error {
    Error::bug(format!("the child {what}")).hint("see docs/external.md for what it must answer")
}

/// `{message, hint}`, as an error of this kind.
pub fn error_of(kind: ErrorKind, from: &RawDocument) -> Error {
    let message = text(from, "message").unwrap_or_else(|| "the child gave no reason".into());
    let e = Error::new(kind, message);
    match (text(from, "hint"), kind) {
        (Some(hint), _) => e.hint(hint),
        // E2: of these a person must make something.
        (None, ErrorKind::Operator) => {
            e.hint("the child says no more: see its documentation, and its lines in the log")
        }
        (None, ErrorKind::PositionLost) => {
            e.hint("what lies between is gone: reset the position, or see `on_position_lost`")
        }
        (None, _) => e,
    }
}

/// The answer, unless it is `{id, error: {kind, message, hint}}`.
pub fn checked(call: &str, answer: Doc) -> Result<Doc> {
    let Some(error) = get(&answer, "error") else { return Ok(answer) };
    let Some(error) = error.as_document() else {
        return Err(wrong(format_args!("sent an `error` that is no document (asked to `{call}`)")));
    };
    let kind = match get(error, "kind").and_then(|kind| kind.as_str()) {
        Some("transient") => ErrorKind::Transient,
        Some("data") => ErrorKind::Data,
        Some("position_lost") => ErrorKind::PositionLost,
        Some("operator") => ErrorKind::Operator,
        Some("bug") => ErrorKind::Bug,
        _ => return Err(wrong(format_args!("sent an error of no known kind (asked to `{call}`)"))),
    };
    Err(error_of(kind, error))
}

/// What a child says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name and version of the child.
    pub name: String,
    pub ordering: Ordering,
    pub max_batch: Option<usize>,
    /// It wants `raw` with its events.
    pub raw: bool,
    /// It is a source that knows the markers of replicators.
    pub markers: bool,
    /// It is a source that wants to hear of checkpoints.
    pub committed: bool,
}

impl Hello {
    /// # Errors
    /// `Operator` when it speaks another protocol, `Bug` when it does not answer as it must.
    pub fn read(answer: &RawDocument) -> Result<Hello> {
        match get(answer, "protocol").and_then(number) {
            Some(version) if version == i64::from(PROTOCOL) => {}
            Some(version) => {
                return Err(Error::operator(format!(
                    "the child speaks version {version} of the protocol, and this oplogue version {PROTOCOL}"
                ))
                .hint("install a version of the child, or of oplogue, that fits"));
            }
            None => return Err(wrong("did not say which `protocol` it speaks")),
        }
        let ordering = match get(answer, "ordering").map(|o| o.as_str()) {
            None | Some(Some("per-key")) => Ordering::PerKey,
            Some(Some("any")) => Ordering::Any,
            Some(Some("total")) => Ordering::Total,
            _ => return Err(wrong("asked for an `ordering` that is none of any, per-key, total")),
        };
        let max_batch = match get(answer, "max_batch") {
            None => None,
            Some(n) => match number(n).and_then(|n| usize::try_from(n).ok()) {
                Some(n @ 1..) => Some(n),
                _ => return Err(wrong("gave a `max_batch` that is no number above 0")),
            },
        };
        let flag = |name| match get(answer, name) {
            None => Ok(false),
            Some(RawBsonRef::Boolean(b)) => Ok(b),
            Some(_) => Err(wrong(format_args!("gave a `{name}` that is neither true nor false"))),
        };
        Ok(Hello {
            name: text(answer, "name").unwrap_or_else(|| "the child".into()),
            ordering,
            max_batch,
            raw: flag("raw")?,
            markers: flag("markers")?,
            committed: flag("committed")?,
        })
    }
}

/// `{token: {…}, time: Timestamp}`.
pub fn position(answer: &Doc, name: &str) -> Result<Position> {
    let found = || {
        let inner = get(answer, name)?.as_document()?;
        let token = answer.slice(get(inner, "token")?.as_document()?);
        // It is kept with the checkpoint, far longer than the answer.
        Some(Position { token: token.detach(), time: get(inner, "time")?.as_timestamp()? })
    };
    found().ok_or_else(|| wrong(format_args!("gave no `{name}` of the form {{token: document, time: timestamp}}")))
}

pub fn timestamp(answer: &RawDocument, name: &str) -> Option<Timestamp> {
    get(answer, name)?.as_timestamp()
}

/// A number of events; 0 where it is absent.
pub fn count(answer: &RawDocument, name: &str) -> Result<u64> {
    match get(answer, name) {
        None => Ok(0),
        Some(n) => number(n)
            .and_then(|n| u64::try_from(n).ok())
            .ok_or_else(|| wrong(format_args!("gave a `{name}` that is no number of events"))),
    }
}

/// The texts of a refused event: `message` and `hint`.
pub fn refused(message: &str, hint: Option<&str>) -> Error {
    let short = |text: &str| printable(text).chars().take(LONGEST).collect::<String>();
    let e = Error::data(short(message));
    match hint {
        Some(hint) => e.hint(short(hint)),
        None => e,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn errors_keep_kind_and_words_and_no_more_of_them_than_is_good() {
        let error = |kind: &str| rawdoc! {"id": 1, "error": {"kind": kind, "message": "x\n".repeat(500), "hint": "y"}};
        for kind in
            [ErrorKind::Transient, ErrorKind::Data, ErrorKind::PositionLost, ErrorKind::Operator, ErrorKind::Bug]
        {
            let e = checked("x", error(kind.name()).into()).unwrap_err();
            assert_eq!((e.kind(), e.get_hint()), (kind, Some("y")));
            assert!(e.message().chars().count() == LONGEST && !e.message().contains('\n'));
        }
        assert_eq!(checked("x", error("other").into()).unwrap_err().kind(), ErrorKind::Bug);
        assert_eq!(checked("x", rawdoc! {"error": 1}.into()).unwrap_err().kind(), ErrorKind::Bug);
        let operator = checked("x", rawdoc! {"error": {"kind": "operator"}}.into()).unwrap_err();
        assert!(operator.get_hint().is_some());
        assert!(checked("x", rawdoc! {"id": 1, "error": null}.into()).is_ok());
    }

    #[test]
    fn a_hello_is_read() {
        let hello =
            Hello::read(&rawdoc! {"protocol": 1.0, "ordering": "total", "max_batch": 7i64, "raw": true}).unwrap();
        assert_eq!((hello.ordering, hello.max_batch, hello.raw), (Ordering::Total, Some(7), true));
        let e = Hello::read(&rawdoc! {"protocol": 2}).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Operator);
        for wrong in [
            rawdoc! {},
            rawdoc! {"protocol": "1"},
            rawdoc! {"protocol": 1, "ordering": "none"},
            rawdoc! {"protocol": 1, "ordering": 1},
            rawdoc! {"protocol": 1, "max_batch": 0},
            rawdoc! {"protocol": 1, "max_batch": "x"},
            rawdoc! {"protocol": 1, "raw": 1},
        ] {
            assert_eq!(Hello::read(&wrong).unwrap_err().kind(), ErrorKind::Bug, "{wrong:?}");
        }
    }

    #[test]
    fn positions_are_whole_or_wrong() {
        let time = Timestamp { time: 1, increment: 2 };
        let good = Doc::from(rawdoc! {"end": {"token": {"a": 1}, "time": time}});
        assert_eq!(position(&good, "end").unwrap(), Position { token: rawdoc! {"a": 1}.into(), time });
        for bad in [
            rawdoc! {},
            rawdoc! {"end": 1},
            rawdoc! {"end": {"token": 1, "time": time}},
            rawdoc! {"end": {"token": {}}},
        ] {
            assert_eq!(position(&bad.into(), "end").unwrap_err().kind(), ErrorKind::Bug);
        }
    }
}
