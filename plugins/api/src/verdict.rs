//! For transforms that ask somebody else about events: the answers are got in `prepare` and carried out by `apply`.

use crate::{BadEvent, Batch, Error, Event, Op, Result};

/// What becomes of an event.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on as it is.
    Keep,
    /// It is left out.
    Drop,
    /// Another one goes on in its place.
    Replace(Box<Event>),
    /// It is a bad event.
    Bad(Error),
}

/// The verdicts on the batch that was prepared: one an event, then one for each bad one that is an event. What an earlier transform
/// refused is judged too: what is taken out here shall not be in a dead letter.
#[derive(Debug, Default)]
pub struct Verdicts(Option<Vec<Verdict>>);

impl Verdicts {
    /// The events to ask about. What tells of trouble is not for others to judge (T3).
    pub fn asked(batch: &Batch) -> impl Iterator<Item = &Event> {
        all(batch).filter(|event| !Verdicts::passes(event))
    }

    /// Whether an event is none to ask about: it tells of trouble.
    pub fn passes(event: &Event) -> bool {
        matches!(event.op, Op::Gap | Op::DeadLetter)
    }

    /// Forgets those of an earlier batch.
    pub fn clear(&mut self) {
        self.0 = None;
    }

    /// Takes note of those on the events of [`Verdicts::asked`], in order: one for each, or none counts, and [`Verdicts::apply`] says so.
    pub fn note(&mut self, batch: &Batch, verdicts: Vec<Verdict>) {
        self.clear();
        if verdicts.len() != Verdicts::asked(batch).count() {
            return;
        }
        let mut verdicts = verdicts.into_iter();
        let all = all(batch).map(|event| match Verdicts::passes(event) {
            true => Verdict::Keep,
            // There is one for each.
            false => verdicts.next().unwrap_or(Verdict::Keep),
        });
        self.0 = Some(all.collect());
    }

    /// Carries them out.
    ///
    /// # Errors
    /// `Bug` where another batch was prepared, or not each of its events has a verdict.
    pub fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let prepared = self.0.take();
        let count = all(batch).count();
        if count == 0 {
            return Ok(());
        }
        let Some(mut verdicts) = prepared.filter(|verdicts| verdicts.len() == count) else {
            return Err(Error::bug("a batch was to be transformed without a verdict on each of its events"));
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

fn all(batch: &Batch) -> impl Iterator<Item = &Event> {
    batch.events.iter().chain(batch.bad.iter().filter_map(|bad| bad.event.as_deref()))
}

#[cfg(test)]
mod tests {
    use bson::Timestamp;

    use super::*;
    use crate::{Doc, ErrorKind, Namespace, Position};

    fn batch(ops: &[Op]) -> Batch {
        let time = Timestamp { time: 1, increment: 1 };
        let event = |op: &Op| Event::new(*op, Namespace::new("a.b"), time, Doc::empty());
        let end = Position { token: Doc::empty(), time };
        Batch { events: ops.iter().map(event).collect(), bad: Vec::new(), end, head: time, bytes: 0 }
    }

    #[test]
    fn an_event_without_a_verdict_does_not_pass_in_silence() {
        let drops = |n: usize| std::iter::repeat_with(|| Verdict::Drop).take(n).collect::<Vec<_>>();
        // A gap is not asked about, and stays.
        let mut judged = batch(&[Op::Insert, Op::Gap, Op::Delete]);
        let mut verdicts = Verdicts::default();
        for n in [0, 1, 3] {
            verdicts.note(&judged, drops(n));
            assert_eq!(verdicts.apply(&mut judged).unwrap_err().kind(), ErrorKind::Bug, "{n}");
        }
        verdicts.note(&judged, drops(2));
        verdicts.apply(&mut judged).unwrap();
        assert_eq!(judged.events.iter().map(|event| event.op).collect::<Vec<_>>(), [Op::Gap]);
    }
}
