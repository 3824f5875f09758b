use std::io;

use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter};

/// A document as the REST API writes it: a space after every comma and colon.
///
/// # Errors
/// When a map has keys that are no text.
pub fn to_loose<T: Serialize + ?Sized>(document: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    document.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Loose))?;
    Ok(String::from_utf8(bytes).expect("the serializer writes UTF-8"))
}

/// A record as it stands in the store: no spaces.
///
/// # Errors
/// When a map has keys that are no text.
pub fn to_compact<T: Serialize + ?Sized>(record: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    record.serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, CompactFormatter))?;
    Ok(String::from_utf8(bytes).expect("the serializer writes UTF-8"))
}

struct Loose;

impl Formatter for Loose {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        writer.write_all(if first { b"" } else { b", " })
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn both_styles() {
        let value = json!({"a": [1, 2], "b": {"c": "x, y: z"}});
        assert_eq!(super::to_loose(&value).unwrap(), r#"{"a": [1, 2], "b": {"c": "x, y: z"}}"#);
        assert_eq!(super::to_compact(&value).unwrap(), r#"{"a":[1,2],"b":{"c":"x, y: z"}}"#);
    }
}
