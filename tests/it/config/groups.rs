//! `when`, `group` and `default`: what is told of wrong ones, word by word, and what sound ones come to.

use super::{env, expect, plan, registry, told};

const PARTS: &str = r#"[sources.a]
type = "db"
uri = "${DB}"
[sources.b]
type = "db"
uri = "${DB}"
[sinks.x]
type = "print"
[sinks.y]
type = "print"
[sinks.z]
type = "print"
"#;

fn text(routes: &str) -> String {
    format!("{PARTS}{routes}")
}

#[test]
fn what_the_routes_of_a_group_come_to() {
    let plan = plan(&text(
        r#"
[[routes]]
group = "g"
default = true
from = "a"
to = "x"
[[routes]]
group = "g"
when = { namespaces = "app.*" }
from = "a"
to = ["y", "z"]
[[routes]]
group = "g"
from = "a"
to = "z"
name = "third"
[routes.when]
namespaces = ["${NONE:-b}.*"]
[[routes]]
when = { namespaces = ["c.*"] }
from = "b"
to = "x"
[[routes]]
from = "b"
to = "y"
"#,
    ));
    let of = |table: &toml::Table| table["namespaces"][0].as_str().unwrap().to_owned();
    let choices: Vec<_> = plan
        .routes
        .iter()
        .map(|route| {
            let choice = route.choice.as_ref()?;
            let before: Vec<_> = choice.before.iter().map(|node| of(node.options.table())).collect();
            Some((choice.group.as_deref(), before.join(" "), choice.when.as_ref().map(|node| of(node.options.table()))))
        })
        .collect();
    let own = |name: &str| Some(name.to_owned());
    assert_eq!(
        choices,
        [
            Some((Some("g"), "app.* b.*".to_owned(), None)),
            Some((Some("g"), String::new(), own("app.*"))),
            Some((Some("g"), String::new(), own("app.*"))),
            Some((Some("g"), "app.*".to_owned(), own("b.*"))),
            Some((None, String::new(), own("c.*"))),
            None,
        ]
    );
}

#[test]
fn a_when_has_the_options_of_a_filter() {
    expect(
        &text(
            r#"
[[routes]]
from = "a"
to = "x"
when = { namespace = ["app.*"] }
[[routes]]
from = "a"
to = "y"
when = "app.*"
[[routes]]
from = "a"
to = "z"
[routes.when]
namespaces = [1]
"#,
        ),
        r#"
error: unknown key `namespace` in `when`
  --> test.toml:17:10
   |
17 | when = { namespace = ["***"] }
   |          ^^^^^^^^^
   = help: did you mean `namespaces`?

error: `when` must be a table, not a text
  --> test.toml:21:8
   |
21 | when = "app.*"
   |        ^^^^^^^
   = help: write the options of a filter, such as when = { namespaces = ["app.*"] }

error: `namespaces` is a list of texts: a whole number has no place in it
  --> test.toml:26:15
   |
26 | namespaces = [1]
   |               ^

test.toml: 3 errors
"#,
    );
}

#[test]
fn groups_that_cannot_choose() {
    expect(
        &text(
            r#"
[[routes]]
group = "orders"
from = "a"
to = "x"
when = { namespaces = ["app.*"] }
[[routes]]
group = "order"
from = "a"
to = "y"
default = true
[[routes]]
default = true
from = "a"
to = "z"
[[routes]]
group = "g"
default = true
from = "a"
to = "x"
name = "d1"
[[routes]]
group = "g"
default = true
when = { namespaces = ["app.*"] }
from = ["a", "b"]
to = "x"
name = "d2"
[[routes]]
group = "g"
from = "b"
to = "x"
[[routes]]
group = "g h"
when = { namespaces = ["app.*"] }
from = "b"
to = "y"
default = false
"#,
        ),
        r#"
error: the group `orders` has this route alone
  --> test.toml:15:9
   |
15 | group = "orders"
   |         ^^^^^^^^
   = help: did you mean `order`?

error: the group `order` has this route alone
  --> test.toml:20:9
   |
20 | group = "order"
   |         ^^^^^^^
   = help: did you mean `orders`?

error: `default` means nothing without `group`
  --> test.toml:25:11
   |
25 | default = true
   |           ^^^^
   = help: add `group = "..."`, or leave it out: a route without `when` takes everything

error: the default route of a group has no `when`: it takes what no other of its routes takes
  --> test.toml:36:11
   |
36 | default = true
   |           ^^^^
   = help: leave one of the two out

error: the group `g` has a default already, in line 28
  --> test.toml:36:11
   |
36 | default = true
   |           ^^^^
   = help: give one of them a `when`

error: the routes of the group `g` read `a` (line 31), not `b`
  --> test.toml:38:14
   |
38 | from = ["a", "b"]
   |              ^^^
   = help: a group chooses among the events of one source: give routes of another one a group of their own

error: a route of the group `g` says neither what it takes nor that it is the default
  --> test.toml:41:1
   |
41 | [[routes]]
   | ^^^^^^^^^^
   = help: add `when = { ... }`, or `default = true` for what no other takes

error: the routes of the group `g` read `a` (line 31), not `b`
  --> test.toml:43:8
   |
43 | from = "b"
   |        ^^^
   = help: a group chooses among the events of one source: give routes of another one a group of their own

error: `g h` cannot be the name of a group
  --> test.toml:46:9
   |
46 | group = "g h"
   |         ^^^^^
   = help: a name consists of letters, digits, `-`, `_` and `.`, at most 100 of them

error: the group `g h` has this route alone
  --> test.toml:46:9
   |
46 | group = "g h"
   |         ^^^^^
   = help: a route alone needs no `group`: leave it out

test.toml: 10 errors
"#,
    );
}

