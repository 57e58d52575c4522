//! What the tests of the two sources share: building a source from TOML as the router does, and reading it.
#![allow(dead_code)]

use std::time::{Duration, Instant};

use bson::{Bson, Document};
use oplogue_api::{Context, Doc, Error, Event, Finding, Interest, Options, Position, Registry, Source, StartAt};

/// How long something may take before a test fails.
pub const LIMIT: Duration = Duration::from_secs(90);

pub fn build(kind: &str, uri: &str, toml: &str) -> Result<Box<dyn Source>, Error> {
    let mut registry = Registry::default();
    oplogue_mongo::register(&mut registry);
    let options = Options::new(format!("uri = {uri:?}\n{toml}").parse().expect("the TOML of the test"));
    let context =
        Context { name: "source".into(), route: Some("route".into()), state_dir: ".".into(), ..Context::default() };
    (registry.sources[kind].build)(&context, &options)
}

/// A source that is read, with everything that came.
pub struct Reader {
    pub source: Box<dyn Source>,
    pub interest: Interest,
    pub events: Vec<Event>,
    /// Every end, with the number of events before it.
    pub ends: Vec<(usize, Position)>,
    /// How many bytes of replies came.
    pub bytes: usize,
}

impl Reader {
    /// Opens it, again after every error that a router opens again for: the member that is asked may lag behind the one
    /// that was asked for the place.
    pub async fn open(kind: &str, uri: &str, toml: &str, from: StartAt<'_>) -> Reader {
        let since = Instant::now();
        loop {
            match Reader::try_open(kind, uri, toml, from).await {
                Err(e) if e.kind() == oplogue_api::ErrorKind::Transient && since.elapsed() < LIMIT => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                opened => return opened.expect("the source opens"),
            }
        }
    }

    pub async fn try_open(kind: &str, uri: &str, toml: &str, from: StartAt<'_>) -> Result<Reader, Error> {
        Reader::try_open_with(kind, uri, toml, from, Interest::default()).await
    }

    /// As a sink wants it.
    pub async fn try_open_with(
        kind: &str,
        uri: &str,
        toml: &str,
        from: StartAt<'_>,
        interest: Interest,
    ) -> Result<Reader, Error> {
        let mut source = build(kind, uri, toml)?;
        let start = source.open(from, &interest).await?;
        Ok(Reader { source, interest, events: Vec::new(), ends: vec![(0, start)], bytes: 0 })
    }

    pub fn end(&self) -> &Position {
        &self.ends[self.ends.len() - 1].1
    }

    /// One batch. A batch with entries that cannot be decoded fails the test.
    pub async fn step(&mut self) -> Result<(), Error> {
        let batch = tokio::time::timeout(LIMIT, self.source.next()).await.expect("next returns")?;
        let batch = batch.expect("the source does not end");
        assert!(batch.bad.is_empty(), "not decoded: {}", batch.bad[0].error);
        assert!(batch.head >= batch.end.time);
        self.bytes += batch.bytes;
        self.events.extend(batch.events);
        self.ends.push((self.events.len(), batch.end));
        Ok(())
    }

    /// Reads on until `done` says so.
    pub async fn until(&mut self, what: &str, mut done: impl FnMut(&Reader) -> bool) {
        let since = Instant::now();
        while !done(self) {
            assert!(since.elapsed() < LIMIT, "{what}: only {:?} came", brief(&self.events));
            self.step().await.unwrap_or_else(|e| panic!("{what}: {e}"));
        }
    }

    pub async fn count(&mut self, n: usize) {
        self.until(&format!("{n} events"), |r| r.events.len() >= n).await;
    }

    /// Reads on, opening again behind the last end after every error that asks for it. Events that come again because of
    /// that are left out. Returns how often it was opened.
    pub async fn until_in_spite(&mut self, what: &str, mut done: impl FnMut(&Reader) -> bool) -> usize {
        let since = Instant::now();
        let mut opened = 0;
        while !done(self) {
            assert!(since.elapsed() < LIMIT, "{what}: only {} events came", self.events.len());
            let Err(e) = self.step().await else { continue };
            assert_eq!(e.kind(), oplogue_api::ErrorKind::Transient, "{e}");
            let (seen, end) = self.ends[self.ends.len() - 1].clone();
            loop {
                assert!(since.elapsed() < LIMIT, "{what}: cannot be opened");
                match self.source.open(StartAt::Position(&end), &self.interest).await {
                    Ok(_) => break,
                    Err(e) => assert_eq!(e.kind(), oplogue_api::ErrorKind::Transient, "{e}"),
                }
            }
            opened += 1;
            // Those of an unfinished transaction come again.
            let safe = self.ends.iter().find(|(_, p)| *p == end).map_or(seen, |(n, _)| *n);
            self.events.truncate(safe);
        }
        opened
    }
}

/// What events are, for messages.
pub fn brief(events: &[Event]) -> Vec<String> {
    events.iter().map(|e| format!("{} {} {}", e.op.name(), e.ns, e.id())).collect()
}

pub fn ids(events: &[Event]) -> Vec<Bson> {
    events.iter().map(|e| e.key.as_ref().map_or(Bson::Null, id_of)).collect()
}

pub fn id_of(key: &Doc) -> Bson {
    document(key).get("_id").cloned().expect("a key has an _id")
}

pub fn document(doc: &Doc) -> Document {
    Document::try_from(&**doc).expect("BSON")
}

/// The worst of what a check found.
pub fn errors(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|f| f.severity == oplogue_api::Severity::Error).collect()
}
