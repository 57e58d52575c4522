//! The order of BSON values in MongoDB: by type, and within a type (or types that compare with each other, such as all numbers)
//! by value.

use std::cmp::Ordering;

use bson::spec::ElementType;

use crate::{
    Error, Result,
    number::Number,
    raw::{Elements, Value, broken},
};

/// The place of a type in the order. Types of one rank compare with each other by value.
pub fn rank(kind: ElementType) -> i8 {
    match kind {
        ElementType::MinKey => -1,
        ElementType::Undefined => MISSING,
        ElementType::Null => 5,
        ElementType::Int32 | ElementType::Int64 | ElementType::Double | ElementType::Decimal128 => 10,
        ElementType::String | ElementType::Symbol => 15,
        ElementType::EmbeddedDocument => 20,
        ElementType::Array => 25,
        ElementType::Binary => 30,
        ElementType::ObjectId => 35,
        ElementType::Boolean => 40,
        ElementType::DateTime => 45,
        ElementType::Timestamp => 47,
        ElementType::RegularExpression => 50,
        ElementType::DbPointer => 55,
        ElementType::JavaScriptCode => 60,
        ElementType::JavaScriptCodeWithScope => 65,
        ElementType::MaxKey => 127,
    }
}

/// The rank of what is not there, which is that of `undefined`.
pub const MISSING: i8 = 0;

/// No server sends a document nested deeper; following a damaged or hostile one would overflow the stack.
const DEEPEST: usize = 250;

/// Compares two values as a sort or an index of MongoDB does, without a collation. Names and order of the fields of documents
/// count; numbers compare across their types, by what they are exactly; a string and a symbol of the same text are equal.
///
/// # Errors
/// [`Data`](crate::ErrorKind::Data): damaged bytes, or documents nested deeper than 250 levels.
#[inline]
pub fn compare(a: Value<'_>, b: Value<'_>) -> Result<Ordering> {
    nested(a, b, 0)
}

fn nested(a: Value<'_>, b: Value<'_>, depth: usize) -> Result<Ordering> {
    let (Some(kind), Some(other)) = (a.kind(), b.kind()) else { return Err(broken()) };
    let ranks = rank(kind).cmp(&rank(other));
    if ranks.is_ne() {
        return Ok(ranks);
    }
    same_rank(kind, a, b, depth)
}

fn same_rank(kind: ElementType, a: Value<'_>, b: Value<'_>, depth: usize) -> Result<Ordering> {
    Ok(match kind {
        ElementType::MinKey | ElementType::MaxKey | ElementType::Null | ElementType::Undefined => Ordering::Equal,
        ElementType::Int32 | ElementType::Int64 | ElementType::Double | ElementType::Decimal128 => {
            match (Number::of(a)?, Number::of(b)?) {
                (Some(a), Some(b)) => a.compare(b),
                _ => return Err(broken()),
            }
        }
        ElementType::String | ElementType::Symbol | ElementType::JavaScriptCode => a.text().cmp(&b.text()),
        ElementType::EmbeddedDocument | ElementType::Array => match (a.elements(), b.elements()) {
            (Some(a), Some(b)) => documents(a, b, depth)?,
            _ => return Err(broken()),
        },
        // Shorter ones first; then the subtype counts before the bytes.
        ElementType::Binary => match (a.binary(), b.binary()) {
            (Some((sub, bytes)), Some((other, others))) => {
                bytes.len().cmp(&others.len()).then(sub.cmp(&other)).then_with(|| bytes.cmp(others))
            }
            _ => return Err(broken()),
        },
        ElementType::ObjectId | ElementType::Boolean => a.bytes().cmp(b.bytes()),
        ElementType::DateTime => i64::from_le_bytes(a.array()?).cmp(&i64::from_le_bytes(b.array()?)),
        ElementType::Timestamp => u64::from_le_bytes(a.array()?).cmp(&u64::from_le_bytes(b.array()?)),
        ElementType::RegularExpression => a.regex().cmp(&b.regex()),
        ElementType::DbPointer => a.bytes().len().cmp(&b.bytes().len()).then_with(|| a.bytes().cmp(b.bytes())),
        ElementType::JavaScriptCodeWithScope => match (a.scoped(), b.scoped()) {
            (Some((code, scope)), Some((other, others))) => match code.cmp(other) {
                Ordering::Equal => documents(scope, others, depth)?,
                order => order,
            },
            _ => return Err(broken()),
        },
    })
}

