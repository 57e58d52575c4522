//! What the errors of driver and server mean, told by their codes and never by their text: texts change between versions
//! and quote documents (I8).

use mongodb::error::{Error as MongoError, ErrorKind, WriteFailure};
use oplogue_api::Error;

/// What was being done. Some codes mean a damaged position while resuming and something else otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Looking at the server: hello, versions, identity, `check`.
    Check,
    /// Opening a cursor without a position.
    Open,
    /// Opening a cursor at a position, until its first reply has come.
    Resume,
    /// Reading on.
    Read,
    /// Looking up full documents.
    Lookup,
    /// Reading or writing a checkpoint.
    Store,
    /// Applying changes at a peer.
    Apply,
    /// Looking at collections and indexes of a replicator's target, and changing them.
    Ddl,
    /// Copying a deployment.
    Copy,
}

impl Phase {
    fn doing(self) -> &'static str {
        match self {
            Phase::Check => "while looking at the server",
            Phase::Open => "while opening the cursor",
            Phase::Resume => "while resuming",
            Phase::Read => "while reading",
            Phase::Lookup => "while looking up full documents",
            Phase::Store => "at the checkpoint store",
            Phase::Apply => "while applying changes",
            Phase::Ddl => "while applying DDL",
            Phase::Copy => "while copying",
        }
    }
}

/// The code of a server error, wherever the driver keeps it.
pub(crate) fn code(e: &MongoError) -> Option<i32> {
    match e.kind.as_ref() {
        ErrorKind::Command(c) => Some(c.code),
        ErrorKind::Write(WriteFailure::WriteError(w)) => Some(w.code),
        ErrorKind::Write(WriteFailure::WriteConcernError(w)) => Some(w.code),
        _ => None,
    }
}

/// What to do when events since the checkpoint are no longer there.
pub(crate) const HISTORY_GONE: &str = "events since the checkpoint are lost to this route: bring the destination up to date by other means, then `oplogue position set FILE ROUTE --now`, or on_position_lost = \"from-now\", which does that each time; a larger oplog (replSetResizeOplog) keeps it from happening again";

/// The error as the engine needs it: kind, message without document contents, hint.
pub(crate) fn classify(e: MongoError, phase: Phase) -> Error {
    if let Some(code) = code(&e) {
        return server(code, &e, phase);
    }
    let doing = phase.doing();
    match e.kind.as_ref() {
        ErrorKind::ServerSelection { message, .. } => {
            Error::transient(format!("no MongoDB server {doing}: {}", seen_of(message)))
                .hint("check that the servers of the URI run, can be reached from here, and have a primary")
        }
        ErrorKind::Io(io) => Error::transient(format!("connection to MongoDB lost {doing}: {io}")),
        ErrorKind::ConnectionPoolCleared { .. } => Error::transient(format!("connection to MongoDB lost {doing}")),
        ErrorKind::DnsResolve { .. } => Error::transient(format!("name resolution failed {doing}")),
        ErrorKind::Authentication { .. } => authentication(),
        ErrorKind::InvalidTlsConfig { .. } => Error::operator(format!("TLS cannot be set up {doing}"))
            .hint("check tlsCAFile, tlsCertificateKeyFile and the server's certificate"),
        ErrorKind::IncompatibleServer { .. } => {
            Error::operator("the server is older than MongoDB 4.4").hint("oplogue reads MongoDB 4.4 and later")
        }
        ErrorKind::InvalidResponse { .. } | ErrorKind::Bson(_) => {
            Error::transient(format!("MongoDB sent a reply that cannot be read {doing}"))
        }
        ErrorKind::SessionsNotSupported => Error::operator("the server does not support sessions").hint(STANDALONE),
        ErrorKind::Shutdown => Error::bug(format!("the MongoDB client was used after it was shut down, {doing}")),
        // Everything else is made by the driver from what it was given: a fault here, not at the server.
        _ => Error::bug(format!("the MongoDB driver refused a call {doing}")),
    }
}

/// The driver's text about its choice of a server, without what only its authors can use: which hosts there are, and what is
/// wrong with each. It names hosts and states, nothing else.
fn seen_of(message: &str) -> String {
    let (verdict, topology) = message.split_once(" Topology:").unwrap_or((message, ""));
    let hosts: Vec<_> = topology
        .split("Address: ")
        .skip(1)
        .map(|server| {
            let (address, rest) = server.split_once(',').unwrap_or((server, ""));
            let state = match rest.split_once("Error: ") {
                Some((_, error)) => error.trim_start_matches("Kind: ").split(", labels:").next(),
                None => rest.split_once("Type: ").and_then(|(_, state)| state.split([',', ' ']).next()),
            };
            format!("{address}: {}", state.unwrap_or("unknown").trim())
        })
        .collect();
    if hosts.is_empty() { verdict.to_owned() } else { hosts.join("; ") }
}

