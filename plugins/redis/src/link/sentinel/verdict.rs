//! What the sentinels' answers come to. No I/O; the rules and their reasons are in `docs/decisions/redis-sentinel.md`.

use std::collections::{BTreeMap, BTreeSet};

use oplogue_api::{Error, ErrorKind};

use crate::link::address::Address;

/// What one sentinel says of the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vote {
    /// Where clients are to go: during a failover the promoted replica, once there is one.
    pub address: Address,
    /// `config-epoch`: one more with each failover.
    pub epoch: u64,
    pub quorum: u64,
    /// It holds `address` for down.
    pub down: bool,
    /// It is about to replace `address`.
    pub failing_over: bool,
    pub replicas: u64,
    /// The sentinels that it knows beside itself.
    pub others: Vec<Address>,
}

/// The latest of one sentinel.
#[derive(Clone, Debug)]
pub enum Answer {
    /// It has been asked.
    Pending,
    /// It cannot be asked.
    Failed(Refusal),
    /// It knows no master of this name. With its own id.
    NoSuchMaster(String),
    /// With its own id: one sentinel may be known by several addresses.
    Says(String, Vote),
}

/// Why there is no master to connect to: an [`Error`] that can be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub kind: ErrorKind,
    pub what: String,
    pub hint: String,
}

impl Refusal {
    pub fn transient(what: impl Into<String>, hint: &str) -> Refusal {
        Refusal { kind: ErrorKind::Transient, what: what.into(), hint: hint.into() }
    }

    pub fn error(&self) -> Error {
        Error::new(self.kind, self.what.clone()).hint(self.hint.clone())
    }
}

impl From<&Error> for Refusal {
    fn from(e: &Error) -> Refusal {
        Refusal { kind: e.kind(), what: e.to_string(), hint: e.get_hint().unwrap_or_default().to_owned() }
    }
}

/// The master that was last accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Master {
    pub address: Address,
    pub epoch: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This is the master.
    Accept(Master),
    /// Nobody can say: no new connection. An open one may be kept.
    Unsure(Refusal),
    /// Whoever was the master is not to be written to.
    Leave(Refusal),
}

