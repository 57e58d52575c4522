//! Tools: subcommands of the program that a plugin brings, for what only it understands.

use std::{collections::BTreeMap, io};

use async_trait::async_trait;

use crate::{Error, Options, Result};

/// A subcommand, `oplogue NAME FILE …` or `oplogue NAME ACTION FILE …`. The router reads and plans the file.
pub struct Tool {
    /// The name of the subcommand.
    pub name: &'static str,
    /// What it does, in a sentence without a full stop.
    pub summary: &'static str,
    /// Shown below the options of its help; may be empty.
    pub help: &'static str,
    /// What it can do: one action with an empty name, or several with names.
    pub actions: &'static [Action],
    /// Does it.
    pub run: Box<dyn RunTool>,
}

/// One thing that a [`Tool`] does.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// Its name on the command line; empty when the tool has but one.
    pub name: &'static str,
    /// What it does, in a sentence without a full stop.
    pub summary: &'static str,
    /// What it takes behind the file, in order.
    pub arguments: &'static [Argument],
}

/// What an argument looks like on the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArgumentKind {
    /// A word.
    Positional,
    /// Any number of words. Must be the last positional.
    Rest,
    /// `--name`.
    Flag,
    /// `--name VALUE`.
    Value,
    /// `--name VALUE`, any number of times.
    Values,
}

/// An argument of an [`Action`].
#[derive(Clone, Copy, Debug)]
pub struct Argument {
    /// Its name: `limit` for `--limit`; in capitals in the help when it is a positional.
    pub name: &'static str,
    /// What it looks like.
    pub kind: ArgumentKind,
    /// Whether it must be there.
    pub required: bool,
    /// What stands for its value in the help; the words to choose from, when there is a `|` in it.
    pub value: &'static str,
    /// What it does, in a sentence without a full stop.
    pub help: &'static str,
}

impl Argument {
    /// An argument that may be absent.
    pub const fn new(name: &'static str, kind: ArgumentKind, value: &'static str, help: &'static str) -> Argument {
        Argument { name, kind, required: false, value, help }
    }
    /// The same, but it must be there.
    pub const fn required(self) -> Argument {
        Argument { required: true, ..self }
    }
}

/// One end of a route.
#[derive(Clone, Debug)]
pub struct ToolNode {
    /// The name of its table.
    pub name: String,
    /// Its `type`.
    pub kind: &'static str,
    /// Its options.
    pub options: Options,
}

/// A route of the configuration, as a tool sees it.
#[derive(Clone, Debug)]
pub struct ToolRoute {
    /// The name of the route.
    pub name: String,
    /// Where it reads.
    pub source: ToolNode,
    /// Where it writes.
    pub sink: ToolNode,
}

/// The arguments that were given, by name; a flag has no values.
#[derive(Clone, Debug, Default)]
pub struct ToolArguments(BTreeMap<String, Vec<String>>);

impl ToolArguments {
    /// Notes an argument.
    pub fn insert(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        self.0.entry(name.to_owned()).or_default().extend(values);
    }
    /// Whether it was given.
    pub fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
    /// Its first value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().map(String::as_str)
    }
    /// All its values.
    pub fn all(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

/// What a tool works with.
pub struct ToolContext<'a> {
    /// The [`Action::name`] that was asked for.
    pub action: &'a str,
    /// All routes of the file.
    pub routes: Vec<ToolRoute>,
    /// What else was said.
    pub arguments: ToolArguments,
    /// stdout: what was asked for.
    pub out: &'a mut (dyn io::Write + Send),
    /// stderr: everything else.
    pub notes: &'a mut (dyn io::Write + Send),
    /// Whether stdout is a terminal, so that a person reads.
    pub terminal: bool,
}

impl ToolContext<'_> {
    /// Writes to stdout.
    ///
    /// # Errors
    /// [`Error::ended`] when the reader has gone, `Operator` when nothing can be written.
    pub fn print(&mut self, text: &str) -> Result<()> {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(|e| match e.kind() {
            io::ErrorKind::BrokenPipe => Error::ended("the reader of stdout has gone"),
            _ => Error::operator("cannot write to stdout").caused_by(e),
        })
    }
    /// Writes to stderr, come what may. Neither secrets nor contents of documents (I8).
    pub fn note(&mut self, text: &str) {
        let _ = self.notes.write_all(text.as_bytes());
    }
}

/// What a tool came to: the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// 0: done, and all is well.
    Well,
    /// 1: done, but what was asked about is not as it should be, or not all of it could be done.
    Unwell,
}

/// Does what a [`Tool`] is for.
#[async_trait]
pub trait RunTool: Send + Sync {
    /// Runs. It is dropped when the program is told to stop, at any await point: what it does must be whole at each of them.
    ///
    /// # Errors
    /// Exit code 1; 2 when made by [`Error::option`], for an argument. [`Error::ended`] is none.
    async fn run(&self, context: &mut ToolContext<'_>) -> Result<Outcome>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    struct Nothing;

    #[async_trait]
    impl RunTool for Nothing {
        async fn run(&self, _: &mut ToolContext<'_>) -> Result<Outcome> {
            Ok(Outcome::Well)
        }
    }

    fn tool(name: &'static str) -> Tool {
        Tool { name, summary: "", help: "", actions: &[], run: Box::new(Nothing) }
    }

    #[test]
    #[should_panic(expected = "two tools are called `x`")]
    fn a_name_is_taken_once() {
        let mut registry = Registry::default();
        registry.tool(tool("x"));
        registry.tool(tool("x"));
    }

    #[test]
    fn values_gather() {
        let mut given = ToolArguments::default();
        given.insert("ns", ["a.*".to_owned()]);
        given.insert("ns", ["b.*".to_owned()]);
        given.insert("json", []);
        assert_eq!(given.all("ns"), ["a.*", "b.*"]);
        assert!(given.has("json") && given.get("json").is_none() && !given.has("limit"));
    }
}