/// An error of `listCollections`. A user may see the names of databases into which it may not look.
pub(crate) fn unlisted(db: &str, e: MongoError, phase: Phase) -> Error {
    match code(&e) {
        Some(13) => Error::operator(format!("the user may not list the collections of the database `{db}` (MongoDB error 13)"))
            .hint(format!("grant it `read` on `{db}` where it is copied from or compared, `readWrite` and `dbAdmin` where it is written to; or leave the database out with `namespaces`")),
        _ => classify(e, phase),
    }
}

const STANDALONE: &str = "start mongod with --replSet NAME and run rs.initiate() once; a set of one member is enough";

fn authentication() -> Error {
    Error::operator("MongoDB refused the user name or the password")
        .hint("check the credentials and authSource in the URI; special characters must be percent-encoded")
}

fn server(code: i32, e: &MongoError, phase: Phase) -> Error {
    meaning(code, e, phase).unwrap_or_else(|| {
        Error::transient(format!(
            "MongoDB reported an error of unknown meaning (MongoDB error {code} {})",
            phase.doing()
        ))
    })
}

fn meaning(code: i32, e: &MongoError, phase: Phase) -> Option<Error> {
    let what = |text: &str| format!("{text} (MongoDB error {code} {})", phase.doing());
    Some(match code {
        // History is gone, in any phase; 280 also when the token is not found, 464 when its shard was removed.
        286 | 280 | 464 => Error::position_lost(what("the place to resume from is no longer in the oplog"))
            .hint(HISTORY_GONE),
        // A damaged token. Elsewhere these codes are about the command, see below.
        260 | 9 | 15 | 40647 | 50811 if phase == Phase::Resume => {
            Error::position_lost(what("the server does not accept the stored resume token"))
                .hint("the checkpoint is damaged or comes from another server; reset the position and resync")
        }
        13 if phase == Phase::Apply => Error::operator(what("the user lacks a privilege"))
            .hint("grant the user `readWrite` on what is replicated and on the database `__mmm` (role `readWriteAnyDatabase`), `dbAdmin` for DDL, and `read` on `local`"),
        13 => Error::operator(what("the user lacks a privilege"))
            .hint("grant the user `find` and `changeStream` on what is read (role `read` on the databases, `readAnyDatabase` for the deployment), `read` on `local` for the oplog, `readWrite` on the checkpoint database"),
        18 | 11 | 8000 => authentication(),
        40573 => Error::operator(what("the server is a standalone mongod: it has no oplog and no change streams"))
            .hint(STANDALONE),
        10334 => Error::operator(what("a change event is larger than the 16 MB that a reply can hold"))
            .hint("use full_document = \"default\", or a server with $changeStreamSplitLargeEvent (6.0.9 or later), or the mongo-oplog source"),
        47 | 51770 => Error::operator(what("a document image that the source requires was not stored"))
            .hint("set full_document and full_document_before_change to \"when-available\", or enable changeStreamPreAndPostImages on the collection and reset the position"),
        // `afterClusterTime` is ahead of a member that has not heard of that time yet.
        72 if phase == Phase::Lookup => Error::transient(what("the member read has not come as far as the oplog yet")),
        // Interrupted work, elections, shutdown, stale routing, overload, time limits, lost cursors.
        6 | 7 | 24 | 43 | 46 | 50 | 63 | 64 | 89 | 91 | 112 | 133 | 134 | 136 | 150 | 189 | 202 | 234 | 237 | 262
        | 290 | 317 | 365 | 384 | 391 | 462 | 9001 | 10058 | 10107 | 11600 | 11601 | 11602 | 13388 | 13435 | 13436 => {
            Error::transient(what("MongoDB interrupted the operation"))
        }
        _ if ["ResumableChangeStreamError", "RetryableWriteError", "TransientTransactionError"]
            .iter()
            .any(|label| e.contains_label(label)) =>
        {
            Error::transient(what("MongoDB interrupted the operation"))
        }
        _ if e.contains_label("NonResumableChangeStreamError") => {
            Error::position_lost(what("the change stream cannot be resumed"))
                .hint(HISTORY_GONE)
        }
        40674 => Error::bug(what("contradicting resume options")),
        // A command that the sink has made: nothing in the configuration mends it.
        2 | 9 | 14 | 40 | 59 | 72 | 73 if phase == Phase::Apply => Error::bug(what("the server does not understand a command")),
        20 | 263 if phase == Phase::Apply => Error::operator(what("the peer does not take transactions here"))
            .hint("the peer must be a replica set or a sharded cluster, and capped and time-series collections cannot be replicated both ways"),
        // No space left, and a server that a person has made read-only.
        14031 | 13297 => Error::transient(what("the peer cannot take writes now")),
        2 | 9 | 14 | 20 | 40 | 59 | 72 | 73 | 115 | 40324 | 40415 | 40575 | 7182802 => {
            Error::operator(what("the server does not accept an option of this source"))
                .hint("the server may be too old for an option; compare the configuration with the server version")
        }
        26 => Error::operator(what("the namespace does not exist")),
        100 => Error::operator(what("the write concern cannot be met")),
        _ => return None,
    })
}

