use std::{
    io::{Read, Write},
    net::TcpStream as StdStream,
    time::Instant,
};

use oplogue_api::{Doc, ErrorKind, Position, bson::Timestamp};

use super::*;
use crate::engine::status::RouteStatus;
use crate::telemetry::metrics::{Outcome, Place, RouteMetrics};

const LOCAL: &str = "127.0.0.1:0";

fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = StdStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The status line's code, the headers in lower case, the body.
fn fetch(address: SocketAddr, path: &str) -> (u16, String, String) {
    let answer = send(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
    (code, head.to_lowercase(), body.to_owned())
}

fn start(routes: &[Arc<RouteStatus>]) -> (HttpThread, Arc<Telemetry>) {
    let telemetry = Arc::new(Telemetry { routes: routes.to_vec(), ..Telemetry::new() });
    (HttpThread::start(LOCAL.parse().unwrap(), Arc::clone(&telemetry)).unwrap(), telemetry)
}

fn running(name: &str) -> Arc<RouteStatus> {
    let route = RouteStatus::new(name, "factory", "meteor");
    let position = Position { token: Doc::empty(), time: Timestamp { time: 100, increment: 2 } };
    route.started(&position);
    route.read(&position, position.time);
    route
}

#[test]
fn readiness_is_that_of_every_route_and_says_why_not() {
    let (a, b) = (running("a"), RouteStatus::new("b", "factory", "cloud"));
    let (http, _) = start(&[Arc::clone(&a), Arc::clone(&b)]);
    let ready = || {
        let (code, head, body) = fetch(http.address(), "/readyz");
        assert!(head.contains("content-type: application/json"), "{head}");
        (code, serde_json::from_str::<serde_json::Value>(&body).unwrap())
    };
    let (code, body) = ready();
    assert_eq!((code, &body["ready"]), (503, &false.into()), "b has not started");
    assert_eq!((&body["routes"][0]["ready"], &body["routes"][1]["state"]), (&true.into(), &"starting".into()));

    b.retrying(Place::Source, &Error::transient("no primary").hint("look at the replica set"));
    let (code, body) = ready();
    assert_eq!(code, 503);
    let expected = serde_json::json!({"kind": "transient", "message": "no primary", "hint": "look at the replica set"});
    assert_eq!(body["routes"][1]["reason"], expected);

    b.recovered(Place::Source);
    let (code, body) = ready();
    assert_eq!((code, &body["ready"]), (200, &true.into()));
    assert_eq!(body["routes"][1].get("reason"), None);

    a.finished();
    assert_eq!(ready().0, 200, "an end in peace is no trouble");
    a.stopped(&Error::operator("no right to read local"));
    assert_eq!(ready().0, 503);
}

#[test]
fn every_page_answers() {
    let (http, telemetry) = start(&[running("a")]);
    let route = RouteMetrics::new(&telemetry.metrics, "a");
    route.count(Outcome::Delivered, 3);

    let (code, head, body) = fetch(http.address(), "/metrics");
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    assert!(body.contains("oplogue_events_total{outcome=\"delivered\",route=\"a\"} 3\n"), "{body}");
    assert!(body.contains("oplogue_lag_seconds{route=\"a\"} 0\n"), "{body}");

    let (code, _, body) = fetch(http.address(), "/api/v1/routes");
    assert_eq!(code, 200);
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    let route = &body["routes"][0];
    assert_eq!((&route["name"], &route["source"], &route["sink"]), (&"a".into(), &"factory".into(), &"meteor".into()));
    assert_eq!((&route["delivered"], &route["lag_seconds"]), (&"100.2".into(), &0.0.into()));

    assert_eq!(fetch(http.address(), "/healthz").2, "ok\n");
    for page in ["/metrics", "/healthz", "/readyz", "/api/v1/routes"] {
        assert!(fetch(http.address(), "/").2.contains(page));
    }
    assert_eq!(fetch(http.address(), "/nothing").0, 404);
    assert!(send(http.address(), "DELETE /api/v1/routes HTTP/1.1\r\nHost: x\r\n\r\n").starts_with("HTTP/1.1 405 "));
}

#[tokio::test(start_paused = true)]
async fn health_is_that_of_the_loop_that_beats() {
    let telemetry = Arc::new(Telemetry::new());
    let health = || async { healthz(State(Arc::clone(&telemetry))).await.0 };
    telemetry.beat();
    assert_eq!(health().await, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(health().await, StatusCode::SERVICE_UNAVAILABLE);
}

#[test]
fn an_address_in_use_is_an_error_that_says_what_to_do() {
    let (http, _) = start(&[]);
    let Err(e) = bind(http.address()) else { panic!("two listeners on one port") };
    assert_eq!(e.kind(), ErrorKind::Operator);
    assert!(e.to_string().contains(&http.address().to_string()), "{e}");
    assert!(e.get_hint().is_some_and(|hint| hint.contains("[http] listen")));
    // And it is free again once the thread has ended.
    let address = http.address();
    http.stop();
    bind(address).unwrap();
}

#[test]
fn a_body_is_never_waited_for() {
    let (http, _) = start(&[]);
    let begun = Instant::now();
    let answer = send(http.address(), "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nbegin");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(begun.elapsed() < DEADLINE, "the body was waited for");
}

#[test]
fn headers_without_end_are_refused() {
    let (http, _) = start(&[]);
    let mut stream = StdStream::connect(http.address()).unwrap();
    let line = format!("X-Filler: {}\r\n", "x".repeat(1 << 16));
    let mut sent = stream.write_all(b"GET / HTTP/1.1\r\n");
    // Refused long before the end: the peer answers and closes, and further writes fail.
    for _ in 0..2000 {
        if sent.is_err() {
            break;
        }
        sent = stream.write_all(line.as_bytes());
    }
    assert!(sent.is_err(), "130 MB of headers were swallowed");
    assert_eq!(fetch(http.address(), "/healthz").0, 200);
}

#[test]
fn clients_that_say_nothing_are_put_out_and_others_are_served() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind(LOCAL)).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = serve_within(listener, Arc::new(Telemetry::new()), stop.clone(), Duration::from_millis(200));
    let thread = std::thread::spawn(move || runtime.block_on(serving));

    // They take every place, and one of them sends its request a byte at a time for ever.
    let mut silent: Vec<StdStream> = (0..MOST_CONNECTIONS + 8).map(|_| StdStream::connect(address).unwrap()).collect();
    let mut slow = silent.remove(0);
    let slow = std::thread::spawn(move || {
        let begun = Instant::now();
        while slow.write_all(b"G").is_ok() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        begun.elapsed()
    });
    assert_eq!(fetch(address, "/healthz").0, 200, "somebody who asks is answered, once the silent are out");
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut rest = Vec::new();
        // Closed or reset, but not left open.
        match stream.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(e) => assert_ne!(e.kind(), io::ErrorKind::WouldBlock, "a silent connection stays open"),
        }
    }
    assert!(slow.join().unwrap() < Duration::from_secs(60), "a slow connection stays open");
    stop.cancel();
    thread.join().unwrap();
}

