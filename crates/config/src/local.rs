use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgbaton_types::MemberName;

use crate::address::AddressConfig;
use crate::clients;
use crate::diagnostic::{Findings, Place};
use crate::document::Node;
use crate::dynamic::PostgresqlSettings;
use crate::effective;
use crate::section::{Section, ToolOption};
use crate::store::StoreConfig;
use crate::tags::Tags;
use crate::values::{HostPort, Listen, Secret};

/// What one member's own file and environment say.
#[derive(Debug, Clone)]
pub struct LocalConfig {
    /// The name of the member.
    pub name: MemberName,
    /// The name of the cluster; also the server's `cluster_name`.
    pub scope: String,
    /// The first part of the store's keys, without slashes at its ends.
    pub namespace: String,
    /// How much is logged.
    pub log_level: LogLevel,
    /// The file has sections by which clients follow the cluster.
    pub clients: bool,
    /// The REST API.
    pub restapi: RestApi,
    /// What the member and the command line present to other members' REST APIs: `ctl.authentication`, else that of
    /// `restapi`.
    pub peer_credentials: Option<Credentials>,
    /// How a new cluster is made; a member without the section never makes one.
    pub bootstrap: Option<Bootstrap>,
    /// The server.
    pub postgresql: Postgresql,
    /// The store.
    pub store: StoreConfig,
    /// The tags.
    pub tags: Tags,
    /// The virtual address; an error, which says what is wrong, when the section has no effect.
    pub address: Result<Option<AddressConfig>, String>,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// Decisions and changes.
    #[default]
    Info,
    /// What somebody should look at.
    Warning,
    /// What failed.
    Error,
}

/// The REST API of a member.
#[derive(Debug, Clone)]
pub struct RestApi {
    /// Where it listens.
    pub listen: Listen,
    /// Where others reach it.
    pub connect_address: HostPort,
    /// What unsafe requests must present.
    pub authentication: Option<Credentials>,
    /// Where HAProxy's agent checks are answered; none: nowhere.
    pub agent_check: Option<Listen>,
}

impl RestApi {
    /// The address that is published for other members.
    pub fn api_url(&self) -> String {
        format!("http://{}/patroni", self.connect_address)
    }
}

/// A name with a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// How a new cluster is made.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Options for `initdb`, without the superuser's name and password, which are added.
    pub initdb: Vec<ToolOption>,
    /// Lines put after those that `initdb` writes into `pg_hba.conf`, unless `postgresql.pg_hba` is given.
    pub pg_hba: Vec<String>,
}

/// The server of a member.
#[derive(Debug, Clone)]
pub struct Postgresql {
    /// `listen_addresses` and `port`.
    pub listen: Listen,
    /// Where other members and clients reach it.
    pub connect_address: HostPort,
    /// The data directory.
    pub data_dir: PathBuf,
    /// The directory of PostgreSQL's programs; none searches `PATH`.
    pub bin_dir: Option<PathBuf>,
    /// Other names for the programs, such as `postgres` to `postgres-15`.
    pub bin_name: BTreeMap<String, String>,
    /// The password file; none lets the agent choose one that only it reads.
    pub pgpass: Option<PathBuf>,
    /// The database that the agent connects to.
    pub database: String,
    /// The roles that pgbaton uses.
    pub authentication: Authentication,
    /// What the dynamic configuration may also say; here it takes precedence.
    pub settings: PostgresqlSettings,
}

/// The roles that pgbaton uses in the server.
#[derive(Debug, Clone)]
pub struct Authentication {
    /// Makes roles, promotes, reads positions.
    pub superuser: DatabaseUser,
    /// Streams.
    pub replication: DatabaseUser,
    /// Reads files for `pg_rewind`; none uses the superuser.
    pub rewind: Option<DatabaseUser>,
}

/// A role with what a connection as it needs.
#[derive(Debug, Clone)]
pub struct DatabaseUser {
    /// The role.
    pub username: String,
    /// Its password; none connects without.
    pub password: Option<Secret>,
    /// Connection parameters such as `sslmode`, for libpq.
    pub connection: BTreeMap<String, String>,
}

/// Connection parameters that a role may have; anything else is dropped, as Patroni does.
const CONNECTION_PARAMETERS: &[&str] = &[
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "gssencmode",
    "channel_binding",
    "sslnegotiation",
];

/// Options that pgbaton gives to `initdb` itself.
const INITDB_FORBIDDEN: &[&str] = &["pgdata", "nosync", "pwfile", "sync-only", "version"];

/// The port of the REST API in all of Patroni's examples.
const RESTAPI_PORT: u16 = 8008;

/// The port of PostgreSQL.
const POSTGRESQL_PORT: u16 = 5432;

/// A name that Patroni reserves in the `sync` key.
const RESERVED_NAME: &str = "__patroni_strict_sync_replica_placeholder__";

