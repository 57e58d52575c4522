use std::collections::BTreeSet;

use oplogue_api::{
    BadEvent, Doc, Error, EventId, Failed, Namespace, Position,
    bson::{Timestamp, rawdoc},
};

use super::*;
use crate::telemetry::Telemetry;

fn event(op: Op, ns: &str, increment: u32) -> Event {
    let time = Timestamp { time: now().as_secs() as u32 - 3, increment };
    Event::new(op, Namespace::new(ns), time, rawdoc! {"x": 1}.into())
}

fn batch(events: Vec<Event>) -> Batch {
    let end = Position { token: Doc::empty(), time: Timestamp { time: 1, increment: 1 } };
    Batch { events, bad: Vec::new(), head: end.time, end, bytes: 100 }
}

/// Telemetry in the style, with two routes.
fn setup() -> (Telemetry, [RouteOtr; 2]) {
    let otr = Otr::new();
    let routes = [otr.route(0, 1000), otr.route(1, 1000)];
    let statuses = ["a", "b"].map(|name| RouteStatus::new(name, "s", "k")).to_vec();
    let denylist = Some(Denylist::new(&["admin".into()]));
    (Telemetry { otr: Some(otr), routes: statuses, denylist, ..Telemetry::new() }, routes)
}

fn value(telemetry: &Telemetry, series: &str) -> Option<f64> {
    telemetry.render().lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn entries_are_counted_once_under_the_database_of_their_first_write() {
    let (t, [first, second]) = setup();
    let received =
        |db: &str| value(&t, &format!(r#"otr_oplog_entries_received{{database="{db}",status="processed"}}"#));
    let mut transaction = vec![event(Op::Insert, "x.c", 5), event(Op::Update, "y.c", 5), event(Op::Delete, "x.c", 5)];
    transaction.iter_mut().enumerate().for_each(|(i, e)| e.index = i as u32);
    // An entry of a transaction of several: its own time is another.
    let mut part = event(Op::Insert, "y.c", 5);
    part.entry = Some(EventId { time: Timestamp { time: 9, increment: 9 }, index: 0 });
    let all: Vec<Event> = [event(Op::Insert, "x.c", 1), event(Op::Insert, "x.c", 2), event(Op::Drop, "x.c", 3)]
        .into_iter()
        .chain(transaction)
        .chain([part])
        .collect();
    for route in [&first, &second] {
        route.received(&batch(all.clone()));
    }
    assert_eq!((received("x"), received("y")), (Some(3.0), Some(1.0)), "{}", t.render());
    let bytes = event(Op::Insert, "x.c", 1).raw.as_bytes().len() as f64;
    assert_eq!(value(&t, r#"otr_oplog_entries_received_size{database="x"}"#), Some(5.0 * bytes));
    assert_eq!(value(&t, r#"otr_oplog_entries_by_size_count{database="x",status="processed"}"#), Some(3.0));
    // What comes of a bad entry has a status of its own.
    let mut bad = batch(Vec::new());
    bad.bad.push(BadEvent {
        time: Timestamp { time: 1, increment: 1 },
        ns: Some(Namespace::new("x.c")),
        raw: Doc::empty(),
        event: None,
        by: None,
        error: Error::data("bad"),
        before: 0,
    });
    first.received(&bad);
    assert_eq!(value(&t, r#"otr_oplog_entries_received{database="x",status="error"}"#), Some(1.0));
    // Nanoseconds.
    let staleness = value(&t, r#"otr_oplog_last_received_staleness{ordinal="0"}"#).unwrap();
    assert!((3e9..60e9).contains(&staleness), "{staleness}");
    first.denied(&event(Op::Insert, "z.c", 1));
    assert_eq!(value(&t, r#"otr_oplog_entries_filtered{database="z"}"#), Some(1.0));
}

#[test]
fn what_is_sent_is_counted_for_each_destination() {
    let (t, routes) = setup();
    let processed = |status: &str| value(&t, &format!(r#"otr_redispub_processed_messages{{status="{status}"}}"#));
    assert_eq!((processed("sent"), processed("failed")), (Some(0.0), Some(0.0)), "from the start");
    let events: Vec<Event> = (1..=4).map(|n| event(Op::Insert, "x.c", n)).collect();
    let took = Duration::from_millis(15);
    for route in &routes {
        route.wrote(&events, &Ok(Written { duplicates: 1, ..Written::default() }), took);
    }
    assert_eq!(processed("sent"), Some(8.0), "duplicates are sent");
    assert_eq!(value(&t, r#"otr_redispub_entry_staleness_seconds_count{ordinal="0",status="duplicate"}"#), Some(2.0));
    assert_eq!(value(&t, r#"otr_redispub_entry_staleness_seconds_count{ordinal="0",status="published"}"#), Some(6.0));
    assert_eq!(value(&t, r#"otr_redispub_redis_command_duration_seconds_bucket{ordinal="0",le="0.02"}"#), Some(2.0));

    routes[0].wrote(&events, &Err(Error::transient("away")), took);
    assert_eq!(value(&t, "otr_redispub_temporary_send_failures"), Some(4.0));
    assert_eq!(processed("sent"), Some(8.0));
    let failed = vec![Failed { index: 3, error: Error::transient("refused") }];
    routes[0].wrote(&events, &Ok(Written { failed, ignored: 1, ..Written::default() }), took);
    assert_eq!((processed("sent"), value(&t, "otr_redispub_temporary_send_failures")), (Some(10.0), Some(5.0)));
    routes[0].given_up();
    assert_eq!(processed("failed"), Some(1.0));
    assert_eq!(value(&t, r#"otr_redispub_redis_batch_size_count{ordinal="0",status="failed"}"#), Some(1.0));
    assert_eq!(value(&t, r#"otr_buffer_available{clientIndex="1",ordinal="0"}"#), Some(10_000.0));
    assert_eq!(value(&t, r#"otr_denylist_filter_enabled{db="admin"}"#), Some(1.0));
}

/// Names, types and labels as the documentation has them, which has them from oplogtoredis; and no other.
#[test]
fn the_documentation_names_every_metric_with_its_type_and_labels() {
    let (t, [route, _]) = setup();
    route.received(&batch(vec![event(Op::Insert, "x.c", 1)]));
    route.denied(&event(Op::Insert, "x.c", 1));
    let text = t.render();
    let series = |name: &str| {
        let of = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        text.lines().find(of).map(|line| line.split_once('}').map_or("", |(labels, _)| labels))
    };
    let shown: BTreeSet<(String, String, BTreeSet<String>)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| name.starts_with("otr_"))
        .map(|(name, kind)| {
            let labels = series(name).or_else(|| series(&format!("{name}_count"))).expect("a series");
            let labels = labels.split_once('{').map_or("", |(_, labels)| labels);
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned()));
            (name.to_owned(), kind.to_owned(), labels.collect())
        })
        .collect();
    let documented: BTreeSet<(String, String, BTreeSet<String>)> = include_str!("../../../docs/oplogtoredis.md")
        .lines()
        .filter(|line| line.starts_with("| `otr_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let name = cells[1].trim_matches('`').to_owned();
            let labels = cells[3].split(',').map(|l| l.trim().trim_matches('`').to_owned()).filter(|l| !l.is_empty());
            (name, cells[2].to_owned(), labels.collect())
        })
        .collect();
    assert!(documented.len() > 15);
    assert_eq!(shown, documented);
}

#[test]
fn the_largest_entry_is_that_of_the_minute_before() {
    let mut largest = entries::Largest { minute: 0, now: 7, before: 0 };
    largest.turn(0);
    assert_eq!((largest.now, largest.before), (7, 0));
    largest.turn(1);
    assert_eq!((largest.now, largest.before), (0, 7));
    largest.turn(3);
    assert_eq!((largest.now, largest.before), (0, 0));
}
