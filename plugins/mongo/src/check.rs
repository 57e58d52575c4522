//! What both sources look at in `oplogue check --connect`.

use bson::{Bson, Document, doc};
use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use crate::{
    client::{self, Hello, hello, run},
    errors::Phase,
    identity::identity,
};

/// Looks at reachability, topology, version and identity; what was found is added to `findings`.
///
/// # Errors
/// What makes looking further pointless.
pub(crate) async fn server(client: &Client, findings: &mut Vec<Finding>) -> Result<Hello> {
    let hello = hello(client, Phase::Check).await?;
    let info = run(&client.database("admin"), doc! {"buildInfo": 1}, Phase::Check).await?;
    let text = info.get_str("version").unwrap_or("").to_owned();
    let mut numbers = text.split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (4, 4) {
        return Err(Error::operator(format!("the server runs MongoDB {text}"))
            .hint("oplogue reads MongoDB 4.4 and later: upgrade the server"));
    }
    if hello.is_standalone() {
        return Err(client::standalone());
    }
    findings.push(Finding::ok(match &hello.set_name {
        Some(name) => format!("MongoDB {text}, replica set `{name}`"),
        None => format!("MongoDB {text}, sharded cluster"),
    }));
    if identity(client).await?.is_none() {
        findings.push(Finding::warning(
            "the identity of the deployment cannot be read, so a checkpoint of another one would not be noticed",
            "grant the user the role `clusterMonitor`, or `read` on `local`",
        ));
    }
    Ok(hello)
}

/// What the user may do with some namespaces.
pub(crate) struct Privilege {
    /// An empty name stands for all of them.
    db: String,
    coll: String,
    actions: Vec<String>,
}

impl Privilege {
    /// Whether it holds for that collection; `None` is all of a database, or all databases.
    pub(crate) fn covers(&self, db: Option<&str>, coll: Option<&str>) -> bool {
        let one = |ours: &str, theirs: Option<&str>| ours.is_empty() || theirs == Some(ours);
        one(&self.db, db) && one(&self.coll, coll)
    }

    pub(crate) fn allows(&self, action: &str) -> bool {
        self.actions.iter().any(|a| a == action)
    }
}

/// The privileges of the user; `None` without a user: then the server asks for none.
pub(crate) async fn privileges(client: &Client) -> Result<Option<Vec<Privilege>>> {
    let asked = doc! {"connectionStatus": 1, "showPrivileges": true};
    Ok(read_privileges(&run(&client.database("admin"), asked, Phase::Check).await?))
}

/// Reads the reply of `connectionStatus`.
pub(crate) fn read_privileges(status: &Document) -> Option<Vec<Privilege>> {
    let info = status.get_document("authInfo").ok()?;
    if info.get_array("authenticatedUsers").is_ok_and(|users| users.is_empty()) {
        return None;
    }
    let read = |privilege: &Document| {
        let resource = privilege.get_document("resource").ok()?;
        let actions = privilege.get_array("actions").ok()?.iter().filter_map(Bson::as_str).map(str::to_owned).collect();
        if resource.get_bool("anyResource").unwrap_or(false) {
            return Some(Privilege { db: String::new(), coll: String::new(), actions });
        }
        let name = |key| resource.get_str(key).ok().map(str::to_owned);
        Some(Privilege { db: name("db")?, coll: name("collection")?, actions })
    };
    let all = info.get_array("authenticatedUserPrivileges").map(Vec::as_slice).unwrap_or_default();
    Some(all.iter().filter_map(|privilege| read(privilege.as_document()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_cover_what_they_name() {
        let all = Some("a");
        for (resource, collection, database, everything) in [
            (doc! {"db": "a", "collection": "b"}, true, false, false),
            (doc! {"db": "a", "collection": ""}, true, true, false),
            (doc! {"db": "", "collection": ""}, true, true, true),
            (doc! {"anyResource": true}, true, true, true),
            (doc! {"db": "x", "collection": ""}, false, false, false),
            (doc! {"cluster": true}, false, false, false),
        ] {
            let status = doc! {"authInfo": {
                "authenticatedUsers": [{"user": "u", "db": "admin"}],
                "authenticatedUserPrivileges": [{"resource": &resource, "actions": ["find"]}],
            }};
            let privileges = read_privileges(&status).unwrap();
            let covers = |db, coll| privileges.iter().any(|p| p.covers(db, coll));
            assert_eq!(covers(all, Some("b")), collection, "{resource}");
            assert_eq!(covers(all, None), database, "{resource}");
            assert_eq!(covers(None, None), everything, "{resource}");
            assert!(privileges.iter().all(|p| p.allows("find") && !p.allows("insert")), "{resource}");
        }
        assert!(read_privileges(&doc! {"authInfo": {"authenticatedUsers": []}}).is_none());
    }
}
