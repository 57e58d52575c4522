use bson::{Bson, Document, Regex, doc, oid::ObjectId};

use super::*;

fn raw(doc: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(doc).unwrap()
}

fn update(ns: &str, id: impl Into<Bson>, time: u32) -> Event {
    let key = raw(&doc! {"_id": id.into()});
    let time = Timestamp { time, increment: 1 };
    Event { key: Some(key.into()), ..Event::new(Op::Update, Namespace::new(ns), time, Doc::empty()) }
}

fn asked(plan: &Plan) -> Vec<(String, Vec<Bson>)> {
    let ids = |ids: &[super::super::looking::Wanted]| {
        ids.iter().map(|w| Document::try_from(&*w.id).unwrap().remove("_id").unwrap()).collect()
    };
    plan.groups.iter().map(|g| (g.ns.to_string(), ids(&g.wanted))).collect()
}

fn ints(ids: &[i32]) -> Vec<Bson> {
    ids.iter().copied().map(Bson::Int32).collect()
}

fn docs(documents: &[Document]) -> Vec<Doc> {
    documents.iter().map(|d| Doc::from(raw(d))).collect()
}

#[test]
fn each_key_is_asked_for_once_by_namespace_and_no_more_than_allowed() {
    let events = [
        update("a.x", 1, 1),
        update("a.y", 1, 2),
        update("a.x", 1, 3),
        update("a.x", 2, 4),
        update("a.x", 2, 5),
        update("a.x", 3, 6),
    ];
    let plan = Plan::new(&events, 0, 100, |_| true);
    assert_eq!(asked(&plan), [("a.x".into(), ints(&[1, 2, 3])), ("a.y".into(), ints(&[1]))]);
    assert_eq!((plan.until, plan.keys, plan.time.time), (6, 4, 6));
    let plan = Plan::new(&events, 0, 2, |_| true);
    assert_eq!(asked(&plan), [("a.x".into(), ints(&[1])), ("a.y".into(), ints(&[1]))]);
    // Never less than the time of the last update that gets the image.
    assert_eq!((plan.until, plan.keys, plan.time.time), (3, 2, 3));
    let plan = Plan::new(&events, 3, 1, |_| true);
    assert_eq!((asked(&plan), plan.until), (vec![("a.x".into(), ints(&[2]))], 5));
    let plan = Plan::new(&events, 0, 100, |e| e.ns.coll() == "y");
    assert_eq!((asked(&plan), plan.until, plan.time.time), (vec![("a.y".into(), ints(&[1]))], 6, 2));
    // Large ids go one by one, but go.
    let large: Vec<Event> = (0..3).map(|n| update("a.x", format!("{n}{}", "x".repeat(1 << 20)), n)).collect();
    assert_eq!((Plan::new(&large, 0, 100, |_| true).until, Plan::new(&large, 2, 100, |_| true).until), (1, 3));
}

#[test]
fn a_shard_key_beside_the_id_does_not_matter() {
    let mut event = update("a.x", 1, 1);
    event.key = Some(raw(&doc! {"region": "eu", "_id": 1}).into());
    assert_eq!(asked(&Plan::new(&[event], 0, 9, |_| true)), [("a.x".into(), ints(&[1]))]);
}

#[test]
fn what_is_found_goes_to_all_updates_of_that_key_and_to_no_other() {
    let mut events = vec![update("a.x", 1, 1), update("a.x", "a", 2), update("a.x", 1, 3), update("a.x", 4, 4)];
    let mut plan = Plan::new(&events, 0, 9, |_| true);
    // The collation of the collection ignores case.
    let again = plan.groups[0].found(docs(&[doc! {"n": 1, "_id": 1}, doc! {"_id": "A"}]));
    assert!(again.is_empty());
    plan.attach(&mut events);
    let n = |e: &Event| e.after.as_ref().map(|d| d.get_i32("n").unwrap());
    assert_eq!(events.iter().map(n).collect::<Vec<_>>(), [Some(1), None, Some(1), None]);
}

