//! Documents at hand: what becomes of each while events are applied to it here, and not by the server.

use std::collections::HashMap;

use bson::{RawDocument, RawDocumentBuf};
use oplogue_api::{Namespace, Result, hash_key, same_key};

use super::statements::{Applied, Commands, Kind, delete, replace};

/// A document, before and while events are applied to it.
pub(super) struct Subject {
    pub ns: Namespace,
    pub key: RawDocumentBuf,
    pub before: Option<RawDocumentBuf>,
    pub now: Option<RawDocumentBuf>,
    /// The last event that concerned it.
    pub event: usize,
    /// It goes before any other is written, and is written anew if it stays: another takes its unique value.
    pub makes_room: bool,
    /// An event stays in it that came.
    pub is_won: bool,
    /// A write that has lost may be newer than the snapshot: not to write the document would let it stay.
    pub must_change: bool,
}

impl Subject {
    pub fn is_changed(&self) -> bool {
        self.before != self.now
    }
}

/// All of them, found by namespace and key.
#[derive(Default)]
pub(super) struct Subjects {
    all: Vec<Subject>,
    places: HashMap<(Namespace, u64), Vec<usize>>,
}

impl Subjects {
    /// The subject of a key, made if there is none.
    pub fn enter(&mut self, ns: &Namespace, key: &RawDocument) -> usize {
        if let Some(place) = self.place(ns, key) {
            return place;
        }
        let place = self.all.len();
        self.places.entry((ns.clone(), hash_key(key))).or_default().push(place);
        let key = key.to_owned();
        self.all.push(Subject {
            ns: ns.clone(),
            key,
            before: None,
            now: None,
            event: 0,
            makes_room: false,
            is_won: false,
            must_change: false,
        });
        place
    }

    pub fn place(&self, ns: &Namespace, key: &RawDocument) -> Option<usize> {
        let places = self.places.get(&(ns.clone(), hash_key(key)))?;
        places.iter().copied().find(|place| same_key(&self.all[*place].key, key))
    }

    pub fn get(&mut self, place: usize) -> &mut Subject {
        &mut self.all[place]
    }

    pub fn all(&mut self) -> impl Iterator<Item = &mut Subject> {
        self.all.iter_mut()
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The keys by namespace.
    pub fn by_namespace(&self) -> HashMap<Namespace, Vec<&RawDocument>> {
        let mut all: HashMap<_, Vec<_>> = HashMap::new();
        for subject in &self.all {
            all.entry(subject.ns.clone()).or_default().push(subject.key.as_ref());
        }
        all
    }

    /// What the server has of them.
    pub fn found(&mut self, ns: &Namespace, document: RawDocumentBuf) {
        if let Some(place) = self.place(ns, &document) {
            self.all[place].before = Some(document.clone());
            self.all[place].now = Some(document);
        }
    }

    /// The statements that bring each from what it was to what it is now. `finish` gives the last touch to a document, of the
    /// event that concerned it last.
    pub fn write(
        &self,
        commands: &mut Commands,
        is_serial: impl Fn(&Namespace) -> bool,
        finish: impl Fn(usize, &RawDocument) -> Result<RawDocumentBuf>,
    ) -> Result<()> {
        for subject in self.all.iter().filter(|subject| subject.makes_room && subject.before.is_some()) {
            if let Applied::Statement(kind, statement) = delete(&subject.key)? {
                let serial = is_serial(&subject.ns);
                commands.push(subject.event, &subject.ns, &subject.key, serial, kind, statement);
            }
        }
        for subject in &self.all {
            let before = subject.before.as_ref().filter(|_| !subject.makes_room);
            let statement = match (before, &subject.now) {
                (None, None) => continue,
                (Some(before), Some(now)) if before == now => continue,
                (None, Some(now)) => Applied::Statement(Kind::Insert, finish(subject.event, now)?),
                (Some(_), Some(now)) => replace(&subject.key, &finish(subject.event, now)?)?,
                (Some(_), None) => delete(&subject.key)?,
            };
            if let Applied::Statement(kind, statement) = statement {
                let serial = is_serial(&subject.ns);
                commands.push(subject.event, &subject.ns, &subject.key, serial, kind, statement);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn only_what_changed_is_written() {
        let ns = Namespace::new("a.b");
        let mut subjects = Subjects::default();
        for id in 1..=4 {
            subjects.enter(&ns, &rawdoc! {"_id": id});
        }
        for id in 1..=3 {
            subjects.found(&ns, rawdoc! {"_id": id, "x": 1});
        }
        // 1.0 is 1.
        let place = subjects.place(&ns, &rawdoc! {"_id": 1.0}).unwrap();
        subjects.get(place).now = Some(rawdoc! {"_id": 1, "x": 2});
        subjects.get(1).now = None;
        subjects.get(3).now = Some(rawdoc! {"_id": 4});
        let mut commands = Commands::default();
        subjects.write(&mut commands, |_| true, |_, document| Ok(document.to_owned())).unwrap();
        let kinds: Vec<_> = commands.into_all().iter().map(|c| (c.kind, c.statements.len())).collect();
        assert_eq!(kinds, [(Kind::Update, 1), (Kind::Delete, 1), (Kind::Insert, 1)]);
    }
}
