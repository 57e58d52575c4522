//! Keys and tables that are unknown, missing or of the wrong shape, and what is told of them, word by word.

use super::{expect, told};

#[test]
fn unknown_keys_and_tables() {
    expect(
        r#"
[source.a]
type = "db"

[sinks.b]
type = "queue"
ulr = "queue://h"
zebra = 1

[http]
port = 1

[[routes]]
form = ["a"]
to = ["b"]
"#,
        r#"
error: unknown table `source`
 --> test.toml:1:2
  |
1 | [source.a]
  |  ^^^^^^
  = help: did you mean `sources`?

error: sink `b` (queue) needs the key `url`
 --> test.toml:4:1
  |
4 | [sinks.b]
  | ^^^^^^^^^
  = help: add `url = "${URL}"`: Where the queue is.

error: unknown key `ulr` in sink `b` (queue)
 --> test.toml:6:1
  |
6 | ulr = "***"
  | ^^^
  = help: did you mean `url`?

error: unknown key `zebra` in sink `b` (queue)
 --> test.toml:7:1
  |
7 | zebra = "***"
  | ^^^^^
  = help: known keys: url, prefix, type

error: unknown key `port` in `[http]`
  --> test.toml:10:1
   |
10 | port = "***"
   | ^^^^
   = help: known keys: listen, style

error: the route needs the key `from`
  --> test.toml:12:1
   |
12 | [[routes]]
   | ^^^^^^^^^^
   = help: add `from = ["..."]`: The sources.

error: unknown key `form` in the route
  --> test.toml:13:1
   |
13 | form = ["***"]
   | ^^^^
   = help: did you mean `from`?

test.toml: 7 errors
"#,
    );
}

#[test]
fn missing_keys() {
    expect(
        r#"
[sources.a]
type = "db"

[sources.b]
uri = "db://h"

[sinks]
type = "print"

[sinks.c]
type = 4

[[routes]]
from = ["a"]
"#,
        r#"
error: source `a` (db) needs the key `uri`
 --> test.toml:1:1
  |
1 | [sources.a]
  | ^^^^^^^^^^^
  = help: add `uri = "${URI}"`: Where the server is.

error: source `b` needs the key `type`
 --> test.toml:4:1
  |
4 | [sources.b]
  | ^^^^^^^^^^^
  = help: known sources: db

error: sink `type` must be a table, not a text
 --> test.toml:8:1
  |
8 | type = "***"
  | ^^^^
  = help: the table needs a name: `[sinks.NAME]`

error: `type` must be a text in quotes
  --> test.toml:11:8
   |
11 | type = 4
   |        ^

error: the route needs the key `to`
  --> test.toml:13:1
   |
13 | [[routes]]
   | ^^^^^^^^^^
   = help: add `to = ["..."]`: The sinks.

test.toml: 5 errors
"#,
    );
}

#[test]
fn tables_of_the_wrong_shape() {
    expect(
        r#"
sinks = "b"
http = true

[[sources]]
type = "db"

[routes]
from = ["a"]

[state]
remote = "url"
flie = {}
"#,
        r#"
error: `sinks` must be a table, not a text
 --> test.toml:1:1
  |
1 | sinks = "***"
  | ^^^^^
  = help: write `[sinks.NAME]`

error: `http` must be a table, not a boolean
 --> test.toml:2:1
  |
2 | http = "***"
  | ^^^^
  = help: write `[http]`

error: `sources` must be a table, not a list
 --> test.toml:4:3
  |
4 | [[sources]]
  |   ^^^^^^^
  = help: write `[sources.NAME]`

error: `routes` must be a list of tables
 --> test.toml:7:2
  |
7 | [routes]
  |  ^^^^^^
  = help: write `[[routes]]`, with two brackets

error: `[state.remote]` must be a table, not a text
  --> test.toml:11:1
   |
11 | remote = "***"
   | ^^^^^^
   = help: write `[state.remote]`

error: unknown key `flie` in `[state]`
  --> test.toml:12:1
   |
12 | flie = {}
   | ^^^^
   = help: did you mean `file`?

test.toml: 6 errors
"#,
    );
}

#[test]
fn thousands_of_problems_are_counted() {
    let text: String = (0..1000).map(|i| format!("k{i} = 1\n")).collect();
    let told = told(&text);
    assert!(told.contains("... and 951 more\n"), "{told}");
    assert!(told.ends_with("test.toml: 1000 errors, 1 warning\n"), "{told}");
}

#[test]
fn nothing_at_all() {
    expect(
        "",
        r#"
warning: there are no routes, so nothing would run
 --> test.toml
  = help: add a `[[routes]]` table

test.toml: 1 warning
"#,
    );
}

#[test]
fn unknown_and_misplaced_types() {
    expect(
        r#"
[sources.a]
type = "queue"
url = "queue://me:pw@h"

[sinks.b]
type = "prnt"

[transforms.c]
type = "zebra"
secret = "x"

[sinks.d]
type = "${NO_TYPE}"
"#,
        r#"
error: `queue` is a sink, not a source
 --> test.toml:2:8
  |
2 | type = "queue"
  |        ^^^^^^^
  = help: put it under `[sinks.a]`, or see `oplogue plugins`

error: unknown sink type `prnt`
 --> test.toml:6:8
  |
6 | type = "prnt"
  |        ^^^^^^
  = help: did you mean `print`?

error: unknown transform type `zebra`
 --> test.toml:9:8
  |
9 | type = "zebra"
  |        ^^^^^^^
  = help: known transforms: filter, pick

error: the environment variable `NO_TYPE` is not set
  --> test.toml:13:9
   |
13 | type = "${NO_TYPE}"
   |         ^^^^^^^^^^
   = help: set it, or give a default: `${NO_TYPE:-default}`

warning: there are no routes, so nothing would run
 --> test.toml
  = help: add a `[[routes]]` table

test.toml: 4 errors, 1 warning
"#,
    );
}
