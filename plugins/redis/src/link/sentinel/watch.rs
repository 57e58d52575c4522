//! One sentinel: asked every second, and listened to in between.

use std::time::Duration;

use futures_util::StreamExt;
use oplogue_api::{Error, Result};
use redis::{
    Value,
    aio::{MultiplexedConnection, PubSubStream},
};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use super::verdict::{Answer, Refusal, Vote};
use crate::{
    link::{
        address::{Address, Group},
        connect,
    },
    reply,
};

/// How often a sentinel is asked when it has nothing to tell.
const EVERY: Duration = Duration::from_secs(1);
/// How long a sentinel may take to let in, and to answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a watcher tells.
pub enum News {
    /// The answer to a question that was put in the round `round`.
    Answer { from: Address, round: u64, answer: Answer },
    /// `+switch-master` to this address.
    Switched(Address),
    /// A failover has begun.
    FailoverBegun,
}

/// Watches the sentinel at `address` until it is aborted. A change of `rounds` asks at once.
pub async fn watch(
    group: std::sync::Arc<Group>,
    address: Address,
    mut rounds: watch::Receiver<u64>,
    news: mpsc::Sender<News>,
) {
    loop {
        let round = *rounds.borrow_and_update();
        let failed = match timeout(PATIENCE, Session::open(&group, &address)).await {
            Ok(Ok(session)) => session.run(&group, &address, &mut rounds, &news).await,
            Ok(Err(e)) => (round, Refusal::from(&e)),
            Err(_) => (round, Refusal::from(&silent(&address))),
        };
        let (round, refusal) = failed;
        if news.send(News::Answer { from: address.clone(), round, answer: Answer::Failed(refusal) }).await.is_err() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = rounds.changed() => tokio::time::sleep(EVERY / 10).await,
        }
    }
}

/// Asks once.
pub async fn ask_once(group: &Group, address: &Address) -> Answer {
    let asked = async {
        let mut session = Session::open(group, address).await?;
        session.ask(group, address).await
    };
    match timeout(2 * PATIENCE, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(e)) => Answer::Failed(Refusal::from(&e)),
        Err(_) => Answer::Failed(Refusal::from(&silent(address))),
    }
}

fn silent(address: &Address) -> Error {
    Error::transient(format!("{address}: the sentinel does not answer")).hint("check that it runs and can be reached")
}

/// Credentials of the sentinels are other options than those of the Redis.
fn of_sentinel(e: Error) -> Error {
    if e.message().contains("(NOAUTH)") || e.message().contains("(WRONGPASS)") {
        return Error::operator(e.message().replace("Redis", "the sentinel")).hint(
            "set `user` and `password` of the sentinels within endpoint = { type = \"sentinel\", … }; a URL has only those of \
             the Redis",
        );
    }
    if e.message().contains("(NOPERM)") {
        return Error::operator(e.message().replace("Redis", "sentinel"))
            .hint("on the sentinels: ACL SETUSER <user> on >… allchannels +sentinel +subscribe +psubscribe +ping");
    }
    e
}

struct Session {
    connection: MultiplexedConnection,
    events: PubSubStream,
    id: String,
}

impl Session {
    async fn open(group: &Group, address: &Address) -> Result<Session> {
        let place = address.to_string();
        let failed = |e: redis::RedisError| of_sentinel(reply::from_redis(&e, &place));
        let mut connection = connect::open(&group.access, address).await.map_err(of_sentinel)?;
        let id = match connect::send(&mut connection, redis::cmd("SENTINEL").arg("MYID")).await {
            Ok(id) => connect::text(&id),
            // Before 6.2 they do not tell; two addresses of one sentinel then count twice, unless they resolve to one.
            Err(e) if e.code().is_some() && !matches!(e.code(), Some("NOAUTH" | "NOPERM")) => None,
            Err(e) => return Err(failed(e)),
        };
        let id = match id {
            Some(id) => id,
            None => {
                let resolved = tokio::net::lookup_host(&place).await.ok().and_then(|mut all| all.next());
                resolved.map_or(place.clone(), |a| a.to_string())
            }
        };
        let client = connect::client(&group.access, address, true).await?;
        let mut subscription = client.get_async_pubsub().await.map_err(failed)?;
        subscription.psubscribe("*").await.map_err(failed)?;
        Ok(Session { connection, events: subscription.into_on_message(), id })
    }

