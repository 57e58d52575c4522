use std::sync::{Arc, Mutex};

use clap::CommandFactory;
use oplogue_api::{Error, RunTool, async_trait};

use super::*;
use crate::cli::Arguments;

/// Notes what it was asked.
#[derive(Clone, Default)]
struct Noting(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl RunTool for Noting {
    async fn run(&self, context: &mut ToolContext<'_>) -> oplogue_api::Result<Outcome> {
        let mut asked = self.0.lock().unwrap();
        asked.push(format!("{} {:?}", context.action, context.arguments.all("ns")));
        asked.extend(context.routes.iter().map(|r| format!("{}: {} {}", r.name, r.source.kind, r.sink.kind)));
        match context.arguments.get("outcome") {
            Some("well") => Ok(Outcome::Well),
            Some("unwell") => Ok(Outcome::Unwell),
            Some("ended") => Err(Error::ended("gone")),
            Some("misused") => Err(Error::option("outcome", "no such thing")),
            _ => Err(Error::transient("away")),
        }
    }
}

const ARGUMENTS: &[Argument] = &[
    Argument::new("route", ArgumentKind::Rest, "ROUTE", "Routes"),
    Argument::new("ns", ArgumentKind::Values, "GLOB", "Globs"),
    Argument::new("outcome", ArgumentKind::Value, "well|unwell|ended|misused|failed", "How it ends"),
    Argument::new("json", ArgumentKind::Flag, "", "As JSON"),
];

fn registry(noting: &Noting) -> Registry {
    let mut registry = crate::builtin::registry();
    let tool =
        |name, actions| Tool { name, summary: "Looks at things", help: "", actions, run: Box::new(noting.clone()) };
    registry.tool(tool("look", &[Action { name: "", summary: "", arguments: ARGUMENTS }]));
    registry.tool(tool(
        "things",
        &[
            Action { name: "list", summary: "Lists", arguments: ARGUMENTS },
            Action { name: "show", summary: "Shows", arguments: &[] },
        ],
    ));
    registry
}

/// The exit code of the arguments behind `oplogue`.
fn call(registry: &Registry, arguments: &[&str]) -> u8 {
    let words = [&["oplogue"], arguments].concat();
    match extend(Arguments::command(), registry).try_get_matches_from(words) {
        Ok(matches) => {
            let (name, matches) = matches.subcommand().unwrap();
            run(&registry.tools[name], matches, registry)
        }
        Err(_) => MISUSED,
    }
}

#[test]
fn arguments_reach_the_tool_and_its_outcome_is_the_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("oplogue.toml").display().to_string();
    let text = "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"mongodb://h\"\n[sinks.b]\ntype = \"null\"\n\
                [[routes]]\nfrom = [\"a\"]\nto = [\"b\"]\n";
    std::fs::write(&file, text).unwrap();
    let noting = Noting::default();
    let registry = registry(&noting);
    for (outcome, code) in
        [("well", DONE), ("unwell", FAILED), ("ended", DONE), ("misused", MISUSED), ("failed", FAILED)]
    {
        let given = ["look", &file, "--ns", "a.*", "--ns=b.*", "--outcome", outcome];
        assert_eq!(call(&registry, &given), code, "{outcome}");
        let asked = std::mem::take(&mut *noting.0.lock().unwrap());
        assert_eq!(asked, [" [\"a.*\", \"b.*\"]", "a->b: mongo-oplog null"]);
    }
    assert_eq!(call(&registry, &["things", "list", &file, "a->b", "--outcome", "well"]), DONE);
    assert_eq!(noting.0.lock().unwrap()[0], "list []");
    for wrong in [
        &["things", &file][..],
        &["things", "nothing", &file],
        &["look"],
        &["look", &file, "--outcome", "other"],
        &["things", "show", &file, "--json"],
        &["look", "/nowhere.toml"],
    ] {
        assert_eq!(call(&registry, wrong), MISUSED, "{wrong:?}");
    }
}

#[test]
fn help_and_completions_know_the_tools() {
    let command = extend(Arguments::command(), &registry(&Noting::default()));
    assert!(command.clone().render_help().to_string().contains("Looks at things"));
    let mut script = Vec::new();
    clap_complete::generate(clap_complete::Shell::Bash, &mut command.clone(), "oplogue", &mut script);
    let script = String::from_utf8(script).unwrap();
    assert!(script.contains("things") && script.contains("--outcome"));
    command.debug_assert();
}

#[test]
#[should_panic(expected = "a tool has the name of the subcommand `run`")]
fn a_tool_takes_no_name_of_the_program() {
    let mut registry = Registry::default();
    registry.tool(Tool { name: "run", summary: "", help: "", actions: &[], run: Box::new(Noting::default()) });
    extend(Arguments::command(), &registry);
}
