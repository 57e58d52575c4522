//! The same on decoded documents, slow and plain; and updates in all dialects, made from the documents before and after them.

use bson::{Array, Bson, Document, doc};
use oplogue_api::{Change, PathPart};
use oplogue_testkit::generate::{Rng, document, value};

use super::raw;

pub(super) fn is_index(name: &str) -> bool {
    name == "0" || (!name.starts_with('0') && !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()))
}

/// What is done to the value at the end of a path: `None` takes it out.
pub(super) type Act<'f> = &'f dyn Fn(Bson) -> Option<Bson>;

pub(super) fn edit_path(doc: Document, path: &str, act: Act<'_>) -> Document {
    let path: Vec<&str> = path.split('.').collect();
    match inside(Bson::Document(doc), &path, true, act) {
        Bson::Document(doc) => doc,
        _ => unreachable!(),
    }
}

fn inside(value: Bson, path: &[&str], is_top: bool, act: Act<'_>) -> Bson {
    let element = |name: &str, mut value: Bson| {
        if name == path[0] {
            value =
                if path.len() == 1 { act(value).unwrap_or(Bson::Null) } else { inside(value, &path[1..], false, act) };
        }
        inside(value, path, false, act)
    };
    match value {
        Bson::Array(all) => {
            Bson::Array(all.into_iter().enumerate().map(|(i, value)| element(&i.to_string(), value)).collect())
        }
        Bson::Document(doc) => {
            let mut out = Document::new();
            for (name, value) in doc {
                if !is_top && is_index(&name) {
                    out.insert(name.clone(), element(&name, value));
                } else if name != path[0] {
                    out.insert(name, value);
                } else if path.len() > 1 {
                    out.insert(name, inside(value, &path[1..], false, act));
                } else if let Some(value) = act(value) {
                    out.insert(name, value);
                }
            }
            Bson::Document(out)
        }
        other => other,
    }
}

/// Each value of documents and arrays, all the way down.
pub(super) fn leaves(value: Bson, rewrite: &dyn Fn(Bson) -> Bson) -> Bson {
    match value {
        Bson::Array(all) => Bson::Array(all.into_iter().map(|v| leaves(v, rewrite)).collect()),
        Bson::Document(doc) => Bson::Document(doc.into_iter().map(|(n, v)| (n, leaves(v, rewrite))).collect()),
        other => rewrite(other),
    }
}

pub(super) fn include(doc: &Document, paths: &[&str]) -> Document {
    let paths: Vec<Vec<&str>> = paths.iter().map(|p| p.split('.').collect()).chain([vec!["_id"]]).collect();
    let paths: Vec<&[&str]> = paths.iter().map(Vec::as_slice).collect();
    match included(&Bson::Document(doc.clone()), &paths, true) {
        Some(Bson::Document(doc)) => doc,
        _ => unreachable!(),
    }
}

fn included(value: &Bson, paths: &[&[&str]], is_top: bool) -> Option<Bson> {
    if paths.iter().any(|p| p.is_empty()) {
        return Some(value.clone());
    }
    let element = |name: &str, value: &Bson| {
        let further = paths.iter().filter(|p| p[0] == name).map(|p| &p[1..]);
        let all: Vec<&[&str]> = further.chain(paths.iter().copied()).collect();
        included(value, &all, false).unwrap_or(Bson::Null)
    };
    match value {
        Bson::Array(all) => {
            Some(Bson::Array(all.iter().enumerate().map(|(i, v)| element(&i.to_string(), v)).collect()))
        }
        Bson::Document(doc) => {
            let mut out = Document::new();
            for (name, value) in doc {
                if !is_top && is_index(name) {
                    out.insert(name.clone(), element(name, value));
                    continue;
                }
                let further: Vec<&[&str]> = paths.iter().filter(|p| p[0] == name).map(|p| &p[1..]).collect();
                if !further.is_empty()
                    && let Some(value) = included(value, &further, false)
                {
                    out.insert(name.clone(), value);
                }
            }
            Some(Bson::Document(out))
        }
        _ => None,
    }
}

/// Something that an update could make of a document.
pub(super) fn mutated(rng: &mut Rng, doc: &Document, depth: usize) -> Document {
    let mut out = Document::new();
    for (name, old) in doc {
        match rng.below(8) {
            _ if name == "_id" => drop(out.insert(name, old.clone())),
            0 => {}
            1 => drop(out.insert(name, value(rng, 2))),
            _ => drop(out.insert(name, mutated_value(rng, old, depth))),
        }
    }
    for (name, new) in document(rng, depth.min(2)) {
        if rng.chance(0.3) && !out.contains_key(&name) {
            out.insert(name, new);
        }
    }
    out
}

fn mutated_value(rng: &mut Rng, old: &Bson, depth: usize) -> Bson {
    match old {
        Bson::Document(doc) if depth > 0 => Bson::Document(mutated(rng, doc, depth - 1)),
        Bson::Array(all) if depth > 0 => {
            let mut all: Array = all.iter().map(|v| mutated_value(rng, v, depth - 1)).collect();
            match rng.below(4) {
                0 => drop(all.pop()),
                1 => all.push(value(rng, 2)),
                _ => {}
            }
            Bson::Array(all)
        }
        other => other.clone(),
    }
}

