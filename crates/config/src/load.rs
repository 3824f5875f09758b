use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Map;

use crate::clients::{ClientsFile, Wanted};
use crate::diagnostic::{Diagnostic, Findings, Place, Severity};
use crate::document::{Kind, Node};
use crate::dynamic::DynamicConfig;
use crate::environment;
use crate::local::{LocalConfig, LogLevel};
use crate::merge::merge_patch;
use crate::section::Section;
use crate::store::EmbeddedConfig;
use crate::{keys, promises};

/// A configuration file larger than this is a mistake, such as a log given in its place.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A configuration that may be used.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What this member's file and environment say.
    pub local: LocalConfig,
    /// `bootstrap.dcs`: what the store's `config` key begins with, and what holds until there is one.
    pub initial_dynamic: DynamicConfig,
    /// What has no effect or deserves a look; to be logged once.
    pub warnings: Vec<Diagnostic>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file or directory cannot be read.
    #[error("the configuration {} cannot be read", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A directory without any `*.yml` or `*.yaml`.
    #[error("the configuration directory {} holds no file that ends in .yml or .yaml", path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// Neither a file nor an environment was given.
    #[error("there is no configuration: give a file, a directory or the environment variable PATRONI_CONFIGURATION")]
    Nothing,
    /// The documents were read and are wrong.
    #[error("{}", Report(findings))]
    Invalid {
        /// All findings, errors and warnings, in the order of the files; at least one error.
        findings: Vec<Diagnostic>,
    },
}

/// Findings below one another.
struct Report<'a>(&'a [Diagnostic]);

impl fmt::Display for Report<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            write!(formatter, "{}{finding}", if index == 0 { "" } else { "\n\n" })?;
        }
        Ok(())
    }
}

/// A voter of the embedded store without a server: of a member's configuration, the keys that such a one needs.
#[derive(Debug, Clone)]
pub struct Witness {
    /// Its part of the store; always with a network.
    pub store: EmbeddedConfig,
    /// What is logged.
    pub log_level: LogLevel,
}

