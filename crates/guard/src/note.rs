//! One line on standard error, without the heap.

use std::fmt::{self, Write as _};

use pgbaton_sys::process::try_write_stderr;

/// Longest line; the rest is cut off.
const LINE_BYTES: usize = 256;

struct Line {
    bytes: [u8; LINE_BYTES],
    length: usize,
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the line's end.
        let room = LINE_BYTES - 1 - self.length;
        let taken = text.len().min(room);
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

/// Writes a line, if standard error takes it without waiting: a stuck log must not stop the guard. To be called after
/// what it tells of was done.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE_BYTES], length: 0 };
    // Writing to a `Line` never fails; what does not fit is cut off.
    let _ = write!(line, "pgbaton guard: {text}");
    line.bytes[line.length] = b'\n';
    try_write_stderr(&line.bytes[..=line.length]);
}
