use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Findings;
use crate::document::{Kind, Node};
use crate::files::FileConfig;
use crate::local::absolute;
use crate::section::{Section, known};
use crate::values::Secret;

/// Keys of one PgBouncer.
const KEYS: &[&str] = &[
    "name",
    "console",
    "password",
    "writes",
    "reads",
    "pause_within",
    "hold_within",
    "kill_within",
    "state_file",
    "file",
];
/// Keys of its file: PgBouncer is told by its console.
const FILE_KEYS: &[&str] = &["path", "template", "mode", "owner", "check", "within", "vars"];
/// How long transactions may take to end before a switchover, unless told otherwise: below what the holder waits.
const PAUSE_WITHIN: Duration = Duration::from_secs(4);
/// The longest pause unless told otherwise: a switchover takes less than a second, and a failover in its middle the lease more.
const HOLD_WITHIN: Duration = Duration::from_secs(15);
/// How long connections to an old primary may go on unless told otherwise: longer than most transactions.
const KILL_WITHIN: Duration = Duration::from_secs(10);

/// A PgBouncer that follows the cluster: one of the list `pgbouncer`.
#[derive(Debug, Clone, PartialEq)]
pub struct PgbouncerConfig {
    /// By what the cluster knows it.
    pub name: String,
    /// How its console is reached, as a connection string.
    pub console: String,
    /// The password for it.
    pub password: Option<Secret>,
    /// Its databases that lead to the primary.
    pub writes: Vec<String>,
    /// Its databases that lead to standbys.
    pub reads: Vec<String>,
    /// How long a pause may take to begin.
    pub pause_within: Duration,
    /// The longest that a pause may last.
    pub hold_within: Duration,
    /// How long connections to an old primary may go on.
    pub kill_within: Duration,
    /// Where it is remembered what is paused.
    pub state_file: PathBuf,
    /// The file with its databases; none: they lead to something that follows by itself.
    pub file: Option<FileConfig>,
}

impl PgbouncerConfig {
    /// Reads the list; what is wrong in it, the findings say.
    pub(crate) fn read_all(root: &Section<'_>, findings: &mut Findings) -> Vec<Self> {
        let Some(node) = root.get("pgbouncer").filter(|node| !node.is_falsy()) else { return Vec::new() };
        let Kind::List(items) = &node.kind else {
            let help = "write lines such as '- {console: host=/var/run/postgresql port=6432 user=pgbouncer, writes: [app_rw]}'";
            findings.error("pgbouncer", &node.place, "pgbouncer: expected a list".to_owned(), help);
            return Vec::new();
        };
        let mut all: Vec<Self> = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let section = Section::at(item, &format!("pgbouncer[{number}]"));
            known(&section, KEYS, findings);
            let Some(one) = Self::read(&section, item, findings) else { continue };
            if all.iter().any(|other| other.name == one.name || other.state_file == one.state_file) {
                let message = format!("{}: another one has the name {} or its state_file", section.path(), one.name);
                findings.error(&section.path_of("name"), &item.place, message, "give each its own");
            }
            all.push(one);
        }
        all
    }

    fn read(section: &Section<'_>, node: &Node, findings: &mut Findings) -> Option<Self> {
        let needed = |key: &str, example: &str, findings: &mut Findings| {
            let text = section.text(key, findings);
            if text.is_none() {
                let path = section.path_of(key);
                let help = format!("add a line such as '{example}'");
                findings.error(&path, &node.place, format!("{path} is missing"), &help);
            }
            text
        };
        let name = needed("name", "name: app-1", findings);
        let console = needed("console", "console: host=/var/run/postgresql port=6432 user=pgbouncer", findings);
        let state_file = needed("state_file", "state_file: /var/lib/pgbaton/app-1.json", findings);
        let writes = section.lines("writes", findings).unwrap_or_default();
        if writes.is_empty() {
            let path = section.path_of("writes");
            let help = "name the databases that lead to the primary, such as 'writes: [app_rw]'";
            findings.error(&path, &node.place, format!("{path} is missing"), help);
        }
        let file = section.get("file").filter(|node| !node.is_falsy()).and_then(|node| {
            let file = Section::at(node, &section.path_of("file"));
            FileConfig::read(&file, node, FILE_KEYS, Some("pgbouncer"), findings)
        });
        let seconds = |key: &str, otherwise: Duration, findings: &mut Findings| {
            let given = section.seconds(key, findings);
            if given.is_some_and(|time| time.is_zero()) {
                let (path, place) = (section.path_of(key), section.get(key).map_or(&node.place, |node| &node.place));
                let message = format!("{path}: expected a time longer than 0");
                findings.error(&path, place, message, "give a number of seconds");
            }
            given.unwrap_or(otherwise)
        };
        let state_file = absolute(section, "state_file", &state_file?, findings)?;
        Some(Self {
            name: name?,
            console: console?,
            password: section.text("password", findings).map(Secret::new),
            writes,
            reads: section.lines("reads", findings).unwrap_or_default(),
            pause_within: seconds("pause_within", PAUSE_WITHIN, findings),
            hold_within: seconds("hold_within", HOLD_WITHIN, findings),
            kill_within: seconds("kill_within", KILL_WITHIN, findings),
            state_file,
            file,
        })
    }
}
