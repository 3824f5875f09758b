//! The variables `PATRONI_*` as a tree that is laid over the files.
//!
//! Only the environment that is given is read; the process's own is the caller's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::diagnostic::{Findings, Place};
use crate::document::{Entry, Kind, Node, Scalar};

/// The variable that holds a whole document, used when no file is given.
pub(crate) const WHOLE_DOCUMENT: &str = "PATRONI_CONFIGURATION";

/// Variables whose place in the document does not follow from their name.
const NAMED: &[(&str, &str)] = &[
    ("NAME", "name"),
    ("SCOPE", "scope"),
    ("NAMESPACE", "namespace"),
    ("THREAD_POOL_SIZE", "thread_pool_size"),
    ("THREAD_STACK_SIZE", "thread_stack_size"),
    ("LOGLEVEL", "log.level"),
    ("LOGFORMAT", "log.format"),
    ("LOG_DATEFMT", "log.dateformat"),
    ("RESTAPI_USERNAME", "restapi.authentication.username"),
    ("RESTAPI_PASSWORD", "restapi.authentication.password"),
    ("CTL_USERNAME", "ctl.authentication.username"),
    ("CTL_PASSWORD", "ctl.authentication.password"),
];

/// Prefixes with the section that the rest of the name, in lower case, is a key of. Longer prefixes first.
const SECTIONS: &[(&str, &str)] = &[
    ("POSTGRESQL_BIN_DIR", "postgresql.bin_dir"),
    ("POSTGRESQL_BIN_", "postgresql.bin_name"),
    ("POSTGRESQL_", "postgresql"),
    ("SUPERUSER_", "postgresql.authentication.superuser"),
    ("REPLICATION_", "postgresql.authentication.replication"),
    ("REWIND_", "postgresql.authentication.rewind"),
    ("RESTAPI_", "restapi"),
    ("CTL_", "ctl"),
    ("LOG_", "log"),
    ("RAFT_", "raft"),
    ("ETCD_", "etcd"),
    ("ETCD3_", "etcd3"),
    ("CONSUL_", "consul"),
    ("ZOOKEEPER_", "zookeeper"),
    ("EXHIBITOR_", "exhibitor"),
    ("KUBERNETES_", "kubernetes"),
    ("CITUS_", "citus"),
];

/// Values that are lists: YAML, put in brackets unless they are already.
const LISTS: &[&str] = &["raft.partner_addrs", "restapi.allowlist", "etcd3.hosts"];

/// The tree that the variables describe. Empty ones are ignored; unknown ones are named.
pub(crate) fn overlay(environment: &BTreeMap<String, String>, findings: &mut Findings) -> Node {
    let mut root = Node { place: Place::default(), kind: Kind::Map(Vec::new()) };
    for (variable, value) in environment {
        let Some(name) = variable.strip_prefix("PATRONI_").filter(|_| variable != WHOLE_DOCUMENT) else { continue };
        if value.trim().is_empty() {
            continue;
        }
        let place = Place { file: Arc::from(format!("environment variable {variable}")), ..Place::default() };
        let Some(path) = path_of(name) else {
            let message = format!("the environment variable {variable} is not known and has no effect");
            findings.warning("", &place, message, "unset it");
            continue;
        };
        root.overlay(branch(&path, leaf(&path, value, &place), &place));
    }
    root
}

fn path_of(name: &str) -> Option<String> {
    if let Some((_, path)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Some((*path).to_owned());
    }
    let (prefix, section) = SECTIONS.iter().find(|(prefix, _)| name.starts_with(prefix))?;
    let rest = &name[prefix.len()..];
    if prefix.ends_with("_DIR") {
        return rest.is_empty().then(|| (*section).to_owned());
    }
    (!rest.is_empty()).then(|| format!("{section}.{}", rest.to_ascii_lowercase()))
}

fn leaf(path: &str, value: &str, place: &Place) -> Node {
    let text = |text: &str| {
        let value = serde_json::Value::String(text.to_owned());
        Node { place: place.clone(), kind: Kind::Scalar(Scalar { text: text.to_owned(), value }) }
    };
    if !LISTS.contains(&path) {
        return text(value);
    }
    let yaml = if value.starts_with('-') || value.contains('[') { value.to_owned() } else { format!("[{value}]") };
    match Node::parse(&place.file, &yaml) {
        Ok(parsed) => Node { place: place.clone(), kind: parsed.kind },
        // The reader of the key then says what it expected.
        Err(_) => text(value),
    }
}

fn branch(path: &str, value: Node, place: &Place) -> Node {
    path.rsplit('.').fold(value, |value, key| {
        let entry = Entry { key: key.to_owned(), place: place.clone(), value };
        Node { place: place.clone(), kind: Kind::Map(vec![entry]) }
    })
}