/// Equal to the bit: NaN is itself.
fn same(a: &Bson, b: &Bson) -> bool {
    raw(&doc! {"": a.clone()}) == raw(&doc! {"": b.clone()})
}

pub(super) fn diff(rng: &mut Rng, before: &Document, after: &Document) -> Document {
    let (mut deleted, mut updated, mut inserted, mut subs) = (doc! {}, doc! {}, doc! {}, doc! {});
    for (name, old) in before {
        match (old, after.get(name)) {
            (_, None) => drop(deleted.insert(name, false)),
            (old, Some(new)) if same(old, new) => {}
            (Bson::Document(old), Some(Bson::Document(new))) if rng.chance(0.8) => {
                subs.insert(format!("s{name}"), diff(rng, old, new));
            }
            (Bson::Array(old), Some(Bson::Array(new))) if rng.chance(0.8) => {
                subs.insert(format!("s{name}"), array_diff(rng, old, new));
            }
            (_, Some(new)) => drop(updated.insert(name, new.clone())),
        }
    }
    for (name, new) in after.iter().filter(|(name, _)| !before.contains_key(name)) {
        inserted.insert(name, new.clone());
    }
    let mut out = doc! {};
    for (section, fields) in [("d", deleted), ("u", updated), ("i", inserted)] {
        if !fields.is_empty() {
            out.insert(section, fields);
        }
    }
    out.extend(subs);
    out
}

fn array_diff(rng: &mut Rng, before: &Array, after: &Array) -> Document {
    let mut out = doc! {"a": true};
    if after.len() < before.len() {
        out.insert("l", after.len() as i32);
    }
    for (i, new) in after.iter().enumerate() {
        match (before.get(i), new) {
            (Some(old), new) if same(old, new) => {}
            (Some(Bson::Document(old)), Bson::Document(new)) if rng.chance(0.8) => {
                out.insert(format!("s{i}"), diff(rng, old, new));
            }
            (Some(Bson::Array(old)), Bson::Array(new)) if rng.chance(0.8) => {
                out.insert(format!("s{i}"), array_diff(rng, old, new));
            }
            (_, new) => drop(out.insert(format!("u{i}"), new.clone())),
        }
    }
    out
}

/// An update that names fields by dotted paths.
#[derive(Default)]
pub(super) struct Dotted {
    set: Document,
    unset: Vec<String>,
    truncate: Vec<(String, i32)>,
    /// Paths that can be read in two ways, exactly.
    exact: Document,
}

pub(super) fn dotted(rng: &mut Rng, before: &Document, after: &Document, can_truncate: bool) -> Dotted {
    let mut out = Dotted::default();
    let (before, after) = (Bson::Document(before.clone()), Bson::Document(after.clone()));
    out.compare(rng, &mut Vec::new(), &before, &after, can_truncate);
    out
}

impl Dotted {
    fn name(&mut self, path: &[PathPart<'_>]) -> String {
        let path = oplogue_api::Path::Exact(path.to_vec());
        let name = path.to_string();
        let oplogue_api::Path::Exact(parts) = path else { unreachable!() };
        if parts.iter().any(|p| matches!(p, PathPart::Field(name) if is_index(name))) {
            let parts: Array = parts
                .iter()
                .map(|p| match p {
                    PathPart::Field(name) => Bson::from(*name),
                    PathPart::Index(n) => Bson::Int32(*n as i32),
                })
                .collect();
            self.exact.insert(name.clone(), parts);
        }
        name
    }

    fn compare<'a>(
        &mut self,
        rng: &mut Rng,
        path: &mut Vec<PathPart<'a>>,
        before: &'a Bson,
        after: &'a Bson,
        can_truncate: bool,
    ) {
        let whole = !path.is_empty() && rng.chance(0.1);
        match (before, after) {
            (before, after) if same(before, after) => {}
            (Bson::Document(old), Bson::Document(new)) if !whole => {
                for (name, value) in old {
                    path.push(PathPart::Field(name));
                    match new.get(name) {
                        Some(new) => self.compare(rng, path, value, new, can_truncate),
                        None => {
                            let name = self.name(path);
                            self.unset.push(name);
                        }
                    }
                    path.pop();
                }
                for (name, value) in new.iter().filter(|(name, _)| !old.contains_key(name)) {
                    path.push(PathPart::Field(name));
                    let name = self.name(path);
                    self.set.insert(name, value.clone());
                    path.pop();
                }
            }
            (Bson::Array(old), Bson::Array(new)) if !whole && (can_truncate || new.len() >= old.len()) => {
                if new.len() < old.len() {
                    let name = self.name(path);
                    self.truncate.push((name, new.len() as i32));
                }
                for (i, value) in new.iter().enumerate() {
                    path.push(PathPart::Index(i as u32));
                    match old.get(i) {
                        Some(old) => self.compare(rng, path, old, value, can_truncate),
                        None => {
                            let name = self.name(path);
                            self.set.insert(name, value.clone());
                        }
                    }
                    path.pop();
                }
            }
            (_, after) => {
                let name = self.name(path);
                self.set.insert(name, after.clone());
            }
        }
    }

