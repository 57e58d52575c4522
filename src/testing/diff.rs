//! Where two values differ, path by path.

use serde_json::Value;

/// The differences between what was expected and what came. At the top, members that are not expected are passed over: a case names
/// those that matter. Below, everything counts, the order of fields in a document excepted.
pub fn event(expected: &Value, came: &Value) -> Vec<String> {
    let mut all = Vec::new();
    let Value::Object(members) = expected else { return all };
    for (name, value) in members {
        differ(&mut all, name, Some(value), came.get(name));
    }
    all
}

fn differ(all: &mut Vec<String>, path: &str, expected: Option<&Value>, came: Option<&Value>) {
    match (expected, came) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                differ(all, &format!("{path}.{name}"), a.get(name), b.get(name));
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for n in 0..a.len().max(b.len()) {
                differ(all, &format!("{path}[{n}]"), a.get(n), b.get(n));
            }
        }
        (a, b) if a == b => {}
        (Some(a), Some(b)) if same_number(a, b) => {}
        (a, b) => {
            let text = |value: Option<&Value>| value.map_or("nothing".to_owned(), Value::to_string);
            all.push(format!("{path}: expected {}, came {}", text(a), text(b)));
        }
    }
}

/// 1 and 1.0 are one number in TOML's eyes as in MongoDB's.
fn same_number(a: &Value, b: &Value) -> bool {
    a.is_number() && b.is_number() && a.as_f64() == b.as_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn differences_name_their_place() {
        let expected = json!({"op": "insert", "after": {"_id": 1, "a": {"b": [1, 2]}, "n": 1}});
        let came =
            json!({"op": "insert", "ns": "x.y", "after": {"_id": 1, "a": {"b": [1, 3, 4]}, "n": 1.0, "email": "x"}});
        assert_eq!(
            event(&expected, &came),
            [
                "after.a.b[1]: expected 2, came 3",
                "after.a.b[2]: expected nothing, came 4",
                "after.email: expected nothing, came \"x\"",
            ]
        );
        assert_eq!(event(&json!({"to": "a.b"}), &came), ["to: expected \"a.b\", came nothing"]);
        assert!(event(&json!({}), &came).is_empty());
    }
}
