//! Which of several concurrent writes of a document stays.
//!
//! The rules that make all nodes come to the same document:
//! 1. The rank of a write is the same wherever it is computed: it depends on the write alone, and on the markers before it in
//!    the log of its node.
//! 2. A write that comes is compared with the greatest of the writes that are here, concurrent with it and not yet *beaten*.
//! 3. The winner is taken as the whole document of its node, never as a change on top of another version.
//! 4. What a write of a node has beaten stays beaten for the later writes of that node: they follow from the winner, whatever
//!    their own clocks say.

use std::cmp::Ordering;

use super::options::{Conflicts, Deletes, Policy};

/// A write, as far as its rank goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ranked<'a> {
    pub node: &'a str,
    /// Milliseconds.
    pub clock: i64,
    pub is_delete: bool,
}

/// Compares two writes of different nodes.
pub(super) fn compare(policy: Policy, priority: &[String], a: Ranked<'_>, b: Ranked<'_>) -> Ordering {
    let place = |node: &str| priority.iter().position(|name| name == node).unwrap_or(usize::MAX);
    // The first of the list is the greatest; and of two nodes that are not in it, the one with the greater name.
    let nodes = || place(b.node).cmp(&place(a.node)).then_with(|| a.node.cmp(b.node));
    let deletes = match policy.deletes {
        Deletes::Rank => Ordering::Equal,
        Deletes::Win => a.is_delete.cmp(&b.is_delete),
        Deletes::Lose => b.is_delete.cmp(&a.is_delete),
    };
    deletes.then_with(|| match policy.conflicts {
        Conflicts::Priority => nodes().then_with(|| a.clock.cmp(&b.clock)),
        _ => a.clock.cmp(&b.clock).then_with(nodes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(node: &str, clock: i64, is_delete: bool) -> Ranked<'_> {
        Ranked { node, clock, is_delete }
    }

    #[test]
    fn the_later_one_stays_and_ties_are_broken_alike_everywhere() {
        let policy = Policy { conflicts: Conflicts::LastWrite, deletes: Deletes::Rank };
        let none: &[String] = &[];
        let (a, b) = (write("a", 5, false), write("b", 4, true));
        assert_eq!(compare(policy, none, a, b), Ordering::Greater);
        assert_eq!(compare(policy, none, b, a), Ordering::Less);
        let (a, b) = (write("a", 5, false), write("b", 5, false));
        assert_eq!(compare(policy, none, a, b), Ordering::Less);
        assert_eq!(compare(policy, &["a".into()], a, b), Ordering::Greater);
        assert_eq!(compare(policy, &["a".into(), "b".into()], b, a), Ordering::Less);
    }

    #[test]
    fn deletes_and_priorities() {
        let (a, b) = (write("a", 5, false), write("b", 4, true));
        let policy = |conflicts, deletes| Policy { conflicts, deletes };
        let none: &[String] = &[];
        assert_eq!(compare(policy(Conflicts::LastWrite, Deletes::Win), none, a, b), Ordering::Less);
        assert_eq!(compare(policy(Conflicts::LastWrite, Deletes::Lose), none, a, b), Ordering::Greater);
        let list = ["b".to_owned(), "a".to_owned()];
        assert_eq!(compare(policy(Conflicts::Priority, Deletes::Rank), &list, a, b), Ordering::Less);
        assert_eq!(compare(policy(Conflicts::Priority, Deletes::Lose), &list, a, b), Ordering::Greater);
    }
}
