//! The command line, through the real binary.

mod connected;
mod tools;

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long a command may take before the test fails; generous, since the machine is shared.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a command came to.
pub struct Done {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Done {
    #[track_caller]
    pub fn expect(self, code: i32) -> Done {
        assert_eq!(self.code, Some(code), "--- stdout\n{}\n--- stderr\n{}", self.stdout, self.stderr);
        self
    }
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oplogue"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.env_remove("OPLOGUE_LOG").env_remove("NO_COLOR").env("QUEUE_URL", "redis://user:hunter2@h");
    command
}

async fn finish(child: Child) -> Done {
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output());
    let output = output.await.expect("the command ends").expect("its output can be read");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("the output is UTF-8");
    Done { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub async fn run(arguments: &[&str]) -> Done {
    finish(command(arguments).spawn().expect("the command starts")).await
}

/// A configuration in a folder of its own.
struct File {
    dir: TempDir,
}

impl File {
    fn new(text: &str) -> File {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let state = dir.path().join("state");
        fs::write(dir.path().join("oplogue.toml"), text.replace("STATE", &state.display().to_string()))
            .expect("written");
        File { dir }
    }
    fn path(&self) -> PathBuf {
        self.dir.path().join("oplogue.toml")
    }
    async fn run(&self, before: &[&str], after: &[&str]) -> Done {
        let path = self.path().display().to_string();
        run(&[before, &[path.as_str()], after].concat()).await
    }
}

const SOUND: &str = r#"
[sources.mongo]
type = "mongo-oplog"
uri = "mongodb://127.0.0.1:1/?replicaSet=rs0"
[transforms.app]
type = "filter"
namespaces = ["app.*"]
[sinks.out]
type = "stdout"
[sinks.queue]
type = "redis-oplog"
url = "${QUEUE_URL}"
[[routes]]
from = "mongo"
via = "app"
to = ["out", "queue"]
"#;

#[tokio::test]
async fn help_and_version_are_no_failure() {
    let version = run(&["--version"]).await.expect(0);
    assert_eq!(version.stdout, format!("oplogue {}\n", env!("CARGO_PKG_VERSION")));
    let help = run(&["--help"]).await.expect(0);
    assert_eq!(run(&["help"]).await.expect(0).stdout, help.stdout);
    for word in ["run", "check", "plugins", "tap", "position", "completions"] {
        assert!(help.stdout.contains(&format!("\n  {word} ")), "{word} is not in\n{}", help.stdout);
    }
}

#[tokio::test]
async fn bad_arguments_are_told_on_stderr() {
    for arguments in [&[][..], &["fly"], &["run"], &["position", "set", "f", "r"], &["tap", "f", "s", "--format", "x"]]
    {
        let done = run(arguments).await.expect(2);
        assert_eq!(done.stdout, "", "{arguments:?}");
        assert!(done.stderr.contains("--help"), "{arguments:?}\n{}", done.stderr);
    }
}

#[tokio::test]
async fn check_tells_the_routes() {
    let done = File::new(SOUND).run(&["check"], &[]).await.expect(0);
    assert_eq!(done.stderr, "");
    let (_, routes) = done.stdout.split_once('\n').unwrap();
    assert_eq!(
        routes,
        "  mongo->out: mongo (mongo-oplog) -> app -> out (stdout)\n    app: namespaces on the server\n  \
         mongo->queue: mongo (mongo-oplog) -> app -> queue (redis-oplog)\n    app: namespaces on the server\n"
    );
}

/// The example in docs/filter.md, and what the other source makes of it.
#[tokio::test]
async fn check_tells_what_the_server_evaluates() {
    let docs = include_str!("../../../docs/filter.md").split("## What the server evaluates").nth(1).unwrap();
    let block = |kind: &str| docs.split(&format!("```{kind}\n")).nth(1).and_then(|b| b.split("```").next()).unwrap();
    let config = block("toml");
    let told = |config: String| async move {
        let done = File::new(&config).run(&["check"], &[]).await.expect(0);
        done.stdout.split_once('\n').unwrap().1.to_owned()
    };
    assert_eq!(told(config.to_owned()).await, block("text"));
    let stream = told(config.replace("mongo-oplog", "mongo-change-stream")).await;
    assert!(stream.contains("    large: after of inserts and replacements (in part) on the server;"), "{stream}");
    let nothing = told(config.replace("uri  =", "push_down = false\nuri  =")).await;
    assert!(nothing.contains("    orders: namespaces, operations here\n    large: after, changed here\n"), "{nothing}");
}

#[tokio::test]
async fn a_bad_configuration_is_told_and_nothing_is_started() {
    let file = File::new(&SOUND.replace("via = \"app\"", "via = \"ap\"").replace("\"stdout\"", "\"stdin\""));
    let path = file.path().display().to_string();
    for before in [&["run"][..], &["check"], &["position", "show"]] {
        let done = file.run(before, &[]).await.expect(2);
        assert_eq!(done.stdout, "", "{before:?}");
        assert!(done.stderr.contains(&format!("--> {path}:9:8\n")), "{}", done.stderr);
        assert!(done.stderr.contains("error: there is no transform `ap`"), "{}", done.stderr);
        assert!(done.stderr.ends_with(&format!("{path}: 2 errors\n")), "{}", done.stderr);
        assert!(!done.stderr.contains('\x1b') && !done.stderr.contains("hunter2"), "{}", done.stderr);
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.toml").display().to_string();
    let done = run(&["check", &missing]).await.expect(2);
    assert!(done.stderr.contains(&format!("cannot read {missing}")), "{}", done.stderr);

    let latin = dir.path().join("latin.toml");
    fs::write(&latin, b"# one\n# na\xefve\n").unwrap();
    let done = run(&["check", &latin.display().to_string()]).await.expect(2);
    assert!(done.stderr.contains("not UTF-8") && done.stderr.contains("line 2"), "{}", done.stderr);
}

#[tokio::test]
async fn a_file_without_routes_does_not_run() {
    let done = File::new("[sinks.out]\ntype = \"stdout\"\n").run(&["run"], &[]).await.expect(2);
    assert!(done.stderr.contains("no routes"), "{}", done.stderr);
}

#[tokio::test]
async fn a_port_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let text = format!("{SOUND}[http]\nlisten = \"{}\"\n[state]\ndir = \"STATE\"\n", taken.local_addr().unwrap());
    let done = File::new(&text).run(&["run"], &[]).await.expect(1);
    assert!(done.stderr.contains("cannot listen on"), "{}", done.stderr);
}

#[tokio::test]
async fn names_that_do_not_exist_are_told_with_what_was_meant() {
    let file = File::new(SOUND);
    let done = file.run(&["position", "show"], &["mongo->quue"]).await.expect(2);
    assert!(done.stderr.contains("did you mean `mongo->queue`?"), "{}", done.stderr);
    // What `position show FILE mongo->queue` comes to in a shell.
    let done = file.run(&["position", "show"], &["mongo-"]).await.expect(2);
    assert!(done.stderr.contains("write the name in quotes"), "{}", done.stderr);
    let done = file.run(&["tap"], &["mnogo"]).await.expect(2);
    assert!(done.stderr.contains("did you mean `mongo`?"), "{}", done.stderr);
    let done = run(&["plugins", "redis-oplo"]).await.expect(2);
    assert!(done.stderr.contains("did you mean `redis-oplog`?"), "{}", done.stderr);
}

#[tokio::test]
async fn every_plugin_is_listed_and_its_example_is_sound() {
    let list = run(&["plugins"]).await.expect(0).stdout;
    let registry = oplogue::builtin::registry();
    let names = (registry.sources.keys())
        .chain(registry.transforms.keys())
        .chain(registry.sinks.keys())
        .chain(registry.stores.keys());
    for name in names {
        assert!(list.contains(&format!("\n  {name} ")), "{name} is not in\n{list}");
        let told = run(&["plugins", name]).await.expect(0).stdout;
        // One name may be that of plugins of several kinds.
        let examples: Vec<_> = told.split("\nexample\n").skip(1).collect();
        assert!(!examples.is_empty(), "no example in\n{told}");
        for example in examples {
            let lines = example.lines().take_while(|line| line.is_empty() || line.starts_with("  "));
            let example: String = lines.map(|line| format!("{line}\n")).collect();
            let is_store = example.contains("[state.");
            let text = if is_store { format!("{example}\nfrom = \"a\"\nto = \"b\"\n{STORE_ENDS}") } else { example };
            let file = File::new(&text);
            let mut check = command(&["check", &file.path().display().to_string()]);
            let uri = if name.contains("redis") { "redis://h" } else { "mongodb://h" };
            check.env("URI", uri).env("URL", uri);
            let done = finish(check.spawn().unwrap()).await;
            assert_eq!(done.code, Some(0), "the example of {name}:\n{text}\n{}", done.stderr);
        }
    }
}

#[tokio::test]
async fn colours_are_for_those_who_want_them() {
    for (variables, coloured) in [
        (&[][..], false),
        (&[("CLICOLOR_FORCE", "1")], true),
        (&[("CLICOLOR_FORCE", "0")], false),
        (&[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")], false),
    ] {
        let mut plugins = command(&["plugins", "stdout"]);
        plugins.env_remove("CLICOLOR_FORCE").envs(variables.iter().copied());
        let done = finish(plugins.spawn().unwrap()).await.expect(0);
        assert_eq!(done.stdout.contains('\u{1b}'), coloured, "{variables:?}");
    }
}

const STORE_ENDS: &str = "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"mongodb://h\"\n[sinks.b]\ntype = \"stdout\"\n";

#[tokio::test]
async fn completions_are_scripts() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef oplogue"), ("fish", "complete -c oplogue")] {
        let done = run(&["completions", shell]).await.expect(0);
        assert!(done.stdout.contains(word), "{shell}");
    }
}

/// `oplogue plugins | head -0`.
#[tokio::test]
async fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["plugins"][..], &["completions", "bash"], &["--help"]] {
        let mut child = command(arguments).spawn().unwrap();
        drop(child.stdout.take());
        let done = finish(child).await.expect(0);
        assert_eq!(done.stderr, "", "{arguments:?}");
    }
}

