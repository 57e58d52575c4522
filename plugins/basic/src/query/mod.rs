//! MongoDB's query language, on raw BSON: compiled once, then asked of each document without decoding it.
//!
//! What a query means is what mongod makes of it, without a collation; `tests/query.rs` compares the two.

mod node;
mod operands;
mod parse;
mod path;
mod pcre;
mod predicate;
#[cfg(test)]
mod tests;
mod text;
mod wrong;

use oplogue_api::{
    Error, Result,
    bson::{RawDocument, RawDocumentBuf},
    raw::elements,
};

use node::Node;
pub use text::Tree;
use wrong::Place;

/// A compiled query.
pub struct Query {
    node: Node,
    document: RawDocumentBuf,
}

// I8: a query may hold what documents hold.
impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Query({} bytes)", self.document.as_bytes().len())
    }
}

impl Query {
    /// Compiles a query, which is the value of `option`.
    ///
    /// # Errors
    /// [`Operator`](oplogue_api::ErrorKind::Operator), with the option and the place in the query: what mongod refuses, and what
    /// only mongod can do.
    pub fn new(option: &str, document: RawDocumentBuf) -> Result<Query> {
        let node = parse::query(elements(&document), &Place::Root).map_err(|wrong| wrong.of_option(option))?;
        Ok(Query { node, document })
    }

    /// Compiles a query that is written in extended JSON.
    ///
    /// # Errors
    /// As [`Query::new`].
    pub fn from_json(option: &str, text: &str) -> Result<Query> {
        Query::from_tree(option, &Tree::Text(text.to_owned()))
    }

    /// Compiles a query as a configuration has it.
    ///
    /// # Errors
    /// As [`Query::new`]; and what is no extended JSON.
    pub fn from_tree(option: &str, tree: &Tree) -> Result<Query> {
        let document = text::document(tree).map_err(|wrong| wrong.of_option(option))?;
        Query::new(option, document)
    }

    /// Whether a document matches.
    ///
    /// # Errors
    /// [`Data`](oplogue_api::ErrorKind::Data): the document is damaged, as far as it had to be looked at.
    pub fn matches(&self, document: &RawDocument) -> Result<bool, Error> {
        self.node.on_document(elements(document))
    }

    /// The paths that it asks about.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        gather(&self.document, &mut paths);
        paths
    }

    /// The query as a document, for a server: `{$match: …}`.
    pub fn document(&self) -> &RawDocument {
        &self.document
    }
}

fn gather(query: &RawDocument, paths: &mut Vec<String>) {
    for (name, value) in query.iter().flatten() {
        match name.as_str() {
            "$and" | "$or" | "$nor" => {
                let parts = value.as_array().into_iter().flatten().flatten();
                parts.filter_map(|part| part.as_document()).for_each(|part| gather(part, paths));
            }
            operator if operator.starts_with('$') => {}
            path => paths.push(path.to_owned()),
        }
    }
}
