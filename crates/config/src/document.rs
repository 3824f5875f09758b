//! A YAML document as a tree in which every key and value knows its line.
//!
//! Scalars keep their text as written: `log_file_mode: 0600` must reach the server as `0600`, whatever number YAML
//! makes of it. This module knows nothing of what the keys mean.

use std::fmt;
use std::sync::Arc;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, Spanned};

use crate::diagnostic::{Diagnostic, Place, Severity};

/// A value with its place.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) kind: Kind,
}

/// What a value is.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A single value: its text as written and what YAML 1.1 makes of it.
#[derive(Debug, Clone)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) value: Value,
}

/// A key with its value.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Node,
}

/// What to look for where a file is not YAML: the place that the parser names is often behind the mistake.
const EXPECTED: &str = "expected lines such as 'key: value', indented by blanks and not by tabs, each key once in its section; look for \
                        an open bracket or quote here and in the lines above";

impl Node {
    /// Reads one YAML document.
    ///
    /// # Errors
    /// The finding, with line and column, when the text is not YAML or has a key twice.
    pub(crate) fn parse(file: &str, text: &str) -> Result<Self, Box<Diagnostic>> {
        let source = Source::new(file, text);
        // `0600` is octal in YAML 1.1, which is what Patroni reads.
        let options = serde_saphyr::options! { legacy_octal_numbers: true, with_snippet: false };
        match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
            Ok(raw) => Ok(source.node(raw)),
            Err(error) => {
                let place = error.location().map_or_else(|| source.whole(), |location| source.place(location));
                let message = format!("not valid YAML: {}", without_place(&error.without_snippet().to_string()));
                Err(Box::new(Diagnostic::new(Severity::Error, "", &place, message, EXPECTED)))
            }
        }
    }

    /// A JSON document as a tree without lines.
    pub(crate) fn from_json(value: &Value) -> Self {
        let kind = match value {
            Value::Null => Kind::Null,
            Value::String(text) => Kind::Scalar(Scalar { text: text.clone(), value: value.clone() }),
            Value::Bool(_) | Value::Number(_) => Kind::Scalar(Scalar { text: value.to_string(), value: value.clone() }),
            Value::Array(items) => Kind::List(items.iter().map(Self::from_json).collect()),
            Value::Object(map) => Kind::Map(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        place: Place::default(),
                        value: Self::from_json(value),
                    })
                    .collect(),
            ),
        };
        Self { place: Place::default(), kind }
    }

    /// The tree as JSON. A number below `parameters` that JSON would write otherwise stays text.
    pub(crate) fn to_json(&self) -> Value {
        self.json(false)
    }

    fn json(&self, verbatim: bool) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Scalar(scalar) => match &scalar.value {
                Value::Number(number) if verbatim && number.to_string() != scalar.text => {
                    Value::String(scalar.text.clone())
                }
                value => value.clone(),
            },
            Kind::List(items) => Value::Array(items.iter().map(|item| item.json(verbatim)).collect()),
            Kind::Map(entries) => Value::Object(
                entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.json(verbatim || entry.key == "parameters")))
                    .collect::<Map<_, _>>(),
            ),
        }
    }

    /// The keys of a map; none for anything else.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key, a null counting as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value).filter(|node| !node.is_null())
    }

    /// The value at a dotted path.
    pub(crate) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, key| node.get(key))
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.kind, Kind::Null)
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// Whether the value says nothing: null, false, 0, an empty text, list or map.
    pub(crate) fn is_falsy(&self) -> bool {
        match &self.kind {
            Kind::Null => true,
            Kind::List(items) => items.is_empty(),
            Kind::Map(entries) => entries.is_empty(),
            Kind::Scalar(scalar) => match &scalar.value {
                Value::Bool(value) => !value,
                Value::Number(number) => number.as_f64() == Some(0.0),
                _ => scalar.text.is_empty(),
            },
        }
    }

    /// What the value is, for a message.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Scalar(scalar) => format!("'{}'", scalar.text),
            Kind::List(_) => "a list".to_owned(),
            Kind::Map(_) => "a map".to_owned(),
        }
    }

    /// Lays `other` over this tree: maps merge, an explicit null deletes, everything else replaces.
    pub(crate) fn overlay(&mut self, other: Self) {
        match (&mut self.kind, other.kind) {
            (Kind::Map(ours), Kind::Map(theirs)) => {
                for entry in theirs {
                    let known = ours.iter().position(|known| known.key == entry.key);
                    match known {
                        Some(index) if entry.value.is_null() => {
                            ours.remove(index);
                        }
                        Some(index) => ours[index].value.overlay(entry.value),
                        None if entry.value.is_null() => {}
                        None => ours.push(entry),
                    }
                }
            }
            (kind, theirs) => {
                *kind = theirs;
                self.place = other.place;
            }
        }
    }
}

/// A text that is being read, for the places in it.
struct Source<'a> {
    file: Arc<str>,
    text: &'a str,
    lines: Vec<&'a str>,
}

impl<'a> Source<'a> {
    fn new(file: &str, text: &'a str) -> Self {
        Self { file: file.into(), text, lines: text.lines().collect() }
    }

    fn whole(&self) -> Place {
        Place { file: Arc::clone(&self.file), ..Place::default() }
    }

