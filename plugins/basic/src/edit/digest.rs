//! Keyed digests: equal values have equal digests, and nobody without the key can tell which value it was.

use hmac::{Hmac, KeyInit, Mac};
use oplogue_api::{
    bson::spec::ElementType,
    number::{Decimal, Number},
    raw::Value,
};
use sha2::Sha256;

use super::{change::write_text, tree::Rewrite};

/// HMAC-SHA-256, as 64 hexadecimal digits.
pub(super) struct Digest(Hmac<Sha256>);

impl Digest {
    pub(super) fn new(key: &str) -> Digest {
        Digest(Hmac::new_from_slice(key.as_bytes()).expect("a key of any length is taken"))
    }
}

impl Rewrite for Digest {
    fn rewrite(&self, value: Value<'_>, out: &mut Vec<u8>) -> Option<u8> {
        let kind = value.kind()?;
        if matches!(kind, ElementType::Null | ElementType::Undefined | ElementType::MinKey | ElementType::MaxKey) {
            return None;
        }
        let mut mac = self.0.clone();
        canonical(kind, value, |bytes| mac.update(bytes));
        let digest: [u8; 32] = mac.finalize().into_bytes().into();
        let mut hex = [0; 64];
        for (pair, byte) in hex.chunks_exact_mut(2).zip(digest) {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        write_text(out, &hex);
        Some(ElementType::String as u8)
    }
}

/// The same bytes for equal ids, as [`canonical`] has it; documents count as they are.
pub(super) fn canonical_id(value: Value<'_>, update: impl FnMut(&[u8])) {
    if let Some(kind) = value.kind() {
        canonical(kind, value, update);
    }
}

/// The same bytes for values that MongoDB takes for the same `_id`, and for no others: a number is one number whatever its type,
/// and a symbol is its text.
fn canonical(kind: ElementType, value: Value<'_>, mut update: impl FnMut(&[u8])) {
    if let Ok(Some(number)) = Number::of(value) {
        return canonical_number(number, update);
    }
    let kind = if kind == ElementType::Symbol { ElementType::String } else { kind };
    update(&[kind as u8]);
    update(value.text().unwrap_or(value.bytes()));
}

fn canonical_number(number: Number, mut update: impl FnMut(&[u8])) {
    const WHOLE: u8 = 0x80;
    if let Some(n) = number.exact() {
        update(&[WHOLE]);
        return update(&n.to_le_bytes());
    }
    let double = match number {
        // An integer is exact.
        Number::Int(n) => n as f64,
        Number::Double(d) => d,
        Number::Decimal(Decimal::NaN) => f64::NAN,
        Number::Decimal(Decimal::Infinity { negative }) => {
            if negative {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        Number::Decimal(Decimal::Finite { negative, mut coefficient, mut exponent }) => {
            let sign = if negative { "-" } else { "" };
            // A double can be this decimal exactly, such as 0.5; then they are one number.
            let nearest: f64 = format!("{sign}{coefficient}e{exponent}").parse().unwrap_or(f64::NAN);
            if Number::Double(nearest).compare(number).is_ne() {
                while coefficient > 0 && coefficient % 10 == 0 {
                    (coefficient, exponent) = (coefficient / 10, exponent + 1);
                }
                update(&[ElementType::Decimal128 as u8]);
                return update(format!("{sign}{coefficient}e{exponent}").as_bytes());
            }
            nearest
        }
    };
    update(&[ElementType::Double as u8]);
    update(&(if double.is_nan() { f64::NAN } else { double }).to_bits().to_le_bytes());
}
