use std::time::Duration;

use oplogue_api::{ErrorKind, Event, Ordering, Position};
use tokio::time::Instant;

use super::{SinkHarness, changes, expect_at_least_once, expect_once, new_id, opened, try_write, upto, write};
use crate::{
    conformance::{
        Tested,
        guard::{LIMIT, must, ok, refused, within, works},
    },
    generate::stamp,
    sample,
};

/// K4: if an event failed, every later event of the same key in the call is reported as failed too, and did not reach the
/// destination. Earlier events are not drawn in, nor are those of other keys, unless the order is total.
pub async fn k4_behind_a_failed_event_its_key_waits<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let id = new_id(h);
    let Some(bad) = h.undeliverable(&id) else {
        return Tested::Skipped("the harness has no event that the sink refuses");
    };
    let sink = opened("K4", h).await;
    let ns = h.ns();
    let before = sample::insert(&ns, bson::doc! {"_id": &id, "n": 0});
    let behind = [
        sample::update(&ns, id.clone(), bson::doc! {"first": 1}),
        sample::update(&ns, id.clone(), bson::doc! {"second": 2}),
    ];
    let others = changes(h, 2);
    // One of the key in front of the bad one, two behind it, the others between them all.
    let mut events = vec![others[0].clone(), before.clone(), others[1].clone(), bad, others[2].clone()];
    events.push(behind[0].clone());
    events.extend(others[3..].iter().cloned());
    events.push(behind[1].clone());
    stamp(&mut events);
    let written = ok("K4", "write with a bad event", try_write("K4", &*sink, &events).await);
    let failed: Vec<usize> = written.failed.iter().map(|f| f.index).collect();
    let own = [3, 5, events.len() - 1];
    if sink.ordering() == Ordering::Total {
        let all = own.iter().all(|i| failed.contains(i)) && failed.first() == Some(&3);
        must!(
            "K4",
            all,
            "events {failed:?} failed: the bad one (3) and those of its key behind it (5, the last) must be there"
        );
    } else {
        must!("K4", failed == own, "events {failed:?} failed, not the bad one (3) and those of its key behind it");
    }
    must!("K4", written.failed[0].error.kind() == ErrorKind::Data, "the bad event is not of kind data");
    let data = written.failed[1..].iter().find(|f| f.error.kind() == ErrorKind::Data).map(|f| f.index);
    must!("K4", data.is_none(), "event {data:?} is given up for the bad one's sake");
    expect_once("K4", h, &*sink, std::slice::from_ref(&before)).await;
    let done = |i: &usize| events[*i].key != before.key && !failed.contains(i);
    let delivered: Vec<Event> = (0..events.len()).filter(done).map(|i| events[i].clone()).collect();
    expect_once("K4", h, &*sink, &delivered).await;
    // Without the bad event, they go through.
    let again: Vec<Event> = failed[1..].iter().map(|i| events[*i].clone()).collect();
    write("K4", &*sink, &again).await;
    expect_once("K4", h, &*sink, &[before, events[5].clone(), events[events.len() - 1].clone()]).await;
    expect_once("K4", h, &*sink, &others).await;
    works("K4", "close", sink.close()).await;
    Tested::Holds
}

/// K8: while the destination cannot be reached, `write` fails as `Transient` (as a whole, or event by event) and `ping`
/// fails; when it is back, the same sink, opened again, delivers, and nothing is lost or out of order.
pub async fn k8_an_unreachable_destination_is_transient<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K8", h).await;
    let events = changes(h, 6);
    write("K8", &*sink, &events[..10]).await;
    if !h.disrupt().await {
        works("K8", "close", sink.close()).await;
        return Tested::Skipped("the harness cannot make the destination unreachable");
    }
    match try_write("K8", &*sink, &events[10..20]).await {
        Ok(written) => {
            must!("K8", written.failed.len() == 10, "events were accepted by a destination that cannot be reached");
            let other = written.failed.iter().map(|f| f.error.kind()).find(|kind| *kind != ErrorKind::Transient);
            must!("K8", other.is_none(), "an event failed as {other:?} because the destination cannot be reached");
        }
        failed => drop(refused("K8", "write to an unreachable destination", failed, &[ErrorKind::Transient])),
    }
    let ping = within("K8", "ping", LIMIT, sink.ping()).await;
    refused("K8", "ping of an unreachable destination", ping, &[ErrorKind::Transient]);
    h.mend().await;
    let begun = Instant::now();
    let mut left = &events[10..];
    while !left.is_empty() {
        // As the engine does: open, and write again what is not known to be durable.
        let opened = within("K8", "open", LIMIT, sink.open()).await;
        let (part, rest) = left.split_at(left.len().min(10));
        let written = match opened {
            Ok(()) => try_write("K8", &*sink, part).await,
            Err(e) => Err(e),
        };
        match written {
            Ok(written) if written.failed.is_empty() => left = rest,
            Ok(_) => {}
            failed => drop(refused("K8", "a call after the destination came back", failed, &[ErrorKind::Transient])),
        }
        must!("K8", begun.elapsed() < Duration::from_secs(90), "the sink does not come back with its destination");
        if left.len() == events.len() - 10 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    works("K8", "ping", sink.ping()).await;
    expect_at_least_once("K8", h, &*sink, &events).await;
    works("K8", "close", sink.close()).await;
    Tested::Holds
}

/// K12: the store beside the data never holds a position whose events are not durable (I1). A sink that commits `upto`
/// holds it as soon as `write` returns, but not when an event failed.
pub async fn k12_the_position_is_kept_with_the_data<H: SinkHarness + ?Sized>(h: &H) -> Tested {
    let sink = opened("K12", h).await;
    let Some(store) = sink.checkpoints().filter(|_| sink.ordering() == Ordering::Total) else {
        works("K12", "close", sink.close()).await;
        return Tested::Skipped("the sink keeps no checkpoints, or is not given positions");
    };
    let route = h.route();
    let stored = async || works("K12", "load", store.load(&route)).await.map(|c| c.position);
    let mut reached: Option<Position> = None;
    for round in 0..4 {
        let mut events: Vec<Event> = changes(h, 2);
        let bad = h.undeliverable(&new_id(h)).filter(|_| round % 2 == 1);
        let is_bad = bad.is_some();
        events.extend(bad);
        stamp(&mut events);
        let position = upto(&*sink, &events);
        let written = ok("K12", "write", try_write("K12", &*sink, &events).await);
        must!("K12", written.failed.is_empty() != is_bad, "{} events failed", written.failed.len());
        let now = stored().await;
        if is_bad {
            must!("K12", now != position, "the position of a write in which an event failed was committed");
        } else if h.commits() {
            must!("K12", now == position, "`upto` was not committed with the events");
        }
        let ahead = now.as_ref().zip(position.as_ref()).is_some_and(|(now, upto)| now.time > upto.time);
        must!("K12", !ahead, "the stored position is ahead of the events");
        if !is_bad {
            reached = position;
        }
    }
    works("K12", "close", sink.close()).await;
    if h.commits() {
        let other = opened("K12", h).await;
        let Some(store) = other.checkpoints() else { panic!("K12: a new sink keeps no checkpoints") };
        let now = works("K12", "load", store.load(&route)).await.map(|c| c.position);
        must!("K12", now == reached, "a new sink does not find the committed position");
        works("K12", "close", other.close()).await;
    }
    Tested::Holds
}
