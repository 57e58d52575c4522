//! Events as the statements of write commands, in few commands.

use std::collections::{HashMap, HashSet};

use bson::{RawArrayBuf, RawBson, RawBsonRef, RawDocument, RawDocumentBuf, raw::cstr, rawdoc};
use oplogue_api::{Change, Error, Event, Namespace, Op, Result, bson::raw::CStr, hash_key};

use super::{shape, stamp::Stamp};

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Insert,
    Update,
    Delete,
}

/// One write command.
pub(super) struct Command {
    pub ns: Namespace,
    pub kind: Kind,
    pub statements: Vec<RawDocumentBuf>,
    /// For each statement, which event it came from.
    pub events: Vec<usize>,
}

impl Command {
    /// The command as the server takes it.
    pub fn body(&self) -> RawDocumentBuf {
        let (name, list): (&CStr, &CStr) = match self.kind {
            Kind::Insert => (cstr!("insert"), cstr!("documents")),
            Kind::Update => (cstr!("update"), cstr!("updates")),
            Kind::Delete => (cstr!("delete"), cstr!("deletes")),
        };
        let mut array = RawArrayBuf::new();
        for statement in &self.statements {
            array.push(statement.as_ref());
        }
        let mut body = RawDocumentBuf::new();
        body.append(name, self.ns.coll());
        body.append(list, array);
        body.append(cstr!("ordered"), true);
        body
    }

    /// The whole document that a statement writes, if it does.
    pub fn document(&self, statement: usize) -> Option<&RawDocument> {
        let statement = self.statements.get(statement)?;
        match self.kind {
            Kind::Insert => Some(statement),
            Kind::Update => statement.get_document("u").ok(),
            Kind::Delete => None,
        }
    }

    /// How many documents it must find: an update of a document that is not there is a conflict. A delete is none; but where others write
    /// here too (`is_shared`), one that finds nothing leaves no trace, by which a link that inserts the document at this moment would
    /// notice it.
    pub fn must_find(&self, is_shared: bool) -> Option<i64> {
        let must = self.kind == Kind::Update || is_shared && self.kind == Kind::Delete;
        must.then_some(self.statements.len() as i64)
    }
}

/// Puts statements into as few commands as the order of each document allows: those of different documents may change places.
/// Where a unique index forbids that (`serial`), the order of a collection is kept.
#[derive(Default)]
pub(super) struct Commands {
    all: Vec<Command>,
    /// For each kind and namespace, the last of its commands.
    latest: HashMap<(Namespace, Kind), usize>,
    /// For each document (in a serial namespace: for all of them), the command of its last statement.
    last: HashMap<(Namespace, u64), usize>,
}

/// A server takes 100,000 statements in a command, and 48 MB in a message.
const MOST_STATEMENTS: usize = 50_000;

impl Commands {
    pub fn push(
        &mut self,
        event: usize,
        ns: &Namespace,
        key: &RawDocument,
        serial: bool,
        kind: Kind,
        statement: RawDocumentBuf,
    ) {
        let key = (ns.clone(), if serial { 0 } else { hash_key(key) });
        let least = self.last.get(&key).copied().unwrap_or(0);
        let fits = |index: &usize| *index >= least && self.all[*index].statements.len() < MOST_STATEMENTS;
        let index = match self.latest.get(&(ns.clone(), kind)).copied().filter(fits) {
            Some(index) => index,
            None => {
                self.all.push(Command { ns: ns.clone(), kind, statements: Vec::new(), events: Vec::new() });
                self.latest.insert((ns.clone(), kind), self.all.len() - 1);
                self.all.len() - 1
            }
        };
        self.all[index].statements.push(statement);
        self.all[index].events.push(event);
        self.last.insert(key, index);
    }

    pub fn into_all(self) -> Vec<Command> {
        self.all
    }
}

/// What the peer can do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Abilities {
    /// It applies a diff of version 2 as it is (`$_internalApplyOplogUpdate`).
    pub diffs: bool,
}

/// How an event is applied to a document that is as it was at the origin.
pub(super) enum Applied {
    Statement(Kind, RawDocumentBuf),
    /// Only with the document at hand.
    Read,
}

