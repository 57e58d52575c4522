use oplogue_api::{
    Result,
    raw::{Elements, Value},
};

use super::{
    path::{Leaf, Path},
    test::Test,
};

/// A compiled query, or a part of one.
pub(super) enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Constant(bool),
    Field { path: Path, leaf: Leaf, test: Test },
}

impl Node {
    pub fn on_document(&self, document: Elements<'_>) -> Result<bool> {
        match self {
            Node::And(all) => every(all, |node| node.on_document(document.clone())),
            Node::Or(all) => Ok(!every(all, |node| Ok(!node.on_document(document.clone())?))?),
            Node::Not(node) => Ok(!node.on_document(document)?),
            Node::Constant(is) => Ok(*is),
            Node::Field { path, leaf, test } => path.any(document, *leaf, &mut |value| test.holds(value)),
        }
    }

    /// Asks the tests of the very value, without going along their paths: what `$elemMatch` does with operators.
    pub fn on_value(&self, value: Value<'_>) -> Result<bool> {
        match self {
            Node::And(all) => every(all, |node| node.on_value(value)),
            Node::Or(all) => Ok(!every(all, |node| Ok(!node.on_value(value)?))?),
            Node::Not(node) => Ok(!node.on_value(value)?),
            Node::Constant(is) => Ok(*is),
            Node::Field { test, .. } => test.holds(Some(value)),
        }
    }
}

fn every(all: &[Node], mut holds: impl FnMut(&Node) -> Result<bool>) -> Result<bool> {
    for node in all {
        if !holds(node)? {
            return Ok(false);
        }
    }
    Ok(true)
}
