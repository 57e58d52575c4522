//! Texts that are no TOML, and what is told of them, word by word.

use super::expect;

#[test]
fn what_is_no_toml() {
    expect(
        r#"
[sources.a]
type = "db
uri = "db://user:secret@h

[sinks.b]
type = "print"
prefix = queue
prefix = "x"
[[routes]]
lanes = "x"
from = ["a"]
to = ["nowhere"]
"#,
        r#"
error: invalid basic string, expected `"`
 --> test.toml:2:11
  |
2 | type = "db
  |           ^

error: invalid basic string, expected `"`
 --> test.toml:3:26
  |
3 | uri = "***"
  |            ^

error: this is no value: texts stand in quotes
 --> test.toml:7:10
  |
7 | prefix = "***"
  |          ^^^^^

error: the key `prefix` is there twice
 --> test.toml:8:1
  |
8 | prefix = "x"
  | ^^^^^^

error: `lanes` must be a whole number, not a text
  --> test.toml:10:9
   |
10 | lanes = "x"
   |         ^^^

test.toml: 5 errors
"#,
    );
}

#[test]
fn a_list_without_its_end() {
    expect(
        r#"
[[routes]]
from = ["a",
to = ["b"]

[sinks.b]
type = "print"
"#,
        r#"
error: unclosed array, expected `]`
 --> test.toml:2:8
  |
2 | from = ["a",
  |        ^

test.toml: 1 error
"#,
    );
}
