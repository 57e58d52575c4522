//! JSON texts, escaped as Go's encoding/json does by default, which is what subscribers get from oplogtoredis: `<`, `>`,
//! `&`, U+2028 and U+2029 are escaped too, and what is not UTF-8 becomes U+FFFD.

/// What stands for itself within a JSON text.
const PLAIN: [bool; 256] = {
    let mut plain = [true; 256];
    let mut i = 0;
    while i < 0x20 {
        plain[i] = false;
        i += 1;
    }
    // 0xe2 begins U+2028 and U+2029.
    let special = b"\"\\<>&\xe2";
    let mut i = 0;
    while i < special.len() {
        plain[special[i] as usize] = false;
        i += 1;
    }
    plain
};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `text` as a JSON text, quotes included.
pub fn write_text(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    if std::str::from_utf8(text).is_ok() {
        escape(out, text);
    } else {
        for chunk in text.utf8_chunks() {
            escape(out, chunk.valid().as_bytes());
            for _ in chunk.invalid() {
                out.extend_from_slice(b"\\ufffd");
            }
        }
    }
    out.push(b'"');
}

/// Appends valid UTF-8 with its escapes.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| !PLAIN[usize::from(*b)]) {
        out.extend_from_slice(&rest[..at]);
        let mut taken = 1;
        match rest[at] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0xe2 => match rest.get(at + 1..at + 3) {
                Some([0x80, last @ (0xa8 | 0xa9)]) => {
                    out.extend_from_slice(if *last == 0xa8 { b"\\u2028" } else { b"\\u2029" });
                    taken = 3;
                }
                _ => out.push(0xe2),
            },
            byte => {
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        rest = &rest[at + taken..];
    }
    out.extend_from_slice(rest);
}

/// Appends bytes as lower-case hexadecimal digits.
pub fn write_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        out.push(HEX[usize::from(byte >> 4)]);
        out.push(HEX[usize::from(byte & 15)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(text: &[u8]) -> String {
        let mut out = Vec::new();
        write_text(&mut out, text);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn as_go_writes_it() {
        let table: &[(&str, &str)] = &[
            ("", r#""""#),
            ("abc", r#""abc""#),
            ("a\"b\\c/d", r#""a\"b\\c/d""#),
            ("<b>&</b>", r#""\u003cb\u003e\u0026\u003c/b\u003e""#),
            ("a\nb\rc\td", r#""a\nb\rc\td""#),
            ("\u{0}\u{8}\u{c}\u{1f}\u{7f}", "\"\\u0000\\u0008\\u000c\\u001f\u{7f}\""),
            ("x\u{2028}y\u{2029}z", r#""x\u2028y\u2029z""#),
            ("\u{2027}\u{202a}\u{20ac}\u{2603}", "\"\u{2027}\u{202a}\u{20ac}\u{2603}\""),
            ("äöü 日本 \u{1f600}", "\"äöü 日本 \u{1f600}\""),
        ];
        for (text, expected) in table {
            assert_eq!(json(text.as_bytes()), *expected);
        }
    }

    #[test]
    fn each_byte_that_is_not_utf8_is_replaced() {
        assert_eq!(json(b"a\xff\xfeb"), r#""a\ufffd\ufffdb""#);
        assert_eq!(json(b"a\xe2\x80"), r#""a\ufffd\ufffd""#);
        assert_eq!(json(b"\xf0\x9f\x98<"), r#""\ufffd\ufffd\ufffd\u003c""#);
    }

    proptest! {
        #[test]
        fn any_text_is_one_line_of_sound_json(text: String) {
            let written = json(text.as_bytes());
            prop_assert!(!written.contains('\n'));
            let mut read = String::new();
            let mut chars = written[1..written.len() - 1].chars();
            while let Some(c) = chars.next() {
                if c != '\\' {
                    prop_assert!(c != '"');
                    read.push(c);
                    continue;
                }
                match chars.next() {
                    Some('n') => read.push('\n'),
                    Some('r') => read.push('\r'),
                    Some('t') => read.push('\t'),
                    Some('u') => {
                        let hex: String = chars.by_ref().take(4).collect();
                        read.push(char::from_u32(u32::from_str_radix(&hex, 16).unwrap()).unwrap());
                    }
                    Some(c @ ('"' | '\\')) => read.push(c),
                    other => prop_assert!(false, "{:?}", other),
                }
            }
            prop_assert_eq!(read, text);
        }
    }
}
