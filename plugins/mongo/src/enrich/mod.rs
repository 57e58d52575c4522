//! The transform `enrich`: the documents of updates, looked up by their keys, for sources that do not give them.

mod cache;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use bson::{RawDocumentBuf, Timestamp};
use mongodb::Client;
use oplogue_api::{
    BadEvent, Batch, ByteSize, Context, Doc, Error, Event, Field, FieldType, Finding, Namespace, Op, Options, Period,
    Registry, Result, Transform, async_trait,
};
use serde::Deserialize;

use crate::{
    client::{check_uri, connect, hello},
    errors::Phase,
    globs::Globs,
    oplog::{
        ReadConcern,
        looking::{Group, MOST_ID_BYTES, id_of},
        lookup::Finder,
        readable::readable,
    },
};
use cache::{Cache, Key};

const FIELDS: &[Field] = &[
    Field::new("uri", FieldType::String, "Where the documents are").required().secret(),
    Field::new(
        "namespaces",
        FieldType::Strings,
        "Where documents are looked up: globs of `database.collection` such as \"app.*\"",
    ),
    Field::new(
        "missing",
        FieldType::OneOf(&["keep", "drop", "error"]),
        "What becomes of an update whose document is not there any more: it passes without, is left out, or is a bad event",
    )
    .default("\"keep\""),
    Field::new("read_concern", FieldType::OneOf(&["majority", "local"]), "Which documents are read")
        .default("\"majority\""),
    Field::new("cache", FieldType::Size, "How many bytes of documents are kept for later updates").default("\"16MiB\""),
    Field::new("cache_ttl", FieldType::Duration, "How long a kept document is taken although the update may be newer")
        .default("\"0s\""),
];

/// What names where documents are looked up.
const OPTION: &str = "`namespaces` of `enrich`";

/// What is looked up for one batch is held in memory until it is delivered (I6).
const MOST_BYTES: usize = 256 << 20;

