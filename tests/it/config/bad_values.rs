//! Values that are wrong, and what is told of them, word by word.

use super::{SOUND, expect};

#[test]
fn wrong_types() {
    expect(
        r#"
lanes = 3

[sources.a]
type = "db"
uri = 5
wait = 10
buffer = "10 parsecs"
batch = "10"
mode = "majorty"
tls = "true"

[transforms.t]
type = "pick"
namespaces = ["a", 1, true]

[engine]
max_batch = 1.5
shutdown_grace = "soon"

[log]
format = "xml"
"#,
        r#"
error: unknown key `lanes`: no key stands outside of a table
 --> test.toml:1:1
  |
1 | lanes = "***"
  | ^^^^^
  = help: known tables: sources, transforms, sinks, routes, http, state, log, engine, denylist

error: `uri` must be a text in quotes, not a whole number
 --> test.toml:5:7
  |
5 | uri = "***"
  |       ^^^^^
  = help: put it in quotes

error: `wait` must be a duration such as "30s", not a whole number
 --> test.toml:6:8
  |
6 | wait = 10
  |        ^^
  = help: add a unit, in quotes: "500ms", "30s", "2m"

error: `buffer` must be a size such as "64MiB", not "10 parsecs"
 --> test.toml:7:10
  |
7 | buffer = "10 parsecs"
  |          ^^^^^^^^^^^^
  = help: a number with a unit: B, KiB, MiB, GiB, KB, MB or GB

error: `batch` must be a whole number, not a text
 --> test.toml:8:9
  |
8 | batch = "10"
  |         ^^^^
  = help: leave out the quotes

error: `mode` must be "majority" or "local", not "majorty"
 --> test.toml:9:8
  |
9 | mode = "majorty"
  |        ^^^^^^^^^
  = help: did you mean `majority`?

error: `tls` must be `true` or `false`, not a text
  --> test.toml:10:7
   |
10 | tls = "true"
   |       ^^^^^^
   = help: leave out the quotes

error: `namespaces` is a list of texts: a whole number has no place in it
  --> test.toml:14:20
   |
14 | namespaces = ["a", 1, true]
   |                    ^

error: `namespaces` is a list of texts: a boolean has no place in it
  --> test.toml:14:23
   |
14 | namespaces = ["a", 1, true]
   |                       ^^^^

error: `max_batch` must be a whole number, not a number with a point
  --> test.toml:17:13
   |
17 | max_batch = 1.5
   |             ^^^

error: `shutdown_grace` must be a duration such as "30s", not "soon"
  --> test.toml:18:18
   |
18 | shutdown_grace = "soon"
   |                  ^^^^^^
   = help: a number with a unit: ms, s, m, h or d

error: `format` must be "text" or "json", not "xml"
  --> test.toml:21:10
   |
21 | format = "xml"
   |          ^^^^^

warning: there are no routes, so nothing would run
 --> test.toml
  = help: add a `[[routes]]` table

test.toml: 12 errors, 1 warning
"#,
    );
}

#[test]
fn ranges() {
    expect(
        &format!(
            "{SOUND}{}",
            r#"
lanes = 65
max_in_flight = "1KiB"
name = "a b"

[http]
listen = ":9100"

[engine]
max_batch = 0
checkpoint_interval = "10ms"
shutdown_grace = "2d"

[log]
level = "inof"

[state]
dir = ""

[sinks."odd name"]
type = "print"

[sources.big]
type = "db"
uri = "${DB}"
batch = 99999999999999999999

[[routes]]
from = ["big"]
to = ["b"]
max_in_flight = "5GiB"
"#
        ),
        r#"
error: `lanes` must be from 1 to 64
  --> test.toml:10:9
   |
10 | lanes = 65
   |         ^^

error: `max_in_flight` must be from 64KiB to 4GiB
  --> test.toml:11:17
   |
11 | max_in_flight = "1KiB"
   |                 ^^^^^^

error: `a b` cannot be the name of a route
  --> test.toml:12:8
   |
12 | name = "a b"
   |        ^^^^^
   = help: a name consists of letters, digits, `-`, `_` and `.`, at most 100 of them

error: `listen` must be an IP address with a port
  --> test.toml:15:10
   |
15 | listen = ":9100"
   |          ^^^^^^^
   = help: write "0.0.0.0:9100" for all addresses of this machine

error: `max_batch` must be from 1 to 1000000
  --> test.toml:18:13
   |
18 | max_batch = 0
   |             ^

error: `checkpoint_interval` must be from 100ms to 1h
  --> test.toml:19:23
   |
19 | checkpoint_interval = "10ms"
   |                       ^^^^^^

error: `shutdown_grace` must be at most 1h
  --> test.toml:20:18
   |
20 | shutdown_grace = "2d"
   |                  ^^^^

error: `level`: `inof` is no level
  --> test.toml:23:9
   |
23 | level = "inof"
   |         ^^^^^^
   = help: use off, error, warn, info, debug or trace, or a list such as "info,oplogue_mongo=debug"

error: `dir` must not be empty
  --> test.toml:26:7
   |
26 | dir = ""
   |       ^^
   = help: write `.` for the current folder

error: `odd name` cannot be the name of a sink
  --> test.toml:28:8
   |
28 | [sinks."odd name"]
   |        ^^^^^^^^^^
   = help: a name consists of letters, digits, `-`, `_` and `.`, at most 100 of them

error: this number is too large
  --> test.toml:34:9
   |
34 | batch = 99999999999999999999
   |         ^^^^^^^^^^^^^^^^^^^^
   = help: the largest is 9223372036854775807

error: `max_in_flight` must be from 64KiB to 4GiB
  --> test.toml:39:17
   |
39 | max_in_flight = "5GiB"
   |                 ^^^^^^

test.toml: 12 errors
"#,
    );
}

