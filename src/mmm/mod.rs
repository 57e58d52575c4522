//! A configuration of MongoMultiMaster as one of oplogue.
//!
//! Its file names the servers. What is replicated stands at the servers themselves, in `local.mmm`: for each server that is read from, a
//! list of pairs of namespaces with the operations. `mmm dump-config` prints the pairs.

mod read;
mod text;

#[cfg(test)]
mod tests;

/// A server of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    name: String,
    /// A UUID, with which its changes are stamped.
    id: String,
    uri: String,
}

/// One namespace that is replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pair {
    from: String,
    to: String,
    src: String,
    dst: String,
    /// A subset of `iud`.
    ops: String,
}

/// Where the links stand.
pub enum Links {
    /// The output of `mmm dump-config`.
    Dump(String),
    /// The documents of `local.mmm` of a server, as mongoexport writes them.
    Export {
        /// Its name in the file.
        server: String,
        /// JSON, one document a line or a list of them.
        text: String,
    },
}

/// What a configuration comes to.
pub struct Imported {
    /// TOML. Holds no password: those are variables.
    pub text: String,
    /// What oplogue does otherwise, or not.
    pub warnings: Vec<String>,
}

/// Reads a configuration and the links.
///
/// # Errors
/// All that is wrong with it, in sentences.
pub fn import(yaml: &str, links: &[Links]) -> Result<Imported, Vec<String>> {
    let servers = read::servers(yaml)?;
    let mut pairs = Vec::new();
    let mut problems = Vec::new();
    for links in links {
        match links {
            Links::Dump(text) => read::dump(text, &servers, &mut pairs, &mut problems),
            Links::Export { server, text } => read::export(server, text, &servers, &mut pairs, &mut problems),
        }
    }
    if problems.is_empty() { Ok(text::render(&servers, (!links.is_empty()).then_some(&pairs))) } else { Err(problems) }
}