    pub(super) fn modifiers(&self) -> Change {
        let mut out = doc! {"$v": 1};
        if !self.unset.is_empty() {
            out.insert("$unset", self.unset.iter().map(|p| (p.clone(), Bson::Boolean(true))).collect::<Document>());
        }
        if !self.set.is_empty() {
            out.insert("$set", self.set.clone());
        }
        Change::OplogV1(raw(&out))
    }

    pub(super) fn description(&self, is_exact: bool) -> Change {
        let truncated: Array =
            self.truncate.iter().map(|(path, n)| doc! {"field": path, "newSize": *n}.into()).collect();
        let mut out = doc! {"updatedFields": self.set.clone(), "removedFields": self.unset.clone()};
        out.insert("truncatedArrays", truncated);
        if is_exact {
            out.insert("disambiguatedPaths", self.exact.clone());
        }
        Change::ChangeStream(raw(&out))
    }
}

/// What a consumer makes of a change.
pub(super) fn apply(change: &Change, before: &Document) -> Document {
    if let Change::OplogV2(diff) = change {
        return Document::try_from(&*oplogue_api::oplog::apply(diff, &raw(before)).unwrap()).unwrap();
    }
    let update = change.decode().unwrap();
    let mut doc = Bson::Document(before.clone());
    for (path, size) in &update.truncate {
        if let Some(Bson::Array(all)) = at(&mut doc, &parts(&path.to_string())) {
            all.truncate(*size as usize);
        }
    }
    for path in &update.unset {
        let path = path.to_string();
        let (last, parents) = parts(&path).split_last().map(|(l, p)| (l.to_string(), p.to_vec())).unwrap();
        match at(&mut doc, &parents) {
            Some(Bson::Document(doc)) => drop(doc.remove(&last)),
            Some(Bson::Array(all)) => {
                if let Some(element) = last.parse().ok().and_then(|i: usize| all.get_mut(i)) {
                    *element = Bson::Null;
                }
            }
            _ => {}
        }
    }
    for (path, value) in &update.set {
        let path = path.to_string();
        let (last, parents) = parts(&path).split_last().map(|(l, p)| (l.to_string(), p.to_vec())).unwrap();
        let value = Bson::try_from(*value).unwrap();
        match at(&mut doc, &parents) {
            Some(Bson::Document(doc)) => drop(doc.insert(last, value)),
            Some(Bson::Array(all)) => {
                let i: usize = last.parse().unwrap();
                all.resize(all.len().max(i + 1), Bson::Null);
                all[i] = value;
            }
            other => panic!("{path} of {change:?} leads to {other:?}"),
        }
    }
    match doc {
        Bson::Document(doc) => doc,
        _ => unreachable!(),
    }
}

fn parts(path: &str) -> Vec<&str> {
    path.split('.').collect()
}

fn at<'d>(value: &'d mut Bson, path: &[&str]) -> Option<&'d mut Bson> {
    path.iter().try_fold(value, |value, name| match value {
        Bson::Document(doc) => doc.get_mut(name),
        Bson::Array(all) => name.parse().ok().and_then(|i: usize| all.get_mut(i)),
        _ => None,
    })
}

/// The same document whatever the order of its fields.
pub(super) fn sorted(doc: &Document) -> Document {
    fn value(v: &Bson) -> Bson {
        match v {
            Bson::Document(doc) => Bson::Document(sorted(doc)),
            Bson::Array(all) => Bson::Array(all.iter().map(value).collect()),
            other => other.clone(),
        }
    }
    let mut fields: Vec<_> = doc.iter().map(|(name, v)| (name.clone(), value(v))).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().collect()
}

/// Renames the field at the end of a path, in place.
pub(super) fn rename(doc: Document, path: &str) -> Document {
    let path: Vec<&str> = path.split('.').collect();
    match renamed(Bson::Document(doc), &path, true) {
        Bson::Document(doc) => doc,
        _ => unreachable!(),
    }
}

fn renamed(value: Bson, path: &[&str], is_top: bool) -> Bson {
    let element = |name: &str, mut value: Bson| {
        if name == path[0] && path.len() > 1 {
            value = renamed(value, &path[1..], false);
        }
        renamed(value, path, false)
    };
    match value {
        _ if path.last().is_some_and(|last| is_index(last)) => value,
        Bson::Array(all) => {
            Bson::Array(all.into_iter().enumerate().map(|(i, value)| element(&i.to_string(), value)).collect())
        }
        Bson::Document(doc) => Bson::Document(
            doc.into_iter()
                .map(|(name, value)| {
                    if !is_top && is_index(&name) {
                        let value = element(&name, value);
                        (name, value)
                    } else if name != path[0] {
                        (name, value)
                    } else if path.len() > 1 {
                        (name, renamed(value, &path[1..], false))
                    } else {
                        (format!("new-{name}"), value)
                    }
                })
                .collect(),
        ),
        other => other,
    }
}
