//! The connection to one Redis: opened when it is needed, dropped after every failure of it.
//!
//! Which Redis that is may change: a master that Sentinel or a Redis Cluster replaces, or the one master of several. Before each
//! connection is used its server says that it is a master. See `docs/redis-endpoints.md`.

mod address;
mod connect;
mod nodes;
mod open;
mod sentinel;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use oplogue_api::{Error, ErrorKind, Result};
use redis::{Cmd, RedisError, Value};
use tokio::{sync::Mutex, time::timeout};

use self::{
    address::{Address, Way},
    connect::{Access, Role},
    nodes::Nodes,
    open::{Open, Slot},
    sentinel::Resolver,
};
pub use self::{
    connect::text,
    sentinel::{Answer, Verdict, Vote},
};
use crate::{
    options::{Connection, Endpoint},
    reply,
};

/// How long a call waits for the sentinels to name a master that can be used: most failovers are shorter.
const SWITCH: Duration = Duration::from_secs(4);
/// How long it waits between two tries at a master that the sentinels hold to.
const AGAIN: Duration = Duration::from_millis(200);
/// How often a call follows a redirection within a cluster.
const HOPS: usize = 5;

/// A Lua script and its name within Redis.
pub struct Script {
    text: &'static str,
    sha: String,
}

impl Script {
    /// The script with this text.
    pub fn new(text: &'static str) -> Script {
        Script { text, sha: redis::Script::new(text).get_hash().to_owned() }
    }
}

/// See the module.
pub struct Link {
    access: Access,
    to: To,
    place: String,
    slot: Arc<Slot>,
    /// Held while connecting.
    connecting: Mutex<()>,
}

enum To {
    Nodes(Nodes),
    Static(Vec<Address>),
    Sentinel(Resolver),
}

/// What a check is told about where the link leads; see [`Link::survey`].
pub enum Survey {
    /// One server that is not in cluster mode, or cannot be reached.
    One,
    /// A Redis Cluster with these nodes.
    Cluster(Vec<String>),
    /// The addresses, and which of them is the master.
    Static(usize),
    /// The master's name, what each sentinel says, and what that comes to.
    Sentinel(String, Vec<(String, Answer)>, Verdict),
}

fn list(addresses: &[Address]) -> String {
    addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(", ")
}

impl Link {
    /// A link to where the options say. No I/O.
    ///
    /// # Errors
    /// Naming the option that is wrong. The URL is never repeated.
    pub fn new(options: Connection, endpoint: Option<Endpoint>) -> Result<Link> {
        let (way, access) = address::resolve(options, endpoint)?;
        let slot = Arc::<Slot>::default();
        let (place, to) = match way {
            Way::Direct { seeds, must_be_cluster } => (list(&seeds), To::Nodes(Nodes::new(seeds, must_be_cluster))),
            Way::Static(nodes) => (list(&nodes), To::Static(nodes)),
            Way::Sentinel(group) => {
                let place = format!("{} of the sentinels {}", group.name, list(&group.sentinels));
                (place, To::Sentinel(Resolver::new(group, Arc::clone(&slot))))
            }
        };
        Ok(Link { access, to, place, slot, connecting: Mutex::default() })
    }

    /// Where it leads, as the options say it, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the Redis is known to be a cluster, where a script must keep to keys of one slot. Known once connected.
    pub fn is_cluster(&self) -> bool {
        matches!(&self.to, To::Nodes(nodes) if nodes.is_cluster())
    }

    async fn connect(&self) -> Result<Open> {
        match &self.to {
            To::Nodes(nodes) => {
                let (connection, address) = nodes.connect(&self.access).await?;
                self.keep(connection, address, || true)
            }
            To::Static(nodes) => {
                let (connection, address) = only_master(nodes, &self.access).await?;
                self.keep(connection, address, || true)
            }
            To::Sentinel(resolver) => self.follow(resolver).await,
        }
    }

    fn keep(
        &self,
        connection: redis::aio::MultiplexedConnection,
        address: Address,
        valid: impl FnOnce() -> bool,
    ) -> Result<Open> {
        self.slot.put(connection, address, valid).ok_or_else(|| moved(&self.place))
    }

