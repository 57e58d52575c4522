//! forward = "all" amid kills, elections, values given away twice, and servers of other versions.

use super::{
    forward::{FORWARD, HUB, RING, mesh},
    mesh::{End, Mesh, set, shared},
    random::{deleted_and_made_again, work},
    trouble::{elections, killed},
    unique::at_random,
    work::unique_index,
};
use crate::support::Chance;

/// Two leaves and, as the last, their hub.
const SMALL_HUB: &[(usize, usize)] = &[(0, 2), (2, 0), (1, 2), (2, 1)];

#[tokio::test(flavor = "multi_thread")]
async fn the_router_of_a_hub_is_killed_over_and_over() {
    killed(mesh(4, HUB).await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_of_a_ring_is_killed_over_and_over() {
    killed(mesh(4, RING).await, false).await;
}

/// The hub has three members.
#[tokio::test(flavor = "multi_thread")]
async fn the_primary_of_a_hub_steps_down() {
    let many = set("6.0.5", 3).await;
    let leaves = [
        End::new("north", shared(0).await, "mongo-oplog").await,
        End::new("south", shared(1).await, "mongo-oplog").await,
    ];
    let hub = End::new("hub", many, "mongo-oplog").await;
    let all = leaves.into_iter().chain([hub]).collect();
    elections(Mesh::new(all, SMALL_HUB, FORWARD), many).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_values_given_away_at_random_around_a_hub() {
    at_random(mesh(3, SMALL_HUB).await, "a hub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_values_given_away_at_random_around_a_ring() {
    at_random(mesh(4, RING).await, "a ring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_deletes_the_same_documents_and_makes_them_again() {
    deleted_and_made_again(mesh(4, RING).await).await;
}

/// Leaves of versions that do not tell of DDL in their change streams, and of which one does not take diffs.
async fn versions(kind: &'static str) {
    let mut all = Vec::new();
    for (name, version) in [("old", "4.4.2"), ("older", "5.0.4")] {
        all.push(End::new(name, set(version, 1).await, kind).await);
    }
    all.push(End::new("hub", shared(0).await, kind).await);
    let mut mesh = Mesh::new(all, SMALL_HUB, FORWARD);
    mesh.is_of_today = false;
    let chance = Chance::new();
    for end in &mesh.ends {
        unique_index(&end.client, &mesh.db).await;
    }
    mesh.router.start();
    // What has to be looked up is found as it is later, and is made anew when its own time comes: so not every write is applied once.
    work(&mesh, &[0, 1, 2], 200, true, &chance).await;
    mesh.settle_equal(&format!("seed {}", chance.seed())).await;
    assert!(mesh.router.terminate().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_other_versions_by_oplogs() {
    versions("mongo-oplog").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaves_of_other_versions_by_change_streams() {
    versions("mongo-change-stream").await;
}
