//! forward = "all": hubs, chains and rings, in which writes come to nodes that have no link with where they were made.

use mongodb::bson::doc;
use oplogue_testkit::wait_for;

use super::{
    mesh::{Mesh, ends, newest, text},
    random::{apart, together},
    silence::written,
    trouble::killed,
};

const FORWARD: &str = "forward = \"all\"";

async fn mesh(n: usize, links: &[(usize, usize)]) -> Mesh {
    Mesh::new(ends(n, "mongo-oplog").await, links, FORWARD)
}

const CHAIN: &[(usize, usize)] = &[(0, 1), (1, 0), (1, 2), (2, 1)];
/// The last one is the hub: it is not among those with names in front.
const HUB: &[(usize, usize)] = &[(0, 3), (3, 0), (1, 3), (3, 1), (2, 3), (3, 2)];
const RING: &[(usize, usize)] = &[(0, 1), (1, 0), (1, 2), (2, 1), (2, 3), (3, 2), (3, 0), (0, 3)];
const ONE_WAY_RING: &[(usize, usize)] = &[(0, 1), (1, 2), (2, 3), (3, 0)];

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_keys_of_their_own() {
    apart(mesh(3, CHAIN).await, &[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_in_one_direction() {
    apart(mesh(3, &[(0, 1), (1, 2)]).await, &[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_change_streams() {
    let ends = ends(3, "mongo-change-stream").await;
    apart(Mesh::new(ends, CHAIN, FORWARD), &[0, 1, 2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_keys_of_their_own() {
    apart(mesh(4, HUB).await, &[0, 1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_with_keys_of_their_own() {
    apart(mesh(4, RING).await, &[0, 1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_in_one_direction_with_keys_of_their_own() {
    apart(mesh(4, ONE_WAY_RING).await, &[0, 1, 2, 3]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_on_the_same_keys() {
    together(mesh(3, CHAIN).await, &[0, 2], "a chain").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_on_the_same_keys() {
    together(mesh(4, HUB).await, &[0, 1, 2, 3], "a hub").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_on_the_same_keys() {
    together(mesh(4, RING).await, &[0, 1, 2, 3], "a ring").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_in_one_direction_on_the_same_keys() {
    together(mesh(4, ONE_WAY_RING).await, &[0, 1, 2, 3], "a ring in one direction").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_of_a_hub_is_killed_over_and_over() {
    killed(mesh(4, HUB).await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_of_a_ring_is_killed_over_and_over() {
    killed(mesh(4, RING).await, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_of_a_ring_in_one_direction_is_killed_over_and_over() {
    killed(mesh(4, ONE_WAY_RING).await, false).await;
}
