//! Queries: all operators, with what some document holds or with what they do not take.

use bson::{Bson, Document, Regex, doc, spec::BinarySubtype};
use oplogue_testkit::generate::Rng;

use super::generate::{NAMES, binary, decimal, number, pick, regex, value};

/// Makes queries about documents.
pub struct Queries<'a> {
    pub rng: Rng,
    pub documents: &'a [Document],
    /// How often something is wrong, from 0 to 1.
    pub wrong: f64,
    /// Without what servers before 6.0 understood in another way: decimals for `$size`, and whatever is no int32 for `$mod` and
    /// the operators of bits.
    pub old: bool,
    /// What some document has where the path leads.
    pub hint: Bson,
}

impl Queries<'_> {
    fn below(&mut self, n: usize) -> usize {
        self.rng.below(n)
    }

    /// A path, most often one that some document has.
    fn path(&mut self) -> String {
        const ODD: [&str; 7] = ["", "a.", "a..b", ".a", "a.b.", "a.00", "a.$id"];
        if self.rng.chance(0.01) {
            return pick(&mut self.rng, &ODD).into();
        }
        if self.rng.chance(0.2) {
            let steps = [1, 1, 2, 2, 3, 4][self.below(6)];
            return (0..steps).map(|_| pick(&mut self.rng, &NAMES)).collect::<Vec<_>>().join(".");
        }
        let document = &self.documents[self.rng.below(self.documents.len())];
        let (mut at, mut path) = (Bson::Document(document.clone()), Vec::new());
        loop {
            let inside: Vec<(String, Bson)> = match &at {
                Bson::Document(d) => {
                    d.iter().filter(|(name, _)| *name != "_id").map(|(n, v)| (n.clone(), v.clone())).collect()
                }
                Bson::Array(all) => all.iter().enumerate().map(|(n, v)| (n.to_string(), v.clone())).collect(),
                _ => break,
            };
            if inside.is_empty() || !path.is_empty() && self.rng.chance(0.4) {
                break;
            }
            let (step, value) = pick(&mut self.rng, &inside);
            // An index may be left out, and what it leads to taken for an element.
            if !matches!(at, Bson::Array(_)) || self.rng.chance(0.4) {
                path.push(step);
            }
            at = value;
        }
        self.hint = at;
        path.join(".")
    }

    /// A value out of some document, or a new one.
    fn value(&mut self) -> Bson {
        if self.rng.chance(0.4) {
            return self.hint.clone();
        }
        if self.rng.chance(0.3) {
            return value(&mut self.rng, 2);
        }
        let document = &self.documents[self.rng.below(self.documents.len())];
        let mut at = Bson::Document(document.clone());
        loop {
            let inside: Vec<Bson> = match &at {
                Bson::Document(d) => d.iter().filter(|(name, _)| *name != "_id").map(|(_, v)| v.clone()).collect(),
                Bson::Array(all) => all.clone(),
                _ => return at,
            };
            if inside.is_empty() || self.rng.chance(0.3) && !matches!(&at, Bson::Document(d) if d.contains_key("_id")) {
                return at;
            }
            at = pick(&mut self.rng, &inside);
        }
    }

    fn values(&mut self, most: usize) -> Vec<Bson> {
        (0..self.below(most + 1)).map(|_| self.value()).collect()
    }

    fn regex(&mut self) -> Bson {
        if self.rng.chance(0.3) {
            return pick(&mut self.rng, &[regex("a", ""), regex("a", "i"), regex("^b", "")]);
        }
        let (pattern, options) = super::patterns::with_options(&mut self.rng);
        match Regex::try_from_parts(&pattern, &options) {
            Some(regex) => Bson::RegularExpression(regex),
            None => regex("a", "i"),
        }
    }

    /// Operators and what they take, as they stand below a field.
    fn operators(&mut self, depth: usize) -> Document {
        let mut out = Document::new();
        for _ in 0..[1, 1, 1, 1, 1, 1, 2, 3][self.below(8)] {
            let (name, operand) =
                if self.rng.chance(self.wrong) { self.wrong_operator() } else { self.operator(depth) };
            if name == "$regex" && self.rng.chance(0.5) {
                let (_, options) = super::patterns::with_options(&mut self.rng);
                out.insert("$options", options);
            }
            out.insert(name, operand);
        }
        out
    }

    fn operator(&mut self, depth: usize) -> (&'static str, Bson) {
        let choice = self.below(if depth == 0 { 20 } else { 26 });
        match choice {
            13 | 16 | 17 if self.old => ("$size", Bson::Int32(self.below(3) as i32)),
            n @ 0..=8 => {
                let name = ["$eq", "$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$gte", "$lte"][n];
                let value = if self.rng.chance(0.1) {
                    pick(&mut self.rng, &[Bson::MinKey, Bson::MaxKey])
                } else {
                    self.value()
                };
                (name, value)
            }
            9 | 10 => {
                let mut values = self.values(4);
                if self.rng.chance(0.3) {
                    values.push(self.regex());
                }
                (["$in", "$nin"][self.below(2)], values.into())
            }
            11 => {
                let rng = &mut self.rng;
                (
                    "$exists",
                    pick(
                        rng,
                        &[
                            true.into(),
                            false.into(),
                            Bson::Int32(1),
                            Bson::Double(0.0),
                            Bson::Null,
                            "".into(),
                            decimal("0"),
                            Bson::Double(f64::NAN),
                            Bson::Undefined,
                        ],
                    ),
                )
            }
            12 => ("$type", self.types()),
            13 => {
                let number = |rng: &mut Rng| {
                    pick(
                        rng,
                        &[
                            Bson::Int32(2),
                            Bson::Int32(-2),
                            Bson::Int64(3),
                            Bson::Double(4.7),
                            decimal("2.9"),
                            Bson::Int32(1),
                            Bson::Int32(-1),
                            Bson::Int32(7),
                            Bson::Int64(1 << 40),
                        ],
                    )
                };
                let divisor = number(&mut self.rng);
                let remainder = if self.rng.chance(0.6) { Bson::Int32(0) } else { number(&mut self.rng) };
                ("$mod", vec![divisor, remainder].into())
            }
            14 | 15 => {
                let (pattern, options) = super::patterns::with_options(&mut self.rng);
                if self.rng.chance(0.3)
                    && let Some(regex) = Regex::try_from_parts(&pattern, &options)
                {
                    return ("$regex", Bson::RegularExpression(regex));
                }
                ("$regex", pattern.into())
            }
            16 => {
                let rng = &mut self.rng;
                (
                    "$size",
                    pick(
                        rng,
                        &[
                            Bson::Int32(0),
                            Bson::Int32(1),
                            Bson::Int64(2),
                            Bson::Double(1.0),
                            decimal("2"),
                            Bson::Int32(3),
                        ],
                    ),
                )
            }
            17 => {
                let name = ["$bitsAllSet", "$bitsAllClear", "$bitsAnySet", "$bitsAnyClear"][self.below(4)];
                (name, self.bits())
            }
            18 => {
                let mut values = self.values(3);
                if self.rng.chance(0.2) {
                    values.push(self.regex());
                }
                ("$all", values.into())
            }
            19 => ("$exists", self.rng.chance(0.5).into()),
            20 | 21 => {
                let inner = if self.rng.chance(0.2) { self.regex() } else { self.operators(depth - 1).into() };
                ("$not", inner)
            }
            22 => {
                let matches =
                    (0..1 + self.below(2)).map(|_| doc! {"$elemMatch": self.elem_match(depth - 1)}).collect::<Vec<_>>();
                ("$all", matches.into())
            }
            _ => ("$elemMatch", self.elem_match(depth - 1).into()),
        }
    }

    fn elem_match(&mut self, depth: usize) -> Document {
        if self.rng.chance(0.5) { self.operators(depth) } else { self.query(depth) }
    }

    fn types(&mut self) -> Bson {
        const NAMES: [&str; 22] = [
            "double",
            "string",
            "object",
            "array",
            "binData",
            "undefined",
            "objectId",
            "bool",
            "date",
            "null",
            "regex",
            "dbPointer",
            "javascript",
            "symbol",
            "javascriptWithScope",
            "int",
            "timestamp",
            "long",
            "decimal",
            "minKey",
            "maxKey",
            "number",
        ];
        const CODES: [i32; 21] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, -1, 127];
        let one = |rng: &mut Rng| {
            let code = pick(rng, &CODES);
            if rng.chance(0.5) { Bson::from(pick(rng, &NAMES)) } else { number_as(rng, code) }
        };
        let (first, second) = (one(&mut self.rng), one(&mut self.rng));
        if self.rng.chance(0.3) { vec![first, second].into() } else { first }
    }

    fn bits(&mut self) -> Bson {
        let rng = &mut self.rng;
        match rng.below(4) {
            0 => pick(
                rng,
                &[
                    Bson::Int32(0),
                    Bson::Int32(1),
                    Bson::Int64(5),
                    Bson::Double(7.0),
                    Bson::Int64(i64::MAX),
                    decimal("4"),
                ],
            ),
            1 => pick(
                rng,
                &[
                    binary(BinarySubtype::Generic, &[1]),
                    binary(BinarySubtype::Md5, &[0, 0x80]),
                    binary(BinarySubtype::Generic, &[0, 0, 0, 0, 0, 0, 0, 0x80, 1]),
                    binary(BinarySubtype::Generic, &[]),
                ],
            ),
            _ => {
                let positions = [0, 1, 2, 3, 7, 15, 31, 62, 63, 64, 100];
                let all: Vec<Bson> = (0..rng.below(3))
                    .map(|_| {
                        let n = pick(rng, &positions);
                        number_as(rng, n)
                    })
                    .collect();
                all.into()
            }
        }
    }

    /// An operator that does not exist, or with what it does not take.
    fn wrong_operator(&mut self) -> (&'static str, Bson) {
        const NAMES: [&str; 29] = [
            "$eq",
            "$ne",
            "$gt",
            "$gte",
            "$lt",
            "$lte",
            "$in",
            "$nin",
            "$exists",
            "$type",
            "$mod",
            "$regex",
            "$options",
            "$size",
            "$bitsAllSet",
            "$bitsAnyClear",
            "$all",
            "$not",
            "$elemMatch",
            "$and",
            "$gtt",
            "$where",
            "$comment",
            "b",
            "$expr",
            "$ref",
            "$id",
            "$near",
            "$geoWithin",
        ];
        let name = pick(&mut self.rng, &NAMES);
        if self.old && ["$size", "$mod", "$bitsAllSet", "$bitsAnyClear"].contains(&name) {
            return (name, "a".into());
        }
        let operand = match self.below(8) {
            0 => self.regex(),
            1 => Bson::Undefined,
            2 => vec![self.regex(), Bson::Undefined].into(),
            3 => doc! {pick(&mut self.rng, &["$gt", "b", "$elemMatch", "$eq", "$not"]): self.value()}.into(),
            4 => vec![Bson::from(doc! {pick(&mut self.rng, &["$gt", "b", "$elemMatch", "$ref", "$eq", "$not", "$foo"]): self.value()}), self.value()].into(),
            5 => number(&mut self.rng),
            6 => vec![number(&mut self.rng), number(&mut self.rng)].into(),
            _ => self.value(),
        };
        (name, operand)
    }

    /// A whole query.
    pub fn query(&mut self, depth: usize) -> Document {
        let mut out = Document::new();
        for _ in 0..[1, 1, 1, 1, 1, 2][self.below(6)] {
            if depth > 0 && self.rng.chance(0.25) {
                let branches: Vec<Document> = (0..1 + self.below(3)).map(|_| self.query(depth - 1)).collect();
                out.insert(["$and", "$or", "$nor"][self.below(3)], branches);
            } else if self.rng.chance(self.wrong / 4.0) {
                let (name, operand) = self.wrong_operator();
                out.insert(name, operand);
            } else if self.rng.chance(0.02) {
                let extra = [
                    ("$comment", Bson::from("x")),
                    ("$alwaysTrue", 1.into()),
                    ("$alwaysFalse", 1.0.into()),
                    ("$ref", "a".into()),
                    ("$id", 1.into()),
                ];
                let (name, operand) = pick(&mut self.rng, &extra);
                out.insert(name, operand);
            } else {
                let path = self.path();
                let condition = match self.below(10) {
                    0 | 1 => self.value(),
                    2 => self.regex(),
                    _ => self.operators(depth).into(),
                };
                out.insert(path, condition);
            }
        }
        out
    }
}

fn number_as(rng: &mut Rng, n: i32) -> Bson {
    match rng.below(4) {
        0 => Bson::Int64(n.into()),
        1 => Bson::Double(n.into()),
        2 => decimal(&n.to_string()),
        _ => Bson::Int32(n),
    }
}

trait FromParts: Sized {
    fn try_from_parts(pattern: &str, options: &str) -> Option<Self>;
}

impl FromParts for Regex {
    fn try_from_parts(pattern: &str, options: &str) -> Option<Regex> {
        Some(Regex { pattern: pattern.try_into().ok()?, options: options.try_into().ok()? })
    }
}
