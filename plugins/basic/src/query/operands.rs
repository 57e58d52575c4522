//! What operators take.

use oplogue_api::{bson::spec::ElementType, closest, number::Number, raw::Value};

use super::{
    parse::{all, is_operators, list, operand},
    pcre,
    predicate::{Bits, Predicate, Types, sort},
    wrong::{Place, Wrong},
};

/// The names of types.
const TYPES: &[(&str, ElementType)] = &[
    ("double", ElementType::Double),
    ("string", ElementType::String),
    ("object", ElementType::EmbeddedDocument),
    ("array", ElementType::Array),
    ("binData", ElementType::Binary),
    ("undefined", ElementType::Undefined),
    ("objectId", ElementType::ObjectId),
    ("bool", ElementType::Boolean),
    ("date", ElementType::DateTime),
    ("null", ElementType::Null),
    ("regex", ElementType::RegularExpression),
    ("dbPointer", ElementType::DbPointer),
    ("javascript", ElementType::JavaScriptCode),
    ("symbol", ElementType::Symbol),
    ("javascriptWithScope", ElementType::JavaScriptCodeWithScope),
    ("int", ElementType::Int32),
    ("timestamp", ElementType::Timestamp),
    ("long", ElementType::Int64),
    ("decimal", ElementType::Decimal128),
    ("minKey", ElementType::MinKey),
    ("maxKey", ElementType::MaxKey),
];

/// Of any type of number.
const NUMBER: [ElementType; 4] = [ElementType::Double, ElementType::Int32, ElementType::Int64, ElementType::Decimal128];

fn number(value: Value<'_>) -> Option<Number> {
    Number::of(value).ok().flatten()
}

/// A whole number of any type.
pub(super) fn whole(value: Value<'_>) -> Option<i64> {
    number(value)?.exact()
}

/// What counts as true, for `$exists`.
pub(super) fn is_true(value: Value<'_>) -> bool {
    match value.kind() {
        Some(ElementType::Null | ElementType::Undefined) => false,
        Some(ElementType::Boolean) => value.bytes() != [0],
        _ => number(value).is_none_or(|n| n.compare(Number::Int(0)).is_ne()),
    }
}

/// `$in` and `$nin`.
pub(super) fn one_of(operator: &str, value: Value<'_>, place: &Place<'_>) -> Result<Predicate, Wrong> {
    let Some(list) = list(value) else {
        return place
            .wrong(format!("`{operator}` takes a list"), format!("write {{ \"{operator}\" = [\"a\", \"b\"] }}"));
    };
    let (mut operands, mut patterns, mut has_null) = (Vec::new(), Vec::new(), false);
    for (n, element) in all(list, place)?.into_iter().enumerate() {
        let here = place.index(n);
        if is_operators(element.value, false) {
            return here.wrong(
                format!("`{operator}` takes values, not operators"),
                "write { \"$regularExpression\" = { pattern = \"^a\", options = \"\" } } for a pattern, or combine with \"$or\"",
            );
        }
        match element.value.kind() {
            Some(ElementType::RegularExpression) => patterns.push(pcre::pattern(element.value, &here)?),
            kind => {
                has_null |= kind == Some(ElementType::Null);
                operands.push(operand(element.value, &here)?);
            }
        }
    }
    sort(&mut operands).map_err(|_| super::parse::damaged(place))?;
    Ok(Predicate::In { operands, patterns, has_null })
}

/// `$type`: a name, a number, or a list of both.
pub(super) fn types(value: Value<'_>, place: &Place<'_>) -> Result<Types, Wrong> {
    let mut types = Types::default();
    match list(value) {
        Some(list) => {
            let list = all(list, place)?;
            if list.is_empty() {
                return place.wrong("the list of types is empty", "write { \"$type\" = [\"string\", \"null\"] }");
            }
            for (n, element) in list.into_iter().enumerate() {
                add_type(&mut types, element.value, &place.index(n))?;
            }
        }
        None => add_type(&mut types, value, place)?,
    }
    Ok(types)
}

