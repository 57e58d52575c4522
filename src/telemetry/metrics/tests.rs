use std::collections::BTreeSet;

use oplogue_api::{Doc, Error, Namespace, Op, Position, Progress, bson::Timestamp};

use super::*;

fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

fn events(n: usize) -> Vec<Event> {
    let time = Timestamp { time: 1, increment: 1 };
    (0..n).map(|_| Event::new(Op::Insert, Namespace::new("d.c"), time, Doc::empty())).collect()
}

#[test]
fn counts_reach_the_text_under_their_labels() {
    let metrics = Metrics::new();
    let r = RouteMetrics::new(&metrics, "a->b");
    r.read(7, 4096);
    r.read(3, 100);
    for (i, outcome) in Outcome::ALL.into_iter().enumerate().skip(1) {
        r.count(outcome, i as u64);
        assert_eq!(r.counted(outcome), i as u64);
    }
    r.wrote(&events(5), &Ok(Written::default()), Duration::from_millis(3));
    r.retry(Place::DeadLetter, ErrorKind::PositionLost);
    r.counted_by_sink(&[("conflict", 2), ("refused", 0)]);
    r.counted_by_sink(&[("conflict", 1)]);
    r.restarted();
    r.gap();
    r.checkpoint_saved(true);
    r.checkpoint_saved(true);
    r.checkpoint_saved(false);
    let text = metrics.render(&[]);
    for (series, expected) in [
        (r#"oplogue_events_total{outcome="read",route="a->b"}"#, 10.0),
        (r#"oplogue_events_total{outcome="filtered",route="a->b"}"#, 1.0),
        (r#"oplogue_events_total{outcome="bad",route="a->b"}"#, 7.0),
        (r#"oplogue_bytes_read_total{route="a->b"}"#, 4196.0),
        (r#"oplogue_batch_events_bucket{route="a->b",stage="read",le="5"}"#, 1.0),
        (r#"oplogue_batch_events_sum{route="a->b",stage="write"}"#, 5.0),
        (r#"oplogue_write_seconds_bucket{route="a->b",le="0.0025"}"#, 0.0),
        (r#"oplogue_write_seconds_bucket{route="a->b",le="0.005"}"#, 1.0),
        (r#"oplogue_retries_total{kind="position_lost",place="dead_letter",route="a->b"}"#, 1.0),
        (r#"oplogue_sink_total{route="a->b",what="conflict"}"#, 3.0),
        (r#"oplogue_sink_total{route="a->b",what="refused"}"#, 0.0),
        (r#"oplogue_route_restarts_total{route="a->b"}"#, 1.0),
        (r#"oplogue_gaps_total{route="a->b"}"#, 1.0),
        (r#"oplogue_checkpoint_saves_total{outcome="ok",route="a->b"}"#, 2.0),
        (r#"oplogue_checkpoint_saves_total{outcome="failed",route="a->b"}"#, 1.0),
    ] {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
}

#[test]
fn a_route_has_its_zeros_before_anything_happens() {
    let metrics = Metrics::new();
    let _r = RouteMetrics::new(&metrics, "r");
    let text = metrics.render(&[]);
    for outcome in Outcome::ALL {
        let series = format!(r#"oplogue_events_total{{outcome="{}",route="r"}}"#, outcome.name());
        assert_eq!(value(&text, &series), Some(0.0), "{series}");
    }
    assert_eq!(value(&text, r#"oplogue_gaps_total{route="r"}"#), Some(0.0));
}

#[tokio::test(start_paused = true)]
async fn gauges_show_the_routes_as_they_are_now() {
    let metrics = Metrics::new();
    let (up, down) = (RouteStatus::new("up", "s", "k"), RouteStatus::new("down", "s", "k"));
    let time = |time| Timestamp { time, increment: 1 };
    up.started(&Position { token: Doc::empty(), time: time(100) });
    up.read(&Position { token: Doc::empty(), time: time(130) }, time(142));
    up.checkpointed(time(100));
    up.measure_in_flight(|| 99);
    up.watch_progress(|| Some(Progress { documents: 7, documents_estimated: 20, ..Progress::default() }));
    down.stopped(&Error::operator("no"));
    let routes = [up, down];
    let text = metrics.render(&routes);
    assert_eq!(value(&text, r#"oplogue_route_up{route="up"}"#), Some(1.0));
    assert_eq!(value(&text, r#"oplogue_route_up{route="down"}"#), Some(0.0));
    assert_eq!(value(&text, r#"oplogue_lag_seconds{route="up"}"#), Some(42.0));
    assert_eq!(value(&text, r#"oplogue_lag_seconds{route="down"}"#), None, "not known is not zero");
    assert_eq!(value(&text, r#"oplogue_checkpoint_position_seconds{route="up"}"#), Some(100.0));
    assert_eq!(value(&text, r#"oplogue_in_flight_bytes{route="up"}"#), Some(99.0));
    assert_eq!(value(&text, r#"oplogue_route_copy_documents{route="up"}"#), Some(20.0));
    assert_eq!(value(&text, r#"oplogue_route_copied_documents{route="up"}"#), Some(7.0));
    assert_eq!(value(&text, r#"oplogue_route_copied_documents{route="down"}"#), None, "it has none to make");
    let build = format!(r#"oplogue_build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));
    assert_eq!(value(&text, &build), Some(1.0));
    tokio::time::advance(Duration::from_secs(8)).await;
    assert_eq!(value(&metrics.render(&routes), r#"oplogue_lag_seconds{route="up"}"#), Some(50.0));
}

#[test]
fn a_route_name_may_hold_anything() {
    let metrics = Metrics::new();
    let _r = RouteMetrics::new(&metrics, "a\"b\\c\nd");
    let text = metrics.render(&[RouteStatus::new("a\"b\\c\nd", "s", "k")]);
    assert_eq!(value(&text, r#"oplogue_route_up{route="a\"b\\c\nd"}"#), Some(0.0), "{text}");
}

/// Names and units are an interface: one that changes, or that nobody described, is noticed here.
#[test]
fn the_documentation_names_every_metric_and_no_other() {
    let metrics = Metrics::new();
    let r = RouteMetrics::new(&metrics, "r");
    r.retry(Place::Source, ErrorKind::Transient);
    r.counted_by_sink(&[("conflict", 0)]);
    let status = RouteStatus::new("r", "s", "k");
    let position = Position { token: Doc::empty(), time: Timestamp { time: 1, increment: 1 } };
    status.started(&position);
    status.read(&position, position.time);
    status.checkpointed(position.time);
    status.watch_progress(|| Some(Progress::default()));
    let text = metrics.render(&[status]);
    let shown: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented: BTreeSet<&str> = include_str!("../../../docs/metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split(['`', '{']).next())
        .filter(|name| name.starts_with("oplogue_") || name.starts_with("process_"))
        .collect();
    assert_eq!(shown, documented);
}
