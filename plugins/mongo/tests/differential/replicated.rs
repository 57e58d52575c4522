//! What replicators write, as both sources give it to each sink: transactions with a marker in front, among those of others.

use bson::{Document, doc};
use mongodb::{Client, ClientSession, Collection};
use oplogue_api::{
    ErrorKind, Event, Interest, MARKERS, NamespacePattern, Op, Position, Replicated, Selection, StartAt,
};
use oplogue_testkit::{
    servers::{self, Mongo, MongoOptions},
    unique,
};

use crate::streams::{Reader, document, id_of};

const SOURCES: [&str; 2] = ["mongo-oplog", "mongo-change-stream"];
const ALL: [Replicated; 3] = [Replicated::AsWrites, Replicated::Markers, Replicated::MarkersAndWrites];
/// Small batches: many places to resume from.
const TOML: &str = "await = \"50ms\"\nbatch_size = 2\n";

/// What is appended to the line of an event that says a replicator wrote it.
const REPLICATED: &str = " by a replicator";

/// A write of the workload.
#[derive(Clone, Copy)]
enum W {
    Insert(i32),
    Set(i32),
    Delete(i32),
    /// Of 1 MB.
    Large(i32),
    /// Replaces the marker.
    Marker(i32),
    /// Into another collection of the replicator.
    Conflict(i32),
    /// Into a collection that is not there yet.
    Create(i32),
}

use W::*;

/// What is written, and what each interest gives of it.
struct Work {
    client: Client,
    db: String,
    expected: [Vec<String>; 3],
    seq: i32,
}

impl Work {
    async fn new(client: Client) -> Work {
        // The replicator makes it before it writes: made inside of the transaction, its creation would come first.
        for (db, coll) in [("__mmm", "markers"), ("__mmm", "conflicts")] {
            let _ = client.database(db).create_collection(coll).await;
        }
        let db = unique("echo");
        client.database(&db).create_collection("c").await.expect("create");
        Work { client, db, expected: Default::default(), seq: 0 }
    }

    fn coll(&self, db: &str, name: &str) -> Collection<Document> {
        self.client.database(db).collection(name)
    }

    async fn write(&self, w: W, session: Option<&mut ClientSession>) {
        macro_rules! run {
            ($action:expr) => {
                match session {
                    Some(session) => drop($action.session(session).await.expect("a write")),
                    None => drop($action.await.expect("a write")),
                }
            };
        }
        let (c, marker) = (self.coll(&self.db, "c"), format!("{}->b", self.db));
        match w {
            Insert(id) => run!(c.insert_one(doc! {"_id": id})),
            // Names that an expression on the server could take for something else.
            Set(id) => {
                run!(c.update_one(
                    doc! {"_id": id},
                    doc! {"$inc": {"k": 1}, "$set": {"n": {"a.b": id, "c": "$d", "e": [1, {"f.g": 2}]}}}
                ))
            }
            Delete(id) => run!(c.delete_one(doc! {"_id": id})),
            Large(id) => run!(c.insert_one(doc! {"_id": id, "fill": "x".repeat(1 << 20)})),
            Marker(seq) => run!(
                self.coll("__mmm", "markers")
                    .replace_one(doc! {"_id": &marker}, doc! {"_id": &marker, "seq": seq})
                    .upsert(true)
            ),
            Conflict(n) => run!(self.coll("__mmm", "conflicts").insert_one(doc! {"of": &self.db, "n": n})),
            Create(id) => run!(self.coll(&self.db, &format!("new{id}")).insert_one(doc! {"_id": id})),
        }
    }

    fn line(w: W) -> Option<String> {
        Some(match w {
            Insert(id) | Large(id) => format!("insert c {id}"),
            Set(id) => format!("update c {id}"),
            Delete(id) => format!("delete c {id}"),
            Create(id) => format!("insert new{id} {id}"),
            Marker(_) | Conflict(_) => return None,
        })
    }

    async fn plain(&mut self, w: W) {
        self.write(w, None).await;
        for (expected, replicated) in self.expected.iter_mut().zip(ALL) {
            match w {
                Marker(seq) if replicated != Replicated::AsWrites => expected.push(format!("marker {seq}")),
                w => expected.extend(Work::line(w)),
            }
        }
    }