/// The filter of a document.
pub(super) fn filter(key: &RawDocument) -> Result<RawDocumentBuf> {
    let mut filter = RawDocumentBuf::new();
    filter.append(cstr!("_id"), id(key)?);
    Ok(filter)
}

/// The `_id` of a document or key.
pub(super) fn id(key: &RawDocument) -> Result<RawBsonRef<'_>> {
    match key.get("_id") {
        Ok(Some(id)) => Ok(id),
        _ => Err(Error::data("an event without `_id`")),
    }
}

pub(super) fn statement(
    event: &Event,
    key: &RawDocument,
    abilities: Abilities,
    stamp: Option<&Stamp>,
) -> Result<Applied> {
    let whole = |after: &RawDocument| match stamp {
        Some(stamp) => stamp.on(after, event),
        None => Ok(after.to_owned()),
    };
    Ok(match (event.op, &event.after, &event.change) {
        (Op::Insert, Some(after), _) => Applied::Statement(Kind::Insert, whole(after)?),
        (Op::Replace, Some(after), _) => replace(key, &whole(after)?)?,
        (Op::Replace, None, _) => Applied::Read,
        (Op::Delete, _, _) => delete(key)?,
        (Op::Update, _, Some(Change::OplogV2(diff))) => {
            let stamped = stamp.map(|stamp| stamp.value(event));
            match classic(diff, stamped.clone())? {
                Some(operators) => update(key, operators)?,
                None if abilities.diffs => match pipeline(diff, stamped)? {
                    Some(pipeline) => update(key, pipeline)?,
                    None => Applied::Read,
                },
                None => Applied::Read,
            }
        }
        // A diff of version 1 is what classic operators do; the server applies it so itself.
        (Op::Update, _, Some(Change::OplogV1(modifiers))) if stamp.is_none() => {
            let mut operators = RawDocumentBuf::new();
            for element in modifiers.iter_elements() {
                let element = element.map_err(|_| Error::data("damaged BSON"))?;
                match element.key().as_str() {
                    "$v" => {}
                    "$set" | "$unset" => {
                        operators.append(element.key(), element.value().map_err(|_| Error::data("damaged BSON"))?);
                    }
                    _ => return Ok(Applied::Read),
                }
            }
            update(key, operators)?
        }
        (Op::Update, _, _) => Applied::Read,
        _ => return Err(Error::data("an event that lacks what its operation needs")),
    })
}

pub(super) fn update(key: &RawDocument, with: impl Into<RawBson>) -> Result<Applied> {
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), filter(key)?);
    statement.append(cstr!("u"), with.into());
    Ok(Applied::Statement(Kind::Update, statement))
}

/// A diff that only sets and removes fields at the top, as the operators `$set` and `$unset`: twice as fast as the diff itself, and
/// exactly the same where no name has a meaning to them. `None`: it is more than that.
fn classic(diff: &RawDocument, stamp: Option<RawBson>) -> Result<Option<RawDocumentBuf>> {
    let damaged = |_| Error::data("damaged BSON");
    let (mut set, mut unset) = (RawDocumentBuf::new(), RawDocumentBuf::new());
    for section in diff.iter_elements() {
        let section = section.map_err(damaged)?;
        let RawBsonRef::Document(fields) = section.value().map_err(damaged)? else { return Ok(None) };
        let into = match section.key().as_str() {
            "u" => &mut set,
            "d" => &mut unset,
            // `i` moves a field that is there to the end, which `$set` does not.
            _ => return Ok(None),
        };
        for field in fields.iter_elements() {
            let field = field.map_err(damaged)?;
            let name = field.key();
            if name.as_str().is_empty() || name.as_str().starts_with('$') || name.as_str().contains('.') {
                return Ok(None);
            }
            into.append(name, field.value().map_err(damaged)?);
        }
    }
    if let Some(stamp) = stamp {
        set.append(cstr!("__mmm"), stamp);
    }
    let mut operators = RawDocumentBuf::new();
    for (name, fields) in [(cstr!("$set"), set), (cstr!("$unset"), unset)] {
        if !fields.is_empty() {
            operators.append(name, fields);
        }
    }
    Ok((!operators.is_empty()).then_some(operators))
}