/// Loads the configuration of a witness: `raft` with `data_dir`, `self_addr`, `partner_addrs` and `password`, and `log.level`. Whatever else a
/// member's file has is passed over, so that one file may serve both.
///
/// # Errors
/// As [`load`].
pub fn load_witness(path: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Witness, LoadError> {
    let mut findings = Findings::default();
    let root = document(path, environment, &mut findings)?;
    let section = Section::root(&root);
    let raft = section.section("raft", &mut findings);
    if raft.get("data_dir").is_none_or(Node::is_falsy) {
        let help = "name a directory for the log of this voter";
        findings.error("raft.data_dir", &raft.place(), "raft.data_dir is missing".to_owned(), help);
    }
    let store = EmbeddedConfig::read(&section, None, None, &mut findings);
    if store.as_ref().is_some_and(|store| store.network.is_none()) {
        let help = "give this host's address and a port, and in raft.partner_addrs those of the members' voters";
        findings.error("raft.self_addr", &raft.place(), "raft.self_addr is missing".to_owned(), help);
    }
    let log_level = LogLevel::read(&section.section("log", &mut findings), &mut findings);
    match store {
        Some(store) if findings.error_count() == 0 => Ok(Witness { store, log_level }),
        _ => Err(LoadError::Invalid { findings: findings.into_list() }),
    }
}

/// Loads what is needed to follow a cluster, and the sections that are wanted. Whatever else a member's file has is passed over, so that one file may
/// serve both.
///
/// # Errors
/// As [`load`].
pub fn load_clients(
    path: Option<&Path>,
    environment: &BTreeMap<String, String>,
    wanted: Wanted,
) -> Result<ClientsFile, LoadError> {
    let mut findings = Findings::default();
    let root = document(path, environment, &mut findings)?;
    match ClientsFile::read(&Section::root(&root), wanted, &mut findings) {
        Some(file) if findings.error_count() == 0 => Ok(file),
        _ => Err(LoadError::Invalid { findings: findings.into_list() }),
    }
}

/// Loads the configuration from a file or a directory, with the variables `PATRONI_*` of `environment` over it.
///
/// Of a directory, all files ending in `.yml` or `.yaml` are merged in the order of their names. Without a path, or
/// with one that does not exist, `PATRONI_CONFIGURATION` is read as the whole document.
///
/// # Errors
/// [`LoadError`]; wrong content comes with all findings at once.
pub fn load(path: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Loaded, LoadError> {
    let mut findings = Findings::default();
    let root = document(path, environment, &mut findings)?;
    finish(&root, findings)
}

fn document(
    path: Option<&Path>,
    environment: &BTreeMap<String, String>,
    findings: &mut Findings,
) -> Result<Node, LoadError> {
    let whole = environment.get(environment::WHOLE_DOCUMENT).filter(|text| !text.trim().is_empty());
    let missing = |path: &&Path| matches!(path.try_exists(), Ok(false));
    let root = match (path, whole) {
        (Some(path), whole) if whole.is_none() || !missing(&path) => {
            let mut root = read_files(path)?;
            root.overlay(environment::overlay(environment, findings));
            root
        }
        (_, Some(text)) => parse(environment::WHOLE_DOCUMENT, text)?,
        (_, None) => {
            let root = environment::overlay(environment, findings);
            if root.entries().is_empty() {
                return Err(LoadError::Nothing);
            }
            root
        }
    };
    Ok(root)
}

/// Loads the configuration from a text; `name` stands for the file in messages.
///
/// # Errors
/// [`LoadError::Invalid`] with all findings.
pub fn load_text(name: &str, text: &str) -> Result<Loaded, LoadError> {
    finish(&parse(name, text)?, Findings::default())
}

fn finish(root: &Node, mut findings: Findings) -> Result<Loaded, LoadError> {
    promises::check_local(root, &mut findings);
    keys::check_local(root, &mut findings);
    let local = LocalConfig::read(root, &mut findings);
    let initial_dynamic = root.at("bootstrap.dcs").map(|node| read_dynamic(node, &mut findings)).unwrap_or_default();
    let findings = findings.into_list();
    match local {
        Some(local) if !findings.iter().any(Diagnostic::is_error) => {
            Ok(Loaded { local, initial_dynamic, warnings: findings })
        }
        _ => Err(LoadError::Invalid { findings }),
    }
}

/// `bootstrap.dcs` as the document that the store begins with.
fn read_dynamic(node: &Node, findings: &mut Findings) -> DynamicConfig {
    let serde_json::Value::Object(written) = node.to_json() else {
        let message = format!("bootstrap.dcs: expected a map of keys and values, found {}", node.describe());
        findings.error("bootstrap.dcs", &node.place, message, "");
        return DynamicConfig::default();
    };
    let mut document = Map::new();
    // Laid over an empty document, so that keys without a value are absent.
    merge_patch(&mut document, &written);
    DynamicConfig::from_node(document, node, "bootstrap.dcs", findings)
}

fn parse(name: &str, text: &str) -> Result<Node, LoadError> {
    let node = Node::parse(name, text).map_err(|finding| LoadError::Invalid { findings: vec![*finding] })?;
    if matches!(node.kind, Kind::Map(_)) {
        return Ok(node);
    }
    let place = Place { file: name.into(), ..node.place.clone() };
    let message = format!("the configuration must be a map of keys and values, found {}", node.describe());
    Err(LoadError::Invalid { findings: vec![Diagnostic::new(Severity::Error, "", &place, message, "")] })
}

fn read_files(path: &Path) -> Result<Node, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    if !path.metadata().map_err(failed)?.is_dir() {
        return read_file(path);
    }
    let mut files = Vec::new();
    for entry in path.read_dir().map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        let named = file.extension().is_some_and(|extension| extension == "yml" || extension == "yaml");
        if named && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    let mut merged: Option<Node> = None;
    for file in files {
        let node = read_file(&file)?;
        match &mut merged {
            Some(merged) => merged.overlay(node),
            None => merged = Some(node),
        }
    }
    merged.ok_or_else(|| LoadError::NoFiles { path: path.to_owned() })
}

fn read_file(path: &Path) -> Result<Node, LoadError> {
    let failed = |source| LoadError::Read { path: path.to_owned(), source };
    let bytes = path.metadata().map_err(failed)?.len();
    if bytes > FILE_BYTES_MAX {
        let message = format!("{bytes} bytes are more than a configuration can have ({FILE_BYTES_MAX})");
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    parse(&path.display().to_string(), &text)
}
