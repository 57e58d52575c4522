//! What is to be done to which fields: paths compiled to a tree.
//!
//! Paths are read as MongoDB's projections read them: `items.price` is `price` in `items`, and in every element where `items` is
//! an array. Beyond that, so that a document and an entry of the oplog of version 1, which knows nothing but dotted texts,
//! are always edited alike:
//! - a number is an index of an array, and a field below the top level with a number for a name is taken for an element too;
//! - a field whose name holds dots is taken for the path that it looks like.

use oplogue_api::{Error, Result, raw::Value};

/// Rewrites single values.
pub(super) trait Rewrite: Send {
    /// Writes what takes the place of a value that is no document and no array, and gives its type; `None` leaves it as it is.
    fn rewrite(&self, value: Value<'_>, out: &mut Vec<u8>) -> Option<u8>;
}

/// What is done to a field.
pub(super) enum Action {
    Keep,
    Remove,
    /// Every value in it is rewritten; documents and arrays keep their shape.
    Rewrite(Box<dyn Rewrite>),
    /// It gets another name.
    Rename(Box<[u8]>),
}

#[derive(Default)]
pub(super) struct Node {
    action: Option<Action>,
    /// By name.
    children: Vec<(Box<[u8]>, Node)>,
    /// Whether a child is an index.
    has_indexes: bool,
    /// Whether a child is renamed.
    has_renames: bool,
}

/// What becomes of fields that no path reaches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Otherwise {
    Keep,
    Remove,
}

/// Actions for fields.
pub(super) struct Rules {
    root: Node,
    pub(super) otherwise: Otherwise,
    /// Whether a renamed field takes the place of one that has the name already; otherwise that is an error.
    pub(super) replaces: bool,
}

/// The nodes that a place in a document stands for: one, and more only where paths hold indexes.
#[derive(Clone)]
pub(super) struct Active<'r> {
    first: &'r Node,
    more: Vec<&'r Node>,
}

/// What holds for a place and all that is below.
#[derive(Clone)]
pub(super) enum Place<'r> {
    /// It stays.
    Keep,
    /// It is taken out.
    Gone,
    /// It is rewritten, value by value.
    Rewrite(&'r dyn Rewrite),
    /// There are paths that go on from here.
    Inside(Active<'r>),
}

impl Rules {
    pub(super) fn new(otherwise: Otherwise) -> Rules {
        Rules { root: Node::default(), otherwise, replaces: false }
    }

    /// Adds what is done at a path of `option`.
    ///
    /// # Errors
    /// A path that is none, or one that collides with another.
    pub(super) fn add(&mut self, option: &str, path: &str, action: Action) -> Result<()> {
        let wrong = |why: String, hint: String| Err(Error::option(option, why).hint(hint));
        if path.is_empty() || path.split('.').any(str::is_empty) {
            let hint = "write names with dots between, such as \"address.street\"".to_owned();
            return wrong(format!("`{path}` is no path of a field"), hint);
        }
        if path.contains(['\0', '*', '$']) {
            let hint =
                "write the name alone: `items.price` is the price in every element of `items` already".to_owned();
            return wrong(format!("`{path}` is no path of a field: it holds a `*`, a `$` or a zero byte"), hint);
        }
        if path.split('.').count() > DEEPEST {
            return wrong(format!("a path of more than {DEEPEST} names"), "no document nests deeper".to_owned());
        }
        // A renamed field may hold others that are; every other action is for all that is below.
        let whole = |node: &Node| node.action.as_ref().is_some_and(|a| !matches!(a, Action::Rename(_)));
        let is_rename = matches!(action, Action::Rename(_));
        let last = path.split('.').count() - 1;
        let mut node = &mut self.root;
        for (i, name) in path.split('.').enumerate() {
            if whole(node) {
                let hint = "leave out the longer one: what is done to a field is done to all that it holds".to_owned();
                return wrong(format!("`{path}` lies inside another field of the list"), hint);
            }
            let name = name.as_bytes();
            node.has_indexes |= i > 0 && is_index(name);
            node.has_renames |= is_rename && i == last;
            let at = match node.children.binary_search_by(|(n, _)| (**n).cmp(name)) {
                Ok(at) => at,
                Err(at) => {
                    node.children.insert(at, (name.into(), Node::default()));
                    at
                }
            };
            node = &mut node.children[at].1;
        }
        if node.action.is_some() {
            return wrong(format!("`{path}` is there twice"), "leave one of them out".to_owned());
        }
        if !is_rename && !node.children.is_empty() {
            let hint = "leave out the longer one: what is done to a field is done to all that it holds".to_owned();
            return wrong(format!("`{path}` holds another field of the list"), hint);
        }
        node.action = Some(action);
        Ok(())
    }

    /// Where every document begins.
    pub(super) fn top(&self) -> Place<'_> {
        Place::Inside(Active { first: &self.root, more: Vec::new() })
    }
}

/// The server nests documents 180 deep at most; what comes from elsewhere must not overflow the stack.
pub(super) const DEEPEST: usize = 200;

