use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, de::Error as _};

/// A duration as configuration writes it: a number with a unit, `"500ms"`, `"30s"`, `"2m"`, `"1h"`, `"7d"`; several may
/// follow each other, `"1m30s"`. A lone `"0"` is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period(pub Duration);

/// A size as configuration writes it: a number with a unit, `"512"` (bytes), `"64KiB"`, `"64MiB"`, `"1GiB"`; `KB`, `MB`
/// and `GB` are powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl FromStr for Period {
    type Err = String;
    fn from_str(text: &str) -> Result<Period, String> {
        let wrong =
            || format!("`{text}` is no duration: write a number and a unit, such as \"500ms\", \"30s\" or \"2m\"");
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Period(Duration::ZERO));
        }
        let mut total = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let factor = match &rest[..letters] {
                "ms" => 0.001,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                "d" => 86400.0,
                _ => return Err(wrong()),
            };
            rest = &rest[letters..];
            total += number * factor;
        }
        if text.trim().is_empty() {
            return Err(wrong());
        }
        Duration::try_from_secs_f64(total).map(Period).map_err(|_| wrong())
    }
}

impl FromStr for ByteSize {
    type Err = String;
    fn from_str(text: &str) -> Result<ByteSize, String> {
        let wrong =
            || format!("`{text}` is no size: write a number and a unit, such as \"512KiB\", \"64MiB\" or \"1GiB\"");
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let number: f64 = trimmed[..digits].parse().map_err(|_| wrong())?;
        let factor: f64 = match trimmed[digits..].trim() {
            "" | "B" => 1.0,
            "KiB" => 1024.0,
            "MiB" => 1024.0 * 1024.0,
            "GiB" => 1024.0 * 1024.0 * 1024.0,
            "KB" | "kB" => 1e3,
            "MB" => 1e6,
            "GB" => 1e9,
            _ => return Err(wrong()),
        };
        Ok(ByteSize((number * factor) as u64))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_units() {
        let ms = |t: &str| t.parse::<Period>().map(|p| p.0.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1m30s"), Ok(90_000));
        assert_eq!(ms("1.5s"), Ok(1500));
        assert_eq!(ms("0"), Ok(0));
        for bad in ["", "5", "s", "5 parsecs", "-1s", "1..2s", "9999999999999999999999d"] {
            assert!(ms(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_carry_units() {
        let n = |t: &str| t.parse::<ByteSize>().map(|p| p.0);
        assert_eq!(n("512"), Ok(512));
        assert_eq!(n("64MiB"), Ok(64 << 20));
        assert_eq!(n("2 kB"), Ok(2000));
        for bad in ["", "MiB", "1 furlong", "-1"] {
            assert!(n(bad).is_err(), "{bad}");
        }
    }
}
