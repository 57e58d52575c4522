//! What people write and read.

use bson::{Bson, DateTime};
use oplogue_api::{Error, Period, Result};

/// A value as relaxed Extended JSON, fields in their order: it is a part of what a document is.
pub(super) fn json(value: &Bson) -> String {
    let mut out = String::new();
    write_json(&mut out, value);
    out
}

fn write_json(out: &mut String, value: &Bson) {
    match value {
        Bson::Document(document) => {
            for (index, (name, value)) in document.iter().enumerate() {
                out.push(if index == 0 { '{' } else { ',' });
                write_json(out, &Bson::String(name.clone()));
                out.push(':');
                write_json(out, value);
            }
            out.push_str(if document.is_empty() { "{}" } else { "}" });
        }
        Bson::Array(values) => {
            for (index, value) in values.iter().enumerate() {
                out.push(if index == 0 { '[' } else { ',' });
                write_json(out, value);
            }
            out.push_str(if values.is_empty() { "[]" } else { "]" });
        }
        other => out.push_str(&other.clone().into_relaxed_extjson().to_string()),
    }
}

/// The time of `--since`: a period back from now, or a moment.
pub(super) fn since(text: &str) -> Result<DateTime> {
    if let Ok(Period(back)) = text.parse::<Period>() {
        return Ok(ago(back));
    }
    DateTime::parse_rfc3339_str(text).map_err(|_| {
        Error::option("since", format!("`{text}` is no time"))
            .hint("write a period such as 2h or 7d, or a moment such as 2026-11-21T10:00:00Z")
    })
}

pub(super) fn ago(back: std::time::Duration) -> DateTime {
    let back = i64::try_from(back.as_millis()).unwrap_or(i64::MAX);
    DateTime::from_millis(DateTime::now().timestamp_millis().saturating_sub(back))
}

/// The period of an argument.
pub(super) fn period(argument: &str, text: &str) -> Result<std::time::Duration> {
    text.parse::<Period>().map(|p| p.0).map_err(|e| Error::option(argument, e))
}

/// Rows with a head, in columns.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(since("2026-11-21T10:00:00Z").unwrap().try_to_rfc3339_string().unwrap(), "2026-11-21T10:00:00Z");
        let hour = DateTime::now().timestamp_millis() - since("1h").unwrap().timestamp_millis();
        assert!((3_590_000..3_700_000).contains(&hour), "{hour}");
        for wrong in ["yesterday", "", "2h ago"] {
            assert_eq!(since(wrong).unwrap_err().field(), Some("since"), "{wrong}");
        }
        assert_eq!(period("older-than", "x").unwrap_err().field(), Some("older-than"));
    }

    #[test]
    fn fields_keep_their_order() {
        let value = bson::doc! {"b": [1, {"z": 1i64, "a": true}], "a\"": {}, "l": [], "d": DateTime::from_millis(0)};
        let expected = r#"{"b":[1,{"z":1,"a":true}],"a\"":{},"l":[],"d":{"$date":"1970-01-01T00:00:00Z"}}"#;
        assert_eq!(json(&Bson::Document(value)), expected);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["aä".to_owned(), "x".to_owned()], vec!["bbbb".to_owned(), "y".to_owned()]];
        assert_eq!(table(&["n", "long"], &rows), "n     long\naä    x\nbbbb  y\n");
    }
}