#[test]
fn an_id_that_is_written_otherwise_is_asked_for_by_itself() {
    let precise: bson::Decimal128 = "0.1000000000000000055511151231257827".parse().unwrap();
    let mut events = vec![update("a.x", 1, 1), update("a.x", 0.1, 2), update("a.x", "z", 3)];
    let mut plan = Plan::new(&events, 0, 9, |_| true);
    let group = &mut plan.groups[0];
    let found = docs(&[doc! {"_id": 1.0}, doc! {"_id": precise}]);
    assert_eq!(group.found(found), [0, 1]);
    group.found_one(0, docs(&[doc! {"_id": 1.0}]));
    // To the server these two decimals are different, so it answers with nothing.
    group.found_one(1, docs(&[]));
    plan.attach(&mut events);
    assert_eq!(events.iter().map(|e| e.after.is_some()).collect::<Vec<_>>(), [true, false, false]);

    let mut plan = Plan::new(&events[2..], 0, 9, |_| true);
    plan.groups[0].found_one(0, docs(&[doc! {"_id": "Z"}]));
    plan.attach(&mut events[2..]);
    assert!(events[2].after.is_none());
}

#[test]
fn ids_that_look_like_operators_are_taken_as_values() {
    let ns = Namespace::new("a.b.c");
    let ids = [
        doc! {"_id": 1},
        doc! {"_id": {"$gt": 1}},
        doc! {"_id": {"a": {"$gt": 1}}},
        doc! {"_id": Bson::RegularExpression(Regex { pattern: "x".try_into().unwrap(), options: "".try_into().unwrap() })},
        doc! {"_id": ObjectId::from_bytes([1; 12])},
    ]
    .map(|d| raw(&d));
    let time = Timestamp { time: 7, increment: 1 };
    let command = command(&ns, ids.iter().map(|id| &**id), ReadConcern::Majority, time);
    let command = Document::try_from(&*command).unwrap();
    assert_eq!(command.get_str("find").unwrap(), "b.c");
    assert_eq!(command.get_i64("batchSize").unwrap(), 6);
    assert_eq!(command.get_document("readConcern").unwrap(), &doc! {"level": "majority", "afterClusterTime": time});
    let or = command.get_document("filter").unwrap().get_array("$or").unwrap();
    assert_eq!(or[0], Bson::from(doc! {"_id": {"$eq": {"$gt": 1}}}));
    assert_eq!(or.len(), 3);
    let plain = doc! {"_id": {"$in": [1, {"a": {"$gt": 1}}, ObjectId::from_bytes([1; 12])]}};
    assert_eq!(or[2], Bson::from(plain));
}

fn place(time: u32) -> Place {
    Place::behind(oplogue_api::oplog::OpTime { ts: Timestamp { time, increment: 1 }, t: 1 })
}

fn bad(before: usize) -> oplogue_api::BadEvent {
    let time = Timestamp { time: 0, increment: 0 };
    oplogue_api::BadEvent::undecodable(before, time, None, Doc::empty(), Error::data("damaged"))
}

/// Entries of one event, a bad one, a transaction of three events with a bad one inside, one that gives nothing.
fn decoded() -> Decoded {
    let mut decoded = Decoded { stops: Some(Vec::new()), ..Decoded::default() };
    decoded.events.push(update("a.x", 1, 1));
    decoded.stop(place(1));
    decoded.bad.push(bad(1));
    decoded.stop(place(2));
    decoded.events.push(update("a.x", 2, 3));
    decoded.bad.push(bad(2));
    decoded.events.push(update("a.x", 3, 3));
    decoded.events.push(update("a.x", 4, 3));
    decoded.stop(place(3));
    decoded.stop(place(4));
    decoded
}

/// The times of the events, `before` of the bad ones, and the time of the place.
fn taken(decoded: &mut Decoded, n: usize) -> (usize, Vec<usize>, Option<u32>) {
    let (events, bad, place) = decoded.take(n);
    (events.len(), bad.iter().map(|b| b.before).collect(), place.map(|p| p.at.ts.time))
}

#[test]
fn a_batch_is_cut_where_reading_may_be_resumed() {
    let mut whole = decoded();
    assert_eq!(taken(&mut whole, 4), (4, vec![1, 2], Some(4)));
    let mut d = decoded();
    assert_eq!(taken(&mut d, 1), (1, vec![1], Some(2)));
    // Inside of a transaction, the place before it stays.
    assert_eq!(taken(&mut d, 1), (1, vec![], None));
    assert_eq!(taken(&mut d, 1), (1, vec![0], None));
    assert_eq!(taken(&mut d, 1), (1, vec![], Some(4)));
    let mut d = decoded();
    assert_eq!(taken(&mut d, 3), (3, vec![1, 2], Some(2)));
    assert_eq!(taken(&mut d, 1), (1, vec![], Some(4)));
    assert!(d.events.is_empty() && d.bad.is_empty());
}