    async fn begin(&self, writes: &[W]) -> ClientSession {
        let mut session = self.client.start_session().await.expect("session");
        session.start_transaction().await.expect("transaction");
        for w in writes {
            self.write(*w, Some(&mut session)).await;
        }
        session
    }

    async fn commit(&mut self, mut session: ClientSession, writes: &[W]) {
        session.commit_transaction().await.expect("commit");
        for (expected, replicated) in self.expected.iter_mut().zip(ALL) {
            let told = if matches!(writes.first(), Some(Marker(_))) { REPLICATED } else { "" };
            if let (Some(Marker(seq)), true) = (writes.first(), replicated != Replicated::AsWrites) {
                expected.push(format!("marker {seq}{told}"));
                if replicated == Replicated::Markers {
                    continue;
                }
            }
            expected.extend(writes.iter().filter_map(|w| Work::line(*w)).map(|line| line + told));
        }
    }

    async fn transaction(&mut self, writes: &[W]) {
        let session = self.begin(writes).await;
        self.commit(session, writes).await;
    }

    /// A transaction of the replicator: each has another marker, or the server leaves it out.
    async fn replicated(&mut self, writes: &[W]) {
        self.seq += 1;
        let writes: Vec<W> = [Marker(self.seq)].into_iter().chain(writes.iter().copied()).collect();
        self.transaction(&writes).await;
    }

    /// The events of this workload, documents only: creations are compared elsewhere.
    fn lines(&self, events: &[Event]) -> Vec<String> {
        let mine = events.iter().filter(|e| !e.op.is_barrier()).filter_map(|e| {
            let id = id_of(e.key.as_ref().expect("a key"));
            let told = if e.is_replicated() { REPLICATED } else { "" };
            if e.ns.as_str() == MARKERS {
                let mine = id.as_str() == Some(&format!("{}->b", self.db));
                let after = document(e.after.as_ref().expect("a marker comes whole"));
                return mine.then(|| format!("marker {}{told}", after.get_i32("seq").expect("seq")));
            }
            (e.ns.db() == self.db).then(|| format!("{} {} {id}{told}", e.op.name(), e.ns.coll()))
        });
        mine.collect()
    }

    async fn read(&self, reader: &mut Reader) {
        let end = |e: &Event| e.ns.db() == self.db && e.ns.coll() == "end" && e.op == Op::Insert;
        reader.until("the end", |r| r.events.iter().any(end)).await;
    }

    async fn finish(&mut self) {
        self.coll(&self.db, "end").insert_one(doc! {"_id": 0}).await.expect("insert");
        self.expected.iter_mut().for_each(|expected| expected.push("insert end 0".into()));
    }
}

async fn open(kind: &str, uri: &str, replicated: Replicated, from: StartAt<'_>) -> Reader {
    Reader::try_open_with(kind, uri, TOML, from, Interest { replicated, ..Interest::default() })
        .await
        .expect("the source opens")
}

/// A reader for each source and interest, at the end of what is there.
async fn readers(uri: &str) -> Vec<(&'static str, usize, Reader)> {
    let mut readers = Vec::new();
    for kind in SOURCES {
        for (n, replicated) in ALL.into_iter().enumerate() {
            readers.push((kind, n, open(kind, uri, replicated, StartAt::Now).await));
            // What filters leave on the server changes nothing of it. The databases of this file begin like that.
            let mine = NamespacePattern { text: "echo*.*".to_owned(), is_regex: false, negated: false };
            let selection = Selection { namespaces: vec![mine], ..Selection::default() };
            let interest = Interest { replicated, selections: vec![selection], origins: true };
            let narrow = Reader::try_open_with(kind, uri, TOML, StartAt::Now, interest).await;
            readers.push((kind, n, narrow.expect("the source opens")));
        }
    }
    readers
}

