use std::hash::{DefaultHasher, Hash, Hasher};

use bson::{RawBsonRef, RawDocument};

/// A hash of a document key under MongoDB's own notion of equality: `1`, `1.0` and `NumberLong(1)` are one key, and
/// so hash alike. Only `_id` counts where there is one: a source may know the shard key for one event of a document and
/// not for the next, and both must meet in one lane. Stable within a process only.
pub fn hash_key(key: &RawDocument) -> u64 {
    let mut h = DefaultHasher::new();
    hash_id(key, &mut h);
    h.finish()
}

/// Whether two document keys name the same document, by `_id` like [`hash_key`]. Decimals that differ only beyond the
/// precision of a double are taken for the same: a sink that keeps their order does no harm, but one that leaves out
/// duplicates must not go by this.
pub fn same_key(a: &RawDocument, b: &RawDocument) -> bool {
    a.as_bytes() == b.as_bytes() || canonical(a) == canonical(b)
}

fn canonical(key: &RawDocument) -> Vec<u8> {
    let mut sink = Collect(Vec::new());
    hash_id(key, &mut sink);
    sink.0
}

fn hash_id(key: &RawDocument, h: &mut impl Hasher) {
    match key.get("_id") {
        Ok(Some(id)) => hash_value(id, 0, h),
        _ => hash_doc(key, 0, h),
    }
}

/// No server sends a key nested deeper; a damaged or hostile dump may, and following it would overflow the stack. Below,
/// the bytes count as they are.
const DEEPEST: usize = 250;

