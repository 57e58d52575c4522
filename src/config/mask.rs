//! What must not be shown of a line, beyond the values of secret options: where the text is no TOML nobody knows what is a
//! value of what, and a password may stand anywhere (I8).

use std::ops::Range;

use oplogue_api::{Field, Registry};

/// User name and password of every URI in a text: `user:secret` of `scheme://user:secret@host`.
pub(super) fn credentials(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = text[from..].find("://") {
        let start = from + at + 3;
        let end = text[start..]
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>'))
            .map_or(text.len(), |length| start + length);
        if let Some(at_sign) = text[start..end].rfind('@') {
            found.push(start..start + at_sign);
        }
        from = start;
    }
    found
}

/// Knows the keys whose values may be shown on a line that is no TOML.
pub(super) struct Keys<'a> {
    shown: Vec<&'a str>,
    secret: Vec<&'a str>,
}

impl<'a> Keys<'a> {
    pub fn new(registry: &'a Registry, own: impl IntoIterator<Item = &'a Field>) -> Keys<'a> {
        let plugins = (registry.sources.values().flat_map(|p| p.fields))
            .chain(registry.transforms.values().flat_map(|p| p.fields))
            .chain(registry.sinks.values().flat_map(|p| p.fields))
            .chain(registry.stores.values().flat_map(|p| p.fields));
        let mut keys = Keys { shown: vec!["type"], secret: Vec::new() };
        for field in plugins.chain(own) {
            if field.secret { &mut keys.secret } else { &mut keys.shown }.push(field.name);
        }
        keys
    }

    fn may_be_shown(&self, key: &str) -> bool {
        self.shown.contains(&key) && !self.secret.contains(&key)
    }

    /// What to hide of a line that is no TOML. `above` are the lines before it, from the nearest: the line may be the
    /// middle of a list or a text that began there.
    pub fn hidden_part(&self, line: &str, above: impl Iterator<Item = &'a str>) -> Option<Range<usize>> {
        let trimmed = line.trim_start();
        if trimmed.is_empty() || trimmed.starts_with('#') || (trimmed.starts_with('[') && !line.contains('=')) {
            return None;
        }
        let indent = line.len() - trimmed.len();
        let mut keys = assignments(line).peekable();
        if keys.peek().is_some_and(|(key, _)| is_bare(key)) {
            return keys.find(|(key, _)| !self.may_be_shown(key)).map(|(_, value)| value..line.len());
        }
        // `uri "..."`, `uri: "..."`: the key is no secret.
        let word = trimmed.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))).next().unwrap_or("");
        if self.may_be_shown(word) && keys.peek().is_none() {
            return None;
        }
        if self.secret.contains(&word) {
            return Some(indent + word.len()..line.len());
        }
        // The middle of a list that may be shown?
        let begin = above.take_while(|l| !l.trim_start().starts_with('[')).find(|l| assignments(l).next().is_some());
        let is_list = begin.is_some_and(|begin| {
            begin.trim_end().ends_with(['[', ',']) && assignments(begin).all(|(key, _)| self.may_be_shown(key))
        });
        if is_list && keys.peek().is_none() { None } else { Some(indent..line.len()) }
    }
}

fn is_bare(key: &str) -> bool {
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
}

/// Every `key =` of a line, with the place behind the `=`. Of a dotted key the last part.
fn assignments(line: &str) -> impl Iterator<Item = (&str, usize)> {
    line.match_indices('=').map(|(at, _)| {
        let before = line[..at].trim_end().trim_end_matches(['"', '\'']);
        let from = before
            .rfind(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-')))
            .map_or(0, |i| i + before[i..].chars().next().map_or(1, char::len_utf8));
        let value = &line[at + 1..];
        (&before[from..], at + 1 + (value.len() - value.trim_start().len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_of_uris_are_found() {
        let all = |text: &str| credentials(text).into_iter().map(|r| text[r].to_owned()).collect::<Vec<_>>();
        assert_eq!(all("uri = \"mongodb://me:p@ss@h1,h2/?x=1\" # redis://:pw@h"), ["me:p@ss", ":pw"]);
        assert_eq!(all("http://host/path someone@example.org"), [""; 0]);
        assert_eq!(all("://"), [""; 0]);
    }

    fn shown(line: &str, above: &[&'static str]) -> String {
        static FIELDS: [Field; 2] = [
            Field::new("lanes", oplogue_api::FieldType::Integer, ""),
            Field::new("url", oplogue_api::FieldType::String, "").secret(),
        ];
        let registry = Registry::default();
        let keys = Keys::new(&registry, &FIELDS);
        match keys.hidden_part(line, above.iter().rev().copied()) {
            Some(hidden) => format!("{}***{}", &line[..hidden.start], &line[hidden.end..]),
            None => line.to_owned(),
        }
    }

    #[test]
    fn a_line_that_is_no_toml_shows_known_keys_only() {
        assert_eq!(shown("lanes = 4x", &[]), "lanes = 4x");
        assert_eq!(shown("url = \"secret", &[]), "url = ***");
        assert_eq!(shown("a.url = \"secret", &[]), "a.url = ***");
        assert_eq!(shown("'url' = \"secret", &[]), "'url' = ***");
        assert_eq!(shown("pasword = secret", &[]), "pasword = ***");
        assert_eq!(shown("x = { type = \"y\", url = secret", &[]), "x = ***");
        assert_eq!(shown("type = { lanes = 1, url = secret", &[]), "type = { lanes = 1, url = ***");
        assert_eq!(shown("[sinks.x", &["url = \"\"\""]), "[sinks.x");
        assert_eq!(shown("secret", &["url = \"\"\"", "more"]), "***");
        assert_eq!(shown("  4x", &["lanes = ["]), "  4x");
        assert_eq!(shown("  \"a\"", &["url = ["]), "  ***");
        assert_eq!(shown("url \"secret\"", &["lanes = 1"]), "url***");
        assert_eq!(shown("url: \"secret\"", &["lanes = 1"]), "url***");
        assert_eq!(shown("lanes 4", &[]), "lanes 4");
        assert_eq!(shown("\"secret\"", &["lanes = 1"]), "***");
        assert_eq!(shown("\"secret\"", &["lanes = [", "[sinks.x]"]), "***");
    }
}
