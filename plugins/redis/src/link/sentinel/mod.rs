//! Who the master is, as the sentinels say. See `docs/decisions/redis-sentinel.md`.

mod verdict;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch as channel},
    task::JoinHandle,
    time::timeout,
};

pub use self::verdict::{Answer, Master, Refusal, Verdict, Vote};
use self::{
    verdict::judge,
    watch::{News, ask_once, watch},
};
use super::{
    address::{Address, Group},
    connect::{self, Role},
    open::Slot,
};

/// How long the server of a connection may take to say that it is still a master. Short, since nothing else is heard meanwhile.
const ROLE: Duration = Duration::from_millis(200);

/// A task that ends with this value.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What the sentinels come to at the moment.
pub type View = Result<Master, Refusal>;

/// Follows the sentinels from the first question on, until it is closed or dropped.
pub struct Resolver {
    group: Arc<Group>,
    slot: Arc<Slot>,
    accepted: Arc<Mutex<Option<Master>>>,
    running: Mutex<Option<Running>>,
}

struct Running {
    view: channel::Receiver<View>,
    rounds: Arc<channel::Sender<u64>>,
    _task: Task,
}

impl Resolver {
    /// `slot` is where the connection is that it may have to drop.
    pub fn new(group: Group, slot: Arc<Slot>) -> Resolver {
        Resolver { group: Arc::new(group), slot, accepted: Arc::default(), running: Mutex::default() }
    }

    pub fn name(&self) -> &str {
        &self.group.name
    }

    /// What the sentinels say, now and later.
    pub fn view(&self) -> channel::Receiver<View> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let running = running.get_or_insert_with(|| {
            let unknown = Refusal::transient(
                format!("the sentinels of {} have not answered yet", self.group.name),
                "check that the sentinels run and can be reached",
            );
            let (told, view) = channel::channel(Err(unknown));
            let rounds = Arc::new(channel::Sender::new(0));
            let following = Following {
                group: Arc::clone(&self.group),
                slot: Arc::clone(&self.slot),
                accepted: Arc::clone(&self.accepted),
                rounds: Arc::clone(&rounds),
                told,
                answers: BTreeMap::new(),
                watchers: BTreeMap::new(),
                degraded: None,
            };
            Running { view, rounds, _task: Task(tokio::spawn(following.run())) }
        });
        running.view.clone()
    }

    /// Asks all sentinels again, now.
    pub fn refresh(&self) {
        if let Some(running) = &*self.running.lock().unwrap_or_else(PoisonError::into_inner) {
            running.rounds.send_modify(|round| *round += 1);
        }
    }

    /// Ends the task. The next [`Resolver::view`] starts one anew, which does not forget what was accepted.
    pub fn close(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Asks every sentinel once: those of the options and those that they know. For checks.
    pub async fn survey(&self) -> (BTreeMap<Address, Answer>, Verdict) {
        let mut answers = BTreeMap::new();
        let mut left: Vec<Address> = self.group.sentinels.clone();
        while let Some(address) = left.pop() {
            let answer = ask_once(&self.group, &address).await;
            if let Answer::Says(_, vote) = &answer {
                left.extend(vote.others.iter().filter(|o| !answers.contains_key(*o)).cloned());
            }
            answers.insert(address, answer);
            left.retain(|a| !answers.contains_key(a));
        }
        let verdict = judge(&self.group.name, &answers, None);
        (answers, verdict)
    }
}

/// The task.
struct Following {
    group: Arc<Group>,
    slot: Arc<Slot>,
    accepted: Arc<Mutex<Option<Master>>>,
    rounds: Arc<channel::Sender<u64>>,
    told: channel::Sender<View>,
    /// By sentinel; with the round that the answer belongs to.
    answers: BTreeMap<Address, (u64, Answer)>,
    watchers: BTreeMap<Address, Task>,
    /// What was logged last about sentinels that cannot say.
    degraded: Option<Refusal>,
}

impl Following {
    async fn run(mut self) {
        let (sender, mut news) = mpsc::channel(64);
        // What was said before a failover was heard of counts for nothing.
        let mut since = 0;
        loop {
            self.watch_all(&sender);
            let Some(event) = news.recv().await else { return };
            match event {
                News::Answer { from, round, answer } => {
                    if self.watchers.contains_key(&from) {
                        self.answers.insert(from, (round, answer));
                    }
                }
                News::Switched(to) => {
                    let is_news = self.accepted().is_none_or(|m| m.address != to);
                    if is_news {
                        tracing::info!(master = self.group.name, %to, "a sentinel says that the master has moved");
                        since = self.suspend(&format!("a sentinel says that {} has moved to {to}", self.group.name));
                    }
                }
                News::FailoverBegun => {
                    since = self.suspend(&format!("the sentinels are about to replace {}", self.group.name));
                }
            }
            self.conclude(since).await;
        }
    }

