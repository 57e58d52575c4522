//! What holds for the collections that a table of the option `collections` matches.

use std::collections::{HashMap, HashSet};

use oplogue_api::{Error, Event, Namespace, Options, Result};
use serde::Deserialize;

use crate::{
    changed::{Detail, names},
    pattern::Patterns,
    template::{ObjectIds, Template},
};

/// The option `document`: what `d` of a message holds.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Document {
    /// The `_id` alone.
    #[default]
    Id,
    /// The document as it is now.
    Full,
    /// The document as it was before.
    Previous,
}

/// One table, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    #[serde(rename = "match")]
    matched: Texts,
    #[serde(default = "yes")]
    publish: bool,
    document: Option<Document>,
    namespaces: Option<Vec<String>>,
    channels: Option<Vec<String>>,
    object_ids: Option<ObjectIds>,
    skip_if_only: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "`match` must be a text or a list of texts")]
enum Texts {
    One(String),
    Many(Vec<String>),
}

fn yes() -> bool {
    true
}

/// One table, checked.
pub struct Rule {
    patterns: Patterns,
    /// Whether anything is published.
    pub publish: bool,
    /// What `d` holds.
    pub document: Document,
    /// Channels `<prefix><name>::<collection>`.
    pub namespaces: Vec<Template>,
    /// Channels `<prefix><name>`.
    pub channels: Vec<Template>,
    /// How templates write ObjectIds.
    pub object_ids: ObjectIds,
    skip_if_only: HashSet<String>,
    /// Top-level names of the fields in templates.
    template_fields: HashSet<String>,
}

impl Rule {
    fn new(table: Table) -> Result<Rule, String> {
        let matched = match table.matched {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        };
        let patterns = Patterns::new(&matched).map_err(|e| format!("match: {e}"))?;
        let others = [
            ("document", table.document.is_some()),
            ("namespaces", table.namespaces.is_some()),
            ("channels", table.channels.is_some()),
            ("object_ids", table.object_ids.is_some()),
            ("skip_if_only", table.skip_if_only.is_some()),
        ];
        if let Some((name, _)) = others.iter().find(|(_, is_there)| *is_there && !table.publish) {
            return Err(format!("{name}: with publish = false nothing is published: take one of the two out"));
        }
        let templates = |name: &str, texts: Option<Vec<String>>| -> Result<Vec<Template>, String> {
            if texts.as_ref().is_some_and(Vec::is_empty) {
                return Err(format!("{name}: it is empty: name a channel, such as \"company::{{companyId}}\""));
            }
            let read =
                |text: &String| Template::new(text).map_err(|e| format!("{name}: the template `{text}` is wrong: {e}"));
            texts.unwrap_or_default().iter().map(read).collect()
        };
        let namespaces = templates("namespaces", table.namespaces)?;
        let channels = templates("channels", table.channels)?;
        // A subscriber takes the collection of a message from the first observer on its channel.
        if !channels.is_empty() && patterns.collection().is_none() {
            return Err(
                "channels: one channel must not serve two collections, and `match` may match several: let it name \
                        one, such as \"app.messages\" (or that of several databases), or use `namespaces`"
                    .to_owned(),
            );
        }
        if table.object_ids.is_some() && namespaces.is_empty() && channels.is_empty() {
            return Err("object_ids: it says how templates write ObjectIds, and there are none".to_owned());
        }
        let template_fields: HashSet<String> =
            namespaces.iter().chain(&channels).flat_map(Template::top_fields).map(str::to_owned).collect();
        if table.skip_if_only.as_ref().is_some_and(Vec::is_empty) {
            return Err("skip_if_only: it is empty: name fields, or leave it out".to_owned());
        }
        let skip_if_only: HashSet<String> = table.skip_if_only.unwrap_or_default().into_iter().collect();
        if let Some(name) = skip_if_only.iter().find(|name| name.is_empty() || name.contains('.')) {
            return Err(format!("skip_if_only: `{name}` is no name of a top-level field"));
        }
        if let Some(name) = skip_if_only.intersection(&template_fields).next() {
            return Err(format!(
                "skip_if_only: `{name}` is a field of a template: a document that changes its channel must be published"
            ));
        }
        Ok(Rule {
            patterns,
            publish: table.publish,
            document: table.document.unwrap_or_default(),
            namespaces,
            channels,
            object_ids: table.object_ids.unwrap_or_default(),
            skip_if_only,
            template_fields,
        })
    }

    /// Whether there are templates.
    pub fn has_templates(&self) -> bool {
        !self.namespaces.is_empty() || !self.channels.is_empty()
    }

