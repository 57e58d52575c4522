//! Values as Go's standard library reads them from text.

use std::time::Duration;

/// A boolean of Go's `strconv.ParseBool`.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number of Go's `strconv.ParseInt` with base 0: decimal, or with the prefix `0x`, `0o`, `0` or `0b`.
pub fn integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (digits, radix) = match lower.as_str() {
        "0" => ("0", 10),
        d => match (d.strip_prefix("0x"), d.strip_prefix("0b"), d.strip_prefix("0o").or(d.strip_prefix('0'))) {
            (Some(hex), ..) => (hex, 16),
            (_, Some(binary), _) => (binary, 2),
            (.., Some(octal)) => (octal, 8),
            _ => (d, 10),
        },
    };
    // `from_str_radix` would take another sign.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let value = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -value } else { value }).ok()
}

/// A duration of Go's `time.ParseDuration`: `1s`, `2m30s`, `1.5h`, `0`. What is below a nanosecond is cut off.
///
/// # Errors
/// What is wrong with it, as the end of a sentence that begins with the value.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    const NONE: &str = "is not a duration";
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(NONE);
    }
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or("is a number without a unit")?;
        let (digits, behind) = rest.split_at(number);
        let unit_end = behind.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_end);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err("has a unit that is none of ns, us, ms, s, m and h"),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || whole.len() > 19 {
            return Err(NONE);
        }
        nanos += number_of(whole) * unit;
        // More digits than these cannot matter.
        let fraction = &fraction[..fraction.len().min(18)];
        nanos += number_of(fraction) * unit / 10_u128.pow(fraction.len() as u32);
        rest = behind;
    }
    // Go's durations are 64 bits of nanoseconds.
    if nanos > i64::MAX as u128 {
        return Err("is longer than 292 years");
    }
    if negative && nanos > 0 {
        return Err("is negative");
    }
    Ok(Duration::from_nanos(nanos as u64))
}

/// The number of decimal digits, none of which is 0.
fn number_of(digits: &str) -> u128 {
    digits.parse().unwrap_or(0)
}

/// A text as Go's `encoding/json` writes it, with what HTML could take for its own escaped.
pub fn json_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' | '\0'..='\x1f' => {
                out.push_str(&format!("\\u{:04x}", u32::from(c)));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_does() {
        for (text, nanos) in [
            ("0", 0_u64),
            ("+0", 0),
            ("0s", 0),
            ("1s", 1_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1.s", 1_000_000_000),
            ("100ms", 100_000_000),
            ("2m30s", 150_000_000_000),
            ("1h", 3_600_000_000_000),
            ("1h2m3s4ms5us6ns", 3_723_004_005_006),
            ("5µs", 5_000),
            ("0.9ns", 0),
            ("0.3333333333333333333333h", 1_200_000_000_000 - 1),
            ("-0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for text in ["", "-", "1", "s", ".s", "1 s", "1d", "1S", "1.2.3s", "2 minutes", "99999999999999999999s", "1s2"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
        assert_eq!(duration("-5s"), Err("is negative"));
        assert_eq!(duration("300000h").map(|d| d.as_secs()), Ok(1_080_000_000));
        assert_eq!(duration("3000000h"), Err("is longer than 292 years"));
    }

    #[test]
    fn booleans_and_numbers_are_read_as_go_does() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(boolean(text), Some(true));
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(boolean(text), Some(false));
        }
        for text in ["", "yes", "on", "tRUE", "2", " true"] {
            assert_eq!(boolean(text), None, "{text}");
        }
        for (text, value) in [("0", 0), ("25", 25), ("-3", -3), ("+4", 4), ("0x10", 16), ("010", 8), ("0b11", 3)] {
            assert_eq!(integer(text), Some(value), "{text}");
        }
        for text in ["", "-", "1.5", "ten", "--1", "0x", "9223372036854775808", "09"] {
            assert_eq!(integer(text), None, "{text}");
        }
    }

    #[test]
    fn texts_are_written_as_go_does() {
        assert_eq!(json_string("abc"), r#""abc""#);
        assert_eq!(json_string("a\"\\<>&\u{1}\u{2028}é"), "\"a\\\"\\\\\\u003c\\u003e\\u0026\\u0001\\u2028é\"");
    }
}
