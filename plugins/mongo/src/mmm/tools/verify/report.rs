//! What goes to stdout: lines for people, or JSON.

use std::collections::BTreeMap;

use bson::{Bson, Document, doc};
use oplogue_api::{Namespace, Result, ToolContext};

use super::{super::text, scan::Candidate, schema::Deviation};

/// Of one collection.
#[derive(Default)]
pub(super) struct Counts {
    pub documents: [u64; 2],
    pub differing: u64,
    pub changing: u64,
    pub repaired: u64,
}

pub(super) struct Report<'c, 'w> {
    context: &'c mut ToolContext<'w>,
    names: [String; 2],
    json: bool,
}

impl<'c, 'w> Report<'c, 'w> {
    pub fn new(context: &'c mut ToolContext<'w>, names: [String; 2]) -> Self {
        let json = !context.terminal || context.arguments.has("json");
        Report { context, names, json }
    }

    fn object(&mut self, object: Document) -> Result<()> {
        self.context.print(&format!("{}\n", text::json(&Bson::Document(object))))
    }

    pub fn note(&mut self, text: &str) {
        self.context.note(text);
    }

    pub fn state(&self, candidate: &Candidate) -> String {
        match candidate.state {
            [Some(_), Some(_)] => "differs".into(),
            [Some(_), None] => format!("only at {}", self.names[0]),
            _ => format!("only at {}", self.names[1]),
        }
    }

    /// A document that differs, by its id.
    pub fn document(&mut self, candidate: &Candidate, state: &str, done: Option<&str>) -> Result<()> {
        let ns = candidate.ns.as_str();
        if self.json {
            let mut object = doc! {"ns": ns, "id": &candidate.id, "state": state};
            object.extend(done.map(|done| ("repair".to_owned(), Bson::String(done.to_owned()))));
            return self.object(object);
        }
        let done = done.map_or_else(String::new, |done| format!("; {done}"));
        self.context.print(&format!("{ns}  {}  {state}{done}\n", text::json(&candidate.id)))
    }

    /// Something else that differs.
    pub fn deviation(&mut self, ns: &Namespace, deviation: &Deviation) -> Result<()> {
        let state = match deviation.only {
            Some(end) => format!("only at {}", self.names[end]),
            None => "differs".to_owned(),
        };
        match self.json {
            true => self.object(doc! {"ns": ns.as_str(), "schema": &deviation.what, "state": state}),
            false => self.context.print(&format!("{ns}  {}: {state}\n", deviation.what)),
        }
    }

    pub fn counts(&mut self, counts: &BTreeMap<Namespace, Counts>) -> Result<()> {
        if self.json {
            for (ns, count) in counts {
                let [here, there] = count.documents.map(|n| n as i64);
                let documents = doc! {self.names[0].as_str(): here, self.names[1].as_str(): there};
                self.object(doc! {
                    "ns": ns.as_str(), "documents": documents, "differing": count.differing as i64,
                    "changing": count.changing as i64, "repaired": count.repaired as i64,
                })?;
            }
            return Ok(());
        }
        let head = ["NAMESPACE", &self.names[0], &self.names[1], "DIFFERING", "CHANGING", "REPAIRED"];
        let row = |(ns, count): (&Namespace, &Counts)| {
            let [here, there] = count.documents;
            let numbers = [here, there, count.differing, count.changing, count.repaired].map(|n| n.to_string());
            [ns.to_string()].into_iter().chain(numbers).collect()
        };
        let rows: Vec<Vec<String>> = counts.iter().map(row).collect();
        let table = text::table(&head, &rows);
        self.context.print(&table)
    }
}
