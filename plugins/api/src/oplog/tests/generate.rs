//! Random documents, and the diff between two of them, by the rules that the server's diffs follow.

use bson::{Bson, Document};
use proptest::{collection::vec, prelude::*};

/// Field names that are easily taken for something else.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "d", "i", "l", "s", "u", "", "0", "1", "a.b", "$x", "s0", "u0"])
            .prop_map(str::to_owned),
        1 => "[a-z.$0-9ä]{0,4}",
    ]
}

pub(super) fn value() -> impl Strategy<Value = Bson> {
    let leaf = prop_oneof![
        any::<i32>().prop_map(Bson::Int32),
        any::<i64>().prop_map(Bson::Int64),
        any::<bool>().prop_map(Bson::Boolean),
        "[a-zä]{0,6}".prop_map(Bson::String),
        Just(Bson::Null),
        vec(any::<u8>(), 0..6)
            .prop_map(|bytes| Bson::Binary(bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes })),
        any::<i64>().prop_map(|n| Bson::DateTime(bson::DateTime::from_millis(n))),
        (any::<u32>(), any::<u32>()).prop_map(|(time, increment)| Bson::Timestamp(bson::Timestamp { time, increment })),
        any::<[u8; 12]>().prop_map(|bytes| Bson::ObjectId(bson::oid::ObjectId::from_bytes(bytes))),
        Just(Bson::MinKey),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![vec(inner.clone(), 0..6).prop_map(Bson::Array), document_of(inner).prop_map(Bson::Document)]
    })
}

fn document_of(value: impl Strategy<Value = Bson>) -> impl Strategy<Value = Document> {
    vec((name(), value), 0..6).prop_map(|fields| fields.into_iter().collect())
}

pub(super) fn document() -> impl Strategy<Value = Document> {
    document_of(value())
}

/// A document and what became of it: parts of it are kept, or no edit would reach deep into it.
pub(super) fn before_and_after() -> impl Strategy<Value = (Document, Document)> {
    (document(), any::<u64>(), document()).prop_map(|(before, seed, other)| {
        let mut choices = Choices(seed | 1);
        let after = match edit(&Bson::Document(before.clone()), &Bson::Document(other), &mut choices) {
            Bson::Document(after) => after,
            _ => before.clone(),
        };
        (before, after)
    })
}

/// A few bits after each other, from a seed: enough randomness to edit a document, and it shrinks with the document.
struct Choices(u64);
impl Choices {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// `value` with some parts taken from `other`, removed, moved or added.
fn edit(value: &Bson, other: &Bson, choices: &mut Choices) -> Bson {
    match (value, other) {
        (Bson::Document(fields), Bson::Document(others)) => {
            let mut edited = Document::new();
            let mut moved = Vec::new();
            for (name, value) in fields {
                match choices.below(6) {
                    0 => {}
                    1 => moved.push((name.clone(), value.clone())),
                    2 => drop(edited.insert(name, others.values().next().cloned().unwrap_or(Bson::Null))),
                    3 => drop(edited.insert(name, edit(value, other, choices))),
                    _ => drop(edited.insert(name, value.clone())),
                }
            }
            for (name, value) in others {
                if !fields.contains_key(name) && choices.below(2) == 0 {
                    moved.push((name.clone(), value.clone()));
                }
            }
            edited.extend(moved);
            Bson::Document(edited)
        }
        (Bson::Array(items), other) => {
            let mut edited: Vec<Bson> = Vec::new();
            for item in items {
                edited.push(if choices.below(3) == 0 { edit(item, other, choices) } else { item.clone() });
            }
            match choices.below(3) {
                0 => edited.truncate(choices.below(4) as usize),
                1 => edited.push(other.clone()),
                _ => {}
            }
            Bson::Array(edited)
        }
        (Bson::Document(fields), _) => edit(&Bson::Document(fields.clone()), &Bson::Document(Document::new()), choices),
        (_, other) => other.clone(),
    }
}

/// The diff from `before` to `after`. Fields that keep their place are `u` or sub-diffs, all others are `d` and `i`: from
/// the first field on that is new or has moved, every field is an `i`, since an `i` goes to the end.
pub(super) fn diff(before: &Document, after: &Document) -> Document {
    let (mut deleted, mut updated, mut inserted) = (Document::new(), Document::new(), Document::new());
    let mut subs = Document::new();
    for name in before.keys().filter(|name| !after.contains_key(name)) {
        deleted.insert(name, false);
    }
    let mut places = before.keys();
    let mut in_place = true;
    for (name, new) in after {
        in_place = in_place && places.any(|place| place == name);
        match before.get(name) {
            Some(old) if in_place && same(old, new) => {}
            Some(Bson::Document(old)) if in_place && new.as_document().is_some() => {
                subs.insert(format!("s{name}"), diff(old, new.as_document().unwrap()));
            }
            Some(Bson::Array(old)) if in_place && new.as_array().is_some() => {
                subs.insert(format!("s{name}"), array_diff(old, new.as_array().unwrap()));
            }
            Some(_) if in_place => drop(updated.insert(name, new.clone())),
            _ => drop(inserted.insert(name, new.clone())),
        }
    }
    let mut diff = Document::new();
    for (section, fields) in [("d", deleted), ("u", updated), ("i", inserted)] {
        if !fields.is_empty() {
            diff.insert(section, fields);
        }
    }
    diff.extend(subs);
    diff
}

fn array_diff(before: &[Bson], after: &[Bson]) -> Document {
    let mut diff = bson::doc! {"a": true};
    if after.len() < before.len() {
        diff.insert("l", after.len() as i32);
    }
    for (i, new) in after.iter().enumerate() {
        match (before.get(i), new) {
            (Some(old), new) if same(old, new) => {}
            (Some(Bson::Document(old)), Bson::Document(new)) => {
                drop(diff.insert(format!("s{i}"), self::diff(old, new)))
            }
            (Some(Bson::Array(old)), Bson::Array(new)) => drop(diff.insert(format!("s{i}"), array_diff(old, new))),
            _ => drop(diff.insert(format!("u{i}"), new.clone())),
        }
    }
    diff
}

/// Equality to the byte: `Document` compares without regard to the order of fields.
fn same(a: &Bson, b: &Bson) -> bool {
    super::raw(&bson::doc! {"": a.clone()}) == super::raw(&bson::doc! {"": b.clone()})
}
