//! Numbers as JavaScript writes them.

use std::io::Write as _;

/// Appends `d` as JavaScript's `Number.prototype.toString` writes it (ECMA-262, Number::toString, radix 10): the shortest
/// digits that read back as the same double, in plain notation from 1e-6 to below 1e21. `NaN` and the infinities are the
/// caller's business: JSON knows neither.
pub fn write_number(out: &mut Vec<u8>, d: f64) {
    // All integers up to here are doubles, and none of them is written with an exponent. -0 is written 0.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if d.fract() == 0.0 && d.abs() <= EXACT {
        let _ = write!(out, "{}", d as i64);
        return;
    }
    if d < 0.0 {
        out.push(b'-');
    }
    // Rust's `{:e}` gives the same shortest digits: `d.ddddde±x`.
    let text = format!("{:e}", d.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    let (k, n) = (digits.len() as i32, exponent + 1);
    if k <= n && n <= 21 {
        out.extend_from_slice(&digits);
        out.extend(std::iter::repeat_n(b'0', (n - k) as usize));
    } else if 0 < n && n <= 21 {
        out.extend_from_slice(&digits[..n as usize]);
        out.push(b'.');
        out.extend_from_slice(&digits[n as usize..]);
    } else if -6 < n && n <= 0 {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', -n as usize));
        out.extend_from_slice(&digits);
    } else {
        out.push(digits[0]);
        if k > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        let _ = write!(out, "e{}{}", if n > 0 { '+' } else { '-' }, (n - 1).abs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn js(d: f64) -> String {
        let mut out = Vec::new();
        write_number(&mut out, d);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_node_prints_them() {
        // Left: the value; right: what `String(value)` gives in Node.
        let table: &[(f64, &str)] = &[
            (0.0, "0"),
            (-0.0, "0"),
            (5.0, "5"),
            (-5.0, "-5"),
            (1.5, "1.5"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (0.1 + 0.2, "0.30000000000000004"),
            (100.0, "100"),
            (1e20, "100000000000000000000"),
            (123456789012345680000.0, "123456789012345680000"),
            (1e21, "1e+21"),
            (-1e21, "-1e+21"),
            (1.5e21, "1.5e+21"),
            (1.2345678901234568e29, "1.2345678901234568e+29"),
            (1e-6, "0.000001"),
            (1.5e-6, "0.0000015"),
            (1e-7, "1e-7"),
            (1.25e-7, "1.25e-7"),
            (123.456, "123.456"),
            (4294967296.5, "4294967296.5"),
            (9007199254740991.0, "9007199254740991"),
            (9007199254740992.0, "9007199254740992"),
            (9007199254740993i64 as f64, "9007199254740992"),
            (i64::MAX as f64, "9223372036854776000"),
            (i64::MIN as f64, "-9223372036854776000"),
            (1234567890123456789i64 as f64, "1234567890123456800"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (1.0 / 3.0, "0.3333333333333333"),
            (2.0 / 3.0, "0.6666666666666666"),
            (4.35, "4.35"),
            (1e100, "1e+100"),
        ];
        for (value, text) in table {
            assert_eq!(js(*value), *text);
        }
    }

    proptest! {
        #[test]
        fn reads_back_as_the_same_double(bits: u64) {
            let d = f64::from_bits(bits);
            prop_assume!(d.is_finite());
            let text = js(d);
            prop_assert_eq!(text.parse::<f64>().unwrap(), if d == 0.0 { 0.0 } else { d });
            prop_assert!(text.len() <= 25, "{}", text);
        }
    }
}
