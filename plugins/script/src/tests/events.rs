use bson::{RawDocumentBuf, rawdoc};
use oplogue_api::{BadEvent, Change, Error, Event, Op, Transform};

use super::{assert_same, batch, doc, event, insert, pass, run, script, update};

fn full_update() -> Event {
    let mut event = update(rawdoc! {"u": {"ssn": "x", "a": 2}});
    event.after = Some(doc(rawdoc! {"_id": 1, "a": 2, "ssn": "x"}));
    event.before = Some(doc(rawdoc! {"_id": 1, "a": 1, "ssn": "y"}));
    event
}

/// Runs the statements on an event `e`.
async fn does(statements: &str, event: Event) -> Result<Option<Event>, String> {
    run(&format!("function transform(e) {{ {statements}; return e; }}"), event).await
}

#[tokio::test]
async fn an_event_goes_on_is_left_out_or_is_refused() {
    assert_same(&does("", full_update()).await.unwrap().unwrap(), &full_update());
    assert!(run("const transform = () => null", full_update()).await.unwrap().is_none());
    for (code, words) in [
        ("function transform(event) { event.ns; }", "transform returned nothing: is a `return event` missing?"),
        ("function transform(event) { return [event]; }", "an array: an event cannot become several"),
        ("async function transform(event) { return event; }", "a promise: it must not be async"),
        ("function transform(event) { return {...event}; }", "another object: change the event"),
        ("function transform(event) { return true; }", "returned a boolean"),
    ] {
        let e = run(code, full_update()).await.unwrap_err();
        assert!(e.contains(words), "{code}: {e}");
    }
}

#[tokio::test]
async fn what_was_taken_out_of_one_document_is_not_left_in_another() {
    // The one that is edited goes on alone, as a replacement.
    let out = does("delete e.after.ssn", full_update()).await.unwrap().unwrap();
    assert_eq!((out.op, out.change.is_none(), out.before.is_none()), (Op::Replace, true, true));
    assert_eq!(*out.after.clone().unwrap(), *rawdoc! {"_id": 1, "a": 2});
    assert!(!out.to_document().as_bytes().windows(3).any(|w| w == b"ssn"));

    let out = does("delete e.update.set.ssn", full_update()).await.unwrap().unwrap();
    assert_eq!((out.op, out.after.is_none(), out.before.is_none()), (Op::Update, true, true));
    let expected = rawdoc! {"updatedFields": {"a": 2}, "removedFields": [], "truncatedArrays": []};
    assert_eq!(out.change, Some(Change::ChangeStream(doc(expected))));

    // What is said to go on does.
    let out =
        does("delete e.after.ssn; e.before = e.before; e.update = e.update", full_update()).await.unwrap().unwrap();
    assert_eq!((out.op, &out.before, &out.change), (Op::Update, &full_update().before, &full_update().change));
    let out = does("for (const d of [e.after, e.before]) delete d.ssn", full_update()).await.unwrap().unwrap();
    assert!(!out.to_document().as_bytes().windows(3).any(|w| w == b"ssn"));
    assert!(out.before.is_some() && out.op == Op::Replace);

    // Loud where nothing is left.
    let replace = Event { op: Op::Replace, change: None, ..full_update() };
    let e = does("delete e.before.ssn", replace).await.unwrap_err();
    assert!(e.contains("leaves an event of the operation replace without `after`"), "{e}");
    // Nothing of what the server sent, either, however small the change.
    let out = does("e.ns = 'app.other'", full_update()).await.unwrap().unwrap();
    assert_eq!(*out.raw, *RawDocumentBuf::new());
    assert_eq!((out.ns.as_str(), out.after, out.before), ("app.other", full_update().after, full_update().before));
}

#[tokio::test]
async fn updates_of_all_forms_are_seen_and_written_in_one() {
    let description = rawdoc! {"updatedFields": {"a.b": 1i64}, "removedFields": ["c"], "truncatedArrays": [{"field": "d", "newSize": 2}]};
    let diff = rawdoc! {"sa": {"u": {"b": 1i64}}, "d": {"c": false}, "sd": {"a": true, "l": 2}};
    let modifiers = rawdoc! {"$v": 1, "$set": {"a.b": 1i64}, "$unset": {"c": true}};
    for change in [Change::ChangeStream(doc(description)), Change::OplogV2(doc(diff)), Change::OplogV1(doc(modifiers))]
    {
        let is_v1 = matches!(change, Change::OplogV1(_));
        let event = Event { change: Some(change), ..event(Op::Update, 0) };
        let check = "if (e.update.set['a.b'] !== 1 || e.update.unset[0] !== 'c') throw new Error('wrong')";
        assert_same(&does(check, event.clone()).await.unwrap().unwrap(), &event);
        let edit = "e.update.set['a.b']++; e.update.unset.push('x.y'); e.update.truncate.z = 5";
        let out = does(&format!("{check}; {edit}"), event).await.unwrap().unwrap();
        let Some(Change::ChangeStream(change)) = out.change else { panic!("another form") };
        let cut = if is_v1 {
            bson::bson!([{"field": "z", "newSize": 5}])
        } else {
            bson::bson!([{"field": "d", "newSize": 2}, {"field": "z", "newSize": 5}])
        };
        let expected =
            bson::doc! {"updatedFields": {"a.b": 2i64}, "removedFields": ["c", "x.y"], "truncatedArrays": cut};
        assert_eq!(bson::Document::try_from(&*change).unwrap(), expected);
    }
}

