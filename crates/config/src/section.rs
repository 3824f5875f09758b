use std::collections::BTreeMap;
use std::time::Duration;

use crate::diagnostic::{Findings, Place};
use crate::document::{Entry, Kind, Node};
use crate::values::{self, HostPort, Listen};

/// One map of a document, read key by key. A value of the wrong kind becomes a finding with its line and counts as
/// absent, so that reading goes on.
#[derive(Debug, Clone)]
pub(crate) struct Section<'a> {
    node: Option<&'a Node>,
    path: String,
}

/// An option of one of PostgreSQL's programs: `--name` or `--name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolOption {
    /// The long name without the dashes.
    pub name: String,
    /// The value, if the option has one.
    pub value: Option<String>,
}

impl ToolOption {
    /// The option as one argument.
    pub fn argument(&self) -> String {
        match &self.value {
            Some(value) => format!("--{}={value}", self.name),
            None => format!("--{}", self.name),
        }
    }
}

impl<'a> Section<'a> {
    pub(crate) fn root(node: &'a Node) -> Self {
        Self { node: Some(node), path: String::new() }
    }

    /// A map that stands at `path` of its document.
    pub(crate) fn at(node: &'a Node, path: &str) -> Self {
        Self { node: Some(node), path: path.to_owned() }
    }

