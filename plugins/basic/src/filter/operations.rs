use oplogue_api::{Error, Op, Result};

/// A set of operations.
#[derive(Clone, Copy)]
pub(super) struct Operations(u32);

fn bit(op: Op) -> u32 {
    1 << (op as u32)
}

/// All barriers that a source sends.
fn is_ddl(op: Op) -> bool {
    op.is_barrier() && !matches!(op, Op::Gap | Op::DeadLetter)
}

impl Operations {
    pub(super) const ALL: Operations = Operations(u32::MAX);

    /// The set of these names.
    pub(super) fn new(names: &[String]) -> Result<Operations> {
        if names.is_empty() {
            return Err(Error::option("operations", "the list of operations is empty: nothing would ever pass")
                .hint("leave `operations` out to let all pass"));
        }
        let mut set = 0;
        for name in names {
            let named: Vec<Op> = match name.as_str() {
                "ddl" => Op::ALL.iter().copied().filter(|op| is_ddl(*op)).collect(),
                name => Op::ALL.iter().copied().filter(|op| op.name() == name).collect(),
            };
            if named.is_empty() {
                let known: Vec<&str> = Op::ALL.iter().map(|op| op.name()).chain(["ddl"]).collect();
                return Err(Error::option("operations", format!("there is no operation `{name}`"))
                    .hint(format!("known are {}", known.join(", "))));
            }
            set |= named.into_iter().map(bit).fold(0, |a, b| a | b);
        }
        Ok(Operations(set))
    }

    /// Whether nothing that a source sends is left out.
    pub(super) fn is_all(self) -> bool {
        Op::ALL.iter().all(|op| matches!(op, Op::Gap | Op::DeadLetter) || self.contains(*op))
    }

    pub(super) fn contains(self, op: Op) -> bool {
        self.0 & bit(op) != 0
    }
}