#[tokio::test]
async fn an_update_that_cannot_be_said_with_paths_is_not_edited() {
    let dotted = || update(rawdoc! {"u": {"a.b": 1, "ssn": 2}});
    assert_same(&does("e.update.set", dotted()).await.unwrap().unwrap(), &dotted());
    let e = does("delete e.update.set.ssn", dotted()).await.unwrap_err();
    assert!(e.contains("a field whose name looks like a path"), "{e}");
    let broken = update(rawdoc! {"x": 1});
    assert_same(&does("", broken.clone()).await.unwrap().unwrap(), &broken);
    assert!(does("e.update", broken).await.unwrap_err().contains("this update cannot be decoded"));
    for wrong in ["{set: 1}", "{unset: [1]}", "{truncate: {a: -1}}", "{other: {}}"] {
        let e = does(&format!("e.update = {wrong}"), dotted()).await.unwrap_err();
        assert!(e.contains("looks like a path") || e.contains("`update` must be {set"), "{wrong}: {e}");
        let e = does(&format!("e.update = {wrong}"), update(rawdoc! {"u": {"a": 1}})).await.unwrap_err();
        assert!(e.contains("`update` must be {set"), "{wrong}: {e}");
    }
}

#[tokio::test]
async fn an_event_stays_one() {
    for (statements, words) in [
        ("e.op = 'drop'", "a script cannot edit"),
        ("e.op = 'remove'", "`op` is set to what is no operation"),
        ("e.op = 5", "`op` is set to what is no text"),
        ("e.ns = 'app'", "`ns` is set to what is no namespace"),
        ("e.ns = 'app.system.views'", "`ns` is set to what is no namespace"),
        ("e.key = {a: 1}", "`key` is set to what is no document with an _id"),
        ("e.key = null", "`key` is set to what is no document with an _id"),
        ("e.after._id = 2", "the _id of `after` is not that of `key`"),
        ("e.key._id = 2", "the _id of `after` is not that of `key`"),
        ("e.after = null; e.update = null", "without `update`"),
        ("e.op = 'insert'; e.after = null", "without `after`"),
        ("e.extra = 1", "TypeError"),
        ("delete e.after", "TypeError"),
        ("e.time = 1", "TypeError"),
        ("e.raw = {}", "TypeError"),
        ("e.to = 'a.b'", "only an event of the operation rename"),
    ] {
        let e = does(statements, full_update()).await.expect_err(statements);
        assert!(e.contains(words), "{statements}: {e}");
    }
    let out = does("e.key._id = 2; e.after._id = 2", full_update()).await.unwrap().unwrap();
    assert_eq!((out.op, out.id()), (Op::Replace, full_update().id()));
    let out = does("e.op = 'delete'", full_update()).await.unwrap().unwrap();
    assert_eq!(
        (out.op, out.after.is_none(), out.change.is_none(), out.before.is_some()),
        (Op::Delete, true, true, true)
    );
    let out = does("e.op = 'replace'", full_update()).await.unwrap().unwrap();
    assert_eq!((out.op, out.after.is_some(), out.change.is_none()), (Op::Replace, true, true));
}

#[tokio::test]
async fn barriers_may_be_left_out_and_not_edited() {
    let drop = Event { key: None, ..event(Op::Drop, 0) };
    assert_same(
        &does("if (e.raw.raw !== 'of the server' || e.key) throw 1", drop.clone()).await.unwrap().unwrap(),
        &drop,
    );
    assert!(run("function transform() { return null; }", drop.clone()).await.unwrap().is_none());
    let e = does("e.ns = 'a.b'", drop).await.unwrap_err();
    assert!(e.contains("a script cannot edit drop events"), "{e}");
    // These are not even shown.
    let gap = Event { key: None, ..event(Op::Gap, 0) };
    assert_same(&run("function transform() { return null; }", gap.clone()).await.unwrap().unwrap(), &gap);
}

#[tokio::test]
async fn bad_events_stay_in_place_and_are_edited_too() {
    let refused = |before, n: u32| {
        let event = Event { after: Some(doc(rawdoc! {"_id": 1, "n": n as i32, "ssn": 1})), ..event(Op::Insert, n) };
        BadEvent::refused(before, event, Error::data("refused before"))
    };
    let numbered = |n: i32| insert(rawdoc! {"_id": 1, "n": n, "ssn": 1});
    let mut batch = batch((0..6).map(numbered).collect());
    batch.bad = vec![refused(0, 10), refused(3, 11), refused(6, 12)];
    let mut script = script(
        "function transform(e) { delete e.after.ssn; const n = e.after.n; if (n === 1 || n === 11) return null; if (n === 4) throw new Error('four'); return e; }",
    );
    script.prepare(&batch).await.unwrap();
    script.apply(&mut batch).unwrap();
    let n = |event: &Event| event.after.as_ref().unwrap().get_i32("n").unwrap();
    assert_eq!(batch.events.iter().map(n).collect::<Vec<_>>(), [0, 2, 3, 5]);
    let bad: Vec<_> = batch.bad.iter().map(|b| (b.before, n(b.event.as_ref().unwrap()))).collect();
    assert_eq!(bad, [(0, 10), (3, 4), (4, 12)]);
    let has_ssn = |event: &Event| event.after.as_ref().unwrap().get("ssn").unwrap().is_some();
    assert!(!batch.events.iter().any(has_ssn) && !has_ssn(batch.bad[0].event.as_ref().unwrap()));
    // A dead letter holds the event as it was given to the script that failed.
    assert!(has_ssn(batch.bad[1].event.as_ref().unwrap()));
}

#[tokio::test]
async fn state_lives_as_long_as_the_engine() {
    let mut script = script("let n = 0; function transform(e) { e.after.n = ++n; return e; }");
    for expected in 1..4 {
        let batch = pass(&mut script, vec![insert(rawdoc! {"_id": 1})]).await;
        assert_eq!(batch.events[0].after.as_ref().unwrap().get_i32("n").unwrap(), expected);
    }
}
