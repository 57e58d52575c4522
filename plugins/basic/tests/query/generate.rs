//! Documents that meet queries often: few values of all types, few names, arrays of arrays, documents in arrays.

use bson::{
    Binary, Bson, DateTime, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId,
    spec::BinarySubtype,
};
use oplogue_testkit::generate::Rng;

pub fn pick<T: Clone>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.below(all.len())].clone()
}

pub fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}

pub fn regex(pattern: &str, options: &str) -> Bson {
    Bson::RegularExpression(Regex { pattern: pattern.try_into().unwrap(), options: options.try_into().unwrap() })
}

pub fn number(rng: &mut Rng) -> Bson {
    const TWO_53: i64 = 1 << 53;
    pick(
        rng,
        &[
            Bson::Int32(0),
            Bson::Double(-0.0),
            decimal("-0E+3"),
            Bson::Int32(1),
            Bson::Int64(1),
            Bson::Double(1.0),
            decimal("1.00"),
            Bson::Int32(2),
            Bson::Double(1.5),
            decimal("1.5"),
            decimal("2.5"),
            Bson::Double(f64::NAN),
            decimal("NaN"),
            Bson::Double(f64::INFINITY),
            Bson::Double(f64::NEG_INFINITY),
            decimal("Infinity"),
            decimal("1E+400"),
            decimal("-1E-400"),
            Bson::Int64(TWO_53),
            Bson::Int64(TWO_53 + 1),
            Bson::Double(TWO_53 as f64),
            decimal("9007199254740993"),
            Bson::Int64(i64::MAX),
            Bson::Int64(i64::MIN),
            Bson::Double(9_223_372_036_854_775_808.0),
            decimal("9223372036854775807"),
            Bson::Double(0.1),
            decimal("0.1"),
            decimal("0.1000000000000000055511151231257827"),
            Bson::Int32(-1),
            Bson::Double(-7.9),
            decimal("-7.9"),
            Bson::Int32(5),
            Bson::Int64(20),
            Bson::Int32(255),
        ],
    )
}

fn text(rng: &mut Rng) -> String {
    pick(
        rng,
        &[
            "", "a", "b", "ab", "abc", "A", "B", "a\0b", "a\n", "\n", "é", "É", "aé b", "a b", "1", "ſ", "\u{212a}",
            "_", "\r",
        ],
    )
    .to_owned()
}

pub fn binary(subtype: BinarySubtype, bytes: &[u8]) -> Bson {
    Bson::Binary(Binary { subtype, bytes: bytes.to_vec() })
}

fn pointer(n: u8) -> Bson {
    let json = serde_json::json!({"$dbPointer": {"$ref": "d.c", "$id": {"$oid": format!("{n:024}")}}});
    Bson::try_from(json).unwrap()
}

/// A value that holds no other.
pub fn scalar(rng: &mut Rng) -> Bson {
    match rng.below(22) {
        0..=6 => number(rng),
        7..=10 => Bson::String(text(rng)),
        11 => Bson::Symbol(pick(rng, &["a", "b", ""]).into()),
        12 | 13 => Bson::Null,
        14 => Bson::Undefined,
        15 => Bson::Boolean(rng.chance(0.5)),
        16 => match rng.below(2) {
            0 => Bson::DateTime(DateTime::from_millis(rng.below(3) as i64 - 1)),
            _ => Bson::Timestamp(Timestamp { time: rng.below(2) as u32, increment: 1 + rng.below(2) as u32 }),
        },
        17 => Bson::ObjectId(ObjectId::from_bytes([rng.below(2) as u8; 12])),
        18 => pick(
            rng,
            &[
                binary(BinarySubtype::Generic, &[]),
                binary(BinarySubtype::Generic, &[1]),
                binary(BinarySubtype::Generic, &[1, 0x80]),
                binary(BinarySubtype::Generic, &[0x80; 9]),
                binary(BinarySubtype::UserDefined(0x80), &[1]),
                binary(BinarySubtype::Md5, &[1, 0x80]),
                binary(BinarySubtype::BinaryOld, &[1]),
                binary(BinarySubtype::Uuid, &[1; 16]),
            ],
        ),
        19 => pick(rng, &[regex("a", ""), regex("a", "i"), regex("^b", ""), regex("b$", "ms"), regex("", "")]),
        20 => pick(
            rng,
            &[
                Bson::JavaScriptCode("a".into()),
                Bson::JavaScriptCode("b".into()),
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "a".into(), scope: doc! {} }),
                Bson::JavaScriptCodeWithScope(JavaScriptCodeWithScope { code: "a".into(), scope: doc! {"b": 1} }),
                pointer(1),
                pointer(2),
            ],
        ),
        _ => pick(rng, &[Bson::MinKey, Bson::MaxKey]),
    }
}

pub const NAMES: [&str; 7] = ["a", "a", "a", "b", "b", "0", "1"];

fn fields(rng: &mut Rng, depth: usize) -> Document {
    let mut out = Document::new();
    for _ in 0..rng.below(4) {
        out.insert(pick(rng, &NAMES), value(rng, depth));
    }
    out
}

pub fn value(rng: &mut Rng, depth: usize) -> Bson {
    match rng.below(if depth == 0 { 5 } else { 10 }) {
        0..=4 => scalar(rng),
        5 | 6 => Bson::Document(fields(rng, depth - 1)),
        7 if rng.chance(0.2) => Bson::Document(reference(rng)),
        _ => Bson::Array((0..rng.below(4)).map(|_| value(rng, depth - 1)).collect()),
    }
}

fn reference(rng: &mut Rng) -> Document {
    let mut out = doc! {"$ref": pick(rng, &["a", "b"]), "$id": number(rng)};
    if rng.chance(0.3) {
        out.insert("$db", "a");
    }
    out
}

/// A document of a collection.
pub fn document(rng: &mut Rng, id: i32) -> Document {
    let mut out = doc! {"_id": id};
    for _ in 0..2 + rng.below(4) {
        out.insert(pick(rng, &NAMES), value(rng, 3));
    }
    out
}