pub(crate) fn register(r: &mut Registry) {
    r.transform("enrich", "Looks up the documents of updates in MongoDB", FIELDS, |context, options| {
        Ok(Box::new(Enrich::new(context, options)?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    uri: String,
    namespaces: Option<Vec<String>>,
    #[serde(default)]
    missing: Missing,
    #[serde(default)]
    read_concern: ReadConcern,
    cache: Option<ByteSize>,
    cache_ttl: Option<Period>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Missing {
    #[default]
    Keep,
    Drop,
    Error,
}

struct Enrich {
    name: String,
    uri: String,
    namespaces: Option<Globs>,
    missing: Missing,
    concern: ReadConcern,
    /// The route's source reads the same deployment, so that times of events are times of it.
    is_source: bool,
    client: Option<Client>,
    cache: Cache,
    /// What was got for the batch.
    found: HashMap<Key, Option<Doc>>,
}

impl Enrich {
    fn new(context: &Context, options: &Options) -> Result<Enrich> {
        let settings: Settings = options.parse()?;
        check_uri(&settings.uri)?;
        let of_source = context.origin.as_ref().and_then(|origin| origin.options.table().get("uri")?.as_str());
        let most = settings.cache.map_or(16 << 20, |size| usize::try_from(size.0).unwrap_or(usize::MAX));
        Ok(Enrich {
            name: context.name.clone(),
            // What is replayed may come from anywhere.
            is_source: of_source == Some(settings.uri.as_str()) && !context.replay,
            uri: settings.uri,
            namespaces: settings.namespaces.map(|globs| Globs::new("namespaces", &globs)).transpose()?,
            missing: settings.missing,
            concern: settings.read_concern,
            client: None,
            cache: Cache::new(most, settings.cache_ttl.map_or(Duration::ZERO, |period| period.0)),
            found: HashMap::new(),
        })
    }

    async fn finder(&mut self) -> Result<Finder> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = connect(&self.uri, &format!("oplogue {}", self.name)).await?;
                self.client.insert(client).clone()
            }
        };
        Ok(Finder { client, concern: self.concern, option: OPTION })
    }

    async fn look(&mut self, findings: &mut Vec<Finding>) -> Result<()> {
        let client = self.finder().await?.client;
        hello(&client, Phase::Check).await?;
        findings.push(Finding::ok("the server answers"));
        readable(&client, self.namespaces.as_ref(), OPTION, findings).await
    }

    fn is_wanted(&self, event: &Event) -> bool {
        event.op == Op::Update
            && event.after.is_none()
            && !event.ns.is_system()
            && self.namespaces.as_ref().is_none_or(|globs| globs.matches(event.ns.as_str()))
    }

    /// What has to be asked, by collections; the rest of what is wanted is known.
    fn plan(&mut self, batch: &Batch, now: Instant) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_ns: HashMap<Namespace, usize> = HashMap::new();
        for event in of(batch) {
            let Some((key, id)) = key_of(event).filter(|_| self.is_wanted(event)) else { continue };
            if let Some(known) = self.cache.get(&key, event.time, now) {
                // One that an earlier event of the batch has to ask for is asked for: all get the same.
                self.found.entry(key).or_insert(known);
                continue;
            }
            let at = *by_ns.entry(event.ns.clone()).or_insert_with(|| {
                groups.push(Group::new(event.ns.clone()));
                groups.len() - 1
            });
            if !groups[at].has(&id) {
                groups[at].add(id, Vec::new());
            }
        }
        groups
    }

    /// What becomes of an event.
    fn attach(&self, event: &mut Event) -> Result<bool> {
        if !self.is_wanted(event) {
            return Ok(true);
        }
        let known = match key_of(event) {
            None => None,
            Some((key, _)) => match self.found.get(&key) {
                Some(known) => known.clone(),
                None => return Err(Error::bug("`enrich` was not prepared for this batch")),
            },
        };
        if known.is_some() {
            event.after = known;
            return Ok(true);
        }
        match self.missing {
            Missing::Keep => Ok(true),
            Missing::Drop => Ok(false),
            Missing::Error => Err(Error::data("the document of the update is not there any more")
                .hint("set `missing` of `enrich` to \"keep\" or \"drop\", or take a source that gives the document")),
        }
    }
}

/// The events of a batch; those that an earlier transform refused may go on one day, and then without this one.
fn of(batch: &Batch) -> impl Iterator<Item = &Event> {
    batch.events.iter().chain(batch.bad.iter().filter_map(|bad| bad.event.as_deref()))
}

fn key_of(event: &Event) -> Option<(Key, RawDocumentBuf)> {
    let id = event.key.as_ref().and_then(|key| id_of(key))?;
    Some(((event.ns.clone(), id.as_bytes().to_vec()), id))
}

/// Finds the documents of a group. `bytes` counts what was found for the batch.
async fn find(finder: &Finder, group: &mut Group, time: Timestamp, bytes: &mut usize) -> Result<()> {
    // Those to ask for together, and those to ask for one by one: see `Group::found`.
    let mut open: Vec<usize> = (0..group.wanted.len()).collect();
    let mut single = Vec::new();
    while !open.is_empty() {
        let mut size = 0;
        let mut fits = |at: &usize| {
            size += group.wanted[*at].id.as_bytes().len();
            size <= MOST_ID_BYTES
        };
        let count = open.iter().take_while(|at| fits(at)).count().max(1);
        let asked: Vec<usize> = open.drain(..count).collect();
        let ids: Vec<_> = asked.iter().map(|at| group.wanted[*at].id.clone()).collect();
        let reply = finder.find(&group.ns, ids.iter().map(|id| &**id), time).await?;
        counted(bytes, reply.bytes)?;
        let others = group.found(reply.documents()?);
        let missing = asked.iter().filter(|at| group.wanted[**at].found.is_none());
        if !reply.more {
            single.extend(others.into_iter().filter(|at| asked.contains(at)));
        } else if missing.clone().count() < asked.len() {
            // The reply was full: the rest again.
            open.splice(..0, missing.copied());
        } else {
            single.extend(missing);
        }
    }
    for at in single {
        let id = group.wanted[at].id.clone();
        let reply = finder.find(&group.ns, [&*id].into_iter(), time).await?;
        counted(bytes, reply.bytes)?;
        group.found_one(at, reply.documents()?);
    }
    Ok(())
}

fn counted(all: &mut usize, bytes: usize) -> Result<()> {
    *all += bytes;
    if *all > MOST_BYTES {
        return Err(Error::operator("the documents that belong to one batch are more than 256 MiB")
            .hint("lower `batch_size` of the source, or name in `namespaces` of `enrich` only collections of smaller documents"));
    }
    Ok(())
}

#[async_trait]
impl Transform for Enrich {
    async fn prepare(&mut self, batch: &Batch) -> Result<()> {
        self.found.clear();
        let now = Instant::now();
        let mut groups = self.plan(batch, now);
        if groups.is_empty() {
            return Ok(());
        }
        let finder = self.finder().await?;
        let none = Timestamp { time: 0, increment: 0 };
        // What is as new as the newest that the source has seen serves all the batches up to there.
        let newest = of(batch).map(|event| event.time).max().unwrap_or(none);
        let time = if self.is_source { newest.max(batch.head) } else { none };
        let mut bytes = 0;
        for group in &mut groups {
            find(&finder, group, time, &mut bytes).await?;
        }
        for group in groups {
            for wanted in group.wanted {
                let key = (group.ns.clone(), wanted.id.into_bytes());
                // I6: one of them that is kept would hold the whole reply, of which nobody knows.
                let document = wanted.found.map(|document| document.detach());
                if self.is_source || self.cache.has_ttl() {
                    self.cache.put(key.clone(), document.clone(), time, now);
                }
                self.found.insert(key, document);
            }
        }
        Ok(())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        for event in batch.bad.iter_mut().filter_map(|bad| bad.event.as_deref_mut()) {
            // It is bad already.
            let _ = self.attach(event);
        }
        let mut given = std::mem::take(&mut batch.bad).into_iter().peekable();
        let events = std::mem::take(&mut batch.events);
        for (place, mut event) in events.into_iter().enumerate() {
            let before = batch.events.len();
            while let Some(bad) = given.next_if(|bad| bad.before <= place) {
                batch.bad.push(BadEvent { before, ..bad });
            }
            match self.attach(&mut event) {
                Ok(true) => batch.events.push(event),
                Ok(false) => {}
                Err(e) if e.kind() == oplogue_api::ErrorKind::Data => {
                    batch.bad.push(BadEvent::refused(before, event, e));
                }
                Err(e) => return Err(e),
            }
        }
        let before = batch.events.len();
        batch.bad.extend(given.map(|bad| BadEvent { before, ..bad }));
        self.found.clear();
        Ok(())
    }

    async fn check(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Err(e) = self.look(&mut findings).await {
            findings.push(e.into());
        }
        findings
    }
}