#[test]
fn variables() {
    expect(
        r#"
[sources.a]
type = "db"
uri = "db://${USER_NAME}:${PASS}@h"
mode = "${MODE}"

[sinks.b]
type = "queue"
url = "${QUEUE"
prefix = "${1st} ${:-x}"

[state]
dir = '${STATE_DIR}/x'

[http]
listen = "${MODE}"
"#,
        r#"
error: the environment variable `USER_NAME` is not set
 --> test.toml:3:13
  |
3 | uri = "***"
  |       ^^^^^
  = help: set it, or give a default: `${USER_NAME:-default}`

error: the environment variable `PASS` is not set
 --> test.toml:3:26
  |
3 | uri = "***"
  |       ^^^^^
  = help: set it, or give a default: `${PASS:-default}`

error: `mode` must be "majority" or "local", not "${MODE}"
 --> test.toml:4:8
  |
4 | mode = "${MODE}"
  |        ^^^^^^^^^

error: `${` without a closing `}`
 --> test.toml:8:8
  |
8 | url = "***"
  |       ^^^^^
  = help: write `${NAME}` or `${NAME:-default}`; a literal `${` is written `$${`

error: what stands between `${` and `}` is no name of a variable
 --> test.toml:9:11
  |
9 | prefix = "${1st} ${:-x}"
  |           ^^^^^^
  = help: a name consists of letters, digits and `_`; a literal `${` is written `$${`

error: what stands between `${` and `}` is no name of a variable
 --> test.toml:9:18
  |
9 | prefix = "${1st} ${:-x}"
  |                  ^^^^^^
  = help: a name consists of letters, digits and `_`; a literal `${` is written `$${`

error: the environment variable `STATE_DIR` is not set
  --> test.toml:12:8
   |
12 | dir = '${STATE_DIR}/x'
   |        ^^^^^^^^^^^^
   = help: set it, or give a default: `${STATE_DIR:-default}`

error: `listen` must be an IP address with a port
  --> test.toml:15:10
   |
15 | listen = "${MODE}"
   |          ^^^^^^^^^
   = help: write an IP address and a port, such as "127.0.0.1:9100" or "[::1]:9100"

warning: there are no routes, so nothing would run
 --> test.toml
  = help: add a `[[routes]]` table

test.toml: 8 errors, 1 warning
"#,
    );
}

#[test]
fn words_of_a_plugin() {
    expect(
        r#"
[sources.a]
type = "db"
uri = "${BAD_DB}"

[sources.b]
type = "db"
uri = "http://user:opensesame@host"

[sources.c]
type = "db"
uri = "db://h"
batch = 0
"#,
        r#"
error: source `a` (db): `***` does not begin with db://
 --> test.toml:3:7
  |
3 | uri = "${BAD_DB}"
  |       ^^^^^^^^^^^
  = help: write db://, not ***

error: source `b` (db): `***` does not begin with db://
 --> test.toml:7:7
  |
7 | uri = "***"
  |       ^^^^^
  = help: write db://, not ***

error: source `c` (db): at least one must be read at a time
  --> test.toml:12:9
   |
12 | batch = 0
   |         ^

warning: there are no routes, so nothing would run
 --> test.toml
  = help: add a `[[routes]]` table

test.toml: 3 errors, 1 warning
"#,
    );
}