/// What both sources give is what was expected, and a transaction of the replicator shares one `txn`.
async fn compare(work: &Work, readers: &mut [(&'static str, usize, Reader)], version: &str) {
    for (kind, n, reader) in readers {
        work.read(reader).await;
        assert_eq!(work.lines(&reader.events), work.expected[*n], "{version} {kind} {:?}", ALL[*n]);
        for (i, event) in reader.events.iter().enumerate() {
            if event.ns.as_str() != MARKERS || event.txn.is_none() {
                continue;
            }
            assert_eq!(event.index, 0);
            let same = reader.events[i..].iter().filter(|e| e.time == event.time);
            assert!(same.clone().all(|e| e.txn == event.txn));
            assert!(ALL[*n] != Replicated::Markers || same.count() == 1, "{version} {kind}: the rest is an echo");
        }
    }
}

#[tokio::test]
async fn each_interest_gets_its_part_of_what_a_replicator_writes_from_both_sources() {
    for version in ["4.4.2", "5.0.4", "6.0.5"] {
        let mongo = servers::mongo_version(version).await;
        let mut work = Work::new(mongo.client().await).await;
        let mut readers = readers(&mongo.uri()).await;
        work.plain(Insert(1)).await;
        work.replicated(&[Insert(2), Set(1), Insert(3), Delete(2)]).await;
        work.transaction(&[Insert(10), Insert(11), Set(10)]).await;
        // A checkpoint, and one by itself.
        work.replicated(&[]).await;
        work.seq += 1;
        work.plain(Marker(work.seq)).await;
        work.plain(Conflict(1)).await;
        work.replicated(&[Delete(10), Delete(11), Conflict(2)]).await;
        work.replicated(&[Create(20), Set(3)]).await;
        // Somebody looks into the markers; that is no echo.
        work.seq += 1;
        work.transaction(&[Insert(30), Marker(work.seq), Insert(31)]).await;
        // Two at once, with others between.
        let (one, two) = ([Marker(work.seq + 1), Insert(40), Set(3)], [Insert(41), Set(31)]);
        let (a, b) = (work.begin(&one).await, work.begin(&two).await);
        work.seq += 1;
        work.plain(Insert(42)).await;
        work.commit(b, &two).await;
        work.plain(Delete(42)).await;
        work.commit(a, &one).await;
        let mut aborted = work.begin(&[Marker(work.seq + 1), Insert(50)]).await;
        aborted.abort_transaction().await.expect("abort");
        for n in 0..5 {
            work.replicated(&[Insert(60 + n), Set(3)]).await;
            work.plain(Set(1)).await;
        }
        work.finish().await;
        compare(&work, &mut readers, version).await;
        // Nothing in `__mmm` but markers, ever, and what a replicator makes is made by nobody else.
        for (_, n, reader) in &readers {
            assert!(reader.events.iter().all(|e| !e.ns.is_system() || e.ns.as_str() == MARKERS || e.to.is_some()));
            let made = reader.events.iter().any(|e| e.ns.db() == work.db && e.ns.coll() == "new20");
            assert_eq!(made, ALL[*n] != Replicated::Markers);
        }
        for (kind, n, reader) in &readers {
            resume(&work, kind, *n, reader, &mongo.uri(), version).await;
        }
    }
}

/// Opened at each place that was given, a source gives what is behind it.
async fn resume(work: &Work, kind: &str, n: usize, reader: &Reader, uri: &str, version: &str) {
    let mut places: Vec<&Position> = reader.ends.iter().map(|(_, end)| end).collect();
    places.dedup();
    // The others only differ in what is left out.
    let every = if ALL[n] == Replicated::Markers { 1 } else { 7 };
    for place in places.into_iter().step_by(every) {
        let behind: Vec<Event> = reader.events.iter().filter(|e| e.time > place.time).cloned().collect();
        let expected = work.lines(&behind);
        if expected.is_empty() {
            continue;
        }
        let mut again = open(kind, uri, ALL[n], StartAt::Position(place)).await;
        work.read(&mut again).await;
        assert_eq!(work.lines(&again.events), expected, "{version} {kind} {:?} from {:?}", ALL[n], place.time);
    }
}

#[tokio::test]
async fn a_replicated_transaction_larger_than_an_entry_is_told_by_its_first() {
    for version in ["5.0.4", "6.0.5"] {
        let mongo = servers::mongo_version(version).await;
        let mut work = Work::new(mongo.client().await).await;
        let mut readers = readers(&mongo.uri()).await;
        let large = |first: i32| (first..first + 20).map(Large).collect::<Vec<_>>();
        work.plain(Insert(1)).await;
        work.replicated(&large(100)).await;
        work.plain(Insert(2)).await;
        work.transaction(&large(200)).await;
        // The marker is in the last entry.
        work.seq += 1;
        let behind = [large(300), vec![Marker(work.seq), Insert(3)]].concat();
        work.transaction(&behind).await;
        work.replicated(&[Insert(4)]).await;
        work.finish().await;
        compare(&work, &mut readers, version).await;
        for (kind, n, reader) in readers.iter().filter(|(_, n, _)| ALL[*n] == Replicated::Markers) {
            resume(&work, kind, *n, reader, &mongo.uri(), version).await;
        }
    }
}

/// The bytes that a step of the work costs the reader of the oplog.
async fn cost(work: &Work, reader: &mut Reader) -> usize {
    let before = reader.bytes;
    let came = |r: &Reader| work.lines(&r.events).len() >= work.expected[1].len();
    reader.until("what was written", came).await;
    reader.bytes - before
}

#[tokio::test]
async fn echoes_stay_on_the_server_while_there_are_many() {
    for version in ["4.4.2", "5.0.4", "6.0.5"] {
        // Of its own: what others write decides as well.
        let mongo = Mongo::start(MongoOptions { version, ..Default::default() }).await;
        let mut work = Work::new(mongo.client().await).await;
        let mut reader = open(SOURCES[0], &mongo.uri(), ALL[1], StartAt::Now).await;
        work.replicated(&[Large(1)]).await;
        assert!(cost(&work, &mut reader).await > 1 << 20, "{version}: they come whole at first");
        let mut costs = Vec::new();
        for id in 2..8 {
            work.replicated(&[Large(id)]).await;
            work.plain(Insert(100 + id)).await;
            costs.push(cost(&work, &mut reader).await);
        }
        assert!(
            costs.iter().any(|cost| *cost > 0) && costs[2..].iter().all(|cost| *cost < 10_000),
            "{version}: {costs:?}"
        );
        // Other writes take over, and nothing is lost on the way back.
        for id in 50..53 {
            work.transaction(&[Large(id), Set(id), Insert(id + 10)]).await;
            work.plain(Large(id + 20)).await;
            cost(&work, &mut reader).await;
        }
        work.replicated(&[Large(8), Delete(1)]).await;
        assert!(cost(&work, &mut reader).await > 1 << 20, "{version}: they come whole again");
        work.finish().await;
        work.read(&mut reader).await;
        assert_eq!(work.lines(&reader.events), work.expected[1], "{version}");
    }
}

#[tokio::test]
async fn a_stream_that_cannot_see_the_markers_is_refused() {
    let mongo = servers::mongo().await;
    for toml in ["database = \"a\"", "database = \"a\"\ncollection = \"b\""] {
        for replicated in [Replicated::Markers, Replicated::MarkersAndWrites] {
            let interest = Interest { replicated, ..Interest::default() };
            let opened = Reader::try_open_with(SOURCES[1], &mongo.uri(), toml, StartAt::Now, interest).await;
            let Err(e) = opened.map(|_| ()) else { panic!("{toml} {replicated:?}") };
            assert_eq!((e.kind(), e.field()), (ErrorKind::Operator, Some("database")), "{e}");
            assert!(e.get_hint().is_some_and(|hint| hint.contains("whole deployment")), "{e}");
        }
        assert!(Reader::try_open(SOURCES[1], &mongo.uri(), toml, StartAt::Now).await.is_ok());
        let asks = Interest { origins: true, ..Interest::default() };
        let opened = Reader::try_open_with(SOURCES[1], &mongo.uri(), toml, StartAt::Now, asks).await;
        let Err(e) = opened.map(|_| ()) else { panic!("{toml}") };
        assert!(e.field() == Some("database") && e.message().contains("`origin`"), "{e}");
    }
}
