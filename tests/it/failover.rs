//! Redis masters that are replaced by Sentinel, under load. What is missing is counted at the new master. Its own subscribers
//! are thrown out when it becomes one, so each Redis has an observer: a replica of its own, which is never promoted. Subscribers of that
//! hear all that its Redis heard from the old master before the switch and published itself after it, and nothing else.
//! Sometimes Sentinel replaces a new master at once, by a Redis that has just copied its keys and has heard nothing of what was
//! published meanwhile: what the observers of all new masters have heard counts, as their subscribers have heard it.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use oplogue_testkit::{
    proxy::Proxy,
    servers::{self, Redis, RedisOptions, Sentinels, SentinelsOptions},
    unique, wait_for,
};

use crate::{
    process::Oplogue,
    subscriber::Subscriber,
    support::to_redis,
    writer::{Writer, Written, numbers},
};

/// A group, a route that publishes to it under load, and a subscriber of each Redis' observer.
struct Load {
    group: Sentinels,
    oplogue: Oplogue,
    writer: Writer,
    channel: String,
    observers: Vec<Redis>,
    subscribers: Vec<Subscriber>,
    /// How many changes had been acknowledged when the load flowed.
    from: usize,
}

impl Load {
    async fn start(options: SentinelsOptions) -> Load {
        let group = Sentinels::start(options).await;
        let url = url(&group.url());
        Load::to(group, &url).await
    }

    /// To the group by this URL.
    async fn to(group: Sentinels, url: &str) -> Load {
        let mongo = servers::mongo().await;
        let db = unique("failover");
        let channel = format!("{db}.c");
        let oplogue = to_redis("mongo-oplog", &mongo.uri(), url, &db, "");
        let writer = Writer::start(mongo.client().await, &db).await;
        let mut load = Load { group, oplogue, writer, channel, observers: vec![], subscribers: vec![], from: 0 };
        load.observe().await;
        load.oplogue.start();
        load.from = load.writer.acknowledged();
        load.flows(0).await;
        load
    }

