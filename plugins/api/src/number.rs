//! Numbers as MongoDB compares them: across their types, by what they are exactly. 2^53 + 1 as an int64 is more than 2^53 as a
//! double, and the decimal 0.1 is less than the double 0.1.

use std::{
    cmp::Ordering,
    fmt::{self, Write},
};

use bson::spec::ElementType;

use crate::{Result, raw::Value};

/// A number of any of the four types.
#[derive(Clone, Copy, Debug)]
pub enum Number {
    /// int32 and int64.
    Int(i64),
    /// A double.
    Double(f64),
    /// A decimal of 128 bits.
    Decimal(Decimal),
}

/// A decimal of 128 bits, taken apart.
#[derive(Clone, Copy, Debug)]
pub enum Decimal {
    /// Not a number, quiet or not.
    NaN,
    /// Infinity of a sign.
    Infinity {
        /// Whether it is the negative one.
        negative: bool,
    },
    /// `coefficient` times ten to the power of `exponent`, of a sign.
    Finite {
        /// Whether it is negative; zero may be, too.
        negative: bool,
        /// Below 10^34.
        coefficient: u128,
        /// From -6176 to 6111.
        exponent: i32,
    },
}

const TWO_POW_63: f64 = 9_223_372_036_854_775_808.0;

impl Number {
    /// The number that a value is, if it is one.
    ///
    /// # Errors
    /// [`Data`](crate::ErrorKind::Data): damaged bytes.
    #[inline]
    pub fn of(value: Value<'_>) -> Result<Option<Number>> {
        Ok(Some(match value.kind() {
            Some(ElementType::Int32) => Number::Int(i32::from_le_bytes(value.array()?).into()),
            Some(ElementType::Int64) => Number::Int(i64::from_le_bytes(value.array()?)),
            Some(ElementType::Double) => Number::Double(f64::from_le_bytes(value.array()?)),
            Some(ElementType::Decimal128) => Number::Decimal(Decimal::from_bits(u128::from_le_bytes(value.array()?))),
            _ => return Ok(None),
        }))
    }

    /// Whether it is none, in spite of its type.
    pub fn is_nan(self) -> bool {
        matches!(self, Number::Decimal(Decimal::NaN)) || matches!(self, Number::Double(d) if d.is_nan())
    }

    /// Without what is behind the point; none where that is no int64.
    pub fn truncated(self) -> Option<i64> {
        match self {
            Number::Int(n) => Some(n),
            Number::Double(d) => {
                let whole = d.trunc();
                (-TWO_POW_63..TWO_POW_63).contains(&whole).then_some(whole as i64)
            }
            Number::Decimal(Decimal::Finite { negative, coefficient, exponent }) => {
                let scale = 10u128.checked_pow(exponent.unsigned_abs());
                let whole = match (exponent >= 0, scale) {
                    (true, Some(scale)) => coefficient.checked_mul(scale)?,
                    (true, None) if coefficient > 0 => return None,
                    (false, Some(scale)) => coefficient / scale,
                    _ => 0,
                };
                let whole = i128::try_from(whole).ok()?;
                i64::try_from(if negative { -whole } else { whole }).ok()
            }
            Number::Decimal(_) => None,
        }
    }

    /// The int64 that it is exactly, if it is one.
    pub fn exact(self) -> Option<i64> {
        let whole = self.truncated()?;
        (self.compare(Number::Int(whole)) == Ordering::Equal).then_some(whole)
    }

    /// The order of MongoDB: NaN is equal to itself and less than any other; zeros are equal whatever their sign.
    pub fn compare(self, other: Number) -> Ordering {
        match (self, other) {
            (Number::Int(a), Number::Int(b)) => a.cmp(&b),
            (Number::Double(a), Number::Double(b)) => doubles(a, b),
            (Number::Int(a), Number::Double(b)) => int_to_double(a, b),
            (Number::Double(a), Number::Int(b)) => int_to_double(b, a).reverse(),
            (Number::Decimal(a), Number::Decimal(b)) => a.compare(b),
            (Number::Decimal(a), Number::Int(b)) => a.compare(Decimal::from(b)),
            (Number::Int(a), Number::Decimal(b)) => Decimal::from(a).compare(b),
            (Number::Decimal(a), Number::Double(b)) => a.compare_to_double(b),
            (Number::Double(a), Number::Decimal(b)) => b.compare_to_double(a).reverse(),
        }
    }
}

