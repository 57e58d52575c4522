//! The transform: the script is asked in `prepare`, and its verdicts are carried out by `apply`.

use std::sync::Arc;

use oplogue_api::{BadEvent, Batch, Error, Event, Op, Result, Transform, async_trait};

use crate::{
    message::Words,
    options::Script,
    verdict::Verdict,
    worker::{Answer, Worker, too_long},
};

/// How many engines that do not come back a route may leave behind.
const MOST_STUCK: u32 = 3;

pub struct Scripted {
    script: Arc<Script>,
    words: Arc<Words>,
    worker: Option<Worker>,
    /// How many were left behind.
    stuck: u32,
    /// The verdicts on the batch that was prepared: one an event, then one for each bad one that is an event.
    prepared: Option<Vec<Verdict>>,
}

impl Scripted {
    /// Loads the script.
    ///
    /// # Errors
    /// `Operator`, when it is no good.
    pub fn new(script: Script) -> Result<Scripted> {
        let words = Arc::new(Words::new(&script.source, script.log));
        let script = Arc::new(script);
        let worker = Some(Worker::start(&script, &words)?);
        Ok(Scripted { script, words, worker, stuck: 0, prepared: None })
    }

    /// The verdicts on these events.
    async fn judge(&mut self, events: Vec<Event>) -> Result<Vec<Verdict>> {
        let events = Arc::new(events);
        let mut verdicts = Vec::with_capacity(events.len());
        while verdicts.len() < events.len() {
            let worker = match &self.worker {
                Some(worker) => worker,
                None => self.worker.insert(Worker::start(&self.script, &self.words)?),
            };
            match worker.ask(&events, verdicts.len()).await {
                Ok(Answer::All(rest)) if rest.len() == events.len() - verdicts.len() => verdicts.extend(rest),
                Ok(Answer::All(_)) => return Err(Error::bug("a script was not asked about every event")),
                Ok(Answer::Stuck(some)) => {
                    verdicts.extend(some);
                    self.worker = None;
                    self.stuck += 1;
                    tracing::warn!(
                        transform = self.script.name,
                        left_behind = self.stuck,
                        "a script is in a function of the engine that does not end; its thread is left behind"
                    );
                    if self.stuck > MOST_STUCK {
                        return Err(Error::operator(format!(
                            "{}: it got into functions of the engine that do not end, {} times",
                            self.script.title, self.stuck
                        ))
                        .hint("mend the script, and restart oplogue to be rid of what it left running"));
                    }
                    verdicts.push(Verdict::Bad(too_long(&self.script)));
                }
                Err(e) => {
                    self.worker = None;
                    return Err(e);
                }
            }
        }
        Ok(verdicts)
    }
}

/// All events of the batch; those that an earlier transform refused, too: what the script takes out shall not be in a dead letter.
fn all(batch: &Batch) -> impl Iterator<Item = &Event> {
    batch.events.iter().chain(batch.bad.iter().filter_map(|bad| bad.event.as_deref()))
}

/// What tells of trouble is not for a script to judge (T3).
fn passes(event: &Event) -> bool {
    matches!(event.op, Op::Gap | Op::DeadLetter)
}

#[async_trait]
impl Transform for Scripted {
    async fn prepare(&mut self, batch: &Batch) -> Result<()> {
        self.prepared = None;
        let asked: Vec<Event> = all(batch).filter(|event| !passes(event)).cloned().collect();
        let mut verdicts = self.judge(asked).await?.into_iter();
        let all = all(batch).map(|event| match passes(event) {
            true => Verdict::Keep,
            // There is one for each.
            false => verdicts.next().unwrap_or(Verdict::Keep),
        });
        self.prepared = Some(all.collect());
        Ok(())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let prepared = self.prepared.take();
        let count = all(batch).count();
        if count == 0 {
            return Ok(());
        }
        let Some(mut verdicts) = prepared.filter(|verdicts| verdicts.len() == count) else {
            return Err(Error::bug("a batch was to be transformed that the script had not been asked about"));
        };
        if verdicts.iter().all(|verdict| matches!(verdict, Verdict::Keep)) {
            return Ok(());
        }
        let mut of_bad = verdicts.split_off(batch.events.len()).into_iter();
        batch.bad.retain_mut(|bad| {
            let Some(event) = &mut bad.event else { return true };
            match of_bad.next() {
                Some(Verdict::Replace(new)) => *event = new,
                Some(Verdict::Drop) => return false,
                Some(Verdict::Keep | Verdict::Bad(_)) | None => {}
            }
            true
        });
        let mut old = std::mem::take(&mut batch.bad).into_iter().peekable();
        let mut kept = Vec::with_capacity(batch.events.len());
        for (i, (event, verdict)) in std::mem::take(&mut batch.events).into_iter().zip(verdicts).enumerate() {
            while let Some(bad) = old.next_if(|bad| bad.before <= i) {
                batch.bad.push(BadEvent { before: kept.len(), ..bad });
            }
            match verdict {
                Verdict::Keep => kept.push(event),
                Verdict::Drop => {}
                Verdict::Replace(new) => kept.push(*new),
                Verdict::Bad(error) => batch.bad.push(BadEvent::refused(kept.len(), event, error)),
            }
        }
        batch.bad.extend(old.map(|bad| BadEvent { before: kept.len(), ..bad }));
        batch.events = kept;
        Ok(())
    }
}
