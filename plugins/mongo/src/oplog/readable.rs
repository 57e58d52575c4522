//! Whether the user may read what is looked up.

use mongodb::Client;
use oplogue_api::{Error, Finding, Result};

use super::lookup::grant;
use crate::{check::privileges, globs::Globs};

/// Adds what is to be said about the namespaces in which full documents are looked up, by globs; `None`: in all. `option` names them.
pub(crate) async fn readable(
    client: &Client,
    globs: Option<&Globs>,
    option: &str,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let patterns: Vec<String> = globs.map_or_else(|| vec!["*".into()], |globs| globs.patterns().collect());
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
                    .hint(grant(db, option))
                    .into()
            }
            (Some(db), None) => Finding::warning(
                format!("the user may not read all of `{pattern}`: an update where it may not stops the route"),
                grant(db, option),
            ),
            (None, _) => Finding::warning(
                "the user may not read every database: an update where it may not stops the route",
                format!("grant the role `readAnyDatabase` on `admin`, or name in {option} only what the user may read"),
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
