//! Routes that lead nowhere, and what is told of them, word by word.

use super::{SOUND, expect};

#[test]
fn routes_to_nowhere() {
    expect(
        r#"
[sources.factory]
type = "db"
uri = "${DB}"
[transforms.app]
type = "pick"
[sinks.meteor]
type = "print"

[[routes]]
from = ["factry", "meteor", "factory"]
via = ["ap", "factory"]
to = ["metoer", "app", "zebra", "meteor"]

[[routes]]
from = "factory"
to = "meteor"
checkpoint = "remot"
on_bad_event = "dead-letter"
dead_letter = "metor"

[[routes]]
name = "x"
from = []
to = ["meteor", "meteor"]
"#,
        r#"
error: there is no source `factry`
  --> test.toml:10:9
   |
10 | from = ["factry", "meteor", "factory"]
   |         ^^^^^^^^
   = help: did you mean `factory`?

error: `meteor` is a sink, and `from` takes a source
  --> test.toml:10:19
   |
10 | from = ["factry", "meteor", "factory"]
   |                   ^^^^^^^^
   = help: sources of this file: factory

error: there is no transform `ap`
  --> test.toml:11:8
   |
11 | via = ["ap", "factory"]
   |        ^^^^
   = help: did you mean `app`?

error: `factory` is a source, and `via` takes a transform
  --> test.toml:11:14
   |
11 | via = ["ap", "factory"]
   |              ^^^^^^^^^
   = help: transforms of this file: app

error: there is no sink `metoer`
  --> test.toml:12:7
   |
12 | to = ["metoer", "app", "zebra", "meteor"]
   |       ^^^^^^^^
   = help: did you mean `meteor`?

error: `app` is a transform, and `to` takes a sink
  --> test.toml:12:17
   |
12 | to = ["metoer", "app", "zebra", "meteor"]
   |                 ^^^^^
   = help: sinks of this file: meteor

error: there is no sink `zebra`
  --> test.toml:12:24
   |
12 | to = ["metoer", "app", "zebra", "meteor"]
   |                        ^^^^^^^
   = help: sinks of this file: meteor

error: there is a route `factory->meteor` already, in line 9
  --> test.toml:16:6
   |
16 | to = "meteor"
   |      ^^^^^^^^
   = help: give one of them a `name`: checkpoints are kept under it

error: there is no checkpoint store `remot`
  --> test.toml:17:14
   |
17 | checkpoint = "remot"
   |              ^^^^^^^
   = help: did you mean `remote`?

error: there is no sink `metor`
  --> test.toml:19:15
   |
19 | dead_letter = "metor"
   |               ^^^^^^^
   = help: did you mean `meteor`?

error: `from` is empty
  --> test.toml:23:8
   |
23 | from = []
   |        ^^
   = help: name at least one source

error: `meteor` is listed twice
  --> test.toml:24:17
   |
24 | to = ["meteor", "meteor"]
   |                 ^^^^^^^^

test.toml: 12 errors
"#,
    );
}

#[test]
fn twice_the_same_route() {
    expect(
        r#"
[sources.a]
type = "db"
uri = "${DB}"
[sinks.b]
type = "print"

[[routes]]
from = ["a"]
to = ["b"]

[[routes]]
from = ["a"]
to = ["b"]

[[routes]]
name = "again"
from = ["a"]
to = ["b"]

[[routes]]
name = "again"
from = ["a"]
to = ["b"]
"#,
        r#"
error: there is a route `a->b` already, in line 7
  --> test.toml:13:7
   |
13 | to = ["b"]
   |       ^^^
   = help: give one of them a `name`: checkpoints are kept under it

warning: this is the same way as that of the route `a->b`: each event arrives twice
  --> test.toml:18:7
   |
18 | to = ["b"]
   |       ^^^

error: there is a route `again` already, in line 15
  --> test.toml:21:8
   |
21 | name = "again"
   |        ^^^^^^^
   = help: names of routes are unique

test.toml: 2 errors, 1 warning
"#,
    );
}

#[test]
fn dead_letters_and_stores() {
    expect(
        r#"
[sources.a]
type = "db"
uri = "${DB}"
[sinks]
b.type = "print"
c.type = "print"
d.type = "print"
e.type = "print"

[[routes]]
name = "none"
from = "a"
to = "b"
on_bad_event = "dead-letter"

[[routes]]
name = "itself"
from = "a"
to = "c"
on_bad_event = "dead-letter"
dead_letter = "c"

[[routes]]
name = "idle"
from = "a"
to = "d"
dead_letter = "b"

[[routes]]
name = "store"
from = "a"
to = "e"
checkpoint = "remote"
"#,
        r#"
error: bad events have no sink to go to
  --> test.toml:14:16
   |
14 | on_bad_event = "dead-letter"
   |                ^^^^^^^^^^^^^
   = help: add `dead_letter = "..."` with the name of a sink

error: the sink of bad events is the route's own sink
  --> test.toml:21:15
   |
21 | dead_letter = "c"
   |               ^^^
   = help: what it refused once it refuses again: name another sink

warning: `dead_letter` has no effect here
  --> test.toml:27:15
   |
27 | dead_letter = "b"
   |               ^^^
   = help: add `on_bad_event = "dead-letter"`

error: the checkpoint store `remote` needs options
  --> test.toml:33:14
   |
33 | checkpoint = "remote"
   |              ^^^^^^^^
   = help: add a table `[state.remote]` with `url`

test.toml: 3 errors, 1 warning
"#,
    );
}

#[test]
fn what_is_unused() {
    expect(
        &format!(
            "{SOUND}{}",
            r#"
[sources.other]
type = "db"
uri = "${DB}"
[transforms.t]
type = "pick"
[sinks.c]
type = "print"
[state.remote]
url = "x"
"#
        ),
        r#"
warning: no route uses the source `other`
  --> test.toml:10:1
   |
10 | [sources.other]
   | ^^^^^^^^^^^^^^^

warning: no route uses the transform `t`
  --> test.toml:13:1
   |
13 | [transforms.t]
   | ^^^^^^^^^^^^^^

warning: no route uses the sink `c`
  --> test.toml:15:1
   |
15 | [sinks.c]
   | ^^^^^^^^^

warning: no route uses the store `remote`
  --> test.toml:17:1
   |
17 | [state.remote]
   | ^^^^^^^^^^^^^^

test.toml: 4 warnings
"#,
    );
}
