use std::{future::Future, pin::pin, task::Poll, time::Duration};

use futures_util::future::join_all;
use oplogue_api::{Event, Ordering};

use super::{SinkHarness, changes, delivered, expect_at_least_once, expect_once, opened, upto, write};
use crate::{
    conformance::{
        Tested,
        guard::{must, works},
    },
    generate::Rng,
};

/// K2: the events of a key become durable in the order in which they are given, within a write and from one to the
/// next; with `Ordering::Total`, all events do.
pub async fn k2_order_is_kept<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K2", h).await;
    for size in [1, 5, 1000] {
        let events = changes(h, 7);
        for part in events.chunks(size) {
            write("K2", &*sink, part).await;
        }
        expect_once("K2", h, &*sink, &events).await;
    }
    works("K2", "close", sink.close()).await;
    Tested::Holds
}

/// K5: events may be written again (a lost reply): that is no error. Each write again of a run of events leaves all of it
/// in order once more, or nothing because it is known.
pub async fn k5_writing_again_is_harmless<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K5", h).await;
    let events = changes(h, 4);
    write("K5", &*sink, &events[..16]).await;
    let mut known = 0;
    for _ in 0..2 {
        known += write("K5", &*sink, &events).await.duplicates;
    }
    expect_at_least_once("K5", h, &*sink, &events).await;
    let traced = events.iter().filter(|e| h.seen(e).is_some()).count();
    let written = 16 + 2 * events.len() as u64;
    let got = delivered("K5", h, &events).await.len() as u64;
    let ignored = (events.len() - traced) as u64;
    must!(
        "K5",
        ignored > 0 || got + known == written,
        "of {written} events written, {got} left a trace, but {known} are said to have been known"
    );
    // By a sink that was not there the first time.
    let other = opened("K5", h).await;
    write("K5", &*other, &events).await;
    expect_at_least_once("K5", h, &*other, &events).await;
    for sink in [sink, other] {
        works("K5", "close", sink.close()).await;
    }
    Tested::Holds
}

/// K9: unless the order is total, `write` runs in several lanes at the same time; each keeps its order.
pub async fn k9_lanes_do_not_disturb_each_other<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K9", h).await;
    if sink.ordering() == Ordering::Total {
        works("K9", "close", sink.close()).await;
        return Tested::Skipped("a total order has one lane");
    }
    let lanes: Vec<Vec<Event>> = (0..6).map(|_| changes(h, 5)).collect();
    join_all(lanes.iter().map(async |events| {
        for part in events.chunks(15) {
            write("K9", &*sink, part).await;
        }
    }))
    .await;
    for events in &lanes {
        expect_once("K9", h, &*sink, events).await;
    }
    works("K9", "close", sink.close()).await;
    Tested::Holds
}

/// K11: a `write` that is dropped leaves the sink usable; the events written again, and later ones, come behind what the
/// dropped call may have done.
pub async fn k11_a_dropped_write_does_no_harm<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K11", h).await;
    let mut rng = Rng::new(11);
    let mut all = Vec::new();
    for round in 0..20 {
        let events = changes(h, 3);
        let (first, later) = events.split_at(events.len() / 2);
        let position = upto(&*sink, first);
        if round % 2 == 0 {
            let mut polls = rng.below(4);
            let mut call = pin!(sink.write(first, position.as_ref()));
            std::future::poll_fn(|cx| {
                if polls == 0 {
                    return Poll::Ready(());
                }
                polls -= 1;
                cx.waker().wake_by_ref();
                call.as_mut().poll(cx).map(|_| ())
            })
            .await;
        } else {
            let wait = Duration::from_micros(rng.below(3000) as u64);
            let _ = tokio::time::timeout(wait, sink.write(first, position.as_ref())).await;
        }
        write("K11", &*sink, first).await;
        write("K11", &*sink, later).await;
        expect_at_least_once("K11", h, &*sink, &events).await;
        all.extend(events);
    }
    // What a dropped call did late would be the last of its documents by now.
    expect_at_least_once("K11", h, &*sink, &all).await;
    works("K11", "close", sink.close()).await;
    Tested::Holds
}