    /// Gives each Redis an observer, and waits until they hear what the master publishes. Sentinel takes along those of a master
    /// that it replaces.
    async fn observe(&mut self) {
        self.group.settle().await;
        self.observers.clear();
        self.subscribers.clear();
        for n in 0..3 {
            let replica_of = Some(self.group.redis(n).port());
            let lines = vec!["replica-priority 0".to_owned()];
            let observer = Redis::start(RedisOptions { replica_of, lines, ..Default::default() }).await;
            self.subscribers.push(Subscriber::start(&observer.url(), &self.channel).await);
            self.observers.push(observer);
        }
        wait_for("the observers to be in step", || async {
            for observer in &self.observers {
                let info: String = observer.ask(redis::cmd("INFO").arg("replication")).await.unwrap_or_default();
                if !info.contains("master_link_status:up") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// Waits until a subscriber has heard something new.
    async fn flows(&self, n: usize) {
        let heard = self.subscribers[n].count();
        wait_for(format!("messages at Redis {n}\n{}", self.oplogue.log()), || async {
            self.subscribers[n].count() > heard
        })
        .await;
    }

    /// Waits until the Redis has run a script of oplogue's, which only a master is asked to.
    async fn published_at(&self, n: usize) {
        let before = scripts(self.group.redis(n)).await;
        wait_for(format!("a publication at Redis {n}"), || async { scripts(self.group.redis(n)).await > before }).await;
    }

    /// Waits until a sentinel has begun to replace the master.
    async fn failover_begun(&self) {
        wait_for("a failover", || async {
            for n in 0..3 {
                let fields = self.group.master_fields(n).await.unwrap_or_default();
                if fields.iter().any(|(name, value)| name == "flags" && value.contains("failover_in_progress")) {
                    return true;
                }
            }
            false
        })
        .await;
    }

    async fn demoted(&self, n: usize) {
        wait_for(format!("Redis {n} to be demoted"), || async { role(self.group.redis(n)).await == "slave" }).await;
    }

    /// Waits until everything that was acknowledged has been heard at Redis `n`.
    async fn finish(mut self, n: usize) -> Vec<(i64, u64)> {
        let written = self.writer.finish().await;
        let subscriber = &self.subscribers[n];
        let expected: HashSet<_> = written.acknowledged[self.from..].iter().copied().collect();
        // The last one heard ends the waiting, and counting begins.
        let last = *written.acknowledged.last().expect("a write");
        self.oplogue.wait("caught up", |_| {
            subscriber.messages().last().is_some_and(|m| numbers(std::slice::from_ref(m)).contains(&last))
        });
        let heard = heard_at(&self.subscribers, &[masters(&self.oplogue, &self.group), vec![n]].concat());
        let missing: Vec<_> = expected.difference(&heard).collect();
        assert!(missing.is_empty(), "{} of {} missing: {missing:?}", missing.len(), expected.len());
        assert!(self.oplogue.terminate().success());
        numbers(&self.subscribers[n].messages())
    }
}

/// The masters that oplogue has gone over to, in this order.
fn masters(oplogue: &Oplogue, group: &Sentinels) -> Vec<usize> {
    let log = oplogue.log();
    let moves = log.lines().filter(|line| line.contains("the master has moved master="));
    let to = moves.map(|line| line.split(" to=").nth(1).and_then(|to| to.split(' ').next()).expect("to=host:port"));
    to.map(|to| (0..3).find(|n| group.redis(*n).addr() == to).expect("one of the group")).collect()
}

/// What subscribers of these have heard.
fn heard_at(subscribers: &[Subscriber], of: &[usize]) -> HashSet<(i64, u64)> {
    of.iter().flat_map(|n| numbers(&subscribers[*n].messages())).collect()
}

/// With the user that [`options`] makes.
fn url(sentinels: &str) -> String {
    sentinels.replace("://", "://app:pw@")
}

fn options() -> SentinelsOptions {
    // What is published while an observer comes back after a switch must not be more than it can get afterwards.
    let lines = vec!["repl-backlog-size 64mb".into()];
    SentinelsOptions { users: vec!["app on >pw ~* &* +@all".into()], lines, ..Default::default() }
}

/// How many scripts a Redis was asked to run since it started.
async fn scripts(redis: &Redis) -> u64 {
    let stats: String = redis.ask(redis::cmd("INFO").arg("commandstats")).await.unwrap_or_default();
    let calls = |name: &str| {
        let line = stats.lines().find_map(|l| l.strip_prefix(&format!("cmdstat_{name}:calls=")))?;
        line.split(',').next()?.parse::<u64>().ok()
    };
    ["eval", "evalsha", "fcall"].iter().filter_map(|name| calls(name)).sum()
}

async fn role(redis: &Redis) -> String {
    let role: redis::RedisResult<Vec<redis::Value>> = redis.ask(&redis::cmd("ROLE")).await;
    role.ok().and_then(|role| redis::from_redis_value(role.into_iter().next()?).ok()).unwrap_or_default()
}

/// Whether oplogue is connected to a Redis.
async fn is_connected(redis: &Redis) -> bool {
    let clients: String = redis.ask(redis::cmd("CLIENT").arg("LIST")).await.expect("CLIENT LIST");
    clients.contains(" user=app ")
}

/// Messages that came more than once.
fn duplicates(heard: &[(i64, u64)]) -> usize {
    heard.len() - heard.iter().collect::<HashSet<_>>().len()
}

/// E1.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_that_comes_back_is_not_published_to() {
    let mut load = Load::start(options()).await;
    let mut master = 0;
    let mut rounds = Vec::new();
    for round in 0..3 {
        load.observe().await;
        let (from, moves) = (load.writer.acknowledged(), masters(&load.oplogue, &load.group).len());
        load.writer.write_more(50).await;
        let killed = Instant::now();
        load.group.redis(master).kill().await;
        // With its old configuration it takes itself for the master for some ten seconds: in one round already while the
        // sentinels still name it, in the others after they have named another.
        let early = round == 1;
        if early {
            load.failover_begun().await;
            load.group.redis(master).start_again().await;
        }
        load.group.switched_from(master).await;
        wait_for("a publication", || async {
            let new = load.group.master().await.expect("a sentinel");
            new != master && scripts(load.group.redis(new)).await > 0
        })
        .await;
        eprintln!("published {:?} after the kill", killed.elapsed());
        if !early {
            load.group.redis(master).start_again().await;
        }
        load.demoted(master).await;
        assert_eq!(scripts(load.group.redis(master)).await, 0, "nothing was published to the old master");
        let new = load.group.master().await.expect("a sentinel");
        let upto = load.writer.acknowledged();
        load.writer.write_more(50).await;
        let heard = || numbers(&load.subscribers[new].messages());
        wait_for("the round to be heard", || async { heard().last().is_some_and(|(_, n)| *n > upto as u64) }).await;
        let masters = &masters(&load.oplogue, &load.group)[moves..];
        rounds.push((from, upto, heard_at(&load.subscribers, masters)));
        master = new;
    }
    let log = load.oplogue.log();
    assert!(log.matches("the master has moved").count() >= 3, "{log}");
    let Written { acknowledged, .. } = load.writer.finish().await;
    for (from, upto, heard) in rounds {
        let missing = acknowledged[from..upto].iter().filter(|w| !heard.contains(w)).count();
        assert_eq!(missing, 0, "of {}", upto - from);
    }
    assert!(load.oplogue.terminate().success());
}

/// E2.
#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_loses_nothing_and_the_old_master_is_left_at_once() {
    let load = Load::start(options()).await;
    assert!(is_connected(load.group.redis(0)).await);
    load.group.sentinel_command(0, &["FAILOVER", Sentinels::NAME]).await;
    let new = load.group.switched_from(0).await;
    wait_for("oplogue to be gone", || async { !is_connected(load.group.redis(0)).await }).await;
    assert_eq!(role(load.group.redis(0)).await, "master", "it is left long before it is demoted");
    let before = scripts(load.group.redis(0)).await;
    load.published_at(new).await;
    load.demoted(0).await;
    assert_eq!(scripts(load.group.redis(0)).await, before, "nothing was published to the old master");
    let heard = load.finish(new).await;
    eprintln!("{} duplicates of {}", duplicates(&heard), heard.len());
}

/// E3.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_master_that_wakes_up_is_not_published_to() {
    let load = Load::start(options()).await;
    load.group.redis(0).pause();
    let new = load.group.switched_from(0).await;
    load.published_at(new).await;
    load.group.redis(0).resume();
    // What lay in its socket when it froze, one call at most, it runs; nobody can take that back.
    let awake = scripts(load.group.redis(0)).await;
    load.demoted(0).await;
    assert!(scripts(load.group.redis(0)).await <= awake + 1, "nothing more was published to the old master");
    load.finish(new).await;
}

/// E4. Sentinels and replicas see the master through one proxy, oplogue sees the sentinels through others, and the master
/// itself directly: it is cut off together with it.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_with_its_master_it_comes_over_when_the_cut_heals() {
    let mut cuttable = None;
    let group = Sentinels::start_behind(options(), |addr| async {
        let proxy = Proxy::start(addr).await;
        let at = proxy.addr();
        cuttable = Some(proxy);
        at
    })
    .await;
    let cuttable = cuttable.expect("a proxy");
    let port = |addr: &str| addr.rsplit_once(':').expect("host:port").1.to_owned();
    // Each sentinel names the others, which must not be reached but through their proxies: from the last to the first, with the
    // names of those that are there, and a dead end for the rest.
    let mut renamed = vec![(port(&cuttable.addr()), port(&group.redis(0).addr()))];
    let dead = "00001".to_owned();
    let mut proxies: Vec<Proxy> = Vec::new();
    for n in 0..3 {
        let others = (n + 1..3).map(|n| (port(&group.sentinel_addr(n)), dead.clone()));
        let names: Vec<_> = renamed.iter().cloned().chain(others).collect();
        let proxy = Proxy::start_renaming(group.sentinel_addr(n), &names).await;
        renamed.push((port(&group.sentinel_addr(n)), port(&proxy.addr())));
        proxies.push(proxy);
    }
    let hosts: Vec<_> = proxies.iter().map(Proxy::addr).collect();
    let url = format!("redis-sentinel://app:pw@{}?sentinelMasterId={}", hosts.join(","), Sentinels::NAME);
    let load = Load::to(group, &url).await;
    let cut = Instant::now();
    proxies.iter().chain([&cuttable]).for_each(Proxy::cut);
    wait_for("another master", || async { load.group.master().await.is_some_and(|m| m != 0) }).await;
    let new = load.group.master().await.expect("a master");
    // Nobody tells it: it goes on where it is.
    load.published_at(0).await;
    wait_for("the cut to have lasted", || async { cut.elapsed() > Duration::from_secs(5) }).await;
    assert_eq!(scripts(load.group.redis(new)).await, 0);
    assert!(load.oplogue.log().contains("degraded"), "{}", load.oplogue.log());
    proxies.iter().chain([&cuttable]).for_each(Proxy::heal);
    load.published_at(new).await;
    let before = scripts(load.group.redis(0)).await;
    load.demoted(0).await;
    assert_eq!(scripts(load.group.redis(0)).await, before, "after the switch only the new master is published to");
    load.finish(new).await;
}

