//! Whether the user may read what is looked up.

use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use super::{lookup::grant, options::Wanted};
use crate::check::privileges;

/// Adds what is to be said about the namespaces in which full documents are looked up.
pub(super) async fn readable(client: &Client, wanted: &Wanted, findings: &mut Vec<Finding>) -> Result<()> {
    let patterns: Vec<String> = match wanted {
        Wanted::Nowhere => return Ok(()),
        Wanted::Everywhere => vec!["*".into()],
        Wanted::In(globs) => globs.patterns().collect(),
    };
    let Some(privileges) = privileges(client).await? else { return Ok(()) };
    let may = |db: Option<&str>, coll: Option<&str>| privileges.iter().any(|p| p.allows("find") && p.covers(db, coll));
    let mut all = true;
    for pattern in &patterns {
        let (db, coll) = split(pattern);
        if may(db, coll) {
            continue;
        }
        all = false;
        // What a pattern stands for may be readable all the same, collection by collection.
        findings.push(match (db, coll) {
            (Some(db), Some(_)) => {
                Error::operator(format!("the user may not read `{pattern}`, where full documents are to be looked up"))
                    .hint(grant(db, "full_document_namespaces"))
                    .into()
            }
            (Some(db), None) => Finding::warning(
                format!("the user may not read all of `{pattern}`: an update where it may not stops the route"),
                grant(db, "full_document_namespaces"),
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
}