struct Collect(Vec<u8>);
impl Hasher for Collect {
    fn finish(&self) -> u64 {
        0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
}

fn hash_doc(doc: &RawDocument, depth: usize, h: &mut impl Hasher) {
    if depth > DEEPEST {
        return h.write(doc.as_bytes());
    }
    for element in doc.iter_elements() {
        let Ok(element) = element else {
            // Damaged bytes: still the same hash for the same bytes.
            return h.write(doc.as_bytes());
        };
        element.key().as_str().hash(h);
        match element.value() {
            Ok(value) => hash_value(value, depth, h),
            Err(_) => return h.write(doc.as_bytes()),
        }
    }
    h.write_u8(0xff);
}

fn hash_value(value: RawBsonRef<'_>, depth: usize, h: &mut impl Hasher) {
    match value {
        RawBsonRef::Int32(n) => hash_integer(i64::from(n), h),
        RawBsonRef::Int64(n) => hash_integer(n, h),
        RawBsonRef::Double(d) => match exact_integer(d) {
            Some(n) => hash_integer(n, h),
            None if d.is_nan() => h.write_u8(2),
            None => {
                h.write_u8(3);
                h.write_u64(d.to_bits());
            }
        },
        // A decimal equal to an integer is that integer; others are told apart by their canonical text.
        RawBsonRef::Decimal128(d) => {
            let text = d.to_string();
            match text.parse::<i64>() {
                Ok(n) => hash_integer(n, h),
                Err(_) => match text.parse::<f64>() {
                    Ok(f) => hash_value(RawBsonRef::Double(f), depth, h),
                    Err(_) => text.hash(h),
                },
            }
        }
        RawBsonRef::String(s) | RawBsonRef::Symbol(s) => {
            h.write_u8(4);
            s.hash(h);
        }
        RawBsonRef::Document(d) => {
            h.write_u8(5);
            hash_doc(d, depth + 1, h);
        }
        RawBsonRef::Array(a) => {
            h.write_u8(6);
            match RawDocument::from_bytes(a.as_bytes()) {
                Ok(d) => hash_doc(d, depth + 1, h),
                Err(_) => h.write(a.as_bytes()),
            }
        }
        RawBsonRef::ObjectId(id) => {
            h.write_u8(7);
            h.write(&id.bytes());
        }
        RawBsonRef::Binary(b) => {
            h.write_u8(8);
            h.write_u8(b.subtype.into());
            b.bytes.hash(h);
        }
        RawBsonRef::Boolean(b) => h.write(&[9, u8::from(b)]),
        RawBsonRef::DateTime(d) => {
            h.write_u8(10);
            h.write_i64(d.timestamp_millis());
        }
        RawBsonRef::Timestamp(t) => {
            h.write_u8(11);
            h.write_u32(t.time);
            h.write_u32(t.increment);
        }
        RawBsonRef::Null | RawBsonRef::Undefined => h.write_u8(12),
        RawBsonRef::MinKey => h.write_u8(13),
        RawBsonRef::MaxKey => h.write_u8(14),
        RawBsonRef::RegularExpression(r) => {
            h.write_u8(15);
            r.pattern.as_str().hash(h);
            r.options.as_str().hash(h);
        }
        RawBsonRef::JavaScriptCode(s) => {
            h.write_u8(16);
            s.hash(h);
        }
        RawBsonRef::JavaScriptCodeWithScope(c) => {
            h.write_u8(17);
            c.code.hash(h);
            hash_doc(c.scope, depth + 1, h);
        }
        RawBsonRef::DbPointer(_) => h.write_u8(18),
    }
}

fn hash_integer(n: i64, h: &mut impl Hasher) {
    h.write_u8(1);
    h.write_i64(n);
}

/// The integer that `d` is exactly, if it is one (so -0.0 is 0).
fn exact_integer(d: f64) -> Option<i64> {
    // 2^63 itself is not an i64; the comparison is exact because both bounds are powers of two.
    const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;
    (d.fract() == 0.0 && (-TWO_POW_63..TWO_POW_63).contains(&d)).then_some(d as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Bson, Decimal128, RawDocumentBuf, doc, oid::ObjectId};

    fn key(v: impl Into<Bson>) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc! {"_id": v.into()}).unwrap()
    }

    #[test]
    fn equal_numbers_are_one_key() {
        let one: Decimal128 = "1".parse().unwrap();
        for other in [key(1i64), key(1.0), key(one)] {
            assert_eq!(hash_key(&key(1i32)), hash_key(&other));
            assert!(same_key(&key(1i32), &other));
        }
        assert_eq!(hash_key(&key(0.0)), hash_key(&key(-0.0)));
        let half: Decimal128 = "0.5".parse().unwrap();
        assert_eq!(hash_key(&key(0.5)), hash_key(&key(half)));
        assert_eq!(hash_key(&key(doc! {"a": 1})), hash_key(&key(doc! {"a": 1.0})));
        let sharded = RawDocumentBuf::try_from(&doc! {"region": "eu", "_id": 1}).unwrap();
        assert_eq!(hash_key(&sharded), hash_key(&key(1)));
    }

    #[test]
    fn different_keys_differ() {
        let keys = [
            key(1),
            key("1"),
            key(true),
            key(Bson::Null),
            key(1.5),
            key(doc! {"a": 1}),
            key(doc! {"a": {"b": 1}}),
            key(doc! {"a": 1, "b": 2}),
            key(doc! {"b": 2, "a": 1}),
            key(ObjectId::from_bytes([1; 12])),
            key(i64::MAX),
            key(9.3e18),
            key(Bson::MinKey),
            key(Bson::MaxKey),
        ];
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert!(!same_key(a, b), "{a:?} {b:?}");
                assert_ne!(hash_key(a), hash_key(b), "{a:?} {b:?}");
            }
        }
    }
    /// The key of a document of so many levels, with `innermost` in the middle.
    fn nested(levels: usize, innermost: i32) -> RawDocumentBuf {
        let innermost = RawDocumentBuf::try_from(&doc! {"": innermost}).unwrap().into_bytes();
        // From the outside in: putting one document into the next would take a square of the time.
        let mut bytes = Vec::new();
        for level in (1..=levels).rev() {
            let length = i32::try_from(level * 7 + innermost.len()).unwrap();
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&[3, 0]);
        }
        bytes.extend_from_slice(&innermost);
        bytes.resize(bytes.len() + levels, 0);
        let mut key = RawDocumentBuf::new();
        key.append(bson::raw::cstr!("_id"), RawDocumentBuf::from_bytes(bytes).unwrap());
        key
    }

    #[test]
    fn a_key_nested_without_end_does_not_overflow_the_stack() {
        let key = nested(1_000_000, 1);
        assert_eq!(hash_key(&key), hash_key(&key.clone()));
        assert!(!same_key(&key, &nested(1_000_000, 2)));
    }
}