/// E6.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_of_the_sentinels_the_open_connection_is_used_on() {
    let load = Load::start(options()).await;
    load.group.kill_sentinel(1);
    load.group.kill_sentinel(2);
    wait_for("a line in the log", || async { load.oplogue.log().contains("degraded: no sentinel majority") }).await;
    load.published_at(0).await;
    load.writer.write_more(200).await;
    load.published_at(0).await;
    load.group.start_sentinel(1).await;
    load.group.start_sentinel(2).await;
    wait_for("a line in the log", || async { load.oplogue.log().contains("the sentinels agree again") }).await;
    assert_eq!(load.oplogue.log().matches("degraded").count(), 1);
    let heard = load.finish(0).await;
    assert_eq!(duplicates(&heard), 0);
}

/// E7.
#[tokio::test(flavor = "multi_thread")]
async fn without_sentinels_nobody_is_guessed_at() {
    let mut load = Load::start(options()).await;
    for n in 0..3 {
        // They take no replica that has been without a master for ten times as long as this.
        load.group.sentinel_command(n, &["SET", Sentinels::NAME, "down-after-milliseconds", "4000"]).await;
    }
    (0..3).for_each(|n| load.group.kill_sentinel(n));
    load.group.redis(0).kill().await;
    load.oplogue.wait("telling that it waits", |o| {
        o.get("/api/v1/routes").is_some_and(|(_, body)| body.contains("retrying") && body.contains("no sentinel"))
    });
    load.writer.write_more(200).await;
    for n in 1..3 {
        assert_eq!(scripts(load.group.redis(n)).await, 0, "replicas are not asked");
    }
    for n in 0..3 {
        load.group.start_sentinel(n).await;
    }
    let new = load.group.switched_from(0).await;
    load.published_at(new).await;
    load.finish(new).await;
}