    /// Runs until the sentinel fails; returns why, and the round that the failure belongs to.
    async fn run(
        mut self,
        group: &Group,
        address: &Address,
        rounds: &mut watch::Receiver<u64>,
        news: &mpsc::Sender<News>,
    ) -> (u64, Refusal) {
        loop {
            let round = *rounds.borrow_and_update();
            let answer = match timeout(PATIENCE, self.ask(group, address)).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(e)) => return (round, Refusal::from(&e)),
                Err(_) => return (round, Refusal::from(&silent(address))),
            };
            let wait = if matches!(answer, Answer::Pending) { EVERY / 20 } else { EVERY };
            if news.send(News::Answer { from: address.clone(), round, answer }).await.is_err() {
                return (round, Refusal::from(&silent(address)));
            }
            tokio::select! {
                biased;
                event = self.events.next() => match event {
                    Some(event) => {
                        let payload = String::from_utf8_lossy(event.get_payload_bytes()).into_owned();
                        if let Some(event) = read_event(&group.name, event.get_channel_name(), &payload)
                            && news.send(event).await.is_err()
                        {
                            return (round, Refusal::from(&silent(address)));
                        }
                    }
                    None => return (round, Refusal::from(&silent(address))),
                },
                _ = rounds.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn ask(&mut self, group: &Group, address: &Address) -> Result<Answer> {
        let place = address.to_string();
        let name = group.name.as_str();
        let failed = |e: redis::RedisError| of_sentinel(reply::from_redis(&e, &place));
        // In this order: an address that is newer than the epoch is taken for none.
        let mut master = redis::cmd("SENTINEL");
        master.arg("MASTER").arg(name);
        let master = match connect::send(&mut self.connection, &master).await {
            Ok(master) => master,
            // Told from other refusals by the next question, which answers nil: the text of this one is not relied on.
            Err(e) if e.code() == Some("ERR") => Value::Nil,
            Err(e) => return Err(failed(e)),
        };
        let mut addr = redis::cmd("SENTINEL");
        addr.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let addr = connect::send(&mut self.connection, &addr).await.map_err(failed)?;
        let strange =
            || Error::transient(format!("{place}: this is not the answer of a sentinel")).hint("check the address");
        let address = match &addr {
            Value::Nil => return Ok(Answer::NoSuchMaster(self.id.clone())),
            Value::Array(parts) => match &parts[..] {
                [host, port] => located(connect::text(host), connect::text(port)).ok_or_else(strange)?,
                _ => return Err(strange()),
            },
            _ => return Err(strange()),
        };
        let field = |name: &str| pair(&master, name);
        let number = |name: &str| field(name).and_then(|n| n.parse::<u64>().ok());
        let (Some(own), Some(epoch), Some(quorum), Some(flags)) =
            (located(field("ip"), field("port")), number("config-epoch"), number("quorum"), field("flags"))
        else {
            return Err(strange());
        };
        let flag = |name: &str| flags.split(',').any(|f| f == name);
        let failover = flag("failover_in_progress");
        if address != own && !failover {
            // The switch came between the two questions: ask again.
            return Ok(Answer::Pending);
        }
        let mut sentinels = redis::cmd("SENTINEL");
        sentinels.arg("SENTINELS").arg(name);
        let others = match connect::send(&mut self.connection, &sentinels).await.map_err(failed)? {
            Value::Array(list) => list.iter().filter_map(|s| located(pair(s, "ip"), pair(s, "port"))).collect(),
            _ => Vec::new(),
        };
        let vote = Vote {
            down: address == own && (flag("s_down") || flag("o_down")),
            failing_over: failover && address == own,
            address,
            epoch,
            quorum,
            replicas: number("num-slaves").unwrap_or(0),
            others,
        };
        Ok(Answer::Says(self.id.clone(), vote))
    }
}

/// A field of a reply of names and values.
fn pair(reply: &Value, name: &str) -> Option<String> {
    let found = match reply {
        Value::Array(parts) => {
            parts.chunks_exact(2).find(|p| connect::text(&p[0]).as_deref() == Some(name)).map(|p| &p[1])
        }
        Value::Map(entries) => entries.iter().find(|(k, _)| connect::text(k).as_deref() == Some(name)).map(|(_, v)| v),
        _ => None,
    };
    found.and_then(connect::text)
}

fn located(host: Option<String>, port: Option<String>) -> Option<Address> {
    Some(Address::Tcp(host.filter(|h| !h.is_empty())?, port?.parse().ok()?))
}

/// What an event of a sentinel means for the master `name`; `None`: ask, and see.
fn read_event(name: &str, channel: &str, payload: &str) -> Option<News> {
    let words: Vec<&str> = payload.split(' ').collect();
    match (channel, &words[..]) {
        ("+switch-master", [master, _, _, host, port, ..]) if *master == name => {
            located(Some((*host).to_owned()), Some((*port).to_owned())).map(News::Switched)
        }
        ("+try-failover" | "+failover-state-select-slave" | "+failover-state-send-slaveof-noone", words) => {
            words.contains(&name).then_some(News::FailoverBegun)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events() {
        let switch = |name: &str| read_event("m", "+switch-master", &format!("{name} 10.0.0.1 1 10.0.0.2 2"));
        assert!(matches!(switch("m"), Some(News::Switched(a)) if a == Address::Tcp("10.0.0.2".into(), 2)));
        assert!(switch("other").is_none());
        assert!(matches!(read_event("m", "+try-failover", "master m 10.0.0.1 1"), Some(News::FailoverBegun)));
        assert!(read_event("m", "+try-failover", "master x 10.0.0.1 1").is_none());
        assert!(read_event("m", "+sdown", "master m 10.0.0.1 1").is_none());
    }
}
