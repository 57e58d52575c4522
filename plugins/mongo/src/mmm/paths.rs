//! The fields that an update changes, and a document of which some fields are taken from another.

use bson::{Bson, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, doc};
use oplogue_api::{Change, Error, Path, PathPart, Result};

/// The field that an update changed: its names from the outside in. An array counts as one value, so none leads into one that is
/// known to be an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldPath {
    names: Box<[Box<str>]>,
    /// The names were told with dots between them: a dot may be a part of a name, and a number an index.
    is_dotted: bool,
}

impl FieldPath {
    /// The paths that a change names.
    pub fn all(change: &Change) -> Result<Vec<FieldPath>> {
        let update = change.decode()?;
        let set = update.set.iter().map(|(path, _)| path);
        let mut all: Vec<FieldPath> = Vec::new();
        for path in set.chain(&update.unset).chain(update.truncate.iter().map(|(path, _)| path)) {
            let path = FieldPath::new(path);
            // Many changes of one array are one.
            if !all.contains(&path) {
                all.push(path);
            }
        }
        Ok(all)
    }

    fn new(path: &Path<'_>) -> FieldPath {
        let (names, is_dotted): (Box<[Box<str>]>, bool) = match path {
            Path::Dotted(text) => (text.split('.').map(Into::into).collect(), true),
            Path::Exact(parts) => {
                let names = parts.iter().map_while(|part| match part {
                    PathPart::Field(name) => Some((*name).into()),
                    PathPart::Index(_) => None,
                });
                (names.collect(), false)
            }
        };
        FieldPath { names, is_dotted }
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<FieldPath>() + self.names.iter().map(|name| name.len() + size_of::<Box<str>>()).sum::<usize>()
    }

    /// Whether one is the other, or lies in it.
    pub fn overlaps(&self, other: &FieldPath) -> bool {
        self.names.iter().zip(&other.names).all(|(a, b)| a == b)
    }

    /// The same path, or that of what it lies in: it ends at an array in either document, and where a name with dots makes it
    /// ambiguous.
    pub fn within(&self, documents: [Option<&RawDocument>; 2]) -> Result<FieldPath> {
        let mut inner = documents;
        let mut end = self.names.len();
        'names: for (n, name) in self.names.iter().enumerate() {
            for document in inner.into_iter().flatten() {
                if self.is_dotted && is_ambiguous(document, name)? {
                    end = n;
                    break 'names;
                }
            }
            for place in &mut inner {
                match place.map(|document| document.get(&**name)).transpose().map_err(damaged)?.flatten() {
                    Some(RawBsonRef::Array(_)) => {
                        end = n + 1;
                        break 'names;
                    }
                    Some(RawBsonRef::Document(document)) => *place = Some(document),
                    _ => *place = None,
                }
            }
        }
        Ok(FieldPath { names: self.names[..end].into(), is_dotted: self.is_dotted })
    }

    pub fn encode(&self) -> Bson {
        let names: Vec<&str> = self.names.iter().map(|name| &**name).collect();
        Bson::Document(doc! {"names": names, "dotted": self.is_dotted})
    }

    pub fn decode(stored: &Bson) -> Option<FieldPath> {
        let stored = stored.as_document()?;
        let names = stored.get_array("names").ok()?.iter().map(|name| name.as_str().map(Into::into));
        Some(FieldPath { names: names.collect::<Option<_>>()?, is_dotted: stored.get_bool("dotted").ok()? })
    }

    /// For people.
    pub fn text(&self) -> String {
        self.names.join(".")
    }
}

