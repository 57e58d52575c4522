use std::{future::Future, pin::pin, task::Poll, time::Duration};

use oplogue_api::{Batch, Event, Result, Source, StartAt};
use tokio::time::Instant;

use super::{Idle, SourceHarness, begin, expect_steps, next, open, read_on, record, steps};
use crate::{
    conformance::{
        Tested,
        guard::{must, ok, refused, within, works},
    },
    generate::{Rng, Workload},
};

/// S1: a source gives every change, once, in the order of the deployment.
pub async fn s1_everything_comes_in_order<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (work, reading) = record("S1", h, 80).await;
    expect_steps("S1", h, &reading.events, &work);
    Tested::Holds
}

/// S3: a call of `next` that is dropped loses nothing that the next call does not give, and nothing comes twice.
pub async fn s3_next_is_cancel_safe<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    for seed in 0..3 {
        let work = Workload::new(seed).take(40);
        let (mut source, mut reading) = begin("S3", h, &work).await;
        let wanted = steps(&work).len();
        let mut rng = Rng::new(seed);
        let (mut patience, mut dropped, mut idle) = (1, 0, Idle::new(h));
        while h.is_finite() || reading.count(&h.ns()) < wanted {
            match interrupted(&mut *source, &mut rng, patience).await {
                Some(result) => match ok("S3", "next", result) {
                    Some(batch) => {
                        idle.note("S3", &batch);
                        patience = 1;
                        reading.add(batch);
                    }
                    None => break,
                },
                // A source may need a round trip undisturbed to get on at all: wait longer each time.
                None => {
                    dropped += 1;
                    patience = (patience * 2).min(1 << 14);
                    must!("S3", dropped < 10_000, "the source does not get on behind dropped calls");
                }
            }
        }
        source.close().await;
        expect_steps("S3", h, &reading.events, &work);
    }
    Tested::Holds
}

