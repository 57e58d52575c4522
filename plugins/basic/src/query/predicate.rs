use std::cmp::Ordering;

use oplogue_api::{
    Result,
    bson::spec::ElementType,
    number::Number,
    order::{MISSING, compare, rank},
    raw::{Elements, Value},
};
use regex::bytes::Regex;

use super::node::Node;

/// A value of the query, kept with it.
pub(super) struct Operand {
    kind: ElementType,
    bytes: Box<[u8]>,
}

impl Operand {
    pub fn new(value: Value<'_>) -> Option<Operand> {
        Some(Operand { kind: value.kind()?, bytes: value.bytes().into() })
    }
    pub fn value(&self) -> Result<Value<'_>> {
        Value::new(self.kind, &self.bytes)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Which bits must be how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bits {
    AllSet,
    AllClear,
    AnySet,
    AnyClear,
}

/// A regular expression, with its text: a stored regular expression matches it when it is the same.
pub(super) struct Pattern {
    pub regex: Regex,
    pub source: Box<[u8]>,
    pub options: Box<[u8]>,
}

/// A set of types, by their bytes.
#[derive(Default)]
pub(super) struct Types(u128, bool);

impl Types {
    pub fn add(&mut self, kind: ElementType) {
        match kind {
            ElementType::MinKey => self.1 = true,
            kind => self.0 |= 1 << kind as u8,
        }
    }
    fn contains(&self, kind: ElementType) -> bool {
        match kind {
            ElementType::MinKey => self.1,
            kind => self.0 >> kind as u8 & 1 == 1,
        }
    }
}

/// What is asked of a single value.
pub(super) enum Predicate {
    Compare(Comparison, Operand),
    /// The operands are sorted.
    In {
        operands: Vec<Operand>,
        patterns: Vec<Pattern>,
        has_null: bool,
    },
    Matches(Pattern),
    Exists,
    Type(Types),
    Modulo {
        divisor: i64,
        remainder: i64,
    },
    /// The bits as a mask for numbers, whose sign goes on without end, and by their positions for binaries.
    Bits {
        how: Bits,
        mask: u64,
        positions: Vec<u32>,
    },
    Size(i64),
    /// Some element is a document (or an array, taken for one) that matches.
    ElementDocument(Box<Node>),
    /// Some element passes all predicates.
    ElementValue(Box<Node>),
}

impl Predicate {
    /// Whether a value (`None`: it is missing) passes.
    pub fn holds(&self, value: Option<Value<'_>>) -> Result<bool> {
        match (self, value) {
            (Predicate::Exists, value) => Ok(value.is_some()),
            (Predicate::Compare(comparison, operand), value) => compares(*comparison, operand, value),
            (Predicate::In { has_null, .. }, None) => Ok(*has_null),
            (Predicate::In { operands, patterns, has_null }, Some(value)) => {
                if *has_null && value.kind() == Some(ElementType::Undefined) || contains(operands, value)? {
                    return Ok(true);
                }
                Ok(patterns.iter().any(|pattern| pattern.matches(value)))
            }
            (Predicate::Matches(pattern), Some(value)) => Ok(pattern.matches(value)),
            (Predicate::Type(types), Some(value)) => Ok(value.kind().is_some_and(|kind| types.contains(kind))),
            (Predicate::Modulo { divisor, remainder }, Some(value)) => Ok(Number::of(value)?
                .and_then(Number::truncated)
                // The least int64 by -1 has no quotient, but the remainder 0.
                .is_some_and(|n| n.checked_rem(*divisor).unwrap_or(0) == *remainder)),
            (Predicate::Bits { how, mask, positions }, Some(value)) => bits(*how, *mask, positions, value),
            (Predicate::Size(size), Some(value)) => match array(value) {
                Some(all) => {
                    let mut count = 0;
                    for element in all {
                        element?;
                        count += 1;
                    }
                    Ok(count == *size)
                }
                None => Ok(false),
            },
            (Predicate::ElementDocument(node), Some(value)) => any_element(value, |element| match element.elements() {
                Some(inner) => node.on_document(inner),
                None => Ok(false),
            }),
            (Predicate::ElementValue(node), Some(value)) => any_element(value, |element| node.on_value(element)),
            (_, None) => Ok(false),
        }
    }
}

fn array(value: Value<'_>) -> Option<Elements<'_>> {
    value.elements().filter(|_| value.kind() == Some(ElementType::Array))
}

fn any_element<'d>(value: Value<'d>, mut test: impl FnMut(Value<'d>) -> Result<bool>) -> Result<bool> {
    for element in array(value).into_iter().flatten() {
        if test(element?.value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn compares(comparison: Comparison, operand: &Operand, value: Option<Value<'_>>) -> Result<bool> {
    use Comparison::*;
    let kind = value.and_then(|value| value.kind());
    let own = rank(operand.kind);
    let theirs = kind.map_or(MISSING, rank);
    let order = match value {
        Some(value) if theirs == own => {
            let operand = operand.value()?;
            if comparison == Equal && operand.bytes() == value.bytes() && operand.kind() == kind {
                return Ok(true);
            }
            if comparison != Equal && own == NUMBERS {
                // NaN is less than all numbers for equality and sorting, but neither less nor more for these.
                let is_nan = |v| Ok(Number::of(v)?.is_some_and(Number::is_nan));
                let (a, b) = (is_nan(value)?, is_nan(operand)?);
                if a || b {
                    return Ok(a && b && matches!(comparison, LessOrEqual | GreaterOrEqual));
                }
            }
            compare(value, operand)?
        }
        // Null is equal to what is missing or undefined, and to nothing else.
        _ if operand.kind == ElementType::Null && theirs == MISSING => Ordering::Equal,
        // Only these two compare with values of all types.
        _ if operand.kind == ElementType::MinKey => Ordering::Greater,
        _ if operand.kind == ElementType::MaxKey => Ordering::Less,
        _ => return Ok(false),
    };
    Ok(match comparison {
        Equal => order.is_eq(),
        Less => order.is_lt(),
        LessOrEqual => order.is_le(),
        Greater => order.is_gt(),
        GreaterOrEqual => order.is_ge(),
    })
}

/// The rank of all types of numbers.
const NUMBERS: i8 = 10;

fn contains(operands: &[Operand], value: Value<'_>) -> Result<bool> {
    let (mut low, mut high) = (0, operands.len());
    while low < high {
        let middle = low + (high - low) / 2;
        match compare(operands[middle].value()?, value)? {
            Ordering::Equal => return Ok(true),
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
        }
    }
    Ok(false)
}

impl Pattern {
    fn matches(&self, value: Value<'_>) -> bool {
        match value.kind() {
            // PCRE refuses what is not UTF-8 as a whole.
            Some(ElementType::String | ElementType::Symbol) => {
                value.text().is_some_and(|text| std::str::from_utf8(text).is_ok() && self.regex.is_match(text))
            }
            Some(ElementType::RegularExpression) => {
                value.regex() == Some((self.source.as_ref(), self.options.as_ref()))
            }
            _ => false,
        }
    }
}

fn bits(how: Bits, mask: u64, positions: &[u32], value: Value<'_>) -> Result<bool> {
    if let Some((_, bytes)) = value.binary() {
        let is_set =
            |position: &u32| bytes.get(*position as usize / 8).is_some_and(|byte| byte >> (position % 8) & 1 == 1);
        return Ok(match how {
            Bits::AllSet => positions.iter().all(is_set),
            Bits::AllClear => !positions.iter().any(is_set),
            Bits::AnySet => positions.iter().any(is_set),
            Bits::AnyClear => !positions.iter().all(is_set),
        });
    }
    let Some(number) = Number::of(value)? else { return Ok(false) };
    let Some(number) = number.exact() else { return Ok(false) };
    let set = number as u64;
    Ok(match how {
        Bits::AllSet => set & mask == mask,
        Bits::AllClear => !set & mask == mask,
        Bits::AnySet => set & mask != 0,
        Bits::AnyClear => !set & mask != 0,
    })
}

/// Sorts operands for [`Predicate::In`].
///
/// # Errors
/// `Data`: damaged or too deeply nested.
pub(super) fn sort(operands: &mut [Operand]) -> Result<()> {
    let mut wrong = None;
    operands.sort_by(|a, b| {
        let order = a.value().and_then(|a| compare(a, b.value()?));
        order.unwrap_or_else(|e| {
            wrong = Some(e);
            Ordering::Equal
        })
    });
    wrong.map_or(Ok(()), Err)
}