    /// Whether templates take something from documents.
    pub fn needs_images(&self) -> bool {
        !self.template_fields.is_empty()
    }

    /// Whether an update changes nothing but fields of `skip_if_only`.
    ///
    /// # Errors
    /// `Data` when its description is damaged.
    pub fn skips(&self, update: &Event) -> Result<bool> {
        if self.skip_if_only.is_empty() {
            return Ok(false);
        }
        let (mut some, mut all) = (false, true);
        let is_known = changed(update, &mut |name| {
            some = true;
            all &= std::str::from_utf8(name).is_ok_and(|name| self.skip_if_only.contains(name));
        })?;
        Ok(is_known && some && all)
    }

    /// Whether an update may have changed a field that a template holds.
    ///
    /// # Errors
    /// `Data` when its description is damaged.
    pub fn may_move(&self, update: &Event) -> Result<bool> {
        let mut moves = false;
        let is_known = changed(update, &mut |name| {
            moves |= std::str::from_utf8(name).is_ok_and(|name| self.template_fields.contains(name));
        })?;
        Ok(moves || !is_known)
    }
}

/// Calls `name` for the top-level fields that an update changed; `false` when they are not known.
fn changed(update: &Event, name: &mut impl FnMut(&[u8])) -> Result<bool> {
    let Some(change) = &update.change else { return Ok(false) };
    if names(change, Detail::TopLevel, name)? {
        return Ok(true);
    }
    let decoded = change.decode()?;
    let set = decoded.set.iter().map(|(path, _)| path);
    let truncated = decoded.truncate.iter().map(|(path, _)| path);
    set.chain(&decoded.unset).chain(truncated).for_each(|path| name(path.top().as_bytes()));
    Ok(true)
}

/// All tables.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Rule>,
    decided: HashMap<Namespace, Option<usize>>,
    last: Option<(Namespace, Option<usize>)>,
}

/// The decisions on more namespaces than this are not remembered at once (I6).
const MOST_REMEMBERED: usize = 10_000;

impl Rules {
    /// Reads the option `collections`.
    ///
    /// # Errors
    /// Naming the table and its key.
    pub fn new(options: &Options) -> Result<Rules> {
        let Some(value) = options.table().get("collections") else { return Ok(Rules::default()) };
        let wrong = |text: String| Error::option("collections", text).hint("see docs/redis-oplog.md, Collections");
        let tables = value.as_array().ok_or_else(|| wrong("`collections` must be an array of tables".to_owned()))?;
        let mut rules = Rules::default();
        // Templates of channels, and the collection each belongs to.
        let mut owners: HashMap<String, String> = HashMap::new();
        let mut seen = HashSet::new();
        for (n, table) in tables.iter().enumerate() {
            let place = format!("collections, table {}", n + 1);
            let wrong = |text: &str| wrong(format!("{place}: {text}"));
            let table = table.as_table().ok_or_else(|| wrong("it is no table"))?;
            if table.get("match").is_some_and(|m| !seen.insert(m.to_string())) {
                return Err(wrong("match: an earlier table has the same, and the first that matches holds"));
            }
            let table: Table = Options::new(table.clone()).parse().map_err(|e| wrong(e.message()))?;
            let rule = Rule::new(table).map_err(|e| wrong(&e))?;
            let collection = rule.patterns.collection().unwrap_or_default();
            for template in &rule.channels {
                let owner = owners.entry(template.source().to_owned()).or_insert_with(|| collection.to_owned());
                if owner != collection {
                    return Err(wrong(&format!(
                        "channels: `{}` is a channel of `{owner}` already: one channel must not serve two collections",
                        template.source()
                    )));
                }
            }
            rules.rules.push(rule);
        }
        Ok(rules)
    }

    /// The first table that matches.
    pub fn of(&mut self, ns: &Namespace) -> Option<&Rule> {
        if self.rules.is_empty() {
            return None;
        }
        let known = self.last.as_ref().filter(|(last, _)| last == ns).map(|(_, found)| *found);
        let found = known.unwrap_or_else(|| {
            if self.decided.len() >= MOST_REMEMBERED {
                self.decided.clear();
            }
            let find = || self.rules.iter().position(|rule| rule.patterns.match_ns(ns.as_str()));
            let found = *self.decided.entry(ns.clone()).or_insert_with(find);
            self.last = Some((ns.clone(), found));
            found
        });
        found.map(|n| &self.rules[n])
    }
}

#[cfg(test)]
#[path = "collections_tests.rs"]
mod tests;
