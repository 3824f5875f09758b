//! A server's first answer in plain text (PostgreSQL documentation, "Message Formats": `ErrorResponse`).

/// The longest error that is read.
const ERROR_BYTES_MAX: usize = 8192;
/// The server starts, stops or recovers: `cannot_connect_now` (PostgreSQL documentation, "PostgreSQL Error Codes").
const CANNOT_CONNECT_NOW: &[u8] = b"57P03";

/// What the first bytes of a server say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The session begins, or fails for a reason that is the client's to hear.
    Pass,
    /// It takes no connections at the moment: another moment or another server may.
    NotNow,
    /// More has to be read.
    Incomplete,
}

/// Reads the first answer.
pub(crate) fn read(bytes: &[u8]) -> Answer {
    if bytes.is_empty() {
        return Answer::Incomplete;
    }
    if bytes[0] != b'E' {
        return Answer::Pass;
    }
    let Some(length) = bytes.get(1..5) else { return Answer::Incomplete };
    let length = length.iter().fold(0usize, |number, byte| number << 8 | usize::from(*byte));
    if length > ERROR_BYTES_MAX {
        return Answer::Pass;
    }
    let Some(fields) = bytes.get(5..=length) else { return Answer::Incomplete };
    let code = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(b"C"));
    if code == Some(CANNOT_CONNECT_NOW) { Answer::NotNow } else { Answer::Pass }
}

/// An error for a client that begins in plain text: what PostgreSQL would say.
pub(crate) fn refusal(message: &str) -> Vec<u8> {
    let mut fields = Vec::new();
    for (kind, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', "57P03"), (b'M', message)] {
        fields.push(kind);
        fields.extend(text.as_bytes());
        fields.push(0);
    }
    fields.push(0);
    let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
    [&b"E"[..], &length.to_be_bytes(), &fields].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_stops_is_told_from_one_that_refuses() {
        let stops = refusal("the database system is shutting down");
        assert_eq!(read(&stops), Answer::NotNow);
        let text = String::from_utf8(stops.clone()).unwrap().replace("57P03", "28P01");
        assert_eq!(read(text.as_bytes()), Answer::Pass);
        assert_eq!(read(b"R\0\0\0\x08"), Answer::Pass);
        for end in 0..stops.len() {
            assert_eq!(read(&stops[..end]), Answer::Incomplete, "{end}");
        }
    }
}