    /// Connects to the master that the sentinels name, and waits a while for them to name one.
    async fn follow(&self, resolver: &Resolver) -> Result<Open> {
        let mut view = resolver.view();
        let until = Instant::now() + SWITCH;
        loop {
            let now = view.borrow_and_update().clone();
            let left = until.saturating_duration_since(Instant::now());
            let refused = match now {
                Ok(master) => match timeout(left, self.master_at(&master.address)).await {
                    Ok(Ok(connection)) => {
                        let still = || view.borrow().as_ref().is_ok_and(|m| *m == master);
                        match self.keep(connection, master.address.clone(), still) {
                            Ok(open) => return Ok(open),
                            Err(e) => e,
                        }
                    }
                    Ok(Err(e)) if e.kind() != ErrorKind::Transient => return Err(e),
                    Ok(Err(e)) => {
                        resolver.refresh();
                        e
                    }
                    Err(_) => Error::transient(format!("{}: Redis does not answer", master.address))
                        .hint("check that Redis runs there; retrying"),
                },
                Err(refusal) if refusal.kind == ErrorKind::Operator => return Err(refusal.error()),
                Err(refusal) => refusal.error(),
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(refused);
            }
            // Whatever comes first: news, or the time for another try.
            let _ = timeout(left.min(AGAIN), view.changed()).await;
        }
    }

    async fn master_at(&self, address: &Address) -> Result<redis::aio::MultiplexedConnection> {
        let mut connection = connect::open(&self.access, address).await?;
        let place = address.to_string();
        let role = connect::role(&mut connection, &place).await?;
        match connect::not_a_master(&role, &place) {
            Some(error) => Err(error),
            None if matches!(role, Role::Hidden) => Err(role_hidden(&place)),
            None => Ok(connection),
        }
    }

    /// The open connection, or a new one.
    async fn connection(&self) -> Result<Open> {
        if let Some(open) = self.slot.get() {
            return Ok(open);
        }
        let _connecting = self.connecting.lock().await;
        match self.slot.get() {
            Some(open) => Ok(open),
            None => self.connect().await,
        }
    }

    /// Hangs up; the next call connects again, to whoever is the master then.
    pub async fn disconnect(&self) {
        match &self.to {
            // Calls under way end, too: the slot is how the sentinels would end them.
            To::Sentinel(resolver) => {
                self.slot.drop_now();
                resolver.refresh();
            }
            To::Nodes(_) | To::Static(_) => self.slot.clear(),
        }
    }

    /// Hangs up, and ends what goes on in the background. The next call starts it again.
    pub async fn close(&self) {
        if let To::Sentinel(resolver) = &self.to {
            resolver.close();
        }
        self.slot.clear();
    }

    /// Sends a command; an error reply is the inner `Err`.
    ///
    /// # Errors
    /// The outer one says that there was no reply, so that nothing is known about the command.
    pub async fn call(&self, cmd: &Cmd) -> Result<Result<Value, RedisError>> {
        let mut hops = 0;
        loop {
            let mut open = self.connection().await?;
            let reply = self.send_to(&mut open, cmd).await?;
            let Err(e) = &reply else {
                if let To::Nodes(nodes) = &self.to {
                    nodes.refresh(&mut open.connection, &open.address).await;
                }
                return Ok(reply);
            };
            hops += 1;
            match (e.code(), &self.to) {
                (Some("MOVED"), To::Nodes(nodes)) if hops < HOPS => {
                    let Some(owner) = nodes.redirect(e, &open.address) else { return Ok(reply) };
                    // Nothing ran. The owner is asked from now on.
                    nodes.moved(owner);
                    self.slot.forget(&open);
                }
                (Some("ASK"), To::Nodes(nodes)) => {
                    let Some(address) = nodes.redirect(e, &open.address) else { return Ok(reply) };
                    let mut connection = nodes.open(&self.access, &address).await?;
                    let failed = |e: &RedisError| reply::from_redis(e, &address.to_string());
                    connect::send(&mut connection, &redis::cmd("ASKING")).await.map_err(|e| failed(&e))?;
                    return match connect::send(&mut connection, cmd).await {
                        Err(e) if e.code().is_none() => Err(failed(&e)),
                        answer => Ok(answer),
                    };
                }
                (Some("CLUSTERDOWN"), To::Nodes(nodes)) => {
                    nodes.avoid(&open.address);
                    self.slot.forget(&open);
                    return Ok(reply);
                }
                // Whoever the master is now, it is not this one, or not yet.
                (Some("READONLY" | "MASTERDOWN" | "LOADING" | "NOREPLICAS"), _) => {
                    self.disconnect().await;
                    return Ok(reply);
                }
                _ => return Ok(reply),
            }
        }
    }

    async fn send_to(&self, open: &mut Open, cmd: &Cmd) -> Result<Result<Value, RedisError>> {
        let sent = {
            let gone = open.clone();
            tokio::select! {
                biased;
                () = gone.gone() => None,
                sent = connect::send(&mut open.connection, cmd) => Some(sent),
            }
        };
        match sent {
            None => Err(self.gone()),
            Some(Err(e)) if e.code().is_none() => {
                // A reply may still come: nothing else may take it for its own. Other calls on it would wait for theirs in vain.
                self.slot.drop_this(open);
                if let To::Sentinel(resolver) = &self.to {
                    resolver.refresh();
                }
                Err(reply::from_redis(&e, &open.address.to_string()))
            }
            Some(reply) => Ok(reply),
        }
    }

