//! Keys that promise safety. Whoever writes one relies on it; a program that cannot keep the promise must not start.

use crate::diagnostic::Findings;
use crate::document::Node;
use crate::values::parse_bool;

/// Stores that pgbaton does not speak to yet.
const OTHER_STORES: &[&str] = &["etcd", "consul", "zookeeper", "exhibitor", "kubernetes"];

/// Reports the promises in a dynamic configuration, at `path`.
pub(crate) fn check_dynamic(document: &Node, path: &str, findings: &mut Findings) {
    let full = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, promise) in [
        ("synchronous_mode", "acknowledged transactions would be lost in a failover although it promises that none is"),
        ("synchronous_mode_strict", "transactions would be acknowledged without any standby having them"),
        ("failsafe_mode", "the primary would stop when the store is away although it promises to go on"),
    ] {
        let Some(node) = document.get(key).filter(|node| !is_off(node)) else { continue };
        let message = format!("{} is set to {}, which pgbaton cannot do yet: {promise}", full(key), node.describe());
        findings.error(&full(key), &node.place, message, "set it to false or remove it, if you can do without");
    }
    if let Some(node) = document.get("standby_cluster").filter(|node| !node.is_falsy())
        && ["host", "port", "restore_command"].iter().any(|key| node.get(key).is_some_and(|value| !value.is_falsy()))
    {
        let message = format!("{}: standby clusters are not supported", full("standby_cluster"));
        let help = "remove the section; without it this cluster would have a primary of its own";
        findings.error(&full("standby_cluster"), &node.place, message, help);
    }
    if let Some(node) = document.at("postgresql.pre_promote").filter(|node| !node.is_falsy()) {
        let path = full("postgresql.pre_promote");
        let message = format!("{path} is not called, so it could not forbid a promotion");
        findings.error(&path, &node.place, message, "remove it, if a promotion needs no leave from a script");
    }
}

/// Reports the promises in a local configuration.
pub(crate) fn check_local(root: &Node, findings: &mut Findings) {
    check_dynamic(root, "", findings);
    for entry in root.entries().iter().filter(|entry| OTHER_STORES.contains(&entry.key.as_str())) {
        if entry.value.is_null() {
            continue;
        }
        let message = format!("the store '{}' is not supported", entry.key);
        let help = if entry.key == "etcd" {
            "name it 'etcd3': pgbaton speaks version 3 of etcd's protocol"
        } else {
            "replace the section by 'raft' with self_addr, partner_addrs and password, or by 'etcd3', \
             or remove it for a single member"
        };
        findings.error(&entry.key, &entry.place, message, help);
    }
    for (path, what) in [
        ("restapi.certfile", "the REST API cannot speak TLS yet, so passwords would travel in plain text"),
        ("restapi.cafile", "the REST API cannot check client certificates yet"),
        ("restapi.allowlist", "the REST API cannot refuse clients by address yet, so anybody could connect"),
    ] {
        if let Some(node) = root.at(path).filter(|node| !node.is_falsy()) {
            let message = format!("{path}: {what}");
            findings.error(path, &node.place, message, "remove it and protect the port otherwise");
        }
    }
    check_modes(root, findings);
}

fn check_modes(root: &Node, findings: &mut Findings) {
    let path = "restapi.verify_client";
    if let Some(node) = root.at(path).filter(|node| !matches!(node.text(), Some("none" | "NONE" | "None" | ""))) {
        let message = format!("{path} is {}: the REST API cannot check client certificates yet", node.describe());
        findings.error(path, &node.place, message, "set it to none and protect the port otherwise");
    }
    let path = "restapi.allowlist_include_members";
    if let Some(node) = root.at(path).filter(|node| !is_off(node)) {
        let message = format!("{path}: the REST API cannot refuse clients by address yet, so anybody could connect");
        findings.error(path, &node.place, message, "remove it and protect the port otherwise");
    }
    let path = "watchdog.mode";
    if let Some(node) = root.at(path) {
        match node.text().unwrap_or_default().to_ascii_lowercase().as_str() {
            "off" | "false" | "disable" | "disabled" | "no" | "0" => {}
            "required" | "require" => {
                let message = format!("{path} is {}, but no watchdog device is used yet", node.describe());
                let help = "set it to off: the guard stops a server whose agent no longer answers; \
                            a kernel that hangs is not covered";
                findings.error(path, &node.place, message, help);
            }
            "automatic" | "auto" => {
                let message = format!("{path} is {}, but no watchdog device is used", node.describe());
                findings.warning(path, &node.place, message, "set it to off; the guard takes its place");
            }
            _ => {
                let message = format!("{path}: expected off, automatic or required, found {}", node.describe());
                findings.warning(path, &node.place, message, "no watchdog device is used");
            }
        }
    }
    let path = "bootstrap.method";
    if let Some(node) = root.at(path).filter(|node| node.text() != Some("initdb")) {
        let message = format!("{path} is {}, but only initdb is supported", node.describe());
        findings.error(path, &node.place, message, "remove it; a new cluster would begin empty instead of restored");
    }
}

/// Whether a switch is off, or says nothing.
fn is_off(node: &Node) -> bool {
    node.is_falsy() || node.text().and_then(parse_bool) == Some(false)
}
