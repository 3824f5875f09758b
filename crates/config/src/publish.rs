use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::{Findings, Place};
use crate::document::{Kind, Node};
use crate::etcd::EtcdConfig;
use crate::local::absolute;
use crate::section::{Section, known};
use crate::values::{HostPort, Secret, parse_host_port};

/// Keys of a record in `ZooKeeper`.
const ZOOKEEPER_KEYS: &[&str] = &["hosts", "path", "username", "password", "name", "session", "within"];
/// Keys of a record in an etcd: those of `etcd3`, and ours.
const ETCD_KEYS: &[&str] = &[
    "host",
    "hosts",
    "url",
    "proxy",
    "use_proxies",
    "srv",
    "discovery_srv",
    "srv_domain",
    "srv_suffix",
    "protocol",
    "username",
    "password",
    "cacert",
    "cert",
    "key",
    "path",
    "name",
    "heartbeat",
    "within",
];
/// Keys of whoever is told of events.
const EVENTS_KEYS: &[&str] = &["command", "only", "of", "outbox", "name", "within", "retry_for", "events_max"];
/// The same of a webhook.
const WEBHOOK_KEYS: &[&str] =
    &["url", "secret", "secret_file", "cafile", "only", "of", "outbox", "name", "within", "retry_for", "events_max"];
/// The port on which `ZooKeeper` serves clients.
const ZOOKEEPER_PORT: u16 = 2181;
/// What stands for a publisher that is gone is taken away after this time.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long one request may take that says nothing of it.
const WITHIN: Duration = Duration::from_secs(5);
/// How long a command may take that says nothing of it.
const COMMAND_WITHIN: Duration = Duration::from_secs(30);
/// How long a command is tried that fails again and again: others wait behind it, and repmgr would not have tried it twice.
const COMMAND_RETRY_FOR: Duration = Duration::from_secs(60);
/// How many events may wait: of a cluster that changes hands ten times a day, those of a month.
const EVENTS_MAX: u64 = 1000;
/// The longest name of a publisher or an outbox, in bytes.
const NAME_BYTES_MAX: usize = 63;

/// repmgr's events, and so the names that may be wanted (repmgr's documentation, "Event Notifications"). Those that have no meaning here never come.
const EVENT_NAMES: &[&str] = &[
    "cluster_created",
    "primary_register",
    "primary_unregister",
    "standby_clone",
    "standby_register",
    "standby_register_sync",
    "standby_unregister",
    "standby_promote",
    "standby_follow",
    "standby_switchover",
    "witness_register",
    "witness_unregister",
    "node_rejoin",
    "cluster_cleanup",
    "repmgrd_start",
    "repmgrd_shutdown",
    "repmgrd_reload",
    "repmgrd_failover_promote",
    "repmgrd_failover_follow",
    "repmgrd_failover_aborted",
    "repmgrd_standby_reconnect",
    "repmgrd_promote_error",
    "repmgrd_local_disconnect",
    "repmgrd_local_reconnect",
    "repmgrd_upstream_disconnect",
    "repmgrd_upstream_reconnect",
    "standby_disconnect_manual",
    "standby_failure",
    "standby_recovery",
    "child_node_disconnect",
    "child_node_reconnect",
    "child_node_new_connect",
    "child_nodes_disconnect_command",
];

/// Where something is published: one of the list `publish`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublishConfig {
    /// A record in a node.
    ZooKeeper {
        /// Its servers.
        hosts: Vec<HostPort>,
        /// The node.
        path: String,
        /// Name and password.
        user: Option<(String, Secret)>,
        /// The publisher; none: the member, or the host.
        name: Option<String>,
        /// How long a session outlives its publisher.
        session: Duration,
        /// How long one request may take.
        within: Duration,
    },
    /// A record in a key.
    Etcd {
        /// Where it is.
        store: EtcdConfig,
        /// The key.
        path: String,
        /// The publisher; none: the member, or the host.
        name: Option<String>,
        /// How long a heartbeat outlives its publisher.
        heartbeat: Duration,
        /// How long one request may take.
        within: Duration,
    },
    /// Events to a server over HTTP.
    Webhook {
        /// Where, with `http://` or `https://`.
        url: String,
        /// What requests are signed with.
        secret: Option<WebhookSecret>,
        /// Who may have signed the server's certificate.
        authority: Option<PathBuf>,
        /// How events get there.
        delivery: DeliveryConfig,
    },
}

