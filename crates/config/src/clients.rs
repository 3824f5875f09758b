use pgbaton_types::MemberName;

use crate::diagnostic::Findings;
use crate::document::Node;
use crate::files::FileConfig;
use crate::local::{self, LogLevel};
use crate::pgbouncer::PgbouncerConfig;
use crate::publish::{EventsConfig, PublishConfig, check_outboxes, check_own};
use crate::router::{ClientStore, RouterConfig};
use crate::section::Section;

/// The sections by which clients follow a cluster.
const SECTIONS: [&str; 5] = ["router", "files", "pgbouncer", "publish", "events"];

/// Which of the sections are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// All that there are, at least one.
    All,
    /// `router`, which must be there.
    Router,
    /// `files`, which may be empty.
    Files,
    /// `publish` and `events`, at least one of them.
    Publish,
    /// Only what says where the cluster is.
    Nothing,
}

/// What makes clients follow a cluster: of a file of its own, or of a member's.
#[derive(Debug, Clone)]
pub struct ClientsFile {
    /// The cluster that is followed.
    pub follower: FollowerFile,
    /// The router.
    pub router: Option<RouterConfig>,
    /// Files that are made.
    pub files: Vec<FileConfig>,
    /// What `PgBouncer` servers are led.
    pub pgbouncer: Vec<PgbouncerConfig>,
    /// Where the primary is published, and events are posted.
    pub publish: Vec<PublishConfig>,
    /// The command that is run on events.
    pub events: Option<EventsConfig>,
}

/// What is needed to follow a cluster without being a member of it: `scope`, `namespace`, the store (`etcd3`, or `raft` with `partner_addrs` and
/// `password`) and `log.level`.
#[derive(Debug, Clone)]
pub struct FollowerFile {
    /// The name of the cluster.
    pub scope: String,
    /// The member whose file this is, if it is one's.
    pub name: Option<MemberName>,
    /// The first part of the store's keys, without slashes at its ends.
    pub namespace: String,
    /// How the store is reached.
    pub store: ClientStore,
    /// What is logged.
    pub log_level: LogLevel,
}

impl ClientsFile {
    /// Reads the sections; what is wrong in them, the findings say.
    pub(crate) fn read(root: &Section<'_>, wanted: Wanted, findings: &mut Findings) -> Option<Self> {
        let follower = FollowerFile::read(root, findings);
        let needed: &[&str] = match wanted {
            Wanted::All => &SECTIONS,
            Wanted::Publish => &["publish", "events"],
            Wanted::Router | Wanted::Files | Wanted::Nothing => &[],
        };
        if !needed.is_empty() && !needed.iter().any(|name| is_there(root, name)) {
            let message = format!("none of the sections {} is there", needed.join(", "));
            findings.error("", &root.place(), message, "add the one that the clients of this host need");
        }
        let wants = |name: &str, one: Wanted| wanted == one || wanted == Wanted::All && is_there(root, name);
        let router = wants("router", Wanted::Router)
            .then(|| RouterConfig::read(&root.section("router", findings), findings))
            .flatten();
        let files = if wants("files", Wanted::Files) { FileConfig::read_all(root, findings) } else { Vec::new() };
        let pgbouncer = if wanted == Wanted::All { PgbouncerConfig::read_all(root, findings) } else { Vec::new() };
        let (mut publish, mut events) = (Vec::new(), None);
        if matches!(wanted, Wanted::All | Wanted::Publish) {
            publish = PublishConfig::read_all(root, findings);
            events = EventsConfig::read(root, findings);
            check_outboxes(&publish, events.as_ref(), root, findings);
            check_own(&publish, events.as_ref(), root, findings);
        }
        Some(Self { follower: follower?, router, files, pgbouncer, publish, events })
    }
}

impl FollowerFile {
    fn read(root: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let scope = local::read_scope(root, findings);
        let namespace = local::read_namespace(root, findings);
        let store = ClientStore::read(root, findings);
        let log_level = LogLevel::read(&root.section("log", findings), findings);
        // A file that is no member's need not have one, and whose name is wrong, no member.
        let name = root.get("name").and_then(Node::text).and_then(|name| name.parse().ok());
        Some(Self { scope: scope?, name, namespace, store: store?, log_level })
    }
}

/// Whether there is anything by which clients follow.
pub(crate) fn any(root: &Section<'_>) -> bool {
    SECTIONS.iter().any(|name| is_there(root, name))
}

fn is_there(root: &Section<'_>, name: &str) -> bool {
    root.get(name).is_some_and(|node: &Node| !node.is_falsy())
}
