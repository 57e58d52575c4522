//! Both sources over one workload, on real servers: the same events, op by op.
//!
//! What is left out of the comparison stands in [`Version`] and in [`Workload`], each with its reason, and in
//! docs/sources.md ("Where they cannot agree, and why").

#[path = "differential/replicated.rs"]
mod replicated;
mod streams;
#[path = "differential/workload.rs"]
mod workload;

use std::collections::BTreeSet;

use bson::{RawDocumentBuf, Timestamp};
use oplogue_api::{Event, Op, Path, PathPart, StartAt};
use oplogue_testkit::{servers, unique};
use streams::Reader;
use workload::Workload;

/// What the servers of a version can say in a change stream.
#[derive(Clone, Copy)]
struct Version {
    name: &'static str,
    /// create, createIndexes, dropIndexes, modify (`showExpandedEvents`, from 6.0). Before, the oplog alone has them.
    expanded: bool,
    /// `wallTime` (from 6.0). Before, the oplog alone has it.
    wall: bool,
    /// The exact diff (`showRawUpdateDescription`, from 6.0). Before, paths are compared as they are written with dots, which
    /// is all that `updateDescription` and `$v: 1` can say.
    exact: bool,
}

const V4: Version = Version { name: "4.4.2", expanded: false, wall: false, exact: false };
const V5: Version = Version { name: "5.0.4", expanded: false, wall: false, exact: false };
const V6: Version = Version { name: "6.0.5", expanded: true, wall: true, exact: true };
const V6_27: Version = Version { name: "6.0.27", expanded: true, wall: true, exact: true };

/// An event without what may differ: `raw`, and the form of the change.
#[derive(Debug, PartialEq, Eq)]
struct Normal {
    op: Op,
    ns: String,
    to: Option<String>,
    key: Option<Vec<u8>>,
    after: Option<Vec<u8>>,
    before: Option<Vec<u8>>,
    update: Option<BTreeSet<Piece>>,
    time: Timestamp,
    index: u32,
    wall: Option<i64>,
    txn: Option<(Vec<u8>, i64)>,
}

/// One piece of an update: what happens, where, and the value, encoded.
type Piece = (&'static str, String, Vec<u8>);

fn bytes(doc: &oplogue_api::Doc) -> Vec<u8> {
    doc.bytes().to_vec()
}

fn path(path: &Path<'_>, exact: bool) -> String {
    match path {
        Path::Exact(parts) if exact => {
            let part = |p: &PathPart<'_>| match p {
                PathPart::Field(name) => format!("/{name}"),
                PathPart::Index(n) => format!("[{n}]"),
            };
            parts.iter().map(part).collect()
        }
        Path::Dotted(_) if exact => panic!("a path that is not exact: {path}"),
        _ => path.to_string(),
    }
}

fn pieces(event: &Event, exact: bool) -> Option<BTreeSet<Piece>> {
    let change = event.change.as_ref()?;
    let update = change.decode().expect("the change can be decoded");
    let value = |value| {
        let mut doc = RawDocumentBuf::new();
        doc.append(bson::cstr!("v"), value);
        doc.into_bytes()
    };
    let mut all = BTreeSet::new();
    all.extend(update.set.iter().map(|(p, v)| ("set", path(p, exact), value(*v))));
    all.extend(update.unset.iter().map(|p| ("unset", path(p, exact), Vec::new())));
    all.extend(update.truncate.iter().map(|(p, n)| ("truncate", path(p, exact), n.to_le_bytes().to_vec())));
    assert_eq!(all.len(), update.set.len() + update.unset.len() + update.truncate.len(), "a piece comes twice");
    Some(all)
}

fn normal(event: &Event, wall: bool, exact: bool) -> Normal {
    Normal {
        op: event.op,
        ns: event.ns.as_str().to_owned(),
        to: event.to.as_ref().map(|to| to.as_str().to_owned()),
        key: event.key.as_ref().map(bytes),
        after: event.after.as_ref().map(bytes),
        before: event.before.as_ref().map(bytes),
        update: pieces(event, exact),
        time: event.time,
        index: event.index,
        wall: event.wall.filter(|_| wall),
        txn: event.txn.as_ref().map(|txn| (bytes(&txn.lsid), txn.number)),
    }
}

/// Reads a source up to the workload's marker; the events of the workload.
async fn read(reader: &mut Reader, work: &Workload) -> Vec<Event> {
    reader.until("the marker", |r| r.events.iter().any(|e| work.is_marker(e))).await;
    reader.events.iter().filter(|e| work.is_mine(e) && !work.is_marker(e)).cloned().collect()
}

