//! An event as a script has left it.

use bson::{RawBsonRef, RawDocument, RawDocumentBuf, cstr, raw::CString, rawdoc};
use oplogue_api::{Change, Doc, Error, Event, Namespace, Op, Result, Verdict};

/// The documents of an event that a script may edit, in the order of the prelude: key, after, before, update.
pub const EDITABLE: [&str; 4] = ["key", "after", "before", "update"];
const KEY: usize = 0;
const AFTER: usize = 1;
const BEFORE: usize = 2;
const UPDATE: usize = 3;

/// What a script did to a document of the event.
#[derive(Debug)]
pub enum Part {
    /// Nothing, or it read it.
    Same,
    /// It assigned what was there: it goes on, whatever happened to the others.
    Kept,
    /// It took it away.
    Removed,
    /// This is in its place.
    New(Doc),
}

impl Part {
    fn is_edited(&self) -> bool {
        matches!(self, Part::New(_))
    }
}

/// An event that a script has returned.
pub struct Edited {
    pub op: String,
    pub ns: String,
    pub to: Option<String>,
    pub parts: [Part; EDITABLE.len()],
}

/// What an update changed, in the one form that scripts see: `{set: {PATH: value}, unset: [PATH], truncate: {PATH: length}}`; what is
/// empty is there, too.
///
/// # Errors
/// `Data`, when it cannot be decoded.
pub fn update_of(change: &Change) -> Result<Doc> {
    let name = |path: String| CString::try_from(path).map_err(|_| Error::data("a path with a zero byte"));
    let update = change.decode()?;
    let (mut set, mut truncate, mut unset) = (RawDocumentBuf::new(), RawDocumentBuf::new(), bson::RawArrayBuf::new());
    for (path, value) in &update.set {
        set.append(name(path.to_string())?, *value);
    }
    for path in &update.unset {
        unset.push(path.to_string());
    }
    for (path, length) in &update.truncate {
        truncate.append(name(path.to_string())?, i64::from(*length));
    }
    Ok(rawdoc! {"set": set, "unset": unset, "truncate": truncate}.into())
}

/// The other way, as a change stream says it.
fn change_of(update: &RawDocument) -> Result<Change> {
    let form = "`update` must be {set: {PATH: value}, unset: [PATH], truncate: {PATH: length}}";
    let wrong = || Error::data(form).hint("change its members, or leave some out; see docs/script.md");
    let mut to = rawdoc! {};
    let mut truncated = bson::RawArrayBuf::new();
    let (mut set, mut unset) = (RawDocumentBuf::new(), bson::RawArrayBuf::new());
    for member in update {
        let (name, value) = member.map_err(|_| wrong())?;
        match (name.as_str(), value) {
            ("set", RawBsonRef::Document(fields)) => set = fields.to_owned(),
            ("unset", RawBsonRef::Array(paths)) => {
                if paths.into_iter().any(|path| !path.is_ok_and(|path| path.as_str().is_some())) {
                    return Err(wrong());
                }
                unset = paths.to_owned();
            }
            ("truncate", RawBsonRef::Document(lengths)) => {
                for length in lengths {
                    let (path, length) = length.map_err(|_| wrong())?;
                    let length = match length {
                        RawBsonRef::Int32(n) if n >= 0 => n,
                        RawBsonRef::Int64(n) => i32::try_from(n).ok().filter(|n| *n >= 0).ok_or_else(wrong)?,
                        _ => return Err(wrong()),
                    };
                    truncated.push(rawdoc! {"field": path.as_str(), "newSize": length});
                }
            }
            _ => return Err(wrong()),
        }
    }
    to.append(cstr!("updatedFields"), set);
    to.append(cstr!("removedFields"), unset);
    to.append(cstr!("truncatedArrays"), truncated);
    Ok(Change::ChangeStream(to.into()))
}