/// Whether the server reported an error that nothing here knows the meaning of. Such an error is tried again, but not
/// for ever: a source counts them.
pub(crate) fn is_unexpected(e: &MongoError) -> bool {
    code(e).is_some_and(|code| meaning(code, e, Phase::Read).is_none())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::doc;
    use mongodb::error::CommandError;
    use oplogue_api::ErrorKind as Kind;

    fn command_error(code: i32) -> MongoError {
        let reply = doc! {"code": code, "codeName": "Some", "errmsg": "E: dup key { email: \"a@b\" }"};
        let command: CommandError = bson::deserialize_from_document(reply).expect("a command error");
        MongoError::from(ErrorKind::Command(command))
    }

    #[test]
    fn codes_mean_what_they_should() {
        use Phase::{Check, Lookup, Open, Read, Resume, Store};
        for (codes, phases, kind) in [
            (&[286, 280, 464][..], &[Open, Resume, Read][..], Kind::PositionLost),
            (&[260, 9, 15, 40647, 50811], &[Resume], Kind::PositionLost),
            (&[9, 2, 20, 7182802, 40324, 40415, 40575], &[Open, Read], Kind::Operator),
            (&[13, 18, 40573, 10334, 47, 51770], &[Check, Open, Resume, Read, Lookup, Store], Kind::Operator),
            (
                &[
                    6, 7, 43, 63, 89, 91, 133, 136, 150, 189, 234, 237, 262, 9001, 10107, 11600, 11602, 13388, 13435,
                    13436,
                ],
                &[Check, Open, Resume, Read, Lookup, Store],
                Kind::Transient,
            ),
            (&[72], &[Open, Resume, Read], Kind::Operator),
            (&[72], &[Lookup], Kind::Transient),
            (&[40674], &[Open, Resume], Kind::Bug),
            (&[123_456_789], &[Open, Resume, Read, Store], Kind::Transient),
        ] {
            for (code, phase) in codes.iter().flat_map(|c| phases.iter().map(move |p| (*c, *p))) {
                assert_eq!(classify(command_error(code), phase).kind(), kind, "{code} {phase:?}");
            }
        }
    }

    #[test]
    fn only_unknown_codes_are_unexpected() {
        assert!(is_unexpected(&command_error(123_456_789)));
        for code in [286, 13, 91, 40324] {
            assert!(!is_unexpected(&command_error(code)), "{code}");
        }
        assert!(!is_unexpected(&MongoError::from(std::io::Error::other("cut"))));
    }

    #[test]
    fn what_the_server_says_is_not_repeated() {
        for code in [286, 9, 13, 18, 2, 10334, 47, 91, 40674, 11000, 123_456_789] {
            let e = classify(command_error(code), Phase::Resume);
            for text in [e.to_string(), format!("{e:?}")] {
                assert!(!text.contains("email") && !text.contains("a@b"), "{text}");
            }
        }
    }

    #[test]
    fn of_the_servers_only_what_helps_is_said() {
        let refused = "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary, Set Name: rs0, \
                       Servers: [ { Address: a:1, Type: Unknown, Error: Kind: I/O error: Connection refused (os error 111), \
                       labels: {\"RetryableError\"}, source: None, server response: None }, { Address: b:2, Type: RsSecondary } ] }";
        assert_eq!(seen_of(refused), "a:1: I/O error: Connection refused (os error 111); b:2: RsSecondary");
        assert_eq!(
            seen_of("Server selection timeout: No available servers."),
            "Server selection timeout: No available servers."
        );
    }

    #[test]
    fn what_a_person_must_mend_says_how() {
        for code in [286, 260, 13, 18, 40573, 10334, 47, 40324] {
            assert!(classify(command_error(code), Phase::Resume).get_hint().is_some(), "{code}");
        }
    }
}