fn add_type(types: &mut Types, value: Value<'_>, place: &Place<'_>) -> Result<(), Wrong> {
    let names = || TYPES.iter().map(|(name, _)| *name).chain(["number"]);
    let hint = |meant: Option<&str>| match meant {
        Some(meant) => format!("did you mean `{meant}`?"),
        None => format!("types are {}", names().collect::<Vec<_>>().join(", ")),
    };
    if value.kind() == Some(ElementType::String) {
        let name = String::from_utf8_lossy(value.text().unwrap_or_default());
        match TYPES.iter().find(|(known, _)| *known == name) {
            Some((_, kind)) => types.add(*kind),
            None if name == "number" => NUMBER.into_iter().for_each(|kind| types.add(kind)),
            None => return place.wrong(format!("there is no type `{name}`"), hint(closest(&name, names()))),
        }
        return Ok(());
    }
    match whole(value) {
        Some(0) => place.wrong("0 is the number of no type", "write { \"$exists\" = false }"),
        Some(n) => {
            let number = |kind: ElementType| if kind == ElementType::MinKey { -1 } else { kind as i64 };
            match TYPES.iter().find(|(_, kind)| number(*kind) == n) {
                Some((_, kind)) => types.add(*kind),
                None => return place.wrong(format!("there is no type of the number {n}"), hint(None)),
            }
            Ok(())
        }
        None => place.wrong("`$type` takes a name of a type, or a whole number", hint(None)),
    }
}

/// `$mod`: divisor and remainder.
pub(super) fn modulo(value: Value<'_>, place: &Place<'_>) -> Result<Predicate, Wrong> {
    let hint = "write { \"$mod\" = [4, 0] }: what leaves 0 when divided by 4";
    let numbers = match list(value) {
        Some(list) => all(list, place)?,
        None => Vec::new(),
    };
    let [divisor, remainder] = numbers[..] else {
        return place.wrong("`$mod` takes a list of two numbers", hint);
    };
    let whole = |n: usize, value: Value<'_>| match number(value).and_then(Number::truncated) {
        Some(whole) => Ok(whole),
        None => place.index(n).wrong("`$mod` takes numbers that an int64 can hold", hint),
    };
    let (divisor, remainder) = (whole(0, divisor.value)?, whole(1, remainder.value)?);
    if divisor == 0 {
        return place.index(0).wrong("the divisor is 0", hint);
    }
    Ok(Predicate::Modulo { divisor, remainder })
}

/// `$size`.
pub(super) fn size(value: Value<'_>, place: &Place<'_>) -> Result<i64, Wrong> {
    match whole(value).filter(|n| (0..=i64::from(i32::MAX)).contains(n)) {
        Some(size) => Ok(size),
        None => place.wrong("`$size` takes a whole number from 0", "write { \"$size\" = 2 }"),
    }
}

/// `$bitsAllSet` and others: a mask as a number or binary, or a list of positions.
pub(super) fn bits(operator: &str, value: Value<'_>, place: &Place<'_>) -> Result<Predicate, Wrong> {
    let how = match operator {
        "$bitsAllSet" => Bits::AllSet,
        "$bitsAllClear" => Bits::AllClear,
        "$bitsAnySet" => Bits::AnySet,
        _ => Bits::AnyClear,
    };
    let hint = || format!("write {{ \"{operator}\" = [0, 3] }} for the bits at 0 and 3, or 9, which has them set");
    let mut positions = Vec::new();
    if let Some(list) = list(value) {
        for (n, element) in all(list, place)?.into_iter().enumerate() {
            match whole(element.value).filter(|n| *n <= i64::from(i32::MAX)).and_then(|n| u32::try_from(n).ok()) {
                Some(position) => positions.push(position),
                None => return place.index(n).wrong("a position of a bit is a whole number from 0", hint()),
            }
        }
    } else if let Some((_, bytes)) = value.binary() {
        let bit = |n: &u32| bytes[*n as usize / 8] >> (n % 8) & 1 == 1;
        positions.extend((0..bytes.len() as u32 * 8).filter(bit));
    } else {
        match whole(value) {
            Some(mask) if mask >= 0 => positions.extend((0..63).filter(|n| mask >> n & 1 == 1)),
            _ => return place.wrong(format!("`{operator}` takes a list of positions, or a mask from 0"), hint()),
        }
    }
    // The sign of a number goes on without end.
    let mask = positions.iter().fold(0, |mask, n| mask | 1u64 << (*n).min(63));
    Ok(Predicate::Bits { how, mask, positions })
}