/// The event that goes on, by the rules of docs/script.md.
///
/// # Errors
/// `Data`, when it would be no event.
pub fn settle(old: &Event, edited: Edited) -> Result<Verdict> {
    let Edited { op, ns, to, parts } = edited;
    let [key, after, before, update] = parts;
    let is_same = |part: &Part| matches!(part, Part::Same | Part::Kept);
    let op = match op == old.op.name() {
        true => old.op,
        false => Op::named(&op).map_err(|_| Error::data("`op` is set to what is no operation"))?,
    };
    let to = to.as_deref().map(Namespace::new);
    if op == old.op
        && ns == old.ns.as_str()
        && to == old.to
        && [&key, &after, &before, &update].into_iter().all(is_same)
    {
        return Ok(Verdict::Keep);
    }
    if old.op.is_barrier() || op.is_barrier() {
        return Err(Error::data(format!("a script cannot edit {} events, nor make one of another", old.op.name()))
            .hint("let it return them as they are, or null; the transform `rename` gives collections other names"));
    }
    if to != old.to {
        return Err(Error::data("only an event of the operation rename has a `to`"));
    }
    let mut new = Event { op, raw: Doc::empty(), ..old.clone() };
    if ns != old.ns.as_str() {
        let ns = Namespace::new(&ns);
        if ns.db().is_empty() || ns.coll().is_empty() || ns.as_str().contains(['\0', '$']) || ns.is_system() {
            return Err(Error::data("`ns` is set to what is no namespace for documents")
                .hint("it is `database.collection`, and none of the server's own"));
        }
        new.ns = ns;
    }
    // What was taken out of one may be in the others: those that the script did not speak of stay behind.
    let is_edited = after.is_edited() || before.is_edited() || update.is_edited();
    let settled = |part: Part, was: Option<Doc>| match part {
        Part::New(doc) => Some(doc),
        Part::Removed => None,
        Part::Kept => was,
        Part::Same => was.filter(|_| !is_edited),
    };
    new.after = settled(after, new.after);
    new.before = settled(before, new.before);
    new.change = match update {
        Part::New(update) => {
            if let Some(change) = &old.change {
                let was = change.decode()?;
                let mut paths = was.set.iter().map(|(path, _)| path).chain(&was.unset);
                if paths.any(|path| path.is_ambiguous()) || was.truncate.iter().any(|(path, _)| path.is_ambiguous()) {
                    return Err(Error::data("an update of a field whose name looks like a path cannot be edited")
                        .hint("let the script edit `after`, if the source has it, or return such an event as it is"));
                }
            }
            Some(change_of(&update)?)
        }
        Part::Removed => None,
        Part::Kept => new.change,
        Part::Same => new.change.filter(|_| !is_edited),
    };
    match key {
        Part::Same | Part::Kept => {}
        Part::New(doc) => new.key = Some(doc),
        Part::Removed => new.key = None,
    }
    if new.op == Op::Update && old.op == Op::Update && new.change.is_none() && new.after.is_some() {
        new.op = Op::Replace;
    }
    match new.op {
        Op::Insert | Op::Replace => new.change = None,
        Op::Delete => (new.change, new.after) = (None, None),
        _ => {}
    }
    sound(&new)?;
    Ok(Verdict::Replace(Box::new(new)))
}

/// Whether an event has what its operation needs.
fn sound(event: &Event) -> Result<()> {
    let Some(id) = event.key.as_ref().and_then(|key| key.get("_id").ok().flatten()) else {
        return Err(Error::data("`key` is set to what is no document with an _id"));
    };
    let missing = |part: &str| {
        Err(Error::data(format!("the script leaves an event of the operation {} without `{part}`", event.op.name()))
            .hint("who edits one of after, before and update must assign what else is to go on: event.after = event.after"))
    };
    match event.op {
        Op::Insert | Op::Replace if event.after.is_none() => return missing(EDITABLE[AFTER]),
        Op::Update if event.change.is_none() => return missing(EDITABLE[UPDATE]),
        _ => {}
    }
    for (name, part) in [(EDITABLE[AFTER], &event.after), (EDITABLE[BEFORE], &event.before)] {
        if let Some(other) = part.as_ref().and_then(|part| part.get("_id").ok().flatten())
            && other != id
        {
            return Err(Error::data(format!("the _id of `{name}` is not that of `{}`", EDITABLE[KEY]))
                .hint("a script that changes _id must change it in the key and in all documents"));
        }
    }
    Ok(())
}