#[test]
fn it_stops_while_a_client_is_connected() {
    let (http, _) = start(&[]);
    let _silent = StdStream::connect(http.address()).unwrap();
    assert_eq!(fetch(http.address(), "/healthz").0, 200);
    let begun = Instant::now();
    http.stop();
    assert!(begun.elapsed() < DEADLINE, "the silent client was waited for");
}

#[tokio::test]
async fn a_reserved_address_is_taken_and_refuses_connections_until_it_listens() {
    let reserved = reserve(LOCAL.parse().unwrap()).unwrap();
    let address = reserved.socket.local_addr().unwrap();
    assert!(StdStream::connect(address).is_err());
    let _listener = reserved.listen().unwrap();
    assert!(StdStream::connect(address).is_ok());
    assert!(reserve(address).is_err(), "somebody listens there");
}

#[test]
fn the_denylist_has_a_page_only_where_there_is_one() {
    let (http, _) = start(&[]);
    for path in ["/denylist", "/denylist/a"] {
        assert_eq!(fetch(http.address(), path).0, 404);
    }
    assert!(!fetch(http.address(), "/").2.contains("/denylist"));
    let telemetry = Telemetry { denylist: Some(crate::denylist::Denylist::new(&["a<b".into()])), ..Telemetry::new() };
    let http = HttpThread::start(LOCAL.parse().unwrap(), Arc::new(telemetry)).unwrap();
    assert_eq!(fetch(http.address(), "/denylist").2, "[\"a\\u003cb\"]\n");
    assert_eq!(fetch(http.address(), "/denylist/a%3Cb").0, 200);
    assert_eq!(fetch(http.address(), "/healthz").2, "ok\n", "the style is another matter");
    assert!(fetch(http.address(), "/").2.contains("/denylist"));
}
