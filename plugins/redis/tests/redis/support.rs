use std::sync::{Arc, Mutex};

use bson::{Bson, Document, Timestamp, doc};
use futures_util::StreamExt;
use oplogue_api::{
    Checkpoint, CheckpointStore, Context, Doc, Error, Event, Options, Position, Registry, Result, Sink, Written,
};
use oplogue_testkit::{sample, unique, wait_for};

/// A route of its own on some Redis: nothing that another test does can be seen in it.
pub struct Place {
    pub url: String,
    pub route: String,
    pub db: String,
}

fn registry() -> Registry {
    let mut registry = Registry::default();
    oplogue_redis::register(&mut registry);
    registry
}

pub fn context(route: &str) -> Context {
    Context { name: "meteor".into(), route: Some(route.into()), state_dir: "/nowhere".into(), ..Context::default() }
}

pub fn options(all: &[(&str, &str)]) -> Options {
    Options::new(all.iter().map(|(k, v)| ((*k).to_owned(), toml::Value::from(*v))).collect())
}

/// The sink of a route with options as they stand in a configuration.
pub fn try_sink_toml(route: &str, text: &str) -> Result<Arc<dyn Sink>> {
    let table: toml::Table = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
    (registry().sinks["redis-oplog"].build)(&context(route), &Options::new(table))
}

pub fn try_sink(route: &str, all: &[(&str, &str)]) -> Result<Arc<dyn Sink>> {
    (registry().sinks["redis-oplog"].build)(&context(route), &options(all))
}

pub fn try_sink_with(route: &str, table: toml::Table) -> Result<Arc<dyn Sink>> {
    (registry().sinks["redis-oplog"].build)(&context(route), &Options::new(table))
}

pub fn store(all: &[(&str, &str)]) -> Arc<dyn CheckpointStore> {
    (registry().stores["redis"].build)(&context("any"), &options(all)).unwrap()
}

impl Place {
    pub fn new(url: impl Into<String>) -> Place {
        Place { url: url.into(), route: unique("route"), db: unique("app") }
    }

    pub fn sink_with(&self, more: &[(&str, &str)]) -> Arc<dyn Sink> {
        let mut all = vec![("url", self.url.as_str())];
        all.extend_from_slice(more);
        try_sink(&self.route, &all).unwrap()
    }

    /// With options as they are written; `DB` stands for the place's database.
    pub fn sink_of(&self, text: &str) -> Arc<dyn Sink> {
        self.try_sink_of(text).unwrap()
    }

    pub fn try_sink_of(&self, text: &str) -> Result<Arc<dyn Sink>> {
        let mut table: toml::Table = toml::from_str(&text.replace("DB", &self.db)).unwrap();
        table.insert("url".into(), self.url.as_str().into());
        (registry().sinks["redis-oplog"].build)(&context(&self.route), &Options::new(table))
    }

    pub fn sink(&self) -> Arc<dyn Sink> {
        self.sink_with(&[])
    }

    /// The sink of this route, with options as they stand in a configuration.
    pub fn sink_toml(&self, text: &str) -> Arc<dyn Sink> {
        try_sink_toml(&self.route, text).unwrap()
    }

    /// The key that holds watermark and position.
    pub fn key(&self) -> String {
        format!("oplogue::route::{}", self.route)
    }

    pub fn ns(&self, coll: &str) -> String {
        format!("{}.{coll}", self.db)
    }

    /// The insert of `id` as the n-th event of the stream.
    pub fn insert(&self, n: u32, id: impl Into<Bson>) -> Event {
        at(n, sample::insert(&self.ns("tasks"), doc! {"_id": id.into(), "n": n}))
    }

    /// The inserts of `t<n>` for each n.
    pub fn inserts(&self, numbers: std::ops::Range<u32>) -> Vec<Event> {
        numbers.map(|n| self.insert(n, format!("t{n}"))).collect()
    }