    fn accepted(&self) -> Option<Master> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops all use of the master, and asks all sentinels anew. Returns the round of those questions.
    fn suspend(&mut self, why: &str) -> u64 {
        // First the view, then the connection: whoever is connecting looks at the view afterwards.
        self.tell(Err(Refusal::transient(why, "a failover takes a few seconds; the route goes on by itself")));
        self.slot.drop_now();
        self.rounds.send_modify(|round| *round += 1);
        *self.rounds.borrow()
    }

    /// One watcher for each sentinel that the options name or another one knows, and none for others.
    fn watch_all(&mut self, news: &mpsc::Sender<News>) {
        let mut known: BTreeSet<Address> = self.group.sentinels.iter().cloned().collect();
        for (_, answer) in self.answers.values() {
            if let Answer::Says(_, vote) = answer {
                known.extend(vote.others.iter().cloned());
            }
        }
        self.watchers.retain(|address, _| known.contains(address));
        self.answers.retain(|address, _| known.contains(address));
        for address in known {
            self.watchers.entry(address.clone()).or_insert_with(|| {
                let watching = watch(Arc::clone(&self.group), address, self.rounds.subscribe(), news.clone());
                Task(tokio::spawn(watching))
            });
        }
    }

    async fn conclude(&mut self, since: u64) {
        let current = |(round, answer): &(u64, Answer)| if *round < since { Answer::Pending } else { answer.clone() };
        let answers = self
            .watchers
            .keys()
            .map(|a| (a.clone(), self.answers.get(a).map_or(Answer::Pending, current)))
            .chain(self.discovered())
            .collect();
        let accepted = self.accepted();
        match judge(&self.group.name, &answers, accepted.as_ref()) {
            Verdict::Accept(master) => self.accept(master, accepted),
            Verdict::Leave(refusal) => {
                self.tell(Err(refusal));
                self.slot.drop_now();
            }
            Verdict::Unsure(refusal) => {
                if let Some(mut open) = self.slot.get() {
                    // Nothing is changed while nobody can say; but a connection to what is no master any more is no use.
                    let role = timeout(ROLE, connect::role(&mut open.connection, &self.group.name)).await;
                    match role {
                        // One that does not answer is for the call that waits for it to judge.
                        Ok(Ok(Role::Master)) | Err(_) => self.degrade(&refusal),
                        Ok(_) => self.slot.drop_this(&open),
                    }
                }
                self.tell(Err(refusal));
            }
        }
    }

    /// Sentinels that an answer names and nobody has asked yet.
    fn discovered(&self) -> Vec<(Address, Answer)> {
        let named = self.answers.values().filter_map(|(_, answer)| match answer {
            Answer::Says(_, vote) => Some(&vote.others),
            _ => None,
        });
        named.flatten().filter(|a| !self.watchers.contains_key(*a)).map(|a| (a.clone(), Answer::Pending)).collect()
    }

    fn accept(&mut self, master: Master, before: Option<Master>) {
        if self.degraded.take().is_some() {
            tracing::info!(master = self.group.name, "the sentinels agree again");
        }
        if before.as_ref().is_some_and(|b| b.address != master.address) {
            let from = before.map(|b| b.address.to_string()).unwrap_or_default();
            tracing::info!(master = self.group.name, from, to = %master.address, epoch = master.epoch, "the master has moved");
        }
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(master.clone());
        let address = master.address.clone();
        self.tell(Ok(master));
        self.slot.drop_unless(&address);
    }

    fn tell(&self, view: View) {
        self.told.send_if_modified(|old| {
            let is_new = *old != view;
            *old = view;
            is_new
        });
    }

    /// Logs, once, that the master cannot be followed at the moment.
    fn degrade(&mut self, refusal: &Refusal) {
        if self.degraded.is_none() && !refusal.what.contains("not answered yet") {
            tracing::warn!(
                master = self.group.name,
                hint = refusal.hint,
                "degraded: {}; going on with the master that is connected",
                refusal.what
            );
            self.degraded = Some(refusal.clone());
        }
    }
}