/// Whether the document has a field whose name begins with this one and a dot.
fn is_ambiguous(document: &RawDocument, name: &str) -> Result<bool> {
    for element in document.iter_elements() {
        let element = element.map_err(damaged)?;
        if element.key().as_str().strip_prefix(name).is_some_and(|rest| rest.starts_with('.')) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Paths as the tree that they are.
#[derive(Default)]
struct Tree<'a> {
    /// Everything from here on.
    is_whole: bool,
    inner: Vec<(&'a str, Tree<'a>)>,
}

impl<'a> Tree<'a> {
    fn new(paths: &'a [FieldPath]) -> Tree<'a> {
        let mut tree = Tree::default();
        for path in paths {
            let mut at = &mut tree;
            for name in &path.names {
                let found = at.inner.iter().position(|(known, _)| *known == &**name);
                let place = found.unwrap_or_else(|| {
                    at.inner.push((name, Tree::default()));
                    at.inner.len() - 1
                });
                at = &mut at.inner[place].1;
            }
            at.is_whole = true;
        }
        tree
    }

    fn at(&self, name: &str) -> Option<&Tree<'a>> {
        self.inner.iter().find(|(known, _)| *known == name).map(|(_, tree)| tree)
    }
}

/// `document` with what `other` has at these paths: what is there stays in its place, what is new comes behind it, and what `other`
/// does not have goes.
pub(super) fn take(document: &RawDocument, other: &RawDocument, paths: &[FieldPath]) -> Result<RawDocumentBuf> {
    taken(document, other, &Tree::new(paths))
}

fn taken(document: &RawDocument, other: &RawDocument, tree: &Tree<'_>) -> Result<RawDocumentBuf> {
    if tree.is_whole {
        return Ok(other.to_owned());
    }
    let mut result = RawDocumentBuf::new();
    for element in document.iter_elements() {
        let element = element.map_err(damaged)?;
        let value = element.value().map_err(damaged)?;
        let name = element.key();
        let Some(inner) = tree.at(name.as_str()) else {
            result.append(name, value);
            continue;
        };
        match (value, other.get(name.as_str()).map_err(damaged)?) {
            (RawBsonRef::Document(ours), Some(RawBsonRef::Document(theirs))) if !inner.is_whole => {
                result.append(name, RawBson::Document(taken(ours, theirs, inner)?));
            }
            (_, Some(theirs)) => result.append(name, theirs),
            // It has gone there since, with what this path is about; what is beside it here stays.
            (RawBsonRef::Document(ours), None) if !inner.is_whole => {
                result.append(name, RawBson::Document(taken(ours, &RawDocumentBuf::new(), inner)?));
            }
            (_, None) => {}
        }
    }
    for element in other.iter_elements() {
        let element = element.map_err(damaged)?;
        let name = element.key();
        if tree.at(name.as_str()).is_some() && document.get(name.as_str()).map_err(damaged)?.is_none() {
            result.append(name, element.value().map_err(damaged)?);
        }
    }
    Ok(result)
}

fn damaged(_: impl std::error::Error) -> Error {
    Error::data("damaged BSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;
    use oplogue_api::Doc;

    fn paths(change: &Change) -> Vec<String> {
        FieldPath::all(change).unwrap().iter().map(FieldPath::text).collect()
    }

    fn exact(names: &[&str]) -> FieldPath {
        FieldPath { names: names.iter().map(|name| (*name).into()).collect(), is_dotted: false }
    }

    fn dotted(text: &str) -> FieldPath {
        FieldPath::new(&Path::Dotted(text))
    }

    #[test]
    fn an_array_is_one_value_and_names_may_hold_dots() {
        let diff = rawdoc! {"u": {"x": 1}, "d": {"gone": false}, "sn": {"i": {"a.b": 1}},
        "sarr": {"a": true, "l": 3, "s0": {"u": {"k": 1}}, "u1": 4}};
        let change = Change::OplogV2(Doc::from(diff));
        let mut found = paths(&change);
        found.sort();
        assert_eq!(found, ["arr", "gone", "n.a.b", "x"]);
        assert!(FieldPath::all(&change).unwrap().contains(&exact(&["n", "a.b"])));
        let old = Change::OplogV1(Doc::from(rawdoc! {"$v": 1, "$set": {"n.a": 1, "arr.1": 2}}));
        assert_eq!(paths(&old), ["n.a", "arr.1"]);
    }

    #[test]
    fn what_lies_in_another_overlaps_it() {
        for (a, b, expected) in [
            (&["a"][..], &["a"][..], true),
            (&["a"], &["a", "b"], true),
            (&["a", "b"], &["a"], true),
            (&["a", "b"], &["a", "c"], false),
            (&["a"], &["ab"], false),
            (&["a.b"], &["a", "b"], false),
            (&[], &["a"], true),
        ] {
            assert_eq!(exact(a).overlaps(&exact(b)), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn a_path_ends_at_an_array_and_where_it_is_ambiguous() {
        let (one, other) = (rawdoc! {"n": {"arr": [1]}, "m": {"1": 1}, "a": {"b.c": 1}, "x.y": 1}, rawdoc! {"n": {}});
        for (path, expected) in [
            ("n.arr.0", "n.arr"),
            ("n.other.0", "n.other.0"),
            ("m.1", "m.1"),
            ("a.b.c", "a"),
            ("x.y", ""),
            ("none.at.all", "none.at.all"),
        ] {
            for documents in [[Some(&*one), Some(&*other)], [Some(&*other), Some(&*one)]] {
                assert_eq!(dotted(path).within(documents).unwrap().text(), expected, "{path}");
            }
        }
        let path = exact(&["a", "b.c"]);
        assert_eq!(path.within([Some(&one), None]).unwrap(), path);
    }

    #[test]
    fn what_is_taken_comes_into_its_place_or_behind() {
        let ours = rawdoc! {"_id": 1, "a": 1, "n": {"x": 1, "y": 1}, "gone": 1, "s": 5};
        let theirs =
            rawdoc! {"_id": 1, "new2": 9, "n": {"y": 2, "z": 2, "other": 2}, "a": 2, "new": {"q": [1]}, "s": {"in": 1}};
        let paths = ["a", "n.y", "n.z", "gone", "new.q", "s.in", "never.there"].map(dotted);
        let expected = rawdoc! {"_id": 1, "a": 2, "n": {"x": 1, "y": 2, "z": 2}, "s": {"in": 1}, "new": {"q": [1]}};
        assert_eq!(take(&ours, &theirs, &paths).unwrap(), expected);
        assert_eq!(take(&ours, &theirs, &[]).unwrap(), ours);
        // The whole has the last word over a part of it.
        let both = [dotted("n.x"), dotted("n")];
        let all = take(&ours, &theirs, &both).unwrap();
        assert_eq!(all.get_document("n").unwrap(), theirs.get_document("n").unwrap());
        assert_eq!(take(&ours, &theirs, &[exact(&[])]).unwrap(), theirs);
        // A part of what has gone there.
        let less = take(&rawdoc! {"n": {"x": 1, "y": 2}}, &rawdoc! {}, &[dotted("n.x")]).unwrap();
        assert_eq!(less, rawdoc! {"n": {"y": 2}});
    }
}
