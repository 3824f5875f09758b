/// Templates that come with pgbaton.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// HAProxy: a port for the primary and one for the standbys, by the members' health endpoints.
    HaProxy,
    /// nginx: a port for the primary and one for the standbys, below `stream`.
    Nginx,
    /// PgBouncer: databases for the primary and the standbys, to be included.
    PgBouncer,
    /// `pg_service.conf`: services for the primary and the standbys.
    PgService,
    /// ssh's `config`: hosts for the primary and each member.
    Ssh,
    /// Barman: the server whose WAL and backups it takes.
    Barman,
    /// keepalived: a check that follows the primary.
    Keepalived,
    /// Variables for a shell or a systemd unit.
    Environment,
}

impl BuiltIn {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::HaProxy,
        Self::Nginx,
        Self::PgBouncer,
        Self::PgService,
        Self::Ssh,
        Self::Barman,
        Self::Keepalived,
        Self::Environment,
    ];

    /// What it is called in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::HaProxy => "haproxy",
            Self::Nginx => "nginx",
            Self::PgBouncer => "pgbouncer",
            Self::PgService => "pg_service",
            Self::Ssh => "ssh",
            Self::Barman => "barman",
            Self::Keepalived => "keepalived",
            Self::Environment => "environment",
        }
    }

    /// The one of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.name() == name)
    }

    /// Its text.
    pub fn text(self) -> &'static str {
        match self {
            Self::HaProxy => include_str!("../templates/haproxy.cfg"),
            Self::Nginx => include_str!("../templates/nginx.conf"),
            Self::PgBouncer => include_str!("../templates/pgbouncer.ini"),
            Self::PgService => include_str!("../templates/pg_service.conf"),
            Self::Ssh => include_str!("../templates/ssh_config"),
            Self::Barman => include_str!("../templates/barman.conf"),
            Self::Keepalived => include_str!("../templates/keepalived.conf"),
            Self::Environment => include_str!("../templates/environment"),
        }
    }

    /// Whether a file of it is left as it is while there is no primary: whoever reads it would have nobody to go to.
    pub fn needs_primary(self) -> bool {
        !matches!(self, Self::HaProxy | Self::Environment)
    }
}
