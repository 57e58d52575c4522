use oplogue_api::{
    Result,
    raw::{Elements, Value},
};

use super::{
    path::{Leaf, Path},
    predicate::Predicate,
};

/// A compiled query, or a part of one.
pub(super) enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Constant(bool),
    Field { path: Path, leaf: Leaf, predicate: Predicate },
}

impl Node {
    pub fn on_document(&self, document: Elements<'_>) -> Result<bool> {
        match self {
            Node::And(all) => every(all, |node| node.on_document(document.clone())),
            Node::Or(all) => Ok(!every(all, |node| Ok(!node.on_document(document.clone())?))?),
            Node::Not(node) => Ok(!node.on_document(document)?),
            Node::Constant(is) => Ok(*is),
            Node::Field { path, leaf, predicate } => path.any(document, *leaf, &mut |value| predicate.holds(value)),
        }
    }

    /// Asks the predicates of the very value, without going along their paths: what `$elemMatch` does with operators.
    pub fn on_value(&self, value: Value<'_>) -> Result<bool> {
        match self {
            Node::And(all) => every(all, |node| node.on_value(value)),
            Node::Or(all) => Ok(!every(all, |node| Ok(!node.on_value(value)?))?),
            Node::Not(node) => Ok(!node.on_value(value)?),
            Node::Constant(is) => Ok(*is),
            Node::Field { predicate, .. } => predicate.holds(Some(value)),
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