/// Runs the workload of a version under both sources and compares. `toml` is for the change stream. Returns its events.
async fn compare(version: Version, toml: &str) -> Vec<Event> {
    let mongo = servers::mongo_version(version.name).await;
    let quick = "await = \"100ms\"\n";
    let mut oplog = Reader::open("mongo-oplog", &mongo.uri(), quick, StartAt::Now).await;
    let mut stream = Reader::open("mongo-change-stream", &mongo.uri(), &format!("{quick}{toml}"), StartAt::Now).await;
    let work = Workload::new(mongo.client().await, &unique("diff"), version.name);
    work.run().await;
    let oplog = read(&mut oplog, &work).await;
    let stream = read(&mut stream, &work).await;

    // What is left out is there, and is no more than is meant.
    let ops = |events: &[Event], only: &dyn Fn(&Event) -> bool| -> Vec<Op> {
        events.iter().filter(|e| only(e)).map(|e| e.op).collect()
    };
    let oplog_only = ops(&oplog, &|e| work.is_in_the_oplog_only(e));
    if version.expanded {
        assert_eq!(oplog_only, [Op::Insert; 3]);
        let views = ops(&oplog, &|e| work.is_a_view(e));
        assert_eq!(views, [Op::Create, Op::Create, Op::Drop, Op::Drop]);
    } else {
        assert!(oplog_only.is_empty());
    }

    let exact = version.exact && toml.is_empty();
    let shown = |e: &&Event| version.expanded || !matches!(e.op, Op::Create | Op::Index | Op::Other);
    let left: Vec<Normal> = oplog
        .iter()
        .filter(|e| !work.is_in_the_oplog_only(e))
        .filter(shown)
        .map(|e| normal(e, version.wall, exact))
        .collect();
    let right: Vec<Normal> = stream.iter().map(|e| normal(e, version.wall, exact)).collect();
    for (i, (a, b)) in left.iter().zip(&right).enumerate() {
        assert_eq!(a, b, "{} {toml}: event {i}, oplog on the left, change stream on the right", version.name);
    }
    assert_eq!(
        left.iter().map(|e| (e.op, &e.ns)).collect::<Vec<_>>(),
        right.iter().map(|e| (e.op, &e.ns)).collect::<Vec<_>>(),
        "{} {toml}",
        version.name
    );
    stream
}

/// The workload does what it is for: otherwise equal and empty would pass.
fn covers(events: &[Event], expanded: bool) {
    let has = |op| events.iter().any(|e| e.op == op);
    for op in [Op::Insert, Op::Update, Op::Replace, Op::Delete, Op::Drop, Op::DropDatabase, Op::Rename] {
        assert!(has(op), "no {}", op.name());
    }
    for op in [Op::Create, Op::Index, Op::Other] {
        assert_eq!(has(op), expanded, "{}", op.name());
    }
    assert!(events.iter().any(|e| e.op == Op::Rename && e.ns.is_system()), "no copy by the server");
    assert!(events.iter().filter(|e| e.txn.is_some()).count() > 5);
    assert!(events.iter().any(|e| e.txn.is_some() && e.index > 3));
    let updates = events.iter().filter_map(|e| e.change.as_ref()).map(|c| c.decode().expect("decoded"));
    let (mut set, mut unset, mut truncate) = (0, 0, 0);
    for update in updates {
        set += update.set.len();
        unset += update.unset.len();
        truncate += update.truncate.len();
    }
    assert!(set > 20 && unset > 2, "{set} set, {unset} unset");
    assert!(truncate > 0 || events[0].wall.is_none(), "{truncate} truncated");
}

#[tokio::test]
async fn both_sources_agree_on_6_0_5() {
    covers(&compare(V6, "").await, true);
}

#[tokio::test]
async fn both_sources_agree_on_6_0_27() {
    covers(&compare(V6_27, "").await, true);
}

#[tokio::test]
async fn both_sources_agree_on_5_0_4() {
    covers(&compare(V5, "").await, false);
}

#[tokio::test]
async fn both_sources_agree_on_4_4_2() {
    covers(&compare(V4, "").await, false);
}

/// The flattened description says the same as the exact diff does, as far as dots can say it.
#[tokio::test]
async fn classic_descriptions_agree_too() {
    for version in [V6, V6_27] {
        covers(&compare(version, "update_description = \"classic\"").await, true);
    }
}

/// Once nothing is written any more, both look up the same documents.
#[tokio::test]
async fn both_sources_look_up_the_same_documents() {
    for version in [V4, V5, V6] {
        let mongo = servers::mongo_version(version.name).await;
        let toml = "await = \"100ms\"\nfull_document = \"update-lookup\"\n";
        let mut oplog = Reader::open("mongo-oplog", &mongo.uri(), toml, StartAt::Now).await;
        let mut stream = Reader::open("mongo-change-stream", &mongo.uri(), toml, StartAt::Now).await;
        let work = Workload::new(mongo.client().await, &unique("diff"), version.name);
        work.run_quietly().await;
        let (oplog, stream) = (read(&mut oplog, &work).await, read(&mut stream, &work).await);
        let images = |events: &[Event]| -> Vec<_> {
            let updates = events.iter().filter(|e| e.op == Op::Update);
            updates.map(|e| (e.ns.to_string(), e.key.as_ref().map(bytes), e.after.as_ref().map(bytes))).collect()
        };
        let (left, right) = (images(&oplog), images(&stream));
        assert_eq!(left.len(), right.len(), "{}", version.name);
        for (left, right) in left.iter().zip(&right) {
            assert_eq!(left, right, "{}", version.name);
        }
        let found = left.iter().filter(|(_, _, after)| after.is_some()).count();
        assert!(found > 50 && left.len() > found, "{found} of {} documents", left.len());
    }
}
