use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::diagnostic::Findings;
use crate::document::{Kind, Node};
use crate::local::absolute;
use crate::section::{Section, known};

/// Keys of one file.
const KEYS: &[&str] = &["path", "template", "mode", "owner", "check", "command", "within", "vars"];
/// The permission bits of a file that says nothing of them.
const MODE: u32 = 0o644;
/// How long a check or a command may take that says nothing of it.
const WITHIN: Duration = Duration::from_secs(10);

/// A file that is made for whoever follows the cluster: one of the list `files`.
#[derive(Debug, Clone, PartialEq)]
pub struct FileConfig {
    /// Where it is.
    pub path: PathBuf,
    /// The name of a template that comes with pgbaton, or the path of one.
    pub template: String,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner and group, by name or number; none: whoever writes it.
    pub owner: Option<(String, String)>,
    /// A program with its arguments that says whether new content may be used; `{file}` is where that is.
    pub check: Option<Vec<String>>,
    /// A program with its arguments that is run when the file has changed.
    pub command: Option<Vec<String>>,
    /// How long each of the two may take.
    pub within: Duration,
    /// What the template gets as `vars`.
    pub vars: BTreeMap<String, Value>,
}

impl FileConfig {
    /// Reads the list; what is wrong in it, the findings say.
    pub(crate) fn read_all(root: &Section<'_>, findings: &mut Findings) -> Vec<Self> {
        let Some(node) = root.get("files").filter(|node| !node.is_falsy()) else { return Vec::new() };
        let Kind::List(items) = &node.kind else {
            let help = "write lines such as '- {path: /etc/pgbouncer/databases.ini, template: pgbouncer}'";
            findings.error("files", &node.place, "files: expected a list of files".to_owned(), help);
            return Vec::new();
        };
        let mut files: Vec<Self> = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let section = Section::at(item, &format!("files[{number}]"));
            let Some(file) = Self::read(&section, item, KEYS, None, findings) else { continue };
            if files.iter().any(|other| other.path == file.path) {
                let message = format!("{}: {} is in the list twice", section.path(), file.path.display());
                findings.error(&section.path_of("path"), &item.place, message, "remove one of them");
            }
            files.push(file);
        }
        files
    }

    /// Reads one with these keys; `otherwise`: the template of one that names none.
    pub(crate) fn read(
        section: &Section<'_>,
        node: &Node,
        keys: &[&str],
        otherwise: Option<&str>,
        findings: &mut Findings,
    ) -> Option<Self> {
        known(section, keys, findings);
        let needed = |key: &str, example: &str, findings: &mut Findings| {
            let text = section.text(key, findings);
            if text.is_none() {
                let path = section.path_of(key);
                findings.error(
                    &path,
                    &node.place,
                    format!("{path} is missing"),
                    &format!("add a line such as '{example}'"),
                );
            }
            text
        };
        let path = needed("path", "path: /etc/haproxy/pgbaton.cfg", findings);
        let template = match (section.get("template"), otherwise) {
            (None, Some(otherwise)) => Some(otherwise.to_owned()),
            _ => needed("template", "template: haproxy", findings),
        };
        let path = absolute(section, "path", &path?, findings)?;
        Some(Self {
            path,
            template: template?,
            mode: mode(section, findings)?,
            owner: owner(section, findings).ok()?,
            check: words(section, "check", findings).ok()?,
            command: words(section, "command", findings).ok()?,
            within: section.seconds("within", findings).filter(|within| !within.is_zero()).unwrap_or(WITHIN),
            vars: vars(section, findings),
        })
    }
}

/// A finding says what is wrong.
pub(crate) struct Reported;

/// Permission bits in octal, as `chmod` takes them.
fn mode(section: &Section<'_>, findings: &mut Findings) -> Option<u32> {
    let Some(node) = section.get("mode") else { return Some(MODE) };
    let mode = node.text().and_then(|text| u32::from_str_radix(text.trim_start_matches("0o"), 8).ok());
    let mode = mode.filter(|mode| *mode <= 0o7777);
    if mode.is_none() {
        let path = section.path_of("mode");
        findings.error(&path, &node.place, format!("{path}: expected permission bits such as 0640"), "correct it");
    }
    mode
}

/// `user` or `user:group`; the group is named like the user unless given.
fn owner(section: &Section<'_>, findings: &mut Findings) -> Result<Option<(String, String)>, Reported> {
    let Some(node) = section.get("owner") else { return Ok(None) };
    let text = node.text().unwrap_or_default();
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    if user.is_empty() || group.is_empty() {
        let path = section.path_of("owner");
        findings.error(&path, &node.place, format!("{path}: expected user:group"), "correct it");
        return Err(Reported);
    }
    Ok(Some((user.to_owned(), group.to_owned())))
}

/// A program with its arguments: a list, or a text that is split at blanks.
pub(crate) fn words(
    section: &Section<'_>,
    key: &str,
    findings: &mut Findings,
) -> Result<Option<Vec<String>>, Reported> {
    let Some(node) = section.get(key).filter(|node| !node.is_falsy()) else { return Ok(None) };
    let words: Option<Vec<String>> = match &node.kind {
        Kind::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
        _ => node.text().map(|text| text.split_whitespace().map(str::to_owned).collect()),
    };
    let words = words.filter(|words| !words.is_empty());
    if words.is_none() {
        let path = section.path_of(key);
        let message = format!("{path}: expected a program with its arguments, such as [systemctl, reload, haproxy]");
        findings.error(&path, &node.place, message, "correct it");
        return Err(Reported);
    }
    Ok(words)
}

fn vars(section: &Section<'_>, findings: &mut Findings) -> BTreeMap<String, Value> {
    let vars = section.section("vars", findings);
    vars.entries().iter().map(|entry| (entry.key.clone(), entry.value.to_json())).collect()
}
