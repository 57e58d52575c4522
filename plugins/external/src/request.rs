//! What a child is sent.

use std::ops::Range;

use bson::{RawArrayBuf, RawDocumentBuf, cstr, rawdoc};
use oplogue_api::{Doc, Event, Position};

/// A request holds no more than this, a single larger event excepted. No frame of an answer need be larger then.
const LARGEST: usize = 8 << 20;

/// Cuts events into runs that go into one request each.
pub fn pieces(events: &[&Event]) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, event) in events.iter().enumerate() {
        let size = event.size() + event.before.as_ref().map_or(0, |doc| doc.as_bytes().len());
        if i > start && bytes + size > LARGEST {
            out.push(start..i);
            (start, bytes) = (i, 0);
        }
        bytes += size;
    }
    if start < events.len() {
        out.push(start..events.len());
    }
    out
}

/// `{events: […]}`. Without `raw` where the child did not ask for it: it is about as large as all the rest.
pub fn of_events<'a>(events: impl IntoIterator<Item = &'a Event>, raw: bool) -> RawDocumentBuf {
    let mut array = RawArrayBuf::new();
    for event in events {
        if raw {
            array.push(event.to_document());
        } else {
            array.push(Event { raw: Doc::empty(), ..event.clone() }.to_document());
        }
    }
    let mut body = RawDocumentBuf::new();
    body.append(cstr!("events"), array);
    body
}

/// `{token: {…}, time: Timestamp}`.
pub fn of_position(position: &Position) -> RawDocumentBuf {
    rawdoc! {"token": (*position.token).to_owned(), "time": position.time}
}

#[cfg(test)]
mod tests {
    use super::*;
    use oplogue_api::{Namespace, Op};

    #[test]
    fn pieces_are_whole_and_no_larger_than_they_must_be() {
        let time = bson::Timestamp { time: 1, increment: 1 };
        let of =
            |size: usize| Event::new(Op::Insert, Namespace::new("a.b"), time, rawdoc! {"x": "x".repeat(size)}.into());
        let (small, half, large) = (of(10), of(LARGEST / 2), of(LARGEST * 2));
        assert!(pieces(&[]).is_empty());
        assert_eq!(pieces(&[&small, &small]), vec![0..2; 1]);
        assert_eq!(pieces(&[&half, &half, &small, &large, &small]), [0..1, 1..3, 3..4, 4..5]);
    }
}
