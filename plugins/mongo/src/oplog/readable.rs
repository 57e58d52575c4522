//! Whether the user may read what is looked up.

use bson::{Document, doc};
use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use super::{lookup::grant, options::Wanted};
use crate::{client::run, errors::Phase};

/// Adds what is to be said about the namespaces in which full documents are looked up.
pub(super) async fn readable(client: &Client, wanted: &Wanted, findings: &mut Vec<Finding>) -> Result<()> {
    let patterns: Vec<String> = match wanted {
        Wanted::Nowhere => return Ok(()),
        Wanted::Everywhere => vec!["*".into()],
        Wanted::In(globs) => globs.patterns().collect(),
    };
    let command = doc! {"connectionStatus": 1, "showPrivileges": true};
    let status = run(&client.database("admin"), command, Phase::Check).await?;
    let Some(privileges) = privileges(&status) else { return Ok(()) };
    let mut all = true;
    for pattern in &patterns {
        let (db, coll) = split(pattern);
        if privileges.iter().any(|p| p.covers(db, coll)) {
            continue;
        }
        all = false;
        // What a pattern stands for may be readable all the same, collection by collection.
        findings.push(match (db, coll) {
            (Some(db), Some(_)) => {
                Error::operator(format!("the user may not read `{pattern}`, where full documents are to be looked up"))
                    .hint(grant(db))
                    .into()
            }
            (Some(db), None) => Finding::warning(
                format!("the user may not read all of `{pattern}`: an update where it may not stops the route"),
                grant(db),
            ),
            (None, _) => Finding::warning(
                "the user may not read every database: an update where it may not stops the route",
                "grant the role `readAnyDatabase` on `admin`, or name in full_document_namespaces only what the user may read",
            ),
        });
    }
    if all {
        findings.push(Finding::ok("the user may read where full documents are looked up"));
    }
    Ok(())
}

/// The database and the collection that a pattern stands for; `None` where it is more than one.
fn split(pattern: &str) -> (Option<&str>, Option<&str>) {
    let one = |name: &'_ str| !name.contains(['*', '?']);
    let (db, coll) = pattern.split_once('.').unwrap_or((pattern, "*"));
    if !one(db) {
        return (None, None);
    }
    (Some(db), Some(coll).filter(|coll| one(coll)))
}

/// The right to `find`. An empty name stands for all of them.
struct Privilege {
    db: String,
    coll: String,
}

impl Privilege {
    fn covers(&self, db: Option<&str>, coll: Option<&str>) -> bool {
        let one = |ours: &str, theirs: Option<&str>| ours.is_empty() || theirs == Some(ours);
        one(&self.db, db) && one(&self.coll, coll)
    }
}

/// What may be read; `None` where access control is off and everything may.
fn privileges(status: &Document) -> Option<Vec<Privilege>> {
    let info = status.get_document("authInfo").ok()?;
    if info.get_array("authenticatedUsers").ok()?.is_empty() {
        return None;
    }
    let of = |privilege: &Document| {
        let may = privilege
            .get_array("actions")
            .ok()?
            .iter()
            .any(|action| matches!(action.as_str(), Some("find" | "anyAction")));
        let resource = privilege.get_document("resource").ok().filter(|_| may)?;
        if resource.get_bool("anyResource").unwrap_or(false) {
            return Some(Privilege { db: String::new(), coll: String::new() });
        }
        Some(Privilege { db: resource.get_str("db").ok()?.into(), coll: resource.get_str("collection").ok()?.into() })
    };
    let all = info.get_array("authenticatedUserPrivileges").ok()?;
    Some(all.iter().filter_map(|privilege| of(privilege.as_document()?)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pattern_stands_for() {
        assert_eq!(split("app.tasks"), (Some("app"), Some("tasks")));
        assert_eq!(split("app.fs.chunks"), (Some("app"), Some("fs.chunks")));
        assert_eq!(split("app.*"), (Some("app"), None));
        for all in ["*", "*.tasks", "a?p.tasks", "app*"] {
            assert_eq!(split(all), (None, None), "{all}");
        }
    }

    #[test]
    fn privileges_cover_what_they_name() {
        let of = |resource: Document, actions: &[&str]| {
            let users = vec![doc! {"user": "u", "db": "admin"}];
            let privilege = doc! {"resource": resource, "actions": actions.to_vec()};
            privileges(&doc! {"authInfo": {"authenticatedUsers": users, "authenticatedUserPrivileges": [privilege]}})
        };
        let covers = |all: Option<Vec<Privilege>>, pattern: &str| {
            let (db, coll) = split(pattern);
            all.unwrap().iter().any(|p| p.covers(db, coll))
        };
        for (resource, yes, no) in [
            (doc! {"db": "app", "collection": "c"}, &["app.c"][..], &["app.*", "app.d", "*"][..]),
            (doc! {"db": "app", "collection": ""}, &["app.c", "app.*"], &["b.c", "*.c"]),
            (doc! {"db": "", "collection": ""}, &["app.c", "*", "*.c"], &[]),
            (doc! {"anyResource": true}, &["app.c", "*"], &[]),
            (doc! {"cluster": true}, &[], &["app.c"]),
        ] {
            assert!(yes.iter().all(|p| covers(of(resource.clone(), &["insert", "find"]), p)), "{resource}");
            assert!(!no.iter().any(|p| covers(of(resource.clone(), &["find"]), p)), "{resource}");
            assert!(!yes.iter().any(|p| covers(of(resource.clone(), &["insert"]), p)), "{resource}");
        }
        let off = doc! {"authInfo": {"authenticatedUsers": [], "authenticatedUserPrivileges": []}};
        assert!(privileges(&off).is_none());
    }
}