/// Whether a name is one that an element of an array could have.
pub(super) fn is_index(name: &[u8]) -> bool {
    match name {
        [b'0'] => true,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

impl Node {
    fn child(&self, name: &[u8]) -> Option<&Node> {
        // Most lists are short, and most names differ in their length.
        if self.children.len() <= 8 {
            return self.children.iter().find(|(n, _)| **n == *name).map(|(_, node)| node);
        }
        let at = self.children.binary_search_by(|(n, _)| (**n).cmp(name)).ok()?;
        Some(&self.children[at].1)
    }
}

impl<'r> Active<'r> {
    pub(super) fn has_renames(&self) -> bool {
        self.first.has_renames || self.more.iter().any(|node| node.has_renames)
    }

    fn has_indexes(&self) -> bool {
        self.first.has_indexes || self.more.iter().any(|node| node.has_indexes)
    }

    fn nodes(&self) -> impl Iterator<Item = &'r Node> + '_ {
        std::iter::once(self.first).chain(self.more.iter().copied())
    }

    /// The place of a field, and its new name if it gets one.
    fn field(&self, name: &[u8], rules: &Rules) -> (Place<'r>, Option<&'r [u8]>) {
        let mut found = self.nodes().filter_map(|node| node.child(name));
        let Some(first) = found.next() else {
            return (if rules.otherwise == Otherwise::Keep { Place::Keep } else { Place::Gone }, None);
        };
        place(Active { first, more: found.collect() })
    }

    /// The place of an element of an array: what holds for the array, and what holds for its index.
    fn element(&self, index: &[u8]) -> Place<'r> {
        if !self.has_indexes() {
            return Place::Inside(self.clone());
        }
        let mut all = self.clone();
        for node in self.nodes() {
            all.more.extend(node.child(index));
        }
        place(all).0
    }
}

/// The place that some nodes stand for: the first of them that says what is done to the whole of it, or all of them.
fn place<'r>(mut nodes: Active<'r>) -> (Place<'r>, Option<&'r [u8]>) {
    let mut renamed = None;
    let mut is_whole = None;
    for node in nodes.nodes() {
        match &node.action {
            Some(Action::Rename(to)) => renamed = renamed.or(Some(&**to)),
            Some(Action::Keep) => is_whole = is_whole.or(Some(Place::Keep)),
            Some(Action::Remove) => is_whole = is_whole.or(Some(Place::Gone)),
            Some(Action::Rewrite(rewrite)) => is_whole = is_whole.or(Some(Place::Rewrite(&**rewrite))),
            None => {}
        }
    }
    let place = is_whole.unwrap_or_else(|| {
        nodes.more.retain(|node| !node.children.is_empty());
        if nodes.first.children.is_empty() {
            match nodes.more.pop() {
                Some(node) => nodes.first = node,
                None => return Place::Keep,
            }
        }
        Place::Inside(nodes)
    });
    (place, renamed)
}

/// Where a name or a dotted path leads.
pub(super) struct Reached<'r> {
    pub(super) place: Place<'r>,
    /// The whole name, where a part of it is another now.
    pub(super) renamed: Option<Vec<u8>>,
    /// How much of the new name is there when the last renamed part of it ends; 0 when none is renamed.
    pub(super) renamed_to: usize,
    /// How much of the name it took to come to a place that is gone; all of it otherwise.
    pub(super) length: usize,
    /// Whether what is at `length` is an element of an array, or may be.
    pub(super) is_element: bool,
}

impl<'r> Place<'r> {
    /// The place of an element of the array at this place.
    pub(super) fn element(&self, index: usize) -> Place<'r> {
        match self {
            Place::Inside(active) if active.has_indexes() => active.element(index.to_string().as_bytes()),
            other => other.clone(),
        }
    }

    /// The place of a field of the document at this place, or the end of a dotted path from here; `is_top`: this is where
    /// a document begins, so that the first name is that of a field.
    pub(super) fn reach(&self, name: &[u8], is_top: bool, rules: &'r Rules) -> Reached<'r> {
        if let Place::Inside(active) = self
            && !name.contains(&b'.')
        {
            let is_element = !is_top && is_index(name);
            let (place, to) = if is_element { (active.element(name), None) } else { active.field(name, rules) };
            let renamed_to = to.map_or(0, <[u8]>::len);
            return Reached { place, renamed: to.map(<[u8]>::to_vec), renamed_to, length: name.len(), is_element };
        }
        let mut place = self.clone();
        let mut renamed: Option<Vec<u8>> = None;
        let (mut is_element, mut length, mut renamed_to) = (false, 0, 0);
        for (i, part) in name.split(|b| *b == b'.').enumerate() {
            if i > 0 && matches!(place, Place::Gone) {
                break;
            }
            let begin = if i == 0 { 0 } else { length + 1 };
            length = begin + part.len();
            is_element = !(is_top && i == 0) && is_index(part);
            let mut to = None;
            if let Place::Inside(active) = &place {
                (place, to) = if is_element { (active.element(part), None) } else { active.field(part, rules) };
            }
            if to.is_some() && renamed.is_none() {
                renamed = Some(name[..begin.saturating_sub(1)].to_vec());
            }
            if let Some(renamed) = &mut renamed {
                if i > 0 {
                    renamed.push(b'.');
                }
                renamed.extend_from_slice(to.unwrap_or(part));
                if to.is_some() {
                    renamed_to = renamed.len();
                }
            }
        }
        Reached { place, renamed, renamed_to, length, is_element }
    }
}