    /// Why a call was ended: for a failover, or because another call found the connection dead.
    fn gone(&self) -> Error {
        match &self.to {
            To::Sentinel(_) => moved(&self.place),
            _ => Error::transient(format!("{}: the connection to Redis failed", self.place))
                .hint("check that Redis runs there; retrying"),
        }
    }

    /// Sends a command; an error reply is an error.
    pub async fn ask(&self, cmd: &Cmd) -> Result<Value> {
        self.call(cmd).await?.map_err(|e| reply::from_redis(&e, &self.place))
    }

    /// Runs a script on one key.
    pub async fn run(&self, script: &Script, key: &[u8], args: &[&[u8]]) -> Result<Value> {
        let size = key.len() + args.iter().map(|a| a.len()).sum::<usize>() + script.text.len();
        let command = |name: &str, script: &str| {
            let mut cmd = Cmd::with_capacity(args.len() + 4, size + 64);
            cmd.arg(name).arg(script).arg(1).arg(key);
            for arg in args {
                cmd.arg(*arg);
            }
            cmd
        };
        let value = match self.call(&command("EVALSHA", &script.sha)).await? {
            Ok(value) => value,
            // Nothing ran. EVAL loads it, and needs no right that the script would not need otherwise.
            Err(e) if e.code() == Some("NOSCRIPT") => self.ask(&command("EVAL", script.text)).await?,
            Err(e) => return Err(reply::from_redis(&e, &self.place)),
        };
        // A script that could not do its work may have run on a replica: the next one asks who the master is.
        if matches!(&value, Value::Array(parts) if parts.first() == Some(&Value::Int(-1))) {
            self.disconnect().await;
        }
        Ok(value)
    }

    /// What a check tells about the way to the Redis. Asks; changes nothing.
    pub async fn survey(&self) -> Survey {
        match &self.to {
            To::Nodes(nodes) => {
                let connected = self.connection().await;
                match connected {
                    Ok(_) if nodes.is_cluster() => {
                        Survey::Cluster(nodes.others().iter().map(Address::to_string).collect())
                    }
                    _ => Survey::One,
                }
            }
            To::Static(nodes) => Survey::Static(nodes.len()),
            To::Sentinel(resolver) => {
                let (answers, verdict) = resolver.survey().await;
                let answers = answers.into_iter().map(|(address, answer)| (address.to_string(), answer)).collect();
                Survey::Sentinel(resolver.name().to_owned(), answers, verdict)
            }
        }
    }
}

fn moved(place: &str) -> Error {
    Error::transient(format!("{place}: the master has moved, or is about to"))
        .hint("a failover takes a few seconds; the route goes on by itself")
}

fn role_hidden(place: &str) -> Error {
    Error::operator(format!("{place}: the user may not ask for the role of this Redis"))
        .hint("ACL SETUSER <user> +role: without it a former master could be published to")
}

/// The one of several that is a master.
async fn only_master(nodes: &[Address], access: &Access) -> Result<(redis::aio::MultiplexedConnection, Address)> {
    let asked = nodes.iter().map(|address| async move {
        let mut connection = connect::open(access, address).await?;
        let role = connect::role(&mut connection, &address.to_string()).await?;
        Ok::<_, Error>((connection, role))
    });
    let mut masters = Vec::new();
    let mut told = Vec::new();
    for (address, answer) in nodes.iter().zip(join_all(asked).await) {
        match answer {
            Ok((connection, Role::Master)) => {
                told.push(format!("{address}: master"));
                masters.push((connection, address.clone()));
            }
            Ok((_, Role::Replica { of, .. })) => told.push(format!("{address}: replica of {of}")),
            Ok((_, Role::Sentinel)) => {
                return Err(connect::not_a_master(&Role::Sentinel, &address.to_string())
                    .unwrap_or_else(|| Error::bug("a sentinel is no master")));
            }
            Ok((_, Role::Hidden)) => return Err(role_hidden(&address.to_string())),
            Err(e) if e.kind() == ErrorKind::Operator => return Err(e),
            Err(e) => told.push(e.to_string()),
        }
    }
    match masters.len() {
        1 => Ok(masters.remove(0)),
        0 => Err(Error::transient(format!("none of the Redis in `endpoint` is a master ({})", told.join("; ")))
            .hint("promote one of them, or correct `nodes`; retrying")),
        _ => Err(Error::transient(format!("more than one Redis in `endpoint` is a master ({})", told.join("; ")))
            .hint("nothing is published until it is clear which one is right: make the others its replicas")),
    }
}
