use super::*;
use crate::{builtin, config};

const SERVERS: &str = "\
# our servers
server_a:
  id: '2c88ae84-7cb9-40f7-835d-c05e981f564d'
  uri: 'mongodb://app:hunter2@localhost:27019/?replicaSet=a'
server_b:
  id: 0D9C284B-B47C-40B5-932C-547B8685EDD0
  uri: localhost:27017
";

const DUMP: &str = "\
=== Server Config ===
server_a (2c88ae84-7cb9-40f7-835d-c05e981f564d) => mongodb://app:hunter2@localhost:27019
server_b (0d9c284b-b47c-40b5-932c-547b8685edd0) => localhost:27017

=== server_a Replication Config
     - test.foo <= server_b/test.foo
=== server_b Replication Config
     - test.foo <= server_a/test.foo
     - test.bar <= server_a/test.bar
     - other.baz <= server_a/test.baz
";

/// The text, once the router has taken it.
fn accepted(imported: &Imported) -> toml::Table {
    assert!(!imported.text.contains("hunter2"), "{}", imported.text);
    let password = |name: &str| (name == "SERVER_A_PASSWORD").then(|| "hunter2".to_owned());
    let loaded = config::examine(&imported.text, "mmm", &password, &builtin::registry());
    let plan = loaded.plan.unwrap_or_else(|| panic!("{}\n{}", loaded.diagnostics.render(false), imported.text));
    for source in plan.sources.values() {
        let uri = source.options.table()["uri"].as_str().unwrap();
        let expected = ["mongodb://app:hunter2@localhost:27019/?replicaSet=a", "mongodb://localhost:27017"];
        assert!(expected.contains(&uri), "{uri}");
    }
    imported.text.parse().unwrap()
}

#[test]
fn servers_and_links_become_sources_sinks_and_routes() {
    let imported = import(SERVERS, &[Links::Dump(DUMP.into())]).unwrap();
    let t = accepted(&imported);
    let sink = &t["sinks"]["server_a-to-server_b"];
    let said = |field: &str| sink[field].as_str().unwrap();
    assert_eq!((said("type"), said("node"), said("peer")), ("mongo-mmm", "server_a", "server_b"));
    assert_eq!((said("conflicts"), said("stamp")), ("last-write", "document"));
    assert_eq!(said("stamp_id"), "2c88ae84-7cb9-40f7-835d-c05e981f564d");
    assert_eq!(sink["namespaces"].as_array().unwrap().len(), 2);
    assert_eq!(t["sinks"]["server_b-to-server_a"]["namespaces"].as_array().unwrap().len(), 1);
    assert_eq!(t["sinks"]["server_b-to-server_a"]["uri"].as_str(), t["sources"]["server_a"]["uri"].as_str());
    assert_eq!(t["routes"].as_array().unwrap().len(), 2);
    // What cannot be said is said.
    assert_eq!(imported.warnings.len(), 1);
    assert!(imported.warnings[0].contains("server_a/test.baz -> server_b/other.baz is left out"));
    assert!(imported.text.contains(&format!("# WARNING: {}", imported.warnings[0])));
}

#[test]
fn an_export_tells_of_operations_too() {
    let text = r#"{"_id":"2c88ae84-7cb9-40f7-835d-c05e981f564d","checkpoint":{"$timestamp":{"t":1,"i":1}},"replication":[{"dst":"a.b","src":"a.b","ops":"iud"},{"dst":"a.c","src":"a.c","ops":"iu"}]}"#;
    for text in [text.to_owned(), format!("{text}\n\n"), format!("[{text}]")] {
        let imported = import(SERVERS, &[Links::Export { server: "server_b".into(), text }]).unwrap();
        let t = accepted(&imported);
        assert_eq!(t["sinks"].as_table().unwrap().len(), 1);
        assert_eq!(t["sinks"]["server_a-to-server_b"]["namespaces"][0].as_str(), Some("a.b"));
        assert!(imported.warnings[0].contains("a.c is left out") && imported.warnings[0].contains("`iu`"));
    }
}

#[test]
fn without_links_nothing_is_replicated_and_it_says_so() {
    let imported = import(SERVERS, &[]).unwrap();
    let t = accepted(&imported);
    assert_eq!(t["sinks"].as_table().unwrap().len(), 2);
    assert!(!t.contains_key("routes"));
    assert!(imported.warnings[0].contains("dump-config"));
    // Taking the # away is all that is needed.
    let text = imported.text.replace("# [[routes]]", "[[routes]]").replace("# from", "from").replace("# to =", "to =");
    let t = accepted(&Imported { text, warnings: Vec::new() });
    assert_eq!(t["routes"].as_array().unwrap().len(), 2);
}

#[test]
fn what_is_wrong_is_told_and_passwords_are_not() {
    let links = |dump: &str| vec![Links::Dump(dump.to_owned())];
    let export = |server: &str, text: &str| vec![Links::Export { server: server.to_owned(), text: text.to_owned() }];
    let second = "server_c:\n  id: '2c88ae84-7cb9-40f7-835d-c05e981f564d'\n  uri: h\n";
    for (yaml, links, said) in [
        ("", vec![], "names no servers"),
        ("- a\n- b\n", vec![], "names no servers"),
        ("a:\n  uri: 'mongodb://u:hunter2@h\n", vec![], "this is no YAML"),
        ("a b:\n  id: x\n", vec![], "the name of a server"),
        ("a:\n  id: 'no uuid'\n  uri: 'mongodb://u:hunter2@h'\n", vec![], "`id` is no UUID"),
        ("a:\n  id: '2c88ae84-7cb9-40f7-835d-c05e981f564d'\n", vec![], "has no `uri`"),
        (&format!("{SERVERS}{second}"), vec![], "have the same `id`"),
        (SERVERS, links("nothing"), "holds no links"),
        (SERVERS, links("=== x Replication Config\n"), "no server `x`"),
        (SERVERS, links("=== server_a Replication Config\n - a.b <= x/a.b\n"), "no server `x`"),
        (SERVERS, links("=== server_a Replication Config\n - a.b\n"), "this is not `destination"),
        (SERVERS, export("x", "[]"), "no server `x`"),
        (SERVERS, export("server_a", "{\"a\": [\n"), "not what mongoexport writes"),
        (SERVERS, export("server_a", "{\"_id\":\"other\",\"replication\":[]}"), "does not name"),
        (
            SERVERS,
            export("server_b", "{\"_id\":\"2c88ae84-7cb9-40f7-835d-c05e981f564d\",\"replication\":[{}]}"),
            "no `src`",
        ),
    ] {
        let problems = import(yaml, &links).map(|i| i.text).expect_err(said).join("\n");
        assert!(problems.contains(said) && !problems.contains("hunter2"), "{said}: {problems}");
    }
}

#[test]
fn a_password_with_odd_characters_is_a_variable_as_a_whole() {
    for password in ["p@ss", "a/b", "a?b", "${x}", "p:q"] {
        let yaml = format!(
            "server-a:\n  id: '2c88ae84-7cb9-40f7-835d-c05e981f564d'\n  uri: 'mongodb://u:{password}@h:1/db?authSource=admin'\n"
        );
        let text = import(&yaml, &[]).unwrap().text;
        let expected = match password.contains(['/', '?']) {
            true => "uri = \"${SERVER_A_URI}\"",
            false => "uri = \"mongodb://u:${SERVER_A_PASSWORD}@h:1/db?authSource=admin\"",
        };
        assert!(text.contains(expected) && !text.contains(password), "{text}");
    }
}
