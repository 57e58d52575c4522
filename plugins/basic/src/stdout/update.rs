use std::{borrow::Cow, collections::HashMap};

use bson::RawBsonRef;
use oplogue_api::{Path, PathPart, Result, Update};

use crate::extjson::{plain, text, value};

/// What happened to a path.
#[derive(Clone, Copy)]
pub(super) enum Edit<'a> {
    Set(RawBsonRef<'a>),
    Unset,
    Truncate(u32),
}

/// An entry of an update: where, what, and the dotted text of the path; none where that text would not say which field
/// is meant.
pub(super) struct Entry<'u, 'a> {
    pub(super) path: &'u Path<'a>,
    pub(super) dotted: Option<Cow<'u, str>>,
    pub(super) edit: Edit<'a>,
}

/// All entries of an update. A dotted text is given only where it is certain and stands once: the names of an object must not
/// repeat, and `a.b` must not be taken for `b` inside `a` where it is a field called `a.b`.
pub(super) fn entries<'u, 'a>(update: &'u Update<'a>) -> Vec<Entry<'u, 'a>> {
    let set = update.set.iter().map(|(path, value)| (path, Edit::Set(*value)));
    let unset = update.unset.iter().map(|path| (path, Edit::Unset));
    let truncate = update.truncate.iter().map(|(path, length)| (path, Edit::Truncate(*length)));
    let mut all: Vec<Entry<'u, 'a>> = set
        .chain(unset)
        .chain(truncate)
        .map(|(path, edit)| Entry { path, dotted: (!path.is_ambiguous()).then(|| dotted(path)), edit })
        .collect();
    if all.len() > 1 {
        let mut times: HashMap<&str, u32> = HashMap::with_capacity(all.len());
        for text in all.iter().filter_map(|entry| entry.dotted.as_deref()) {
            *times.entry(text).or_default() += 1;
        }
        if times.values().any(|n| *n > 1) {
            let repeated: Vec<bool> = all.iter().map(|e| e.dotted.as_deref().is_some_and(|t| times[t] > 1)).collect();
            for (entry, repeated) in all.iter_mut().zip(repeated) {
                if repeated {
                    entry.dotted = None;
                }
            }
        }
    }
    all
}

fn dotted<'u>(path: &'u Path<'_>) -> Cow<'u, str> {
    match path {
        Path::Dotted(text) => Cow::Borrowed(text),
        Path::Exact(parts) => match parts.as_slice() {
            [PathPart::Field(name)] => Cow::Borrowed(name),
            _ => Cow::Owned(path.to_string()),
        },
    }
}

/// `{"set": {…}, "unset": […], "truncate": {…}, "paths": […]}`, without those that are empty.
pub(super) fn json(out: &mut Vec<u8>, update: &Update<'_>) -> Result<()> {
    let all = entries(update);
    let mut groups = Groups { out, first: true };
    let set = |e: &Entry<'_, '_>| matches!(e.edit, Edit::Set(_));
    let unset = |e: &Entry<'_, '_>| matches!(e.edit, Edit::Unset);
    let truncate = |e: &Entry<'_, '_>| matches!(e.edit, Edit::Truncate(_));
    groups.out.push(b'{');
    groups.group("set", b"{}", all.iter().filter(|e| set(e)), with_dotted)?;
    groups.group("unset", b"[]", all.iter().filter(|e| unset(e)), with_dotted)?;
    groups.group("truncate", b"{}", all.iter().filter(|e| truncate(e)), with_dotted)?;
    groups.group("paths", b"[]", all.iter(), with_path)?;
    groups.out.push(b'}');
    Ok(())
}

struct Groups<'o> {
    out: &'o mut Vec<u8>,
    first: bool,
}

impl Groups<'_> {
    /// Appends a member with those entries that `write` writes, or nothing when there are none.
    fn group<'e, 'u: 'e, 'a: 'u + 'e>(
        &mut self,
        name: &str,
        brackets: &[u8; 2],
        entries: impl Iterator<Item = &'e Entry<'u, 'a>>,
        write: fn(&mut Vec<u8>, &Entry<'_, '_>) -> Result<bool>,
    ) -> Result<()> {
        let start = self.out.len();
        if !self.first {
            self.out.push(b',');
        }
        text(self.out, name)?;
        self.out.extend_from_slice(&[b':', brackets[0]]);
        let empty = self.out.len();
        for entry in entries {
            let before = self.out.len();
            if before > empty {
                self.out.push(b',');
            }
            if !write(self.out, entry)? {
                self.out.truncate(before);
            }
        }
        if self.out.len() == empty {
            self.out.truncate(start);
        } else {
            self.out.push(brackets[1]);
            self.first = false;
        }
        Ok(())
    }
}

fn with_dotted(out: &mut Vec<u8>, entry: &Entry<'_, '_>) -> Result<bool> {
    let Some(dotted) = &entry.dotted else { return Ok(false) };
    text(out, dotted)?;
    match entry.edit {
        Edit::Set(new) => {
            out.push(b':');
            value(out, new).map_err(|e| e.at("update"))?;
        }
        Edit::Unset => {}
        Edit::Truncate(length) => {
            out.push(b':');
            plain(out, &length)?;
        }
    }
    Ok(true)
}

fn with_path(out: &mut Vec<u8>, entry: &Entry<'_, '_>) -> Result<bool> {
    if entry.dotted.is_some() {
        return Ok(false);
    }
    out.extend_from_slice(b"{\"path\":");
    path(out, entry.path)?;
    match entry.edit {
        Edit::Set(new) => {
            out.extend_from_slice(b",\"set\":");
            value(out, new).map_err(|e| e.at("update"))?;
        }
        Edit::Unset => out.extend_from_slice(b",\"unset\":true"),
        Edit::Truncate(length) => {
            out.extend_from_slice(b",\"truncate\":");
            plain(out, &length)?;
        }
    }
    out.push(b'}');
    Ok(true)
}

/// An exact path as an array of names and indexes; one that the server only gave with dots as that text, since an array
/// would say more than is known.
pub(super) fn path(out: &mut Vec<u8>, path: &Path<'_>) -> Result<()> {
    let parts = match path {
        Path::Dotted(dotted) => return text(out, dotted),
        Path::Exact(parts) => parts,
    };
    out.push(b'[');
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        match part {
            PathPart::Field(name) => text(out, name)?,
            PathPart::Index(n) => plain(out, n)?,
        }
    }
    out.push(b']');
    Ok(())
}
