//! One server, or the nodes of a Redis Cluster: which of them to ask.
//!
//! All keys of a route are one, so that one node serves it: whichever is asked first says where the key is (MOVED). Before a
//! node answers for a key it knows that it is the slot's master; an old one that comes back asks the others first.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use oplogue_api::{Error, Result};
use redis::{RedisError, Value, aio::MultiplexedConnection};

use super::{
    address::Address,
    connect::{self, Access},
};
use crate::reply;

/// How often an open connection is asked for the nodes of its cluster.
const REFRESH: Duration = Duration::from_secs(30);

pub struct Nodes {
    seeds: Vec<Address>,
    must_be_cluster: bool,
    is_cluster: AtomicBool,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Where the key is, as far as a node has said.
    owner: Option<Address>,
    others: Vec<Address>,
    asked: Option<Instant>,
}

impl Nodes {
    pub fn new(seeds: Vec<Address>, must_be_cluster: bool) -> Nodes {
        Nodes { seeds, must_be_cluster, is_cluster: AtomicBool::new(must_be_cluster), known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_cluster(&self) -> bool {
        self.is_cluster.load(Relaxed)
    }

    /// The nodes that are known, but for those that the options name.
    pub fn others(&self) -> Vec<Address> {
        self.known().others.clone()
    }

    /// A connection to the owner of the key, or to whatever node can be reached.
    pub async fn connect(&self, access: &Access) -> Result<(MultiplexedConnection, Address)> {
        let mut candidates: Vec<Address> = {
            let mut known = self.known();
            let owner = known.owner.take();
            owner.into_iter().chain(known.others.iter().cloned()).collect()
        };
        candidates.extend(self.seeds.iter().cloned());
        let mut tried: Vec<Address> = Vec::new();
        let mut first = None;
        for address in candidates {
            if tried.contains(&address) {
                continue;
            }
            match self.open(access, &address).await {
                Ok(connection) => return Ok((connection, address)),
                // What a person must mend is the same on all nodes.
                Err(e) if e.kind() != oplogue_api::ErrorKind::Transient => return Err(e),
                Err(e) => _ = first.get_or_insert(e),
            }
            tried.push(address);
        }
        Err(first.unwrap_or_else(|| Error::bug("a link without an address")))
    }

    /// A connection to this node, that has said what it is.
    pub async fn open(&self, access: &Access, address: &Address) -> Result<MultiplexedConnection> {
        let mut connection = connect::open(access, address).await?;
        let place = address.to_string();
        let role = connect::role(&mut connection, &place).await?;
        if let connect::Role::Sentinel = role {
            return Err(connect::not_a_master(&role, &place).unwrap_or_else(|| Error::bug("a sentinel is no master")));
        }
        let is_member = self.learn(&mut connection, address).await?;
        match connect::not_a_master(&role, &place) {
            // A replica in a cluster says where the master is, when it is asked for a key.
            Some(error) if !is_member => Err(error),
            _ => Ok(connection),
        }
    }

    /// Learns the other nodes. Whether it is a cluster.
    async fn learn(&self, connection: &mut MultiplexedConnection, address: &Address) -> Result<bool> {
        let place = address.to_string();
        let slots = match connect::send(connection, redis::cmd("CLUSTER").arg("SLOTS")).await {
            Ok(slots) => slots,
            Err(e) if e.code().is_none() => return Err(reply::from_redis(&e, &place)),
            Err(e) if self.must_be_cluster => {
                return Err(match e.code() {
                    Some("ERR") => Error::operator(format!("{place}: this Redis is not in cluster mode"))
                        .hint("write `url`, or endpoint = { type = \"static\", … }"),
                    Some("NOPERM") => Error::operator(format!("{place}: the user may not ask for the nodes (NOPERM)"))
                        .hint("ACL SETUSER <user> +cluster|slots"),
                    _ => reply::from_redis(&e, &place),
                });
            }
            // Not a cluster, or not for this user to know: MOVED will tell.
            Err(_) => return Ok(false),
        };
        self.is_cluster.store(true, Relaxed);
        let nodes = addresses(&slots, address);
        let mut known = self.known();
        if !nodes.is_empty() {
            known.others = nodes;
        }
        known.asked = Some(Instant::now());
        Ok(true)
    }

    /// Asks the node of an open connection for the others, when that is a while ago.
    pub async fn refresh(&self, connection: &mut MultiplexedConnection, address: &Address) {
        let is_due = self.is_cluster() && self.known().asked.is_none_or(|at| at.elapsed() > REFRESH);
        if is_due {
            self.known().asked = Some(Instant::now());
            let _ = self.learn(connection, address).await;
        }
    }

    /// Where a MOVED or ASK leads to.
    pub fn redirect(&self, e: &RedisError, from: &Address) -> Option<Address> {
        let (to, _) = e.redirect_node()?;
        let (host, port) = to.rsplit_once(':')?;
        let port = port.parse().ok()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // A node that does not know its own address leaves the host out.
        Some(match (host, from) {
            ("" | "?", Address::Tcp(host, _)) => Address::Tcp(host.clone(), port),
            _ => Address::Tcp(host.to_owned(), port),
        })
    }

    /// The key is there.
    pub fn moved(&self, owner: Address) {
        self.is_cluster.store(true, Relaxed);
        self.known().owner = Some(owner);
    }

    /// The cluster is not ready as this node sees it: the others are asked first.
    pub fn avoid(&self, address: &Address) {
        let mut known = self.known();
        known.owner = None;
        known.others.retain(|a| a != address);
    }
}

/// All nodes in a reply of CLUSTER SLOTS, masters first.
fn addresses(slots: &Value, asked: &Address) -> Vec<Address> {
    let Value::Array(ranges) = slots else { return Vec::new() };
    let (mut masters, mut replicas) = (Vec::new(), Vec::new());
    for range in ranges {
        let Value::Array(parts) = range else { continue };
        for (n, node) in parts.iter().skip(2).enumerate() {
            let Value::Array(node) = node else { continue };
            let [host, Value::Int(port), ..] = &node[..] else { continue };
            let host = match (connect::text(host), asked) {
                (Some(host), _) if !host.is_empty() && host != "?" => host,
                (_, Address::Tcp(host, _)) => host.clone(),
                _ => continue,
            };
            let Ok(port) = u16::try_from(*port) else { continue };
            let address = Address::Tcp(host, port);
            let list = if n == 0 { &mut masters } else { &mut replicas };
            if !list.contains(&address) {
                list.push(address);
            }
        }
    }
    replicas.retain(|a| !masters.contains(a));
    masters.append(&mut replicas);
    masters
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(t: &str) -> Value {
        Value::BulkString(t.into())
    }

    #[test]
    fn the_nodes_of_a_cluster() {
        let node = |host: &str, port: i64| Value::Array(vec![text(host), Value::Int(port), text("id")]);
        let range = |nodes: Vec<Value>| Value::Array([vec![Value::Int(0), Value::Int(5)], nodes].concat());
        let slots = Value::Array(vec![range(vec![node("a", 1), node("b", 2)]), range(vec![node("", 3), node("a", 1)])]);
        let at = |host: &str, port: u16| Address::Tcp(host.into(), port);
        assert_eq!(addresses(&slots, &at("seed", 9)), [at("a", 1), at("seed", 3), at("b", 2)]);
        assert_eq!(addresses(&Value::Nil, &at("seed", 9)), []);
    }
}