/// A diff as the server applies it to its own documents, behind a stage that fails where the document has another shape.
fn pipeline(diff: &RawDocument, stamp: Option<RawBson>) -> Result<Option<RawArrayBuf>> {
    let Some(conditions) = shape::conditions(diff)? else { return Ok(None) };
    let mut stages = RawArrayBuf::new();
    if !conditions.is_empty() {
        // No document: the statement fails, and nothing is set to null.
        let mut branches = RawArrayBuf::new();
        branches.push(rawdoc! {"$and": conditions});
        branches.push("$$ROOT");
        branches.push("another shape");
        stages.push(rawdoc! {"$replaceWith": {"$cond": branches}});
    }
    let mut update = RawDocumentBuf::new();
    update.append(cstr!("$v"), 2);
    update.append(cstr!("diff"), diff.to_owned());
    stages.push(rawdoc! {"$_internalApplyOplogUpdate": {"oplogUpdate": update}});
    if let Some(stamp) = stamp {
        stages.push(rawdoc! {"$set": {"__mmm": {"$literal": stamp}}});
    }
    Ok(Some(stages))
}

pub(super) fn replace(key: &RawDocument, document: &RawDocument) -> Result<Applied> {
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), filter(key)?);
    let mut names = document.iter_elements().map_while(|element| Some(element.ok()?.key().as_str().to_owned()));
    if names.any(|name| name.starts_with('$')) {
        // A replacement with such a name would be taken for operators, and is refused.
        let mut stages = RawArrayBuf::new();
        stages.push(rawdoc! {"$replaceWith": {"$literal": document.to_owned()}});
        statement.append(cstr!("u"), stages);
    } else {
        statement.append(cstr!("u"), document.to_owned());
    }
    Ok(Applied::Statement(Kind::Update, statement))
}

pub(super) fn delete(key: &RawDocument) -> Result<Applied> {
    let mut statement = RawDocumentBuf::new();
    statement.append(cstr!("q"), filter(key)?);
    statement.append(cstr!("limit"), 1);
    Ok(Applied::Statement(Kind::Delete, statement))
}

/// The namespaces whose order is kept, since statements of different documents cannot change places there.
pub(super) type Serial = HashSet<Namespace>;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: i32) -> RawDocumentBuf {
        rawdoc! {"_id": n}
    }

    fn put(commands: &mut Commands, n: usize, ns: &str, id: i32, kind: Kind, serial: bool) {
        commands.push(n, &Namespace::new(ns), &key(id), serial, kind, rawdoc! {});
    }

    #[test]
    fn documents_change_places_but_each_keeps_its_order() {
        use Kind::{Delete, Insert, Update};
        let mut commands = Commands::default();
        for (n, (id, kind)) in
            [(1, Insert), (2, Update), (3, Insert), (1, Update), (2, Delete), (2, Insert)].into_iter().enumerate()
        {
            put(&mut commands, n, "a.b", id, kind, false);
        }
        let all: Vec<_> = commands.into_all().into_iter().map(|c| (c.kind, c.events)).collect();
        // The insert of 2 behind its delete cannot join the first inserts.
        assert_eq!(all, [(Insert, vec![0, 2]), (Update, vec![1, 3]), (Delete, vec![4]), (Insert, vec![5])]);
    }

    #[test]
    fn a_serial_collection_keeps_its_order() {
        use Kind::{Delete, Insert};
        let mut commands = Commands::default();
        put(&mut commands, 0, "a.b", 1, Insert, true);
        put(&mut commands, 1, "a.b", 2, Delete, true);
        put(&mut commands, 2, "a.c", 2, Insert, false);
        put(&mut commands, 3, "a.b", 3, Insert, true);
        let all: Vec<_> = commands.into_all().into_iter().map(|c| c.events).collect();
        assert_eq!(all, [vec![0], vec![1], vec![2], vec![3]]);
    }
}
