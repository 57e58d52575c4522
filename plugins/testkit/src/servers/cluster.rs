use std::process::{Command, Stdio};

use super::{Redis, RedisOptions, fetch, process::free_port};
use crate::wait_for;

/// A Redis Cluster of three masters, with one replica each. A node that does not answer for a second is replaced. Stopped on
/// drop.
pub struct RedisCluster {
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts a cluster.
    ///
    /// # Panics
    /// When it does not get ready.
    pub async fn start() -> RedisCluster {
        let mut nodes = Vec::new();
        for _ in 0..6 {
            let lines = vec![
                "cluster-enabled yes".to_owned(),
                "cluster-node-timeout 1000".into(),
                format!("cluster-port {}", free_port()),
            ];
            nodes.push(Redis::start(RedisOptions { lines, ..Default::default() }).await);
        }
        let program = fetch::program("redis".into(), "redis-cli").await;
        let addrs: Vec<_> = nodes.iter().map(Redis::addr).collect();
        let made = tokio::task::spawn_blocking(move || {
            Command::new(program)
                .args(["--cluster", "create"])
                .args(addrs)
                .args(["--cluster-replicas", "1", "--cluster-yes"])
                .stdin(Stdio::null())
                .output()
        });
        let out = made.await.expect("no panic").expect("redis-cli can be started");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stdout));
        let cluster = RedisCluster { nodes };
        cluster.settle().await;
        cluster
    }

    /// Waits until all running nodes say that the cluster is whole, and that all six are there.
    pub async fn settle(&self) {
        wait_for("the cluster to be whole", || async {
            for node in self.nodes.iter().filter(|n| n.pid().is_some()) {
                let info: String = node.ask(redis::cmd("CLUSTER").arg("INFO")).await.unwrap_or_default();
                let nodes: String = node.ask(redis::cmd("CLUSTER").arg("NODES")).await.unwrap_or_default();
                let linked = nodes.lines().filter(|l| l.contains("connected") && !l.contains("disconnected")).count();
                let slaves = nodes.lines().filter(|l| l.contains("slave")).count();
                // A replica is listed here once it is in step.
                let slots: redis::RedisResult<Vec<Vec<redis::Value>>> =
                    node.ask(redis::cmd("CLUSTER").arg("SLOTS")).await;
                let in_step = slots.is_ok_and(|slots| slots.iter().all(|range| range.len() == 4));
                if !in_step || !info.contains("cluster_state:ok") || linked != self.nodes.len() || slaves != 3 {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The index of the node that holds `key` as a master; `None` while the running nodes do not all name the same.
    pub async fn owner(&self, key: &str) -> Option<usize> {
        let mut agreed = None;
        for node in self.nodes.iter().filter(|n| n.pid().is_some()) {
            let named = self.owner_by(node, key).await?;
            if *agreed.get_or_insert(named) != named {
                return None;
            }
        }
        agreed
    }

    /// The owner of `key` as `node` says, which learns of a failover some time after others.
    async fn owner_by(&self, node: &Redis, key: &str) -> Option<usize> {
        let slot: u16 = node.ask(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key)).await.ok()?;
        type Range = (u16, u16, (String, u16));
        let slots: Vec<redis::Value> = node.ask(redis::cmd("CLUSTER").arg("SLOTS")).await.ok()?;
        for range in slots {
            let redis::Value::Array(mut parts) = range else { continue };
            parts.truncate(3);
            if let redis::Value::Array(node) = &mut parts[2] {
                node.truncate(2);
            }
            let range: Range = redis::from_redis_value(redis::Value::Array(parts)).ok()?;
            let (from, to, (_, port)) = range;
            if (from..=to).contains(&slot) {
                return self.nodes.iter().position(|n| n.port() == port);
            }
        }
        None
    }
}
