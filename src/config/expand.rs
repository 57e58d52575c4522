//! `${VAR}` and `${VAR:-default}` inside string values. `$${` stands for a literal `${`; every other `$` is itself.

/// A text with its variables put in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// What came out.
    pub text: String,
    /// The values that came from the environment: they may be secrets.
    pub from_environment: Vec<String>,
}

/// What is wrong with a variable.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// How it begins in the text, to find the place.
    pub token: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: String,
}

/// Expands the variables of one string value. All problems at once.
pub(super) fn expand(raw: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Expanded, Vec<Problem>> {
    let mut text = String::with_capacity(raw.len());
    let mut from_environment = Vec::new();
    let mut problems = Vec::new();
    let mut rest = raw;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            text.push_str(&rest[..at]);
            text.push('{');
            rest = &rest[at + 2..];
            continue;
        }
        text.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let Some(end) = inner.find('}') else {
            problems.push(Problem {
                token: "${".into(),
                message: "`${` without a closing `}`".into(),
                help: "write `${NAME}` or `${NAME:-default}`; a literal `${` is written `$${`".into(),
            });
            rest = "";
            break;
        };
        rest = &inner[end + 1..];
        let (name, default) = match inner[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        if !is_name(name) {
            problems.push(Problem {
                token: format!("${{{}", &inner[..end]),
                message: "what stands between `${` and `}` is no name of a variable".into(),
                help: "a name consists of letters, digits and `_`; a literal `${` is written `$${`".into(),
            });
            continue;
        }
        match (env(name), default) {
            (Some(value), None) => {
                text.push_str(&value);
                from_environment.push(value);
            }
            (Some(value), Some(_)) if !value.is_empty() => {
                text.push_str(&value);
                from_environment.push(value);
            }
            (_, Some(default)) => text.push_str(default),
            (None, None) => problems.push(Problem {
                token: format!("${{{name}"),
                message: format!("the environment variable `{name}` is not set"),
                help: format!("set it, or give a default: `${{{name}:-default}}`"),
            }),
        }
    }
    text.push_str(rest);
    if problems.is_empty() { Ok(Expanded { text, from_environment }) } else { Err(problems) }
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("db.example".into()),
            "EMPTY" => Some(String::new()),
            "LOOP" => Some("${LOOP}".into()),
            _ => None,
        }
    }

    fn text(raw: &str) -> String {
        expand(raw, &env).unwrap().text
    }

    #[test]
    fn variables_are_put_in() {
        assert_eq!(text("mongodb://${HOST}:27017/${HOST}"), "mongodb://db.example:27017/db.example");
        assert_eq!(text("${NONE:-x:-y}-${HOST:-z}-${EMPTY}-${EMPTY:-e}-${NONE:-}"), "x:-y-db.example--e-");
        assert_eq!(text("${LOOP}"), "${LOOP}", "what a variable holds is not expanded again");
    }

    #[test]
    fn dollars_that_are_no_variables_stay() {
        assert_eq!(text("^a$ $b $$ {x} $"), "^a$ $b $$ {x} $");
        assert_eq!(text("$${HOST} $$${HOST}"), "${HOST} $${HOST}");
    }

    #[test]
    fn every_problem_is_told() {
        let problems = expand("${A} ${HOST} ${B} ${} ${1x} ${", &env).unwrap_err();
        let messages: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
        assert_eq!(messages[0], "the environment variable `A` is not set");
        assert_eq!(messages[1], "the environment variable `B` is not set");
        assert_eq!(messages.len(), 5);
    }
}
