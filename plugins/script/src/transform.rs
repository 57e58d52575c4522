//! The transform: the script is asked in `prepare`, and its verdicts are carried out by `apply`.

use std::sync::Arc;

use oplogue_api::{Batch, Error, Event, Result, Transform, Verdict, Verdicts, async_trait};

use crate::{
    message::Words,
    options::Script,
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
    prepared: Verdicts,
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
        Ok(Scripted { script, words, worker, stuck: 0, prepared: Verdicts::default() })
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

#[async_trait]
impl Transform for Scripted {
    async fn prepare(&mut self, batch: &Batch) -> Result<()> {
        self.prepared.clear();
        let verdicts = self.judge(Verdicts::asked(batch).cloned().collect()).await?;
        self.prepared.note(batch, verdicts);
        Ok(())
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        self.prepared.apply(batch)
    }
}
