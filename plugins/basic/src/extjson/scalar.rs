use bson::Timestamp;
use oplogue_api::Result;

use super::{plain, wrapped};

/// Appends a JSON string.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) -> Result<()> {
    plain(out, text)
}

pub(super) fn double(out: &mut Vec<u8>, d: f64) -> Result<()> {
    if d.is_finite() {
        return plain(out, &d);
    }
    let name = match (d.is_nan(), d.is_sign_negative()) {
        (true, false) => "NaN",
        // As bson writes it; a negative NaN is what 0/0 gives on x86.
        (true, true) => "-NaN",
        (false, false) => "Infinity",
        (false, true) => "-Infinity",
    };
    wrapped(out, "$numberDouble", name)
}

pub(super) fn object_id(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"{\"$oid\":\"");
    hex(out, bytes);
    out.extend_from_slice(b"\"}");
}

pub(super) fn timestamp(out: &mut Vec<u8>, t: Timestamp) -> Result<()> {
    out.extend_from_slice(b"{\"$timestamp\":{\"t\":");
    plain(out, &t.time)?;
    out.extend_from_slice(b",\"i\":");
    plain(out, &t.increment)?;
    out.extend_from_slice(b"}}");
    Ok(())
}

pub(super) fn binary(out: &mut Vec<u8>, subtype: u8, bytes: &[u8]) {
    out.extend_from_slice(b"{\"$binary\":{\"base64\":\"");
    base64(out, bytes);
    out.extend_from_slice(b"\",\"subType\":\"");
    hex(out, &[subtype]);
    out.extend_from_slice(b"\"}}");
}

pub(super) fn invalid_utf8(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(b"{\"$invalidUtf8\":\"");
    base64(out, bytes);
    out.extend_from_slice(b"\"}");
}

/// Appends the usual text of a UUID, without quotes.
pub(crate) fn uuid(out: &mut Vec<u8>, bytes: &[u8; 16]) {
    for (i, byte) in bytes.iter().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        hex(out, &[*byte]);
    }
}

fn hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        out.push(DIGITS[usize::from(byte >> 4)]);
        out.push(DIGITS[usize::from(byte & 15)]);
    }
}

fn base64(out: &mut Vec<u8>, bytes: &[u8]) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letter = |n: u32| LETTERS[(n & 63) as usize];
    out.reserve(bytes.len().div_ceil(3) * 4);
    let mut groups = bytes.chunks_exact(3);
    for group in &mut groups {
        let n = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
        out.extend_from_slice(&[letter(n >> 18), letter(n >> 12), letter(n >> 6), letter(n)]);
    }
    match *groups.remainder() {
        [a] => {
            let n = u32::from(a) << 16;
            out.extend_from_slice(&[letter(n >> 18), letter(n >> 12), b'=', b'=']);
        }
        [a, b] => {
            let n = u32::from(a) << 16 | u32::from(b) << 8;
            out.extend_from_slice(&[letter(n >> 18), letter(n >> 12), letter(n >> 6), b'=']);
        }
        _ => {}
    }
}

/// 10000-01-01T00:00:00Z: relaxed extended JSON writes dates from 1970 up to here as text, others as a number.
const YEAR_10000: i64 = 253_402_300_800_000;
const DAY: i64 = 86_400_000;

/// Appends `{"$date": …}` for milliseconds since 1970.
pub(crate) fn datetime(out: &mut Vec<u8>, millis: i64) -> Result<()> {
    if !(0..YEAR_10000).contains(&millis) {
        out.extend_from_slice(b"{\"$date\":{\"$numberLong\":\"");
        plain(out, &millis)?;
        out.extend_from_slice(b"\"}}");
        return Ok(());
    }
    out.extend_from_slice(b"{\"$date\":\"");
    instant(out, millis);
    out.extend_from_slice(b"\"}");
    Ok(())
}

/// Appends RFC 3339 in UTC, with exactly three decimals or none, as the specification wants it. For `0..YEAR_10000` only.
pub(crate) fn instant(out: &mut Vec<u8>, millis: i64) {
    let (year, month, day) = civil(millis / DAY);
    let rest = millis % DAY;
    digits(out, year, 4);
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, rest / 3_600_000, 2);
    out.push(b':');
    digits(out, rest / 60_000 % 60, 2);
    out.push(b':');
    digits(out, rest / 1000 % 60, 2);
    if rest % 1000 != 0 {
        out.push(b'.');
        digits(out, rest % 1000, 3);
    }
    out.push(b'Z');
}

/// Year, month and day of a day counted from 1970-01-01, which must not be earlier.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1600-03-01, so that the leap day ends a year and 400-year cycles of 146,097 days are whole.
    let day = days + 135_080;
    let (cycle, day) = (day / 146_097, day % 146_097);
    // Centuries of 36,524 days, but the last of a cycle has a day more.
    let century = (day / 36_524).min(3);
    let day = day - century * 36_524;
    // Four years of 1,461 days; in a century without its leap day the last is shorter, which the order takes care of.
    let (four, day) = (day / 1461, day % 1461);
    let one = (day / 365).min(3);
    let mut day = day - one * 365;
    let mut year = 1600 + cycle * 400 + century * 100 + four * 4 + one;
    let mut month = 3;
    for length in [31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31, 29] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    if month > 12 {
        month -= 12;
        year += 1;
    }
    (year, month, day + 1)
}

fn digits(out: &mut Vec<u8>, n: i64, width: u32) {
    for place in (0..width).rev() {
        out.push(b'0' + (n / 10i64.pow(place) % 10) as u8);
    }
}