    /// The keys with their values, in the order written.
    pub(crate) fn entries(&self) -> &'a [Entry] {
        self.node.map(Node::entries).unwrap_or_default()
    }

    /// The map at `key`; an empty one when it is absent or no map.
    pub(crate) fn section(&self, key: &str, findings: &mut Findings) -> Self {
        let path = self.path_of(key);
        let node = self.get(key);
        if let Some(node) = node
            && !matches!(node.kind, Kind::Map(_))
        {
            expected(findings, &path, node, "a map of keys and values");
            return Self { node: None, path };
        }
        Self { node, path }
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub(crate) fn is_present(&self) -> bool {
        self.node.is_some()
    }

    /// Where the section is; nowhere if it is absent.
    pub(crate) fn place(&self) -> Place {
        self.node.map(|node| node.place.clone()).unwrap_or_default()
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Node> {
        self.node.and_then(|node| node.get(key))
    }

    pub(crate) fn text(&self, key: &str, findings: &mut Findings) -> Option<String> {
        let read = |node: &Node| node.text().filter(|text| !text.is_empty()).map(str::to_owned);
        self.read(key, "a text", findings, read)
    }

    pub(crate) fn boolean(&self, key: &str, findings: &mut Findings) -> Option<bool> {
        self.read(key, "on or off", findings, |node| node.text().and_then(values::parse_bool))
    }

    pub(crate) fn integer(&self, key: &str, findings: &mut Findings) -> Option<i64> {
        self.read(key, "a whole number", findings, |node| node.text().and_then(values::parse_integer))
    }

    /// A whole number that is not negative.
    pub(crate) fn count(&self, key: &str, findings: &mut Findings) -> Option<u64> {
        self.read(key, "a whole number, 0 or more", findings, |node| {
            node.text().and_then(values::parse_integer).and_then(|value| u64::try_from(value).ok())
        })
    }

    pub(crate) fn seconds(&self, key: &str, findings: &mut Findings) -> Option<Duration> {
        self.read(key, "a number of seconds, 0 or more", findings, |node| node.text().and_then(values::parse_seconds))
    }

    pub(crate) fn listen(&self, key: &str, port: Option<u16>, findings: &mut Findings) -> Option<Listen> {
        self.read(key, "an address such as 10.0.0.1:5432", findings, |node| {
            node.text().and_then(|text| values::parse_listen(text, port))
        })
    }

    pub(crate) fn host_port(&self, key: &str, port: Option<u16>, findings: &mut Findings) -> Option<HostPort> {
        self.read(key, "an address such as 10.0.0.1:5432", findings, |node| {
            node.text().and_then(|text| values::parse_host_port(text, port))
        })
    }

    /// A list of texts; a single text with commas counts as a list, as Patroni has it for addresses.
    pub(crate) fn addresses(&self, key: &str, port: Option<u16>, findings: &mut Findings) -> Vec<HostPort> {
        let read = |node: &Node| -> Option<Vec<HostPort>> {
            let texts: Vec<&str> = match &node.kind {
                Kind::List(items) => items.iter().map(Node::text).collect::<Option<_>>()?,
                _ => node.text()?.split(',').collect(),
            };
            texts.into_iter().map(|text| values::parse_host_port(text.trim(), port)).collect()
        };
        self.read(key, "a list of addresses such as 10.0.0.2:2380", findings, read).unwrap_or_default()
    }

    /// A list of lines, each as written.
    pub(crate) fn lines(&self, key: &str, findings: &mut Findings) -> Option<Vec<String>> {
        self.read(key, "a list of lines", findings, |node| match &node.kind {
            Kind::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
            _ => None,
        })
    }

    /// A map of texts, each as written; a key without a value is left out.
    pub(crate) fn texts(&self, key: &str, findings: &mut Findings) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        let section = self.section(key, findings);
        for entry in section.node.map(Node::entries).unwrap_or_default() {
            match (&entry.value.kind, entry.value.text()) {
                (Kind::Null, _) => {}
                (_, Some(text)) => {
                    texts.insert(entry.key.clone(), text.to_owned());
                }
                _ => expected(findings, &section.path_of(&entry.key), &entry.value, "a single value"),
            }
        }
        texts
    }

    /// Options of a program: a list of names and one-entry maps, or a map. Those in `forbidden` are errors or, when
    /// `tolerant`, left out with a warning.
    pub(crate) fn options(
        &self,
        key: &str,
        forbidden: &[&str],
        tolerant: bool,
        findings: &mut Findings,
    ) -> Option<Vec<ToolOption>> {
        let node = self.get(key)?;
        let path = self.path_of(key);
        let mut options = Vec::new();
        let mut add = |name: &str, value: Option<&Node>, at: &Node, findings: &mut Findings| {
            let name = name.trim_start_matches('-');
            if forbidden.contains(&name.split('=').next().unwrap_or(name)) {
                let message = format!("{path}: the option '{name}' is set by pgbaton and cannot be given here");
                if tolerant {
                    findings.warning(&path, &at.place, message, "remove it; it is left out");
                } else {
                    findings.error(&path, &at.place, message, "remove it");
                }
                return;
            }
            match value.map(|value| (value, value.text())) {
                None => options.push(ToolOption { name: name.to_owned(), value: None }),
                Some((_, Some(text))) => {
                    options.push(ToolOption { name: name.to_owned(), value: Some(unquote(text).to_owned()) });
                }
                Some((value, None)) => expected(findings, &path, value, "a single value for the option"),
            }
        };
        match &node.kind {
            Kind::Map(entries) => {
                for entry in entries {
                    add(&entry.key, Some(&entry.value), &entry.value, findings);
                }
            }
            Kind::List(items) => {
                for item in items {
                    match (item.text(), item.entries()) {
                        (Some(name), _) => add(name, None, item, findings),
                        (None, [entry]) => add(&entry.key, Some(&entry.value), &entry.value, findings),
                        _ => expected(findings, &path, item, "the name of an option, or one name with its value"),
                    }
                }
            }
            _ => expected(findings, &path, node, "a list of options"),
        }
        Some(options)
    }

    fn read<T>(
        &self,
        key: &str,
        what: &str,
        findings: &mut Findings,
        read: impl FnOnce(&Node) -> Option<T>,
    ) -> Option<T> {
        let node = self.get(key)?;
        let value = read(node);
        if value.is_none() {
            expected(findings, &self.path_of(key), node, what);
        }
        value
    }
}

/// Names keys that nobody knows.
pub(crate) fn known(section: &Section<'_>, keys: &[&str], findings: &mut Findings) {
    for entry in section.entries().iter().filter(|entry| !keys.contains(&entry.key.as_str())) {
        let path = section.path_of(&entry.key);
        let help = format!("known are {}", keys.join(", "));
        findings.error(&path, &entry.value.place, format!("{path} is not known"), &help);
    }
}

/// One level of shell quotes removed.
fn unquote(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) {
            return inner;
        }
    }
    text
}

fn expected(findings: &mut Findings, path: &str, node: &Node, what: &str) {
    let found = if path.ends_with("password") { "something else".to_owned() } else { node.describe() };
    findings.error(path, &node.place, format!("{path}: expected {what}, found {found}"), "");
}
