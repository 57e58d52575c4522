//! Where the replicator keeps what it needs, at the deployment that it writes to.

pub(crate) use oplogue_api::REPLICATION_DATABASE as DATABASE;

/// One document a link and lane: the first write of each transaction. See [`super::marker`].
pub(crate) const MARKERS: &str = "markers";
/// Every conflict that was resolved, and every document that was refused. See `docs/replication.md`.
pub(crate) const CONFLICTS: &str = "conflicts";
/// Deletes that were applied, for a while. `{_id: {ns, id}, node, clock, at: Date}`
pub(crate) const TOMBSTONES: &str = "tombstones";
/// DDL that was applied, so that it is recognised when it comes back.
pub(crate) const LEDGER: &str = "ddl";
/// How far an initial copy has come.
pub(crate) const COPIES: &str = "copies";
/// What each link replicates. See [`super::links`].
pub(crate) const LINKS: &str = "links";