#[test]
fn a_route_that_gets_nothing_is_told_of() {
    let same = text(
        r#"
[[routes]]
group = "g"
when = { namespaces = ["app.*"] }
from = "a"
to = "x"
[[routes]]
group = "g"
when = { namespaces = "app.*" }
from = "a"
to = "x"
name = "too"
"#,
    );
    let told = told(&same);
    let expected = r#"
warning: this is the same `when` as that of the route in line 14: nothing is left for it
  --> test.toml:21:8
   |
21 | when = { namespaces = "app.*" }
   |        ^^^^^^^^^^^^^^^^^^^^^^^^
"#;
    assert!(told.contains(expected.trim()), "{told}");
    assert!(!told.contains("each event arrives twice"), "{told}");
}

/// A source whose documents of updates are not the same for each route.
#[test]
fn documents_that_are_looked_up_are_warned_of() {
    let text = |full: &str, when: &str| {
        format!(
            "[sources.a]\ntype = \"mongo-oplog\"\nuri = \"mongodb://h\"\nfull_document = \"{full}\"\n\
             [sinks.x]\ntype = \"stdout\"\n[sinks.y]\ntype = \"stdout\"\n\
             [[routes]]\ngroup = \"g\"\nfrom = \"a\"\nto = \"x\"\nwhen = {when}\n\
             [[routes]]\ngroup = \"g\"\nfrom = \"a\"\nto = \"y\"\ndefault = true\n"
        )
    };
    let warnings = |full, when| {
        let registry = oplogue::builtin::registry();
        let loaded = oplogue::config::examine(&text(full, when), "test.toml", &env, &registry);
        assert!(loaded.plan.is_some(), "{}", loaded.diagnostics);
        loaded.diagnostics.to_string()
    };
    let told = warnings("update-lookup", "{ after = { n = 1 } }");
    assert!(told.contains("looks up the documents of updates") && told.contains("test.toml:13:8"), "{told}");
    assert_eq!(warnings("default", "{ after = { n = 1 } }"), "");
    assert_eq!(warnings("update-lookup", "{ key = { _id = 1 } }"), "");
}

/// What the filter itself finds wrong has its place in the `when`.
#[test]
fn a_wrong_query_is_shown_where_it_stands() {
    let text = "[sources.a]\ntype = \"bson-dump\"\npath = \"x\"\n[sinks.x]\ntype = \"stdout\"\n\
                [[routes]]\nfrom = \"a\"\nto = \"x\"\nwhen = { after = { n = { \"$gtt\" = 1 } } }\n";
    let told = oplogue::config::examine(text, "test.toml", &env, &oplogue::builtin::registry()).diagnostics.to_string();
    let wanted = "`when`: `after.n.$gtt`: there is no operator `$gtt`\n --> test.toml:9:35";
    assert!(told.contains(wanted), "{told}");
}

#[test]
fn a_program_without_a_filter_says_so() {
    let mut own = registry();
    own.transforms.remove("filter");
    let text = text("[[routes]]\nfrom = \"a\"\nto = \"x\"\nwhen = { namespaces = [\"a.*\"] }\n");
    let diagnostics = oplogue::config::examine(&text, "test.toml", &env, &own).diagnostics.to_string();
    assert!(diagnostics.contains("no transform `filter`, which `when` asks"), "{diagnostics}");
    assert!(told(&text).contains("warning: no route uses"), "with one it is sound");
}
