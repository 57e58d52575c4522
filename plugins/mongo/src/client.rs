//! Connecting, with every wait bounded and no URI in any message.

use std::{future::IntoFuture, time::Duration};

use bson::{Document, doc};
use bytes::Bytes;
use mongodb::{
    Client, Database,
    options::{ClientOptions, ConnectionString},
    raw_batch_cursor::RawBatch,
};
use oplogue_api::{Doc, Error, Result};

use crate::errors::{Phase, classify};

/// How long to look for a usable server. Long enough for an election (about 10 s in the worst case is retried).
const SELECTION: Duration = Duration::from_secs(8);
/// How long a connection may take to be set up, DNS and TLS included.
const CONNECT: Duration = Duration::from_secs(5);
/// How long closing cursors and sessions may take at the end.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long a short command (ping, hello, a look-up by `_id`) may take, server selection included.
const COMMAND: Duration = Duration::from_secs(30);

/// Whether `uri` can be a MongoDB connection string; no I/O.
///
/// # Errors
/// [`Error::option`] for `uri`. The driver's own message is not shown: it quotes parts of the URI, and in a URI with a
/// forgotten escape the password is one of those parts (I8).
pub(crate) fn check_uri(uri: &str) -> Result<()> {
    if !(uri.starts_with("mongodb://") || uri.starts_with("mongodb+srv://")) {
        return Err(Error::option("uri", "the URI does not begin with `mongodb://` or `mongodb+srv://`")
            .hint("write it as mongodb://user:password@host:27017/?replicaSet=rs0"));
    }
    match ConnectionString::parse(uri) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::option("uri", "the URI is no valid MongoDB connection string")
            .hint("special characters in the user name and the password must be percent-encoded (`@` is `%40`, `/` is `%2F`, `:` is `%3A`); options follow `/?`")),
    }
}

/// A client for `uri`. No connection is made yet (for `mongodb+srv` the name is looked up): the first command does it,
/// and fails after [`SELECTION`] when no server is there.
pub(crate) async fn connect(uri: &str, app_name: &str) -> Result<Client> {
    check_uri(uri)?;
    let parsed = tokio::time::timeout(COMMAND, ClientOptions::parse(uri).into_future()).await;
    let mut options = match parsed {
        Ok(Ok(options)) => options,
        Ok(Err(e)) => return Err(uri_error(&e)),
        Err(_) => return Err(Error::transient("the name of the deployment could not be resolved within 30 s")),
    };
    options.app_name.get_or_insert_with(|| app_name.to_owned());
    options.server_selection_timeout.get_or_insert(SELECTION);
    options.connect_timeout.get_or_insert(CONNECT);
    Client::with_options(options).map_err(|e| uri_error(&e))
}

/// Lets go of a client whose cursors have been dropped. Waits until they are closed on the server, but not for a server that is away:
/// what the driver has still to do for them when the runtime ends would panic.
pub(crate) async fn hang_up(client: Option<Client>) {
    if let Some(client) = client {
        let _ = tokio::time::timeout(FAREWELL, client.shutdown()).await;
    }
}

fn uri_error(e: &mongodb::error::Error) -> Error {
    use mongodb::error::ErrorKind;
    match e.kind.as_ref() {
        // The text of a DNS error may hold a part of the URI.
        ErrorKind::DnsResolve { .. } => Error::transient("the DNS records of the deployment could not be read")
            .hint("check the host name of the mongodb+srv URI and the name servers of this machine"),
        ErrorKind::InvalidTlsConfig { .. } | ErrorKind::Io(_) => {
            Error::option("uri", "the TLS settings of the URI cannot be used")
                .hint("check that tlsCAFile and tlsCertificateKeyFile exist and can be read")
        }
        _ => Error::option("uri", "the URI holds options that do not fit together or are not known to the driver")
            .hint("compare the options behind `/?` with the MongoDB connection string reference"),
    }
}

/// Runs a short command and bounds the wait for its answer.
pub(crate) async fn run(db: &Database, command: Document, phase: Phase) -> Result<Document> {
    bounded(db.run_command(command).into_future(), phase).await
}

/// Bounds the wait for an answer of the server: a dead connection must not hold a route for ever.
pub(crate) async fn bounded<T>(answer: impl Future<Output = mongodb::error::Result<T>>, phase: Phase) -> Result<T> {
    answered(answer).await?.map_err(|e| classify(e, phase))
}

/// The same, with the driver's own error for whoever looks at the code.
pub(crate) async fn answered<T>(
    answer: impl Future<Output = mongodb::error::Result<T>>,
) -> Result<mongodb::error::Result<T>> {
    match tokio::time::timeout(COMMAND, answer).await {
        Ok(answer) => Ok(answer),
        Err(_) => Err(Error::transient("the MongoDB server did not answer within 30 s")),
    }
}

/// A whole reply of a cursor, without copying it.
pub(crate) fn reply(batch: RawBatch) -> Result<Doc> {
    struct Reply(RawBatch);
    impl AsRef<[u8]> for Reply {
        fn as_ref(&self) -> &[u8] {
            self.0.as_raw_document().as_bytes()
        }
    }
    Doc::new(Bytes::from_owner(Reply(batch)))
}

/// What `hello` says about the deployment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The name of the replica set, if the server is a member of one.
    pub set_name: Option<String>,
    /// The server is a router of a sharded cluster.
    pub mongos: bool,
}

impl Hello {
    /// Neither a member of a replica set nor a router: no oplog, no change streams.
    pub fn is_standalone(&self) -> bool {
        self.set_name.is_none() && !self.mongos
    }
}

/// Asks the server what it is. `isMaster` where `hello` is not known yet (before 4.4.2).
pub(crate) async fn hello(client: &Client, phase: Phase) -> Result<Hello> {
    let reply = run(&client.database("admin"), doc! {"isMaster": 1}, phase).await?;
    Ok(Hello {
        set_name: reply.get_str("setName").ok().map(str::to_owned),
        mongos: reply.get_str("msg").is_ok_and(|msg| msg == "isdbgrid"),
    })
}

/// The remedy for a server that is no replica set.
pub(crate) fn standalone() -> Error {
    Error::operator("the server is a standalone mongod: it has no oplog and no change streams")
        .hint("start mongod with --replSet NAME and run rs.initiate() once; a set of one member is enough")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_uri_is_told_without_showing_it() {
        for uri in [
            "localhost:27017",
            "mongodb://",
            "mongodb://user:hunter2@ss/word@host:27017",
            "mongodb://user:hunter2@host:notaport",
            "mongodb://user:hunter2@host:27017/?replicaSet",
            "mongodb://user:hunter2@host:1/?w=-5",
        ] {
            let e = check_uri(uri).expect_err(uri);
            assert_eq!(e.field(), Some("uri"));
            for text in [e.to_string(), format!("{e:?}")] {
                assert!(!text.contains("hunter2") && !text.contains("notaport"), "{text}");
            }
        }
        check_uri("mongodb://u:p%40ss@a:1,b:2/db?replicaSet=rs0").unwrap();
        check_uri("mongodb+srv://u:p@cluster.example.net/").unwrap();
    }
}