impl LocalConfig {
    /// Reads the tree; none when something that is required is missing, which the findings then say.
    pub(crate) fn read(root: &Node, findings: &mut Findings) -> Option<Self> {
        let section = Section::root(root);
        let name = read_name(&section, findings);
        let scope = read_scope(&section, findings);
        let restapi = RestApi::read(&section.section("restapi", findings), findings);
        let own = credentials(&section.section("ctl", findings), findings);
        let postgresql = Postgresql::read(&section.section("postgresql", findings), findings);
        let data_dir = postgresql.as_ref().map(|postgresql| postgresql.data_dir.clone());
        let store = StoreConfig::read(&section, name.as_ref(), data_dir.as_deref(), findings);
        let tags = Tags::read(&section.section("tags", findings), findings);
        let bootstrap = section.section("bootstrap", findings);
        let bootstrap = bootstrap.is_present().then(|| Bootstrap::read(&bootstrap, findings));
        let namespace = read_namespace(&section, findings);
        let log_level = LogLevel::read(&section.section("log", findings), findings);
        let hosts = [
            restapi.as_ref().map(|restapi| restapi.connect_address.host.as_str()),
            postgresql.as_ref().map(|postgresql| postgresql.connect_address.host.as_str()),
        ];
        let hosts: Vec<&str> = hosts.into_iter().flatten().collect();
        let address = AddressConfig::read(&section, &hosts, findings);
        let restapi = restapi?;
        Some(Self {
            name: name?,
            scope: scope?,
            namespace,
            log_level,
            clients: clients::any(&section),
            peer_credentials: own.or_else(|| restapi.authentication.clone()),
            restapi,
            bootstrap,
            postgresql: postgresql?,
            store: store?,
            tags,
            address,
        })
    }
}

pub(crate) fn read_scope(root: &Section<'_>, findings: &mut Findings) -> Option<String> {
    required(root, "scope", "scope: my-cluster", findings, Section::text)
}

/// Without slashes at its ends, and without doubled ones.
pub(crate) fn read_namespace(root: &Section<'_>, findings: &mut Findings) -> String {
    let text = root.text("namespace", findings).unwrap_or_else(|| "service".to_owned());
    text.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

fn read_name(section: &Section<'_>, findings: &mut Findings) -> Option<MemberName> {
    let text = required(section, "name", "name: pg-1", findings, Section::text)?;
    let place = section.get("name").map(|node| node.place.clone()).unwrap_or_default();
    if text == RESERVED_NAME {
        findings.error("name", &place, format!("name: '{text}' is reserved"), "choose another name");
        return None;
    }
    match text.parse() {
        Ok(name) => Some(name),
        Err(error) => {
            findings.error("name", &place, format!("name: {error}"), "choose another name");
            None
        }
    }
}

/// A value that must be there; otherwise a finding that shows the line to add.
fn required<'a, T>(
    section: &Section<'a>,
    key: &str,
    example: &str,
    findings: &mut Findings,
    read: impl FnOnce(&Section<'a>, &str, &mut Findings) -> Option<T>,
) -> Option<T> {
    if section.get(key).is_none() {
        let path = section.path_of(key);
        findings.error(
            &path,
            &section.place(),
            format!("{path} is missing"),
            &format!("add a line such as '{example}'"),
        );
        return None;
    }
    read(section, key, findings)
}

impl LogLevel {
    pub(crate) fn read(section: &Section<'_>, findings: &mut Findings) -> Self {
        let Some(text) = section.text("level", findings) else { return Self::default() };
        match text.to_ascii_uppercase().as_str() {
            "DEBUG" => Self::Debug,
            "INFO" => Self::Info,
            "WARN" | "WARNING" => Self::Warning,
            "ERROR" | "FATAL" | "CRITICAL" => Self::Error,
            _ => {
                let path = section.path_of("level");
                let place = section.get("level").map(|node| node.place.clone()).unwrap_or_default();
                let message = format!("{path}: expected DEBUG, INFO, WARNING, ERROR or CRITICAL, found '{text}'");
                findings.error(&path, &place, message, "");
                Self::default()
            }
        }
    }
}

impl RestApi {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let listen = required(section, "listen", "listen: 10.0.0.1:8008", findings, |section, key, findings| {
            section.listen(key, Some(RESTAPI_PORT), findings)
        });
        let authentication = credentials(section, findings);
        let listen = listen?;
        let connect_address = connect_address(section, &listen, RESTAPI_PORT, findings)?;
        let agent_check = section.listen("agent_check", None, findings);
        Some(Self { listen, connect_address, authentication, agent_check })
    }
}

/// `connect_address`, else the address listened on if others can use it.
fn connect_address(section: &Section<'_>, listen: &Listen, port: u16, findings: &mut Findings) -> Option<HostPort> {
    let path = section.path_of("connect_address");
    let help = format!("add a line such as 'connect_address: 10.0.0.1:{}'", listen.port);
    if let Some(node) = section.get("connect_address") {
        let address = section.host_port("connect_address", Some(port), findings)?;
        if address.is_wildcard() {
            let message = format!("{path} is {address}, an address that nobody can connect to");
            findings.error(&path, &node.place, message, "give the address of this host");
            return None;
        }
        return Some(address);
    }
    let reachable = listen.reachable();
    if reachable.is_none() {
        let place = section.get("listen").map(|node| node.place.clone()).unwrap_or_default();
        let message = format!("{path} is missing, and '{listen}' does not say where others reach this member");
        findings.error(&path, &place, message, &help);
    }
    reachable
}

