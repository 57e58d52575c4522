//! What an error reply of Redis means for the route. By its code word, never by its text: texts change between versions, and
//! they quote channel names, which hold ids of documents (I8).

use oplogue_api::{Error, ErrorKind};
use redis::RedisError;

/// The code word that an error text begins with; `ERR` when there is none.
pub fn code_of(text: &str) -> &str {
    let word = text.trim_start_matches('-').split(|c: char| c.is_whitespace()).next().unwrap_or("");
    let is_code = !word.is_empty() && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    if is_code { word } else { "ERR" }
}

/// The error that an error reply with this code word is.
pub fn from_code(code: &str) -> Error {
    use ErrorKind::{Operator, PositionLost, Transient};
    let (kind, what, hint) = match code {
        "NOAUTH" => (
            Operator,
            "Redis asks for a password",
            "put it into the URL, redis://user:password@host:port/db, or into `password`",
        ),
        "WRONGPASS" => (
            Operator,
            "Redis refuses the user name or password",
            "correct them in the URL, or in `user` and `password`",
        ),
        "NOPERM" => (
            Operator,
            "the Redis user may not do this",
            "allow it with ACL SETUSER: the keys ~<metadata_prefix>*, the commands in docs/redis-oplog.md, and the \
             channels &<prefix>*",
        ),
        "READONLY" => (
            Transient,
            "this Redis is a replica and takes no writes",
            "if it lasts, give the address of the master, or follow it: endpoint = { type = \"sentinel\", … }",
        ),
        "LOADING" => (Transient, "Redis is loading its data", "wait until it is done"),
        "MASTERDOWN" => (Transient, "this Redis is a replica that has lost its master", "look after the master"),
        "NOREPLICAS" => (
            Transient,
            "Redis has too few replicas to take writes",
            "look after the replicas, or lower min-replicas-to-write",
        ),
        "OOM" => (
            Transient,
            "Redis has reached its maxmemory and takes no writes",
            "raise maxmemory, or remove keys; nothing was published, and the route goes on when there is room",
        ),
        "MISCONF" => (
            Transient,
            "Redis takes no writes because it cannot save its data",
            "look into the log of Redis: mostly the disk is full or not writable",
        ),
        "BUSY" => (
            Transient,
            "Redis is busy with a script",
            "wait, or end the script with SCRIPT KILL if it is not one of oplogue's",
        ),
        "TRYAGAIN" | "CLUSTERDOWN" => (Transient, "the Redis Cluster is not ready", "wait, or look after the cluster"),
        "NOSCRIPT" => (Transient, "Redis forgot a script just after it was loaded", "it will be loaded again"),
        "MOVED" | "ASK" => (
            Transient,
            "this node of the Redis Cluster does not keep the route's key",
            "the cluster is being changed: the node that keeps it is looked for",
        ),
        "CROSSSLOT" => (
            Operator,
            "keys of several slots of a Redis Cluster cannot be written in one step",
            "dedupe = \"watermark\" needs one key only",
        ),
        "WRONGTYPE" => (
            Operator,
            "the route's key holds something that is not oplogue's",
            "set another metadata_prefix, or remove that key if nobody needs it",
        ),
        "OPLOGUEBEHIND" => (
            PositionLost,
            "Redis has forgotten events that it had confirmed",
            "after a failover or a crash of Redis this is expected: the route goes back to what Redis holds and sends the rest again",
        ),
        "OPLOGUEGONE" => (
            Operator,
            "the checkpoint is gone, although one was saved before",
            "find out who removed it; then restart the route, which starts as configured, or set its position",
        ),
        "OPLOGUEFORMAT" => (
            Operator,
            "the route's key was written by another version of oplogue",
            "run the version that wrote it, or remove the key; the route then starts as configured",
        ),
        _ => (
            Transient,
            "Redis refused",
            "look into the log of Redis; scripting with EVAL and cmsgpack, HMGET, HSET and PUBLISH must be available",
        ),
    };
    Error::new(kind, format!("{what} ({code})")).hint(hint)
}

/// The error that a failed call is. `place` is the address; texts of the server are left out.
pub fn from_redis(e: &RedisError, place: &str) -> Error {
    if let Some(code) = e.code() {
        return from_code(code).at(place);
    }
    let what = if e.is_timeout() {
        "Redis does not answer".to_owned()
    } else if e.is_connection_refusal() {
        "nothing listens there (connection refused)".to_owned()
    } else if e.kind() == redis::ErrorKind::Io {
        // The operating system's or TLS' own words: they hold no data.
        format!("the connection to Redis failed: {e}")
    } else if e.kind() == redis::ErrorKind::Parse {
        "the answer is not that of a Redis".to_owned()
    } else {
        format!("the call to Redis failed ({})", e.category())
    };
    // Only the hint goes by the text, which is that of the TLS library.
    let hint = if what.contains("alert: CertificateRequired") || what.contains("alert: HandshakeFailure") {
        "Redis may demand a certificate of its clients: set cert_file and key_file"
    } else {
        "check that Redis runs there and that the URL is right; retrying"
    };
    Error::transient(what).at(place).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_the_first_word() {
        assert_eq!(code_of("NOPERM this user has no permissions"), "NOPERM");
        assert_eq!(code_of("-OOM command not allowed"), "OOM");
        for none in ["", "The user executing the script can't", "Err x", "@user_script: 3: x", "err"] {
            assert_eq!(code_of(none), "ERR");
        }
    }

    #[test]
    fn every_code_has_its_kind_and_a_remedy() {
        for (codes, kind) in [
            ("NOAUTH WRONGPASS NOPERM CROSSSLOT WRONGTYPE OPLOGUEFORMAT OPLOGUEGONE", ErrorKind::Operator),
            (
                "MOVED ASK READONLY LOADING MASTERDOWN NOREPLICAS OOM MISCONF BUSY TRYAGAIN CLUSTERDOWN NOSCRIPT ERR UNHEARDOF",
                ErrorKind::Transient,
            ),
            ("OPLOGUEBEHIND", ErrorKind::PositionLost),
        ] {
            for code in codes.split(' ') {
                let e = from_code(code);
                assert_eq!(e.kind(), kind, "{code}");
                assert!(e.message().contains(code) && e.get_hint().is_some(), "{code}");
            }
        }
    }
}
