//! Numbers, texts and byte strings as they go over the wire: big-endian, with a length of four bytes before what has one.

/// A message that is written.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn int(mut self, value: i32) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn long(mut self, value: i64) -> Self {
        self.0.extend(value.to_be_bytes());
        self
    }

    pub(crate) fn boolean(mut self, value: bool) -> Self {
        self.0.push(u8::from(value));
        self
    }

    pub(crate) fn bytes(self, value: &[u8]) -> Self {
        // No request comes near: a node holds a megabyte at most (`jute.maxbuffer`).
        let mut writer = self.int(i32::try_from(value.len()).unwrap_or(i32::MAX));
        writer.0.extend(value);
        writer
    }

    pub(crate) fn text(self, value: &str) -> Self {
        self.bytes(value.as_bytes())
    }

    /// The message with its length before it.
    pub(crate) fn frame(self) -> Vec<u8> {
        Self::default().bytes(&self.0).0
    }
}

/// A message that is read; none: it ends too early.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self(message)
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn int(&mut self) -> Option<i32> {
        self.take(4).and_then(|bytes| Some(i32::from_be_bytes(bytes.try_into().ok()?)))
    }

    pub(crate) fn long(&mut self) -> Option<i64> {
        self.take(8).and_then(|bytes| Some(i64::from_be_bytes(bytes.try_into().ok()?)))
    }

    /// A length of -1 stands for nothing, which is the same as empty here.
    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        match self.int()? {
            -1 => Some(&[]),
            length => self.take(usize::try_from(length).ok()?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_ends_too_early_is_not() {
        let frame = Writer::default().int(-2).long(1 << 40).boolean(true).text("/a").bytes(&[]).frame();
        assert_eq!(frame[..4], [0, 0, 0, 23]);
        let mut reader = Reader::new(&frame[4..]);
        assert_eq!((reader.int(), reader.long()), (Some(-2), Some(1 << 40)));
        assert_eq!(reader.take(1), Some([1].as_slice()));
        assert_eq!((reader.bytes(), reader.bytes(), reader.int()), (Some(b"/a".as_slice()), Some([].as_slice()), None));
        assert_eq!(Reader::new(&[0, 0, 0, 9, 1]).bytes(), None);
        assert_eq!(Reader::new(&[0xff; 4]).bytes(), Some([].as_slice()));
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xfe]).bytes(), None);
    }
}