/// A route that fails is told, with its remedy, and is what the exit code says.
#[tokio::test]
async fn a_route_that_fails_is_the_exit_code() {
    let text = "[sources.gone]\ntype = \"bson-dump\"\npath = \"STATE/none.bson\"\n[sinks.out]\ntype = \"null\"\n\
                [[routes]]\nfrom = \"gone\"\nto = \"out\"\n[state]\ndir = \"STATE\"\n[log]\nformat = \"json\"\n";
    let done = File::new(text).run(&["run"], &[]).await.expect(1);
    assert_eq!(done.stdout, "");
    let lines: Vec<serde_json::Value> = done.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told = lines.iter().filter(|line| line["level"] == "ERROR").collect::<Vec<_>>();
    assert_eq!(told.len(), 2, "what went wrong, and the end:\n{}", done.stderr);
    assert!(told[0].to_string().contains("hint") && told[0].to_string().contains("gone->out"), "{}", told[0]);
    assert!(told[1].to_string().contains("1 of 1 routes failed: gone->out"), "{}", told[1]);
}

/// The store `redis` needs one of two options, so that none of them is required by itself.
#[test]
fn a_store_that_needs_options_must_have_its_table() {
    let sound = "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"mongodb://m\"\n[sinks.b]\ntype = \"stdout\"\n";
    for more in ["checkpoint = \"redis\"\n", "[denylist]\nstore = \"redis\"\n"] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("oplogue.toml");
        std::fs::write(&file, format!("{sound}[[routes]]\nfrom = \"a\"\nto = \"b\"\n{more}")).unwrap();
        let out = std::process::Command::new(env!("CARGO_BIN_EXE_oplogue")).arg("check").arg(&file).output().unwrap();
        let told = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{told}");
        assert!(told.contains("add a table `[state.redis]`"), "{told}");
    }
}
