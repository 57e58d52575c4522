use bson::{
    Binary, Bson, DateTime, Decimal128, Document, JavaScriptCodeWithScope, Regex, Timestamp, doc, oid::ObjectId,
    spec::BinarySubtype,
};

use super::Rng;

/// One id of every BSON type that MongoDB takes as `_id`, all different from those of any other `unique`: where a type
/// has few values, the value stands in a document beside the number.
pub fn ids(unique: u64) -> Vec<Bson> {
    let n = unique as i64;
    let mut bytes = [7u8; 12];
    bytes[4..].copy_from_slice(&unique.to_be_bytes());
    let binary = |subtype| Bson::Binary(Binary { subtype, bytes: [bytes.as_slice(), &[0; 4]].concat() });
    let code = JavaScriptCodeWithScope { code: format!("f{unique}"), scope: doc! {"n": n} };
    let decimal: Decimal128 = format!("{unique}.75").parse().unwrap_or_else(|_| Decimal128::from_bytes([1; 16]));
    vec![
        Bson::ObjectId(ObjectId::from_bytes(bytes)),
        Bson::String(format!("id {unique} ä€😀")),
        Bson::Int32((unique % (1 << 30)) as i32),
        Bson::Int64(n.wrapping_add(1 << 40)),
        Bson::Double(unique as f64 + 0.5),
        Bson::Decimal128(decimal),
        Bson::DateTime(DateTime::from_millis(n)),
        Bson::Timestamp(Timestamp { time: 1, increment: unique as u32 }),
        binary(BinarySubtype::Generic),
        binary(BinarySubtype::Uuid),
        Bson::Document(doc! {"a": n, "b": {"c": "nested", "d": [1, 2]}}),
        Bson::Document(doc! {"null": Bson::Null, "n": n}),
        Bson::Document(doc! {"bool": true, "n": n}),
        Bson::Document(doc! {"min": Bson::MinKey, "max": Bson::MaxKey, "n": n}),
        Bson::Symbol(format!("symbol {unique}")),
        Bson::JavaScriptCode(format!("function f{unique}() {{}}")),
        Bson::JavaScriptCodeWithScope(code),
    ]
}

/// A value of any type, nested at most `depth` deep.
pub fn value(rng: &mut Rng, depth: usize) -> Bson {
    let n = rng.next_u64();
    match rng.below(if depth == 0 { 15 } else { 18 }) {
        0 => Bson::Null,
        1 => Bson::Boolean(n & 1 == 0),
        2 => Bson::Int32(n as i32),
        3 => Bson::Int64(n as i64),
        4 => Bson::Double([0.0, -0.0, 1.5, -1e300, f64::INFINITY, f64::NAN, n as f64][(n % 7) as usize]),
        5 => text(rng),
        6 => Bson::ObjectId(ObjectId::from_bytes([n as u8; 12])),
        7 => Bson::DateTime(DateTime::from_millis(n as i64 >> 20)),
        8 => Bson::Timestamp(Timestamp { time: n as u32, increment: (n >> 32) as u32 }),
        9 => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: n.to_le_bytes().repeat((n % 5) as usize) }),
        10 => regex(n),
        11 => Bson::MinKey,
        12 => Bson::MaxKey,
        13 => Bson::Decimal128(Decimal128::from_bytes((u128::from(n) | 0x3040u128 << 112).to_le_bytes())),
        14 => Bson::JavaScriptCode("function () { return 1 }".into()),
        15 => Bson::Array((0..n % 5).map(|_| value(rng, depth - 1)).collect()),
        _ => Bson::Document(document(rng, depth - 1)),
    }
}

/// A document of up to six fields, nested at most `depth` deep. Field names are those that every server takes: no dots,
/// no `$` in front.
pub fn document(rng: &mut Rng, depth: usize) -> Document {
    const NAMES: [&str; 10] = ["a", "b", "name", "0", "1", "größe", "a-b", "x y", "deep", "😀"];
    let mut out = Document::new();
    for _ in 0..rng.below(7) {
        out.insert(NAMES[rng.below(NAMES.len())], value(rng, depth));
    }
    out
}

fn text(rng: &mut Rng) -> Bson {
    const TEXTS: [&str; 7] =
        ["", "a", "with \"quotes\" and \\", "line\nbreak\ttab", "nul\0inside", "größer 😀", "$a.b"];
    Bson::String(TEXTS[rng.below(TEXTS.len())].repeat(1 + rng.below(3)))
}

fn regex(n: u64) -> Bson {
    let pattern = if n & 1 == 0 { bson::cstr!("^a.*") } else { bson::cstr!("b|c") };
    Bson::RegularExpression(Regex { pattern: pattern.into(), options: bson::cstr!("i").into() })
}
