use bson::doc;
use oplogue_api::{ErrorKind, Event, EventId, Ordering, Severity};

use super::{
    SinkHarness, barriers, changes, delivered, expect_at_least_once, expect_once, new_id, opened, try_write, write,
};
use crate::{
    conformance::{
        Tested,
        guard::{LIMIT, must, ok, within, works},
    },
    generate::{Rng, document, ids, stamp},
    sample,
};

/// K1: when `write` returns `Ok`, every event that it does not name as failed is durable.
pub async fn k1_ok_means_durable<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K1", h).await;
    let events = changes(h, 10);
    for end in [1, 2, 20, events.len()] {
        let start =
            if end == events.len() { 20 } else { [0, 1, 2][[1, 2, 20].iter().position(|e| *e == end).unwrap_or(0)] };
        write("K1", &*sink, &events[start..end]).await;
        expect_once("K1", h, &*sink, &events[..end]).await;
    }
    works("K1", "close", sink.close()).await;
    Tested::Holds
}

/// K3: `failed` is ascending and in range, of kind `Transient` or `Data`, and no event is counted twice; `ignored` counts
/// what left no trace.
pub async fn k3_accounts_add_up<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K3", h).await;
    let mut events = changes(h, 4);
    events.splice(10..10, barriers(&h.ns()));
    stamp(&mut events);
    let written = write("K3", &*sink, &events).await;
    let without_trace = events.iter().filter(|e| h.seen(e).is_none()).count() as u64;
    must!("K3", written.ignored == without_trace, "{} ignored, but {without_trace} left no trace", written.ignored);
    must!("K3", written.duplicates == 0, "{} new events were called duplicates", written.duplicates);
    if let Some(bad) = h.undeliverable(&new_id(h)) {
        let mut events = changes(h, 2);
        events.insert(3, bad);
        stamp(&mut events);
        let written = ok("K3", "write with a bad event", try_write("K3", &*sink, &events).await);
        must!("K3", written.failed.iter().any(|f| f.index == 3), "the bad event was not reported");
    }
    works("K3", "close", sink.close()).await;
    Tested::Holds
}

/// K6: a write of nothing is `Ok`, and leaves no trace.
pub async fn k6_an_empty_write_is_fine<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K6", h).await;
    let before = h.delivered().await.len();
    let written = write("K6", &*sink, &[]).await;
    must!("K6", written.duplicates + written.ignored == 0, "a write of nothing counted something");
    must!("K6", h.delivered().await.len() == before, "a write of nothing left a trace");
    works("K6", "close", sink.close()).await;
    Tested::Holds
}

/// K7: barriers of every kind, gaps and dead letters among them, are delivered or ignored, never refused; what comes
/// behind them is delivered.
pub async fn k7_every_operation_is_taken<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K7", h).await;
    for barrier in barriers(&h.ns()) {
        let what = format!("write of {}", barrier.op.name());
        let written = ok("K7", &what, try_write("K7", &*sink, std::slice::from_ref(&barrier)).await);
        must!("K7", written.failed.is_empty(), "{} was refused", barrier.op.name());
        if h.seen(&barrier).is_some() {
            let traces = delivered("K7", h, std::slice::from_ref(&barrier)).await;
            must!("K7", !traces.is_empty(), "{} left no trace", barrier.op.name());
        }
    }
    let events = changes(h, 2);
    write("K7", &*sink, &events).await;
    expect_once("K7", h, &*sink, &events).await;
    works("K7", "close", sink.close()).await;
    Tested::Holds
}

/// K10: `close` loses nothing, may be called twice, and a new sink goes on where the old one was.
pub async fn k10_close_keeps_everything<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let events = changes(h, 3);
    let mut last = None;
    for part in events.chunks(7) {
        let sink = opened("K10", h).await;
        write("K10", &*sink, part).await;
        works("K10", "close", sink.close()).await;
        works("K10", "close, a second time,", sink.close()).await;
        last = Some(sink);
    }
    let Some(sink) = last else { return Tested::Holds };
    expect_once("K10", h, &*sink, &events).await;
    Tested::Holds
}

/// K13: `ping` works and `check` finds nothing wrong where the sink works, and neither leaves a trace.
pub async fn k13_ping_and_check_change_nothing<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let before = h.delivered().await.len();
    let findings = within("K13", "check", LIMIT, h.sink().await.check()).await;
    if let Some(finding) = findings.iter().find(|f| f.severity == Severity::Error) {
        panic!("K13: `check` finds an error in a sink that works: {}", finding.what);
    }
    let sink = opened("K13", h).await;
    works("K13", "ping", sink.ping()).await;
    works("K13", "close", sink.close()).await;
    must!("K13", h.delivered().await.len() == before, "`ping` or `check` left a trace");
    Tested::Holds
}

/// K14: ids of every BSON type, documents of every shape and of a megabyte are delivered, or refused one by one as
/// `Data`: never an error of the whole write, and no harm to others.
pub async fn k14_any_document_is_taken_or_refused<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K14", h).await;
    let mut rng = Rng::new(14);
    let serial = super::IDS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let mut odd: Vec<Event> = Vec::new();
    for id in ids(serial) {
        let mut document = document(&mut rng, 3);
        document.insert("_id", id.clone());
        odd.push(sample::insert(&h.ns(), document));
        odd.push(sample::update(&h.ns(), id.clone(), doc! {"a.b": 1, "$c": {"d": []}, "": null}));
        odd.push(sample::delete(&h.ns(), id));
    }
    odd.push(sample::insert(&h.ns(), doc! {"_id": new_id(h), "large": "x".repeat(1 << 20)}));
    let (behind, mut events) = (odd.len(), odd);
    events.extend(changes(h, 3));
    stamp(&mut events);
    let good: Vec<EventId> = events[behind..].iter().map(Event::id).collect();
    let total = sink.ordering() == Ordering::Total;
    let (mut left, mut taken) = (events.clone(), Vec::new());
    while !left.is_empty() {
        let written = ok("K14", "write", try_write("K14", &*sink, &left).await);
        let failed: Vec<usize> = written.failed.iter().map(|f| f.index).collect();
        let is_good = |event: &Event| good.contains(&event.id());
        let drawn_in = failed.iter().any(|i| is_good(&left[*i]));
        must!("K14", !drawn_in || total, "an ordinary event failed for the sake of others");
        taken.extend((0..left.len()).filter(|i| !failed.contains(i)).map(|i| left[i].clone()));
        // As the engine does: the first that is refused is given up, the rest is written again.
        let Some(first) = written.failed.first() else { break };
        let refused = first.error.kind() == ErrorKind::Data && !is_good(&left[first.index]);
        must!("K14", refused, "an event failed as {}: {}", first.error.kind().name(), first.error);
        left = failed[1..].iter().map(|i| left[*i].clone()).collect();
    }
    // Each of the odd ones is there, or was refused.
    taken.sort_by_key(Event::id);
    expect_at_least_once("K14", h, &*sink, &taken).await;
    works("K14", "close", sink.close()).await;
    Tested::Holds
}