fn doubles(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

fn int_to_double(a: i64, b: f64) -> Ordering {
    if b.is_nan() || b < -TWO_POW_63 {
        Ordering::Greater
    } else if b >= TWO_POW_63 {
        Ordering::Less
    } else {
        let whole = b.trunc();
        a.cmp(&(whole as i64)).then_with(|| doubles(whole, b))
    }
}

/// The digits of a number other than 0.
fn digits(n: u128) -> i32 {
    n.checked_ilog10().map_or(1, |log| log as i32 + 1)
}

impl From<i64> for Decimal {
    fn from(n: i64) -> Decimal {
        Decimal::Finite { negative: n < 0, coefficient: n.unsigned_abs().into(), exponent: 0 }
    }
}

impl Decimal {
    /// From the bits in the binary integer encoding, which BSON has.
    pub fn from_bits(bits: u128) -> Decimal {
        const LARGEST: u128 = 10u128.pow(34) - 1;
        const BIAS: i32 = 6176;
        let negative = bits >> 127 == 1;
        let field = |at: u32, width: u32| bits >> at & ((1 << width) - 1);
        match field(122, 5) {
            0b11111 => Decimal::NaN,
            0b11110 => Decimal::Infinity { negative },
            // A coefficient that is too large stands for 0, and in this form every one is.
            combination if combination >= 0b11000 => {
                Decimal::Finite { negative, coefficient: 0, exponent: field(111, 14) as i32 - BIAS }
            }
            _ => {
                let coefficient = Some(field(0, 113)).filter(|c| *c <= LARGEST).unwrap_or(0);
                Decimal::Finite { negative, coefficient, exponent: field(113, 14) as i32 - BIAS }
            }
        }
    }

    /// By which decimals compare before their magnitudes do: not a number, then by sign, infinities outside.
    fn class(self) -> i8 {
        match self {
            Decimal::NaN => -3,
            Decimal::Infinity { negative } => {
                if negative {
                    -2
                } else {
                    2
                }
            }
            Decimal::Finite { coefficient: 0, .. } => 0,
            Decimal::Finite { negative, .. } => {
                if negative {
                    -1
                } else {
                    1
                }
            }
        }
    }

    fn compare(self, other: Decimal) -> Ordering {
        let by_class = self.class().cmp(&other.class());
        match (self, other) {
            (
                Decimal::Finite { negative, coefficient: a, exponent: p },
                Decimal::Finite { coefficient: b, exponent: q, .. },
            ) if by_class.is_eq() && a > 0 => {
                let (m, n) = (digits(a), digits(b));
                let magnitude = (m + p).cmp(&(n + q)).then_with(|| {
                    // As many digits on both sides, at most 34, which 128 bits hold.
                    let scale = |c: u128, missing: i32| c * 10u128.pow(missing.max(0).unsigned_abs());
                    scale(a, n - m).cmp(&scale(b, m - n))
                });
                if negative { magnitude.reverse() } else { magnitude }
            }
            _ => by_class,
        }
    }

    fn compare_to_double(self, d: f64) -> Ordering {
        let class = match d {
            d if d.is_nan() => -3,
            d if d.is_infinite() => {
                if d < 0.0 {
                    -2
                } else {
                    2
                }
            }
            0.0 => 0,
            d => {
                if d < 0.0 {
                    -1
                } else {
                    1
                }
            }
        };
        let by_class = self.class().cmp(&class);
        match self {
            Decimal::Finite { negative, coefficient, exponent } if by_class.is_eq() && coefficient > 0 => {
                let magnitude = magnitude_to_double(coefficient, exponent, d.abs());
                if negative { magnitude.reverse() } else { magnitude }
            }
            _ => by_class,
        }
    }
}

/// Compares `coefficient` times ten to the power of `exponent` with `d`, both above 0 and finite.
fn magnitude_to_double(coefficient: u128, exponent: i32, d: f64) -> Ordering {
    // The nearest double settles all but what lies within half a step of `d`: rounding never turns two numbers around.
    let mut text = Text::<64>::new();
    let nearest = match write!(text, "{coefficient}e{exponent}") {
        Ok(()) => text.as_str().parse().unwrap_or(d),
        Err(_) => d,
    };
    if nearest != d {
        return if nearest < d { Ordering::Less } else { Ordering::Greater };
    }
    // No double has more significant digits than 767.
    let mut exact = Text::<800>::new();
    let mut own = Text::<64>::new();
    if write!(exact, "{d:.766e}").and(write!(own, "{coefficient}")).is_err() {
        return Ordering::Equal;
    }
    let (mantissa, power) = exact.as_str().split_once('e').unwrap_or((exact.as_str(), "0"));
    let power: i32 = power.parse().unwrap_or(0);
    let theirs = mantissa.bytes().filter(|b| *b != b'.');
    let ours = own.as_str().bytes().chain(std::iter::repeat(b'0'));
    (digits(coefficient) + exponent - 1).cmp(&power).then_with(|| {
        // Both begin with their first significant digit.
        ours.zip(theirs).map(|(a, b)| a.cmp(&b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    })
}

/// A text on the stack.
struct Text<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Text<N> {
        Text { bytes: [0; N], used: 0 }
    }
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.used]).unwrap_or_default()
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let end = self.used + s.len();
        self.bytes.get_mut(self.used..end).ok_or(fmt::Error)?.copy_from_slice(s.as_bytes());
        self.used = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Number {
        let decimal: bson::Decimal128 = text.parse().unwrap();
        Number::Decimal(Decimal::from_bits(u128::from_le_bytes(decimal.bytes())))
    }

    /// All in ascending order; what is equal stands in one line.
    #[test]
    fn numbers_of_all_types_have_one_order() {
        let (int, double) = (Number::Int, Number::Double);
        let two_53 = 1i64 << 53;
        let order = [
            vec![double(f64::NAN), double(-f64::NAN), decimal("NaN")],
            vec![double(f64::NEG_INFINITY), decimal("-Infinity")],
            vec![decimal("-1E+400")],
            vec![double(f64::MIN)],
            vec![int(i64::MIN), double(-TWO_POW_63), decimal("-9223372036854775808")],
            vec![decimal("-9223372036854775807.5")],
            vec![int(i64::MIN + 1)],
            vec![int(-1), double(-1.0), decimal("-1.000")],
            vec![decimal("-1E-400")],
            vec![int(0), double(0.0), double(-0.0), decimal("0"), decimal("-0E+10")],
            vec![decimal("1E-400")],
            vec![double(5e-324)],
            vec![decimal("0.1"), decimal("0.10")],
            vec![decimal("0.1000000000000000055511151231257827")],
            // A few digits more than a decimal holds.
            vec![double(0.1)],
            vec![decimal("0.1000000000000000055511151231257828")],
            vec![decimal("1.5"), double(1.5)],
            vec![int(two_53), double(two_53 as f64), decimal("9007199254740992")],
            vec![decimal("9007199254740992.5")],
            vec![int(two_53 + 1), decimal("9007199254740993"), decimal("9007199254740993E+0")],
            vec![double((two_53 + 2) as f64), int(two_53 + 2)],
            vec![int(i64::MAX), decimal("9223372036854775807")],
            vec![double(TWO_POW_63), decimal("9223372036854775808")],
            vec![double(f64::MAX)],
            vec![decimal("1E+400")],
            vec![double(f64::INFINITY), decimal("Infinity")],
        ];
        for (i, some) in order.iter().enumerate() {
            for (j, others) in order.iter().enumerate() {
                for (a, b) in some.iter().flat_map(|a| others.iter().map(move |b| (a, b))) {
                    assert_eq!(a.compare(*b), i.cmp(&j), "{a:?} {b:?}");
                }
            }
        }
    }

    #[test]
    fn truncation_and_exactness() {
        for (number, truncated, exact) in [
            (Number::Int(7), Some(7), Some(7)),
            (Number::Double(-1.9), Some(-1), None),
            (Number::Double(4.0), Some(4), Some(4)),
            (Number::Double(TWO_POW_63), None, None),
            (Number::Double(f64::NAN), None, None),
            (decimal("-1.9"), Some(-1), None),
            (decimal("40E-1"), Some(4), Some(4)),
            (decimal("1E+3"), Some(1000), Some(1000)),
            (decimal("1E+30"), None, None),
            (decimal("0E+6000"), Some(0), Some(0)),
            (decimal("1E-6000"), Some(0), None),
            (decimal("-9223372036854775808"), Some(i64::MIN), Some(i64::MIN)),
            (decimal("Infinity"), None, None),
        ] {
            assert_eq!((number.truncated(), number.exact()), (truncated, exact), "{number:?}");
        }
    }

    #[test]
    fn decimals_that_are_not_canonical_are_zero() {
        for bits in [0b11 << 125, (1 << 113) - 1] {
            let decimal = Number::Decimal(Decimal::from_bits(bits));
            assert_eq!(decimal.compare(Number::Int(0)), Ordering::Equal, "{decimal:?}");
        }
    }

    proptest! {
        #[test]
        fn a_double_and_its_decimal_text_compare_as_the_text_was_rounded(d in any::<f64>(), digits in 0usize..33) {
            prop_assume!(d.is_finite());
            let text = format!("{d:.digits$e}");
            let decimal = decimal(&text);
            let back: f64 = text.parse().unwrap();
            if back != d {
                prop_assert_eq!(decimal.compare(Number::Double(d)), doubles(back, d));
            }
            prop_assert_eq!(decimal.compare(Number::Double(d)), Number::Double(d).compare(decimal).reverse());
        }
    }
}