/// `authentication` below a section: both name and password, or neither.
fn credentials(section: &Section<'_>, findings: &mut Findings) -> Option<Credentials> {
    let section = section.section("authentication", findings);
    let username = section.text("username", findings);
    let password = section.text("password", findings);
    match (username, password) {
        (Some(username), Some(password)) => Some(Credentials { username, password: Secret::new(password) }),
        (None, None) => None,
        (username, _) => {
            let missing = section.path_of(if username.is_some() { "password" } else { "username" });
            let message = format!("{missing} is missing: name and password are needed together");
            findings.error(&missing, &section.place(), message, "add it, or remove the section");
            None
        }
    }
}

impl Bootstrap {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Self {
        Self {
            initdb: section.options("initdb", INITDB_FORBIDDEN, false, findings).unwrap_or_default(),
            pg_hba: section.lines("pg_hba", findings).unwrap_or_default(),
        }
    }
}

impl Postgresql {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let listen = required(section, "listen", "listen: 10.0.0.1:5432", findings, |section, key, findings| {
            section.listen(key, Some(POSTGRESQL_PORT), findings)
        });
        let connect_address =
            listen.as_ref().and_then(|listen| connect_address(section, listen, POSTGRESQL_PORT, findings));
        let example = "data_dir: /var/lib/postgresql/15/main";
        let data_dir = required(section, "data_dir", example, findings, Section::text)
            .and_then(|text| absolute(section, "data_dir", &text, findings));
        let authentication = Authentication::read(section, findings);
        let settings = PostgresqlSettings::read(section, findings);
        warn_of_shared_settings(section, &settings, findings);
        Some(Self {
            bin_dir: section.text("bin_dir", findings).map(PathBuf::from),
            bin_name: section.texts("bin_name", findings),
            pgpass: section.text("pgpass", findings).map(PathBuf::from),
            database: section.text("database", findings).unwrap_or_else(|| "postgres".to_owned()),
            listen: listen?,
            connect_address: connect_address?,
            data_dir: data_dir?,
            authentication: authentication?,
            settings,
        })
    }
}

/// A path that does not depend on the directory that the agent was started in: it is a guard, an agent and a server
/// that must agree on it.
pub(crate) fn absolute(section: &Section<'_>, key: &str, text: &str, findings: &mut Findings) -> Option<PathBuf> {
    let path = Path::new(text);
    if path.is_absolute() {
        return Some(path.components().collect());
    }
    let full = section.path_of(key);
    let place = section.get(key).map(|node| node.place.clone()).unwrap_or_default();
    findings.error(&full, &place, format!("{full}: '{text}' is not an absolute path"), "begin it with a '/'");
    None
}

/// Names what the local file says although only the dynamic configuration decides it.
fn warn_of_shared_settings(section: &Section<'_>, settings: &PostgresqlSettings, findings: &mut Findings) {
    let help = "give it below bootstrap.dcs.postgresql, or change it with edit-config";
    let mut warn = |path: &str, place: &Place| {
        findings.warning(path, place, format!("{path} has no effect in a member's own file"), help);
    };
    if let Some(node) = section.get("use_slots").filter(|_| settings.use_slots.is_some()) {
        warn(&section.path_of("use_slots"), &node.place);
    }
    for entry in section.get("parameters").map(Node::entries).unwrap_or_default() {
        if effective::is_controlled(&entry.key.to_ascii_lowercase()) {
            warn(&format!("{}.parameters.{}", section.path(), entry.key), &entry.place);
        }
    }
}

impl Authentication {
    fn read(postgresql: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let section = postgresql.section("authentication", findings);
        let superuser = DatabaseUser::read(&section.section("superuser", findings), findings);
        let replication_section = section.section("replication", findings);
        let replication = DatabaseUser::read(&replication_section, findings);
        let rewind = DatabaseUser::read(&section.section("rewind", findings), findings);
        if replication.is_none() {
            let path = replication_section.path_of("username");
            let place = if section.is_present() { section.place() } else { postgresql.place() };
            let help = "add 'username: replicator' with its password below postgresql.authentication.replication";
            findings.error(&path, &place, format!("{path} is missing"), help);
        }
        let superuser = superuser.unwrap_or_else(|| DatabaseUser {
            username: "postgres".to_owned(),
            password: None,
            connection: BTreeMap::new(),
        });
        Some(Self { superuser, replication: replication?, rewind })
    }
}

impl DatabaseUser {
    fn read(section: &Section<'_>, findings: &mut Findings) -> Option<Self> {
        let username = section.text("username", findings)?;
        let password = section.text("password", findings).map(Secret::new);
        let connection = CONNECTION_PARAMETERS
            .iter()
            .filter_map(|key| section.text(key, findings).map(|value| ((*key).to_owned(), value)))
            .collect();
        Some(Self { username, password, connection })
    }
}