/// `name` is that of the master.
pub fn judge(name: &str, answers: &BTreeMap<Address, Answer>, accepted: Option<&Master>) -> Verdict {
    let mut seen = BTreeSet::new();
    let (mut votes, mut strangers, mut pending, mut failed) = (Vec::new(), 0, 0, Vec::new());
    for answer in answers.values() {
        match answer {
            Answer::Pending => pending += 1,
            Answer::Failed(refusal) => failed.push(refusal),
            Answer::NoSuchMaster(id) if seen.insert(id) => strangers += 1,
            Answer::Says(id, vote) if seen.insert(id) => votes.push(vote),
            Answer::NoSuchMaster(_) | Answer::Says(..) => {}
        }
    }
    // Those that have not answered yet count as reachable: fewer votes are never more certain.
    let reachable = votes.len() + strangers + pending;
    let hint = "look after the sentinels; the route goes on by itself";
    if votes.is_empty() && pending > 0 {
        return Verdict::Unsure(Refusal::transient(format!("the sentinels of {name} have not answered yet"), hint));
    }
    if votes.is_empty() && strangers > 0 {
        return Verdict::Unsure(Refusal {
            kind: ErrorKind::Operator,
            what: format!("the sentinels know no master of the name {name}"),
            hint: "write the name behind `sentinel monitor` in sentinel.conf; SENTINEL MASTERS lists them".into(),
        });
    }
    if votes.is_empty() {
        let refused = failed.iter().find(|r| r.kind == ErrorKind::Operator).or(failed.first());
        return Verdict::Unsure(match refused {
            Some(refusal) if refusal.kind == ErrorKind::Operator => (*refusal).clone(),
            Some(refusal) => Refusal::transient(format!("no sentinel of {name} answers: {}", refusal.what), hint),
            None => Refusal::transient(format!("no sentinel of {name} is known"), hint),
        });
    }

    let mut groups: BTreeMap<&Address, Vec<&Vote>> = BTreeMap::new();
    for vote in &votes {
        groups.entry(&vote.address).or_default().push(vote);
    }
    let newest = votes.iter().map(|v| v.epoch).max().unwrap_or(0);
    let Some((address, group)) = groups.iter().max_by_key(|(_, group)| group.len()) else {
        return Verdict::Unsure(Refusal::transient(format!("no sentinel of {name} answers"), hint));
    };
    let quorum = group.iter().map(|v| v.quorum).max().unwrap_or(1) as usize;
    if group.len() * 2 <= reachable || group.len() < quorum {
        return Verdict::Unsure(Refusal::transient(
            format!(
                "no sentinel majority for {name}: {} of {reachable} reachable sentinels name {address}, the quorum is {quorum}",
                group.len()
            ),
            hint,
        ));
    }
    let epoch = group.iter().map(|v| v.epoch).max().unwrap_or(0);
    if epoch < newest {
        // Epochs only rise, by a majority's vote: that one knows of a failover which the others have not heard of yet.
        let refusal = Refusal::transient(
            format!("{name} at {address} has epoch {epoch}, and a sentinel knows of epoch {newest}"),
            hint,
        );
        let is_known = accepted.is_some_and(|a| a.epoch >= newest);
        return if is_known { Verdict::Unsure(refusal) } else { Verdict::Leave(refusal) };
    }
    if let Some(accepted) = accepted.filter(|a| epoch < a.epoch) {
        let what = format!(
            "the sentinels name {address} with epoch {epoch} as {name}, but epoch {} ({}) was accepted before",
            accepted.epoch, accepted.address
        );
        let all = failed.is_empty() && pending == 0 && strangers == 0;
        let refusal = if all {
            Refusal {
                kind: ErrorKind::Operator,
                what,
                hint: "if all sentinels were set up anew, restart oplogue, which then believes them; else find out why they \
                       went back"
                    .into(),
            }
        } else {
            Refusal::transient(what, hint)
        };
        return if all && **address != accepted.address { Verdict::Leave(refusal) } else { Verdict::Unsure(refusal) };
    }
    if votes.iter().any(|v| v.address == **address && v.failing_over) {
        return Verdict::Leave(Refusal::transient(
            format!("the sentinels are about to replace {name} at {address}"),
            "a failover takes a few seconds; the route goes on by itself",
        ));
    }
    let up = group.iter().filter(|v| !v.down).count();
    if up * 2 <= reachable || up < quorum {
        return Verdict::Unsure(Refusal::transient(
            format!("the sentinels hold {name} at {address} for down"),
            "look after that Redis; the sentinels replace it if they can",
        ));
    }
    Verdict::Accept(Master { address: (*address).clone(), epoch })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address::Tcp("r".into(), port)
    }

    fn vote(port: u16, epoch: u64) -> Vote {
        Vote { address: at(port), epoch, quorum: 2, down: false, failing_over: false, replicas: 1, others: vec![] }
    }

    fn says(vote: Vote) -> Answer {
        Answer::Says(String::new(), vote)
    }

    fn dead() -> Answer {
        Answer::Failed(Refusal::transient("refused", ""))
    }

    /// Each sentinel has an id of its own.
    fn judge_all(answers: Vec<Answer>, accepted: Option<Master>) -> Verdict {
        let mut known = BTreeMap::new();
        for (n, answer) in answers.into_iter().enumerate() {
            let answer = match answer {
                Answer::Says(id, vote) if id.is_empty() => Answer::Says(n.to_string(), vote),
                Answer::NoSuchMaster(id) if id.is_empty() => Answer::NoSuchMaster(n.to_string()),
                other => other,
            };
            known.insert(Address::Tcp("s".into(), n as u16), answer);
        }
        judge("m", &known, accepted.as_ref())
    }

    fn master(port: u16, epoch: u64) -> Master {
        Master { address: at(port), epoch }
    }

    fn refusal(verdict: Verdict) -> (bool, ErrorKind, String) {
        match verdict {
            Verdict::Accept(master) => panic!("{master:?}"),
            Verdict::Unsure(r) => (false, r.kind, r.what),
            Verdict::Leave(r) => (true, r.kind, r.what),
        }
    }

    #[test]
    fn a_majority_and_the_quorum_are_needed() {
        let a = || says(vote(1, 0));
        let b = || says(vote(2, 0));
        assert_eq!(judge_all(vec![a(), a(), a()], None), Verdict::Accept(master(1, 0)));
        assert_eq!(judge_all(vec![a(), a(), dead()], None), Verdict::Accept(master(1, 0)));
        assert_eq!(judge_all(vec![a(), a(), Answer::Pending], None), Verdict::Accept(master(1, 0)));
        for answers in [
            vec![a(), dead(), dead()],
            vec![a(), b(), dead()],
            vec![a(), Answer::Pending, Answer::Pending],
            vec![a(), a(), Answer::Pending, Answer::Pending],
            vec![a(), a(), b(), b()],
        ] {
            let (leave, kind, what) = refusal(judge_all(answers, None));
            assert!(!leave && kind == ErrorKind::Transient && what.contains("majority"), "{what}");
        }
        // One sentinel under two addresses is one vote.
        let same = || Answer::Says("x".into(), vote(1, 0));
        refusal(judge_all(vec![same(), same()], None));
    }

    #[test]
    fn a_newer_epoch_is_believed_and_an_older_one_is_not() {
        let old = || says(vote(1, 0));
        let new = || says(vote(2, 1));
        let switched = judge_all(vec![old(), new(), new()], Some(master(1, 0)));
        assert_eq!(switched, Verdict::Accept(master(2, 1)));
        // The first one to know.
        let (leave, _, what) = refusal(judge_all(vec![old(), old(), new()], Some(master(1, 0))));
        assert!(leave && what.contains("epoch 1"), "{what}");
        // It has been followed before: those that have slept change nothing.
        let (leave, _, what) = refusal(judge_all(vec![old(), old(), new()], Some(master(2, 1))));
        assert!(!leave && what.contains("epoch 1"), "{what}");
        // One that has slept is all that is left: the open connection to the right one is kept.
        let (leave, kind, what) = refusal(judge_all(vec![old(), old(), dead()], Some(master(2, 1))));
        assert!(!leave && kind == ErrorKind::Transient && what.contains("epoch 0") && what.contains("epoch 1"));
        // All are known, and all have gone back.
        let (leave, kind, what) = refusal(judge_all(vec![old(), old(), old()], Some(master(2, 1))));
        assert!(leave && kind == ErrorKind::Operator && what.contains("epoch 0") && what.contains("epoch 1"));
        let reset = || says(vote(2, 0));
        let (leave, kind, _) = refusal(judge_all(vec![reset(), reset(), reset()], Some(master(2, 1))));
        assert!(!leave && kind == ErrorKind::Operator);
    }

    #[test]
    fn a_failover_under_way_is_waited_for() {
        let old = || says(vote(1, 0));
        let leader = says(Vote { failing_over: true, ..vote(1, 0) });
        let (leave, kind, _) = refusal(judge_all(vec![old(), old(), leader], Some(master(1, 0))));
        assert!(leave && kind == ErrorKind::Transient);
        let down = || says(Vote { down: true, ..vote(1, 0) });
        let (leave, kind, what) = refusal(judge_all(vec![down(), down(), old()], Some(master(1, 0))));
        assert!(!leave && kind == ErrorKind::Transient && what.contains("down"), "{what}");
        let one_down = judge_all(vec![down(), old(), old()], None);
        assert_eq!(one_down, Verdict::Accept(master(1, 0)));
    }

    #[test]
    fn a_wrong_name_and_a_wrong_password_need_a_person() {
        let none = || Answer::NoSuchMaster(String::new());
        let (_, kind, what) = refusal(judge_all(vec![none(), none(), dead()], None));
        assert!(kind == ErrorKind::Operator && what.contains('m'), "{what}");
        // One of them has lost it.
        let vote_for = || says(vote(1, 0));
        assert_eq!(judge_all(vec![none(), vote_for(), vote_for()], None), Verdict::Accept(master(1, 0)));
        let locked = Answer::Failed(Refusal { kind: ErrorKind::Operator, what: "WRONGPASS".into(), hint: "".into() });
        let (_, kind, _) = refusal(judge_all(vec![dead(), locked], None));
        assert_eq!(kind, ErrorKind::Operator);
        let (_, kind, what) = refusal(judge_all(vec![dead(), dead()], None));
        assert!(kind == ErrorKind::Transient && what.contains("no sentinel"), "{what}");
    }
}
