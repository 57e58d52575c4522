//! Reading resume tokens.
//!
//! A token is `{_data: HEX}`. The hexadecimal digits are a KeyString, the server's order-preserving encoding of the values
//! cluster time, version, token type, index within the transaction, and more that is of no use here. Measured on 4.4.2,
//! 5.0.4, 6.0.5 and 6.0.27 (where `$changeStreamSplitLargeEvent` turns version 1 into 2):
//!
//! `82` `6B010AAE 00000005` `2B02` `2C0100` `2C0258` `6E` … is the timestamp (1795230382, 5), version 1, type 128 (an event; 0
//! is a high-water mark), index 300, "not from an invalidate".
//!
//! Numbers: `29` is 0; `2B` to `32` are positive integers of 1 to 8 bytes, big endian, shifted left by one (the lowest bit
//! says that a fraction follows).

use bson::{RawDocument, Timestamp};

/// The leading values of a resume token. They sort as the events do, whatever the version of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    /// Cluster time of the event, or of the high-water mark.
    pub time: Timestamp,
    /// An event. Otherwise a high-water mark, a place before the events of its time.
    pub event: bool,
    /// The index of the event among the operations of its oplog entry or transaction.
    pub index: u32,
}

/// The hexadecimal digits of a token.
pub(super) fn data(token: &RawDocument) -> Option<&str> {
    token.get_str("_data").ok()
}

/// Reads a token; `None` when it has another shape.
pub(super) fn read(token: &RawDocument) -> Option<Token> {
    let mut rest = Hex(data(token)?.as_bytes());
    if rest.byte()? != 0x82 {
        return None;
    }
    let time = Timestamp { time: rest.u32()?, increment: rest.u32()? };
    let _version = rest.integer()?;
    let event = rest.integer()? != 0;
    let index = u32::try_from(rest.integer()?).ok()?;
    Some(Token { time, event, index })
}

/// Hexadecimal digits that are still to be read.
struct Hex<'a>(&'a [u8]);

impl Hex<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (two, rest) = self.0.split_at_checked(2)?;
        let digit = |c: u8| char::from(c).to_digit(16);
        self.0 = rest;
        u8::try_from(digit(two[0])? << 4 | digit(two[1])?).ok()
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes([self.byte()?, self.byte()?, self.byte()?, self.byte()?]))
    }

    fn integer(&mut self) -> Option<u64> {
        let kind = self.byte()?;
        match kind {
            0x29 => Some(0),
            0x2B..=0x32 => {
                let mut n = 0u64;
                for _ in 0x2B..=kind {
                    n = n << 8 | u64::from(self.byte()?);
                }
                (n & 1 == 0).then_some(n >> 1)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    fn of(data: &str) -> Option<Token> {
        read(&rawdoc! {"_data": data})
    }

    /// Tokens as the servers sent them.
    #[test]
    fn real_tokens() {
        let at = |time, increment| Timestamp { time, increment };
        let event = |time, index| Some(Token { time, event: true, index });
        let mark = |time| Some(Token { time, event: false, index: 0 });
        let t = at(1_795_230_382, 5);
        for (data, want) in [
            // 4.4.2: when opened; an insert; the 2nd, 47th, 98th, 147th and 301st operation of a transaction; a drop.
            ("826B010AAE000000022B0229296E04", mark(at(1_795_230_382, 2))),
            (
                "826B010AAE000000022B022C0100296E5A1004052F27E520294774AC143C519D9E3DDB461E5F6964002B020004",
                event(at(1_795_230_382, 2), 0),
            ),
            (
                "826B010AAE000000052B022C01002B026E5A1004052F27E520294774AC143C519D9E3DDB461E5F6964002C07D20004",
                event(t, 1),
            ),
            (
                "826B010AAE000000052B022C01002B5C6E5A1004052F27E520294774AC143C519D9E3DDB461E5F6964002C082C0004",
                event(t, 46),
            ),
            (
                "826B010AAE000000052B022C01002BC26E5A1004052F27E520294774AC143C519D9E3DDB461E5F6964002C08920004",
                event(t, 97),
            ),
            (
                "826B010AAE000000052B022C01002C01246E5A1004052F27E520294774AC143C519D9E3DDB461E5F6964002C08F40004",
                event(t, 146),
            ),
            (
                "826B010AAE000000052B022C01002C02586E5A1004052F27E520294774AC143C519D9E3DDB461E5F6964002C07D00004",
                event(t, 300),
            ),
            (
                "826B010AAE000001372B022C0100296E5A1004052F27E520294774AC143C519D9E3DDB04",
                event(at(1_795_230_382, 311), 0),
            ),
            ("826B010AAE000001352B0229296E04", mark(at(1_795_230_382, 309))),
            // 5.0.4
            (
                "826B010AAE000000052B022C01002C01EC6E5A10046DC1E4F714534BF1AE13A7D0AE2AE699461E5F6964002C09BC0004",
                event(t, 246),
            ),
            // 6.0.5
            (
                "826B010AAE000000052B022C01002C02506E5A10043BF49EF12C6A476086199E32AB894CA4461E5F6964002C0A200004",
                event(t, 296),
            ),
            // 6.0.27, without and with the split stage.
            (
                "826B010AAF000000052B022C01002B606E5A1004E255BB4D7AEA4977BB75007BBF60E2CF461E5F6964002C08300004",
                event(at(1_795_230_383, 5), 48),
            ),
            ("826B010B43000000022B0429296E1404", mark(at(1_795_230_531, 2))),
        ] {
            assert_eq!(of(data), want, "{data}");
        }
    }

    #[test]
    fn tokens_sort_as_events_do() {
        let all = [
            of("826B010AAE000000052B0229296E04"),
            of("826B010AAE000000052B042C0100296E04"),
            of("826B010AAE000000052B022C01002B5C6E04"),
            of("826B010AAE000000052B042C01002C01246E04"),
            of("826B010AAE000000062B0429296E1404"),
        ];
        assert!(all.iter().all(Option::is_some) && all.is_sorted());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(data in "82[0-9A-F]{0,60}|.{0,40}") {
            let _ = of(&data);
        }
    }

    #[test]
    fn integers_of_every_length() {
        let read = |hex: &str| Hex(hex.as_bytes()).integer();
        assert_eq!(read("29"), Some(0));
        assert_eq!(read("2B02"), Some(1));
        assert_eq!(read("2BFE"), Some(127));
        assert_eq!(read("2C0100"), Some(128));
        assert_eq!(read("2CFFFE"), Some(32_767));
        assert_eq!(read("2D010000"), Some(32_768));
        assert_eq!(read("2E02000000"), Some(1 << 24));
        assert_eq!(read("32FFFFFFFFFFFFFFFE"), Some(i64::MAX as u64));
        assert_eq!(read("2B03"), None, "a fraction follows");
        for bad in ["", "2", "2B", "2C01", "28FE", "33", "zz", "2Bzz"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn other_shapes_are_none() {
        for bad in ["", "82", "8299", "826B010AAE", "816B010AAE000000022B0229296E04", "826B010AAE000000022B022C01003C"]
        {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(read(&rawdoc! {"x": 1}), None);
        assert_eq!(read(&rawdoc! {"_data": 5}), None);
    }
}