/// A secret, or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookSecret {
    /// Itself.
    Text(Secret),
    /// In a file.
    File(PathBuf),
}

/// How events get to somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryConfig {
    /// The directory in which they wait.
    pub outbox: PathBuf,
    /// The name of their files there.
    pub name: String,
    /// Only these events, by repmgr's names; empty: all.
    pub only: Vec<String>,
    /// Only those of the member whose file this is.
    pub own: bool,
    /// How long one attempt may take.
    pub within: Duration,
    /// How long an event is tried; none: for ever.
    pub retry_for: Option<Duration>,
    /// How many may wait.
    pub events_max: usize,
}

/// Commands that are run on events: the section `events`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventsConfig {
    /// What is run.
    pub command: EventsCommand,
    /// How events get there.
    pub delivery: DeliveryConfig,
}

/// A command with repmgr's placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventsCommand {
    /// A line for a shell.
    Shell(String),
    /// A program with its arguments.
    Words(Vec<String>),
}

impl PublishConfig {
    /// Reads the list; what is wrong in it, the findings say.
    pub(crate) fn read_all(root: &Section<'_>, findings: &mut Findings) -> Vec<Self> {
        let Some(node) = root.get("publish").filter(|node| !node.is_falsy()) else { return Vec::new() };
        let Kind::List(items) = &node.kind else {
            let help = "write lines such as '- zookeeper: {hosts: 10.0.0.1:2181, path: /service/demo/primary}'";
            findings.error("publish", &node.place, "publish: expected a list of targets".to_owned(), help);
            return Vec::new();
        };
        let mut targets = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let path = format!("publish[{number}]");
            let (kind, inner) = match item.entries() {
                [entry] => (entry.key.as_str(), &entry.value),
                _ => ("", item),
            };
            let section = Section::at(inner, &format!("{path}.{kind}"));
            let target = match kind {
                "zookeeper" => zookeeper(&section, findings),
                "etcd" => etcd(&section, findings),
                "webhook" => webhook(&section, number, findings),
                _ => {
                    let message = format!("{path}: expected one of zookeeper, etcd and webhook, with its keys");
                    findings.error(&path, &item.place, message, "write '- zookeeper: {...}', for example");
                    None
                }
            };
            targets.extend(target);
        }
        targets
    }
}