/// Calls `next` and drops the call after a few polls or after a little while: `None` then.
async fn interrupted(source: &mut dyn Source, rng: &mut Rng, patience: u64) -> Option<Result<Option<Batch>>> {
    if rng.chance(0.5) {
        let mut polls = rng.below(4);
        let mut next = pin!(source.next());
        // Polled a set number of times, so that a call which never really waits is dropped at its own await points.
        std::future::poll_fn(|cx| {
            if polls == 0 {
                return Poll::Ready(None);
            }
            polls -= 1;
            cx.waker().wake_by_ref();
            match next.as_mut().poll(cx) {
                Poll::Ready(out) => Poll::Ready(Some(out)),
                Poll::Pending if polls == 0 => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    } else {
        let wait = Duration::from_micros(100 * (1 + rng.below(8) as u64) * patience);
        tokio::time::timeout(wait.min(Duration::from_secs(20)), source.next()).await.ok()
    }
}

/// S5: an idle source returns from `next` in time, with an empty batch whose `end` never goes back, and whose `head` is
/// not behind it.
pub async fn s5_an_idle_source_beats<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    if h.is_finite() {
        return Tested::Skipped("a finite source is never idle");
    }
    let (mut source, mut reading) = begin("S5", h, &Workload::new(5).take(5)).await;
    read_on("S5", h, &mut *source, &mut reading, 5).await;
    let (mut beats, begun) = (0, Instant::now());
    while beats < 2 {
        // Others may write to the same deployment all the time: that is as good as a heartbeat.
        let what = "next of an idle source";
        let Some(batch) = ok("S5", what, within("S5", what, h.patience(), source.next()).await) else {
            panic!("S5: an idle source ended");
        };
        must!("S5", batch.end.time >= reading.end().time, "`end` went back from one batch to the next");
        must!("S5", batch.head >= batch.end.time, "`head` is behind `end`");
        beats += usize::from(batch.events.is_empty() || begun.elapsed() > h.patience());
        reading.add(batch);
    }
    must!("S5", reading.count(&h.ns()) == 5, "a heartbeat repeated events");
    // And it goes on from a heartbeat.
    let work = Workload::new(6).take(5);
    h.produce(&work).await;
    let end = reading.end().clone();
    source.close().await;
    let start = open("S5", &mut *source, StartAt::Position(&end)).await;
    let mut rest = super::Reading::from(start);
    read_on("S5", h, &mut *source, &mut rest, 5).await;
    source.close().await;
    expect_steps("S5", h, &rest.events, &work);
    Tested::Holds
}

/// Whether two events are the same change told the same way.
pub(super) fn same(a: &Event, b: &Event) -> bool {
    let bytes = |doc: &Option<oplogue_api::Doc>| doc.as_ref().map(|d| d.bytes().clone());
    a.id() == b.id()
        && a.op == b.op
        && a.ns == b.ns
        && bytes(&a.key) == bytes(&b.key)
        && a.to == b.to
        && a.txn.is_some() == b.txn.is_some()
        // An update's `after` may be looked up when it is read, so it is not compared.
        && (a.op == oplogue_api::Op::Update || bytes(&a.after) == bytes(&b.after))
}

/// S10: read again from the same position, a source gives the same events with the same ids.
pub async fn s10_a_second_reading_is_the_same<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let (_, first) = record("S10", h, 40).await;
    let mut source = h.source().await;
    let start = open("S10", &mut *source, StartAt::Position(&first.ends[0].1)).await;
    let mut second = super::Reading::from(start);
    read_on("S10", h, &mut *source, &mut second, first.count(&h.ns())).await;
    source.close().await;
    for (i, (a, b)) in first.events.iter().zip(&second.events).enumerate() {
        must!(
            "S10",
            same(a, b),
            "event {i} differs: {} {} before, {} {} now",
            a.id(),
            a.op.name(),
            b.id(),
            b.op.name()
        );
    }
    Tested::Holds
}

/// S11: when the connection breaks, `next` goes on or fails as `Transient`; opened again at the last `end`, the source
/// loses nothing.
pub async fn s11_a_broken_connection_loses_nothing<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    if h.is_finite() {
        return Tested::Skipped("a finite source has no connection");
    }
    let work = Workload::new(11).take(60);
    let (mut source, mut reading) = begin("S11", h, &work).await;
    let (begun, mut idle) = (Instant::now(), Idle::new(h));
    let mut cuts = 0;
    while reading.count(&h.ns()) < 60 {
        if cuts < 3 && reading.count(&h.ns()) >= cuts * 20 {
            if !h.disrupt().await {
                source.close().await;
                return Tested::Skipped("the harness cannot cut connections");
            }
            cuts += 1;
        }
        let failed = match next("S11", &mut *source).await {
            Ok(Some(batch)) => {
                idle.note("S11", &batch);
                reading.add(batch);
                continue;
            }
            Ok(None) => panic!("S11: the source ended when its connection broke"),
            failed => failed,
        };
        refused("S11", "next on a broken connection", failed, &[oplogue_api::ErrorKind::Transient]);
        let (seen, end) = reading.ends[reading.ends.len() - 1].clone();
        loop {
            let asked = StartAt::Position(&end);
            let interest = oplogue_api::Interest::default();
            match within("S11", "open", crate::conformance::guard::LIMIT, source.open(asked, &interest)).await {
                Ok(_) => break,
                failed => refused("S11", "open after a break", failed, &[oplogue_api::ErrorKind::Transient]),
            };
            must!("S11", begun.elapsed() < Duration::from_secs(120), "the source does not come back");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // An end inside a transaction is the place before it: those events come again.
        let end_time = end.time;
        let keep = reading.events[..seen].iter().rposition(|e| e.time <= end_time).map_or(0, |i| i + 1);
        let inside = reading.events[..seen].last().is_some_and(|e| e.txn.is_some() && e.time > end_time);
        if inside {
            reading.events.truncate(keep);
            reading.ends.push((keep, end));
        }
    }
    source.close().await;
    expect_steps("S11", h, &reading.events, &work);
    Tested::Holds
}

/// S12: a finite source returns `None` at its end and goes on doing so; opened at its end, it gives nothing.
pub async fn s12_a_finite_source_ends<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    if !h.is_finite() {
        return Tested::Skipped("the source is not finite");
    }
    let (mut source, mut reading) = begin("S12", h, &Workload::new(12).take(10)).await;
    read_on("S12", h, &mut *source, &mut reading, 10).await;
    must!("S12", reading.count(&h.ns()) >= 10, "the source ended before its end");
    for _ in 0..2 {
        let again = works("S12", "next behind the end", source.next()).await;
        must!("S12", again.is_none(), "a batch came behind the end");
    }
    let end = reading.end().clone();
    open("S12", &mut *source, StartAt::Position(&end)).await;
    while let Some(batch) = works("S12", "next", source.next()).await {
        must!("S12", batch.events.is_empty() && batch.bad.is_empty(), "events came behind the last position");
    }
    source.close().await;
    Tested::Holds
}

/// S13: `committed` with any position handed out works, changes nothing of what is read, and keeps later ones readable.
pub async fn s13_committed_does_not_disturb<H: SourceHarness + ?Sized>(h: &H) -> Tested {
    let work = Workload::new(13).take(40);
    let (mut source, mut reading) = begin("S13", h, &work).await;
    let mut idle = Idle::new(h);
    while h.is_finite() || reading.count(&h.ns()) < 40 {
        let Some(batch) = ok("S13", "next", next("S13", &mut *source).await) else { break };
        idle.note("S13", &batch);
        reading.add(batch);
        // One behind the reader, as a checkpoint is.
        let (_, upto) = &reading.ends[reading.ends.len() - 2];
        works("S13", "committed", source.committed(upto)).await;
    }
    source.close().await;
    expect_steps("S13", h, &reading.events, &work);
    let (seen, upto) = reading.ends[reading.ends.len() - 2].clone();
    let mut source = h.source().await;
    open("S13", &mut *source, StartAt::Position(&upto)).await;
    if seen < reading.events.len() {
        let mut rest = super::Reading::from(upto);
        let left = reading.events[seen..].iter().filter(|e| super::is_of(e, &h.ns())).count();
        read_on("S13", h, &mut *source, &mut rest, left).await;
        must!("S13", rest.count(&h.ns()) >= left, "events behind a committed position are gone");
    }
    source.close().await;
    Tested::Holds
}
