//! Many texts in one argument of a script: a MessagePack array, which Redis' own `cmsgpack.unpack` turns into a Lua table.
//!
//! As arguments of their own they would cost Redis an object each, and the client a length line each.

/// A MessagePack array of byte strings that grows.
pub struct Pack {
    buf: Vec<u8>,
    fields: u32,
}

/// `array 32` and its length, which is patched in at the end.
const HEAD: usize = 5;

impl Pack {
    /// The size of an empty one.
    pub const EMPTY: usize = HEAD;

    /// An empty array.
    pub fn new() -> Pack {
        Pack { buf: vec![0xdd, 0, 0, 0, 0], fields: 0 }
    }
    /// Empties it, keeping its memory up to `keep` bytes.
    pub fn clear(&mut self, keep: usize) {
        self.buf.truncate(HEAD);
        self.buf.shrink_to(keep);
        self.fields = 0;
    }
    /// How many bytes it has.
    pub fn size(&self) -> usize {
        self.buf.len()
    }
    /// A place to come back to with [`Pack::rewind`].
    pub fn mark(&self) -> (usize, u32) {
        (self.buf.len(), self.fields)
    }
    /// Takes back all that was added since.
    pub fn rewind(&mut self, mark: (usize, u32)) {
        self.buf.truncate(mark.0);
        self.fields = mark.1;
    }
    /// Adds a text.
    pub fn push(&mut self, text: &[u8]) {
        if text.len() < 32 {
            self.buf.push(0xa0 | text.len() as u8);
            self.buf.extend_from_slice(text);
            self.fields += 1;
        } else {
            self.push_with(|out| out.extend_from_slice(text));
        }
    }
    /// Adds the text that `write` appends to the buffer it is given.
    pub fn push_with<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let start = self.buf.len();
        self.buf.extend_from_slice(&[0xdb, 0, 0, 0, 0]);
        let result = write(&mut self.buf);
        let size = (self.buf.len() - start - 5) as u32;
        self.buf[start + 1..start + 5].copy_from_slice(&size.to_be_bytes());
        self.fields += 1;
        result
    }
    /// Makes one field of all that `write` adds: an array.
    pub fn push_list<T>(&mut self, write: impl FnOnce(&mut Pack) -> T) -> T {
        let (start, fields) = self.mark();
        self.buf.extend_from_slice(&[0xdd, 0, 0, 0, 0]);
        let result = write(self);
        let size = self.fields - fields;
        self.buf[start + 1..start + 5].copy_from_slice(&size.to_be_bytes());
        self.fields = fields + 1;
        result
    }
    /// The array as bytes.
    pub fn finish(&mut self) -> &[u8] {
        self.buf[1..HEAD].copy_from_slice(&self.fields.to_be_bytes());
        &self.buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_message_pack() {
        let mut pack = Pack::new();
        pack.push(b"ab");
        let mark = pack.mark();
        pack.push(b"gone");
        pack.rewind(mark);
        pack.push_with(|out| out.push(b'c'));
        pack.push(&[b'x'; 40]);
        let mut expected = vec![0xdd, 0, 0, 0, 3, 0xa2, b'a', b'b', 0xdb, 0, 0, 0, 1, b'c', 0xdb, 0, 0, 0, 40];
        expected.extend([b'x'; 40]);
        assert_eq!(pack.finish(), expected);
        pack.push_list(|pack| {
            pack.push(b"d");
            pack.push(b"e");
        });
        pack.push(b"f");
        expected[4] = 5;
        expected.extend([0xdd, 0, 0, 0, 2, 0xa1, b'd', 0xa1, b'e', 0xa1, b'f']);
        assert_eq!(pack.finish(), expected);
        pack.clear(0);
        assert_eq!(pack.finish(), [0xdd, 0, 0, 0, 0]);
    }
}