impl EventsConfig {
    /// Reads the section; none when it is absent or wrong, which the findings say.
    pub(crate) fn read(root: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        root.get("events").filter(|node| !node.is_falsy())?;
        let section = root.section("events", findings);
        known(&section, EVENTS_KEYS, findings);
        let command = match section.get("command").map(|node| &node.kind) {
            Some(Kind::List(_)) => section.lines("command", findings).map(EventsCommand::Words),
            Some(_) => section.text("command", findings).map(EventsCommand::Shell),
            None => needed(&section, "command", r#"command: '/usr/local/bin/on-event %n %e %s "%t" "%d"'"#, findings),
        };
        let delivery = DeliveryConfig::read(&section, "events", COMMAND_WITHIN, Some(COMMAND_RETRY_FOR), findings);
        let command = command.filter(|command| *command != EventsCommand::Words(Vec::new()))?;
        Some(Self { command, delivery: delivery? })
    }
}

impl DeliveryConfig {
    fn read(
        section: &Section<'_>,
        name: &str,
        within: Duration,
        retry_for: Option<Duration>,
        findings: &mut Findings,
    ) -> Option<Self> {
        let given = section.text("outbox", findings);
        let outbox = match &given {
            Some(path) => absolute(section, "outbox", path, findings),
            None => needed(section, "outbox", "outbox: /var/lib/pgbaton/outbox", findings),
        };
        let name = match section.text("name", findings) {
            Some(name) => name_of(section, &name, findings),
            None => Some(name.to_owned()),
        };
        let own = match section.text("of", findings).as_deref() {
            None | Some("all") => false,
            Some("own") => true,
            Some(_) => wrong(section, "of", "all, or own for those of this member alone", findings).unwrap_or(false),
        };
        Some(Self {
            only: only(section, findings),
            own,
            within: positive(section, "within", within, findings),
            retry_for: section.seconds("retry_for", findings).or(retry_for),
            events_max: usize::try_from(section.count("events_max", findings).unwrap_or(EVENTS_MAX).max(1))
                .unwrap_or(usize::MAX),
            outbox: outbox?,
            name: name?,
        })
    }
}

/// Names two consumers that would share the files of an outbox.
pub(crate) fn check_outboxes(
    targets: &[PublishConfig],
    events: Option<&EventsConfig>,
    root: &Section<'_>,
    findings: &mut Findings,
) {
    let webhooks = targets.iter().filter_map(|target| match target {
        PublishConfig::Webhook { delivery, .. } => Some(delivery),
        PublishConfig::ZooKeeper { .. } | PublishConfig::Etcd { .. } => None,
    });
    let mut taken = BTreeSet::new();
    for delivery in webhooks.chain(events.map(|events| &events.delivery)) {
        if !taken.insert((&delivery.outbox, &delivery.name)) {
            let place = root.get("publish").map(|node| node.place.clone()).unwrap_or_default();
            let message = format!(
                "publish: two consumers have the outbox {} and the name {}",
                delivery.outbox.display(),
                delivery.name
            );
            findings.error("publish", &place, message, "give one of them another 'name:'");
        }
    }
}

/// Names consumers that want the events of a member in a file that is no member's.
pub(crate) fn check_own(
    targets: &[PublishConfig],
    events: Option<&EventsConfig>,
    root: &Section<'_>,
    findings: &mut Findings,
) {
    let webhook = |target: &PublishConfig| matches!(target, PublishConfig::Webhook { delivery, .. } if delivery.own);
    let own = targets.iter().any(webhook) || events.is_some_and(|events| events.delivery.own);
    if own && root.get("name").is_none() {
        let message = "name is missing: whose events are meant by 'of: own'?".to_owned();
        findings.error("name", &root.place(), message, "add 'name:' with the member's name, or take 'of: own' out");
    }
}

fn zookeeper(section: &Section<'_>, findings: &mut Findings) -> Option<PublishConfig> {
    let before = findings.error_count();
    known(section, ZOOKEEPER_KEYS, findings);
    let hosts = section.addresses("hosts", Some(ZOOKEEPER_PORT), findings);
    if hosts.is_empty() && section.get("hosts").is_none() {
        needed::<()>(section, "hosts", "hosts: 10.0.0.1:2181,10.0.0.2:2181", findings);
    }
    let path = match section.text("path", findings) {
        Some(path) if is_node(&path) => Some(path),
        Some(_) => wrong(section, "path", "a node such as /service/demo/primary", findings),
        None => needed(section, "path", "path: /service/demo/primary", findings),
    };
    let user = match (section.text("username", findings), section.text("password", findings)) {
        (Some(name), Some(password)) => Some((name, Secret::new(password))),
        (None, None) => None,
        (name, _) => {
            let missing = if name.is_some() { "password" } else { "username" };
            let path = section.path_of(missing);
            findings.error(&path, &section.place(), format!("{path} is missing"), "give both, or neither");
            None
        }
    };
    let session = positive(section, "session", HEARTBEAT, findings);
    let within = positive(section, "within", WITHIN, findings);
    let name = publisher(section, findings);
    let path = path.filter(|_| findings.error_count() == before)?;
    Some(PublishConfig::ZooKeeper { hosts, path, user, name, session, within })
}

/// A node's path as `ZooKeeper` has it (`PathUtils.validatePath`), but not the root.
fn is_node(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(char::is_control);
    path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(part))
}

fn etcd(section: &Section<'_>, findings: &mut Findings) -> Option<PublishConfig> {
    known(section, ETCD_KEYS, findings);
    let store = EtcdConfig::read(section, findings);
    let path = match section.text("path", findings) {
        Some(path) if !path.ends_with('/') => Some(path),
        Some(_) => wrong(section, "path", "a key such as /demo/primary, without a slash at its end", findings),
        None => needed(section, "path", "path: /demo/primary", findings),
    };
    let heartbeat = positive(section, "heartbeat", HEARTBEAT, findings);
    let within = positive(section, "within", WITHIN, findings);
    let name = publisher(section, findings);
    Some(PublishConfig::Etcd { store: store?, path: path?, name, heartbeat, within })
}