    fn place(&self, location: Location) -> Place {
        let line = location.line();
        let text = usize::try_from(line)
            .ok()
            .and_then(|line| self.lines.get(line.checked_sub(1)?))
            .filter(|text| !may_hold_secret(text))
            .map(|text| Arc::from(*text));
        Place { file: Arc::clone(&self.file), line, column: location.column(), text }
    }

    fn node(&self, raw: Spanned<Raw>) -> Node {
        let place = self.place(raw.referenced);
        let kind = match raw.value {
            Raw::Null => Kind::Null,
            Raw::Text(text) => Kind::Scalar(Scalar { text: text.clone(), value: Value::String(text) }),
            Raw::Typed(value) => {
                let text = self.written(raw.defined).unwrap_or_else(|| value.to_string());
                Kind::Scalar(Scalar { text, value })
            }
            Raw::List(items) => Kind::List(items.into_iter().map(|item| self.node(item)).collect()),
            Raw::Map(entries) => Kind::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| Entry {
                        place: self.place(key.referenced),
                        key: key.value,
                        value: self.node(value),
                    })
                    .collect(),
            ),
        };
        Node { place, kind }
    }

    /// The characters of a plain scalar as they are in the text.
    fn written(&self, location: Location) -> Option<String> {
        let span = location.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let length = usize::try_from(span.byte_len()?).ok()?;
        let written = self.text.get(start..start.checked_add(length)?)?.trim();
        (!written.is_empty()).then(|| written.to_owned())
    }
}

/// Messages repeat lines of the file; lines with passwords stay out of logs.
fn may_hold_secret(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    ["pass", "secret", "token", "auth_data", "webhook"].iter().any(|word| line.contains(word))
}

/// The parser's message, of which the finding already shows the place.
fn without_place(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.rsplit_once(" at line ").map_or(line, |(message, _)| message)
}

/// A value as the parser hands it over.
enum Raw {
    Null,
    Text(String),
    Typed(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a YAML value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Typed(Value::Bool(value)))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Typed(Value::Number(value.into())))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Typed(Value::Number(value.into())))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        // JSON has no infinity; whoever wants a number then refuses the text.
        Ok(Number::from_f64(value).map_or_else(|| Raw::Text(value.to_string()), |n| Raw::Typed(Value::Number(n))))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key()? {
            entries.push((key, access.next_value()?));
        }
        Ok(Raw::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_keep_their_text_and_their_place() {
        let text = "a: 0600\nb:\n  - on\n  - \"yes\"\n  - 1e3\nc: {d: 2_000, e: ~}\nf: &x 0x1F\ng: *x\n5432: v\n";
        let node = Node::parse("t.yml", text).unwrap();
        let a = node.get("a").unwrap();
        assert_eq!((a.text(), a.place.line, a.place.column), (Some("0600"), 1, 4));
        assert_eq!(a.to_json(), serde_json::json!(384));
        let Kind::List(b) = &node.get("b").unwrap().kind else { panic!("b is a list") };
        assert_eq!(b.iter().map(|n| n.text().unwrap()).collect::<Vec<_>>(), ["on", "yes", "1e3"]);
        assert_eq!(b[0].to_json(), serde_json::json!(true));
        assert_eq!(b[1].to_json(), serde_json::json!("yes"));
        assert_eq!(node.at("c.d").unwrap().text(), Some("2_000"));
        assert!(node.at("c.e").is_none());
        assert_eq!(node.get("g").unwrap().text(), Some("0x1F"));
        assert_eq!(node.get("g").unwrap().place.line, 8);
        assert_eq!(node.entries().last().map(|e| (e.key.as_str(), e.place.line)), Some(("5432", 9)));
    }

    #[test]
    fn merge_keys_are_expanded() {
        let node = Node::parse("t.yml", "base: &b\n  x: 1\n  y: 2\nd:\n  <<: *b\n  y: 010\n").unwrap();
        assert_eq!(node.at("d.x").unwrap().text(), Some("1"));
        assert_eq!(node.at("d.y").unwrap().text(), Some("010"));
    }

    #[test]
    fn numbers_below_parameters_stay_as_written() {
        let node = Node::parse("t.yml", "parameters: {log_file_mode: 0600, max_connections: 100}\nttl: 030\n").unwrap();
        assert_eq!(
            node.to_json(),
            serde_json::json!({"parameters": {"log_file_mode": "0600", "max_connections": 100}, "ttl": 24})
        );
    }

    #[test]
    fn a_broken_document_says_where() {
        let error = Node::parse("t.yml", "a: 1\nb: [1,\nc: 2\n").unwrap_err();
        assert_eq!((error.line, error.file.as_str()), (2, "t.yml"), "{error}");
        let error = Node::parse("t.yml", "a: 1\na: 2\n").unwrap_err();
        assert_eq!((error.line, error.column), (2, 1), "{error}");
    }

    #[test]
    fn a_line_with_a_password_is_not_repeated() {
        let node = Node::parse("t.yml", "password: hunter2\nname: x\n").unwrap();
        assert_eq!(node.get("password").unwrap().place.text, None);
        assert_eq!(node.get("name").unwrap().place.text.as_deref(), Some("name: x"));
    }
}