/// Field by field: the type counts before the name, and the name before the value.
fn documents(mut a: Elements<'_>, mut b: Elements<'_>, depth: usize) -> Result<Ordering> {
    if depth > DEEPEST {
        return Err(Error::data(format!("a document is nested deeper than {DEEPEST} levels")));
    }
    loop {
        let (a, b) = match (a.next().transpose()?, b.next().transpose()?) {
            (None, None) => return Ok(Ordering::Equal),
            (None, Some(_)) => return Ok(Ordering::Less),
            (Some(_), None) => return Ok(Ordering::Greater),
            (Some(a), Some(b)) => (a, b),
        };
        let (Some(kind), Some(other)) = (a.value.kind(), b.value.kind()) else { return Err(broken()) };
        let order = rank(kind).cmp(&rank(other)).then_with(|| a.name.cmp(b.name));
        if order.is_ne() {
            return Ok(order);
        }
        let order = same_rank(kind, a.value, b.value, depth + 1)?;
        if order.is_ne() {
            return Ok(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::elements;
    use bson::{Bson, RawDocumentBuf, doc};

    fn order(a: impl Into<Bson>, b: impl Into<Bson>) -> Ordering {
        let raw = RawDocumentBuf::try_from(&doc! {"a": a.into(), "b": b.into()}).unwrap();
        let values: Vec<_> = elements(&raw).map(|e| e.unwrap().value).collect();
        let order = compare(values[0], values[1]).unwrap();
        assert_eq!(compare(values[1], values[0]).unwrap(), order.reverse());
        order
    }

    #[test]
    fn documents_compare_by_type_name_and_value_in_their_order() {
        assert_eq!(order(doc! {"a": 1, "b": 2}, doc! {"a": 1.0, "b": 2i64}), Ordering::Equal);
        assert_eq!(order(doc! {"a": 1, "b": 2}, doc! {"b": 2, "a": 1}), Ordering::Less);
        assert_eq!(order(doc! {"b": 1}, doc! {"a": "x"}), Ordering::Less, "the type first");
        assert_eq!(order(doc! {}, doc! {"a": Bson::MinKey}), Ordering::Less);
        assert_eq!(order(doc! {"a": Bson::Null}, doc! {"a": Bson::Undefined}), Ordering::Greater);
    }

    #[test]
    fn texts_compare_by_bytes_and_symbols_with_them() {
        assert_eq!(order("a\0b", "a"), Ordering::Greater);
        assert_eq!(order("Z", "a"), Ordering::Less);
        assert_eq!(order(Bson::Symbol("a".into()), "a"), Ordering::Equal);
        assert_eq!(order(Bson::JavaScriptCode("a".into()), "a"), Ordering::Greater);
    }

    #[test]
    fn nesting_without_end_does_not_overflow_the_stack() {
        let mut bytes = Vec::new();
        for level in (1..=100_000).rev() {
            bytes.extend_from_slice(&(level * 7 + 5i32).to_le_bytes());
            bytes.extend_from_slice(&[3, 0]);
        }
        bytes.extend_from_slice(&[5, 0, 0, 0, 0]);
        bytes.resize(bytes.len() + 100_000, 0);
        let deep = RawDocumentBuf::from_bytes(bytes).unwrap();
        let value = Value::new(ElementType::EmbeddedDocument, deep.as_bytes()).unwrap();
        assert!(compare(value, value).is_err());
    }
}