fn webhook(section: &Section<'_>, number: usize, findings: &mut Findings) -> Option<PublishConfig> {
    known(section, WEBHOOK_KEYS, findings);
    let url = match section.text("url", findings) {
        Some(url) if is_url(&url) => Some(url),
        Some(_) => {
            wrong(section, "url", "a URL such as https://hooks.example.com/pgbaton, without a user in it", findings)
        }
        None => needed(section, "url", "url: https://hooks.example.com/pgbaton", findings),
    };
    let text = section.text("secret", findings).map(Secret::new);
    let file = section.text("secret_file", findings).and_then(|path| absolute(section, "secret_file", &path, findings));
    let secret = match (text, file) {
        (Some(_), Some(_)) => wrong(section, "secret_file", "no file, since there is a secret", findings),
        (text, file) => text.map(WebhookSecret::Text).or(file.map(WebhookSecret::File)),
    };
    let authority = section.text("cafile", findings).and_then(|path| absolute(section, "cafile", &path, findings));
    let delivery = DeliveryConfig::read(section, &format!("webhook-{number}"), WITHIN, None, findings);
    Some(PublishConfig::Webhook { url: url?, secret, authority, delivery: delivery? })
}

fn is_url(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let host = rest.and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
    // Any port will do here where there is none.
    let address = parse_host_port(host, Some(1)).filter(|address| !address.is_wildcard());
    address.is_some() && !host.contains('@') && url.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A list of names, or a text with commas between them as repmgr's `event_notifications`.
fn only(section: &Section<'_>, findings: &mut Findings) -> Vec<String> {
    let Some(node) = section.get("only").filter(|node| !node.is_falsy()) else { return Vec::new() };
    let names: Option<Vec<String>> = match &node.kind {
        Kind::List(items) => items.iter().map(|item| item.text().map(str::to_owned)).collect(),
        _ => node.text().map(|text| text.split(',').map(|name| name.trim().to_owned()).collect()),
    };
    let unknown = |name: &&String| !EVENT_NAMES.contains(&name.as_str());
    if let Some(name) = names.iter().flatten().find(unknown) {
        let path = section.path_of("only");
        let message = format!("{path}: there is no event '{name}'");
        findings.error(
            &path,
            &node.place,
            message,
            "the names are those of repmgr, such as standby_promote or node_rejoin",
        );
    }
    names.or_else(|| wrong(section, "only", "a list of repmgr's events", findings)).unwrap_or_default()
}

fn publisher(section: &Section<'_>, findings: &mut Findings) -> Option<String> {
    let name = section.text("name", findings)?;
    name_of(section, &name, findings)
}

/// A name that may be a part of a path.
fn name_of(section: &Section<'_>, name: &str, findings: &mut Findings) -> Option<String> {
    let refused = |letter: char| letter == '/' || letter.is_control() || letter.is_whitespace();
    if name.len() > NAME_BYTES_MAX || name.contains(refused) || name.starts_with('.') {
        return wrong(
            section,
            "name",
            "1 to 63 bytes without slashes and blanks, not beginning with a full stop",
            findings,
        );
    }
    Some(name.to_owned())
}

fn positive(section: &Section<'_>, key: &str, otherwise: Duration, findings: &mut Findings) -> Duration {
    match section.seconds(key, findings) {
        Some(time) if time.is_zero() => wrong(section, key, "more than 0 seconds", findings).unwrap_or(otherwise),
        given => given.unwrap_or(otherwise),
    }
}

fn needed<T>(section: &Section<'_>, key: &str, example: &str, findings: &mut Findings) -> Option<T> {
    let path = section.path_of(key);
    findings.error(&path, &section.place(), format!("{path} is missing"), &format!("add a line such as '{example}'"));
    None
}

fn wrong<T>(section: &Section<'_>, key: &str, expected: &str, findings: &mut Findings) -> Option<T> {
    let path = section.path_of(key);
    let place = section.get(key).map(|node: &Node| node.place.clone()).unwrap_or_default();
    // Not the line of a URL: it may hold what lets one in.
    let place = if key == "url" { Place { text: None, ..place } } else { place };
    findings.error(&path, &place, format!("{path}: expected {expected}"), "correct it");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_path_and_no_url_is_known() {
        for (path, wanted) in [
            ("/a", true),
            ("/a/b c", true),
            ("/", false),
            ("a", false),
            ("/a/", false),
            ("/a//b", false),
            ("/../a", false),
        ] {
            assert_eq!(is_node(path), wanted, "{path}");
        }
        for (url, wanted) in [
            ("http://a", true),
            ("https://a:1/b?c", true),
            ("ftp://a", false),
            ("http://[::1]:8080/x", true),
            ("http://", false),
            ("http://*:1/", false),
            ("http://a:99999/", false),
            ("http://me:x@a/", false),
            ("http://a/b c", false),
        ] {
            assert_eq!(is_url(url), wanted, "{url}");
        }
    }
}
