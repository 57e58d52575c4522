use oplogue_api::{Doc, Namespace, Progress};
use tokio::time::advance;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn at(time: u32) -> Timestamp {
    Timestamp { time, increment: 1 }
}

fn position(time: u32) -> Position {
    Position { token: Doc::empty(), time: at(time) }
}

fn route() -> Arc<RouteStatus> {
    RouteStatus::new("r", "from", "to")
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_before_the_first_read() {
    let r = route();
    assert_eq!(r.lag(), None);
    r.started(&position(100));
    assert_eq!(r.lag(), None);
    assert_eq!(r.checkpoint_age(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn an_idle_source_has_no_lag_however_old_its_newest_entry_is() {
    let r = route();
    r.started(&position(100));
    for _ in 0..1000 {
        r.read(&position(100), at(100));
        r.delivered(at(100));
        assert_eq!(r.lag(), Some(Duration::ZERO));
        advance(SECOND).await;
        assert_eq!(r.lag(), Some(Duration::ZERO));
    }
    // A write after that long silence was not on its way for 1000 seconds.
    r.read(&position(1100), at(1100));
    assert_eq!(r.lag(), Some(SECOND));
    r.delivered(at(1100));
    assert_eq!(r.lag(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn lag_grows_while_the_source_does_not_answer() {
    let r = route();
    r.started(&position(100));
    r.read(&position(100), at(100));
    r.delivered(at(100));
    advance(15 * SECOND).await;
    assert_eq!(r.lag(), Some(Duration::ZERO));
    advance(SECOND).await;
    assert_eq!(r.lag(), Some(16 * SECOND));
    advance(44 * SECOND).await;
    assert_eq!(r.lag(), Some(60 * SECOND));
    r.read(&position(160), at(160));
    assert_eq!(r.lag(), Some(60 * SECOND));
    r.delivered(at(160));
    assert_eq!(r.lag(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn lag_grows_while_the_sink_does_not_accept() {
    let r = route();
    r.started(&position(100));
    r.read(&position(110), at(110));
    assert_eq!(r.lag(), Some(10 * SECOND));
    advance(5 * SECOND).await;
    // The source still answers, and has nothing new.
    r.read(&position(115), at(115));
    assert_eq!(r.lag(), Some(15 * SECOND));
    r.delivered(at(110));
    assert_eq!(r.lag(), Some(5 * SECOND));
    r.delivered(at(115));
    assert_eq!(r.lag(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_backlog_counts_from_what_is_delivered_even_if_nothing_read_is_pending() {
    let r = route();
    r.started(&position(100));
    r.read(&position(150), at(1000));
    r.delivered(at(150));
    assert_eq!(r.lag(), Some(850 * SECOND));
    r.read(&position(1000), at(1000));
    r.delivered(at(999));
    assert_eq!(r.lag(), Some(SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_server_clock_that_goes_back_makes_no_negative_lag() {
    let r = route();
    r.started(&position(500));
    r.read(&position(500), at(400));
    assert_eq!(r.lag(), Some(Duration::ZERO));
    r.read(&position(399), at(400));
    assert_eq!(r.lag(), Some(Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_back_to_where_it_reads_from() {
    let r = route();
    r.started(&position(100));
    r.read(&position(300), at(300));
    r.delivered(at(300));
    r.started(&position(200));
    assert_eq!(r.snapshot().delivered, Some(ClusterTime(at(200))));
    advance(50 * SECOND).await;
    r.read(&position(210), at(350));
    r.delivered(at(210));
    // It was level with the server when it stopped, 50 seconds ago; but it repeats what it has no checkpoint for.
    assert_eq!(r.lag(), Some(50 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn checkpoint_age_is_the_wait_of_the_oldest_progress_that_is_not_saved() {
    let r = route();
    r.started(&position(100));
    r.delivered(at(100));
    advance(3600 * SECOND).await;
    assert_eq!(r.checkpoint_age(), Duration::ZERO, "nothing to save on an idle route");
    r.delivered(at(101));
    advance(SECOND).await;
    r.delivered(at(102));
    advance(SECOND).await;
    assert_eq!(r.checkpoint_age(), 2 * SECOND);
    r.checkpointed(at(101));
    advance(SECOND).await;
    assert_eq!(r.checkpoint_age(), SECOND);
    r.checkpointed(at(102));
    advance(3600 * SECOND).await;
    assert_eq!(r.checkpoint_age(), Duration::ZERO);
    assert_eq!(r.checkpoint(), Some(at(102)));
    assert_eq!(r.snapshot().checkpoint_saved_seconds_ago, Some(3600.0));
}

#[tokio::test(start_paused = true)]
async fn states_keep_their_reason_and_their_beginning() {
    let r = route();
    assert_eq!(r.state(), RouteState::Starting);
    advance(SECOND).await;
    r.retrying(Place::Source, &Error::transient("no answer").hint("start it"));
    advance(SECOND).await;
    r.retrying(Place::Source, &Error::transient("refused"));
    advance(SECOND).await;
    let view = r.snapshot();
    assert_eq!((view.state, view.state_seconds), (RouteState::Retrying, 2.0));
    assert_eq!(view.reason.map(|r| r.message).as_deref(), Some("refused"));
    assert!(!r.state().is_up());
    r.recovered(Place::Source);
    assert!(r.state().is_up());
    assert_eq!(r.snapshot().reason, None);
    r.stopped(&Error::position_lost("gone").hint("reset it"));
    let json = serde_json::to_value(r.snapshot()).unwrap();
    assert_eq!(json["state"], "stopped");
    assert_eq!(json["reason"], serde_json::json!({"kind": "position_lost", "message": "gone", "hint": "reset it"}));
    assert!(!r.state().is_up());
    r.finished();
    assert!(r.state().is_up());
}

#[tokio::test(start_paused = true)]
async fn the_view_shows_times_as_event_ids_do_and_leaves_out_what_is_not_known() {
    let r = route();
    let json = serde_json::to_value(r.snapshot()).unwrap();
    assert_eq!(json.get("lag_seconds"), None);
    assert_eq!(json.get("delivered"), None);
    r.read(&position(7), Timestamp { time: 9, increment: 4 });
    r.measure_in_flight(|| 12);
    let json = serde_json::to_value(r.snapshot()).unwrap();
    assert_eq!((json["read"].as_str(), json["server_time"].as_str()), (Some("7.1"), Some("9.4")));
    assert_eq!(json["in_flight_bytes"], 12);
    assert_eq!(json.get("initial"), None);
    r.watch_progress(|| Some(Progress { documents: 3, namespace: Some(Namespace::new("a.b")), ..Progress::default() }));
    let json = serde_json::to_value(r.snapshot()).unwrap();
    assert_eq!((json["initial"]["documents"].as_u64(), json["initial"]["namespace"].as_str()), (Some(3), Some("a.b")));
    assert_eq!(
        (json["name"].as_str(), json["source"].as_str(), json["sink"].as_str()),
        (Some("r"), Some("from"), Some("to"))
    );
}

#[tokio::test(start_paused = true)]
async fn one_end_that_recovers_does_not_hide_the_other() {
    let r = route();
    let reason = || r.snapshot().reason.map(|r| r.message);
    r.started(&position(1));
    r.retrying(Place::Sink, &Error::transient("no redis"));
    r.retrying(Place::Source, &Error::transient("no primary"));
    r.recovered(Place::Source);
    assert_eq!((r.state(), reason().as_deref()), (RouteState::Retrying, Some("no redis")));
    r.recovered(Place::Sink);
    assert_eq!((r.state(), reason()), (RouteState::Running, None));

    // A lane that still ends its work when the route has stopped does not bring it back to life.
    r.retrying(Place::Sink, &Error::transient("no redis"));
    r.stopped(&Error::operator("no right"));
    r.recovered(Place::Sink);
    assert_eq!((r.state(), reason().as_deref()), (RouteState::Stopped, Some("no right")));
    r.restarting(&Error::bug("oops"));
    r.recovered(Place::Source);
    assert_eq!(r.state(), RouteState::Retrying);
    r.started(&position(1));
    assert_eq!((r.state(), reason()), (RouteState::Running, None));
}

#[tokio::test(start_paused = true)]
async fn health_tells_the_ends_apart() {
    let r = route();
    let health = || (r.health().source, r.health().sink);
    assert_eq!(health(), (true, true), "nothing speaks against it yet");
    r.retrying(Place::Source, &Error::transient("no primary"));
    assert_eq!(health(), (false, true));
    r.retrying(Place::Checkpoint, &Error::transient("no redis"));
    assert_eq!(health(), (false, false));
    assert!(!r.has_begun());
    r.started(&position(1));
    assert!(r.has_begun());
    assert_eq!(health(), (true, true));

    // A call that hangs is seen while it does.
    let reading = r.calling(Place::Source);
    let writing = r.calling(Place::Sink);
    advance(super::health::HANGING).await;
    assert_eq!(health(), (true, true));
    drop(writing);
    advance(SECOND).await;
    assert_eq!(health(), (false, true));
    drop(reading);
    assert_eq!(health(), (true, true));

    // The end of a run is the fault of the end that failed, or of nobody in particular.
    r.blame(Place::Sink);
    r.stopped(&Error::operator("no right"));
    assert_eq!(health(), (true, false));
    r.started(&position(1));
    r.blame(Place::Source);
    r.restarting(&Error::position_lost("gone"));
    assert_eq!(health(), (false, true));
    r.started(&position(1));
    r.stopped(&Error::bug("oops"));
    assert_eq!(health(), (false, false));
    r.finished();
    assert_eq!(health(), (true, true));
}
