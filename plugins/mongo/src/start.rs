//! The option `start` of both sources.

use std::fmt;

use bson::Timestamp;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};

/// Where a source without a checkpoint begins: `"now"`, `"oldest"`, or `{ at = TIME }` with TIME a date and time with its
/// zone (`2026-11-21T10:00:00Z`, in quotes or without), seconds since 1970, or `"seconds.increment"` as event ids show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Start {
    /// Behind the newest entry.
    #[default]
    Now,
    /// At the oldest entry that the server still has.
    Oldest,
    /// At the first entry of this cluster time or later.
    At(Timestamp),
}

const EXPECTED: &str = "\"now\", \"oldest\" or { at = TIME }, with TIME such as 2026-11-21T10:00:00Z";
/// How the toml crate hands a date over to serde.
const TOML_DATETIME: &str = "$__toml_private_datetime";

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Start, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Start;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Start, E> {
                match text {
                    "now" => Ok(Start::Now),
                    "oldest" => Ok(Start::Oldest),
                    _ => Err(E::custom(format!("`start` must be {EXPECTED}"))),
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Start, A::Error> {
                let wrong = || A::Error::custom(format!("`start` must be {EXPECTED}"));
                match map.next_key::<String>()?.as_deref() {
                    Some("at") => {}
                    _ => return Err(wrong()),
                }
                let At(at) = map.next_value()?;
                match map.next_key::<String>()? {
                    None => Ok(Start::At(at)),
                    Some(_) => Err(wrong()),
                }
            }
        }
        d.deserialize_any(V)
    }
}

struct At(Timestamp);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<At, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = At;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time such as 2026-11-21T10:00:00Z, or seconds since 1970")
            }
            fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<At, E> {
                let time = u32::try_from(seconds).map_err(|_| E::custom("`at` is outside the years 1970 to 2106"))?;
                Ok(At(Timestamp { time, increment: 0 }))
            }
            fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<At, E> {
                self.visit_i64(i64::try_from(seconds).unwrap_or(i64::MAX))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<At, E> {
                if let Some((time, increment)) = text.split_once('.')
                    && let (Ok(time), Ok(increment)) = (time.parse(), increment.parse())
                {
                    return Ok(At(Timestamp { time, increment }));
                }
                match bson::DateTime::parse_rfc3339_str(text) {
                    // The whole second: rather some events twice than one missing.
                    Ok(date) => self.visit_i64(date.timestamp_millis().div_euclid(1000)),
                    Err(_) => {
                        Err(E::custom("`at` must be a date and time with its zone, such as 2026-11-21T10:00:00Z"))
                    }
                }
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<At, A::Error> {
                match map.next_key::<String>()?.as_deref() {
                    Some(TOML_DATETIME) => self.visit_str(&map.next_value::<String>()?),
                    _ => Err(A::Error::custom("`at` must be a time such as 2026-11-21T10:00:00Z")),
                }
            }
        }
        d.deserialize_any(V)
    }
}