    /// What a subscriber of the collection hears of them.
    pub fn heard(&self, numbers: std::ops::Range<u32>) -> Vec<String> {
        numbers.map(|n| format!(r#"{{"e":"i","d":{{"_id":"t{n}"}},"f":["_id","n"]}}"#)).collect()
    }
}

pub fn time(n: u32) -> Timestamp {
    Timestamp { time: 1_700_000_000 + n / 10, increment: n % 10 + 1 }
}

/// The event as the n-th of the stream.
pub fn at(n: u32, event: Event) -> Event {
    Event { time: time(n), ..event }
}

/// The event with the document before and after it.
pub fn with_images(event: Event, before: Option<Document>, after: Option<Document>) -> Event {
    let raw = |d: Document| Doc::from(bson::RawDocumentBuf::try_from(&d).unwrap());
    Event { before: before.map(raw), after: after.map(raw).or(event.after.clone()), ..event }
}

/// The position behind the n-th event.
pub fn behind(n: u32) -> Position {
    let token = bson::RawDocumentBuf::try_from(&doc! {"at": n}).unwrap();
    Position { token: Doc::from(token), time: time(n) }
}

pub fn checkpoint(n: u32, generation: u64) -> Checkpoint {
    Checkpoint { position: behind(n), generation }
}

/// A real subscriber of patterns.
pub struct Subscriber {
    heard: Arc<Mutex<Vec<(String, String)>>>,
    client: redis::Client,
}

impl Subscriber {
    pub async fn new(client: redis::Client, patterns: &[String]) -> Subscriber {
        let mut subscription = client.get_async_pubsub().await.unwrap();
        for pattern in patterns.iter().map(String::as_str).chain(["sentinel:*"]) {
            subscription.psubscribe(pattern).await.unwrap();
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&heard);
        tokio::spawn(async move {
            let mut messages = subscription.into_on_message();
            while let Some(message) = messages.next().await {
                let text = String::from_utf8_lossy(message.get_payload_bytes()).into_owned();
                list.lock().unwrap().push((message.get_channel_name().to_owned(), text));
            }
        });
        Subscriber { heard, client }
    }

    /// A subscriber of all channels of the place's database.
    pub async fn of(place: &Place, client: redis::Client) -> Subscriber {
        Subscriber::new(client, &[format!("{}.*", place.db)]).await
    }

    /// Everything heard so far: waits for a message of its own behind it.
    pub async fn all(&self) -> Vec<(String, String)> {
        let end = unique("sentinel:end");
        let mut connection = self.client.get_multiplexed_async_connection().await.unwrap();
        let _: () = redis::cmd("PUBLISH").arg(&end).arg("").query_async(&mut connection).await.unwrap();
        wait_for("the end of what was published", || async {
            self.heard.lock().unwrap().iter().any(|(channel, _)| *channel == end)
        })
        .await;
        let heard = self.heard.lock().unwrap();
        heard.iter().filter(|(channel, _)| !channel.starts_with("sentinel:")).cloned().collect()
    }

    /// The messages on one channel.
    pub async fn on(&self, channel: &str) -> Vec<String> {
        self.all().await.into_iter().filter(|(c, _)| c == channel).map(|(_, text)| text).collect()
    }
}

/// Writes and expects that all was accepted.
pub async fn write(sink: &Arc<dyn Sink>, events: &[Event], upto: u32) -> Written {
    let written = sink.write(events, Some(&behind(upto))).await.unwrap();
    assert!(written.failed.is_empty(), "{:?}", written.failed);
    written
}

/// Writes as the engine does, until everything is accepted. Returns how often it took and how many were duplicates.
pub async fn write_until_done(sink: &Arc<dyn Sink>, events: &[Event], upto: u32) -> (u32, u64) {
    let (mut tries, mut known, mut first) = (0, 0, 0);
    loop {
        tries += 1;
        assert!(tries < 500, "still not written");
        match sink.write(&events[first..], Some(&behind(upto))).await {
            Ok(written) => {
                known += written.duplicates;
                match written.failed.first() {
                    None => return (tries, known),
                    Some(failed) => first += failed.index,
                }
            }
            Err(e) => assert_eq!(e.kind(), oplogue_api::ErrorKind::Transient, "{e}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// I8: neither message nor hint holds what must not be shown.
pub fn assert_no_secret(e: &Error, secrets: &[&str]) {
    let shown = format!("{e} {:?} {:?}", e.get_hint(), e);
    for secret in secrets {
        assert!(!shown.contains(secret), "{secret} in: {shown}");
    }
}
