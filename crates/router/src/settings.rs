use std::time::Duration;

/// What a port listens at begins with this when systemd has opened its socket, whose name follows.
pub(crate) const SYSTEMD: &str = "systemd:";

/// What a router does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its ports.
    pub ports: Vec<PortSettings>,
    /// The most sessions at a time; who comes then is refused.
    pub sessions_max: usize,
    /// The most connections that wait for a server at a time; who comes then is refused.
    pub held_max: usize,
    /// The longest wait for a server.
    pub hold_within: Duration,
    /// The longest time for a connection to a server to be made.
    pub connect_within: Duration,
    /// The longest time for a client to send its first packet.
    pub startup_within: Duration,
    /// A session without a byte for this long is ended; none: never.
    pub idle_within: Option<Duration>,
    /// How long sessions may go on after a stop.
    pub drain_within: Duration,
    /// A view that is older says nothing: all sessions end.
    pub lease: Duration,
    /// Threads that copy.
    pub workers: usize,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSettings {
    /// What it is called in metrics and logs.
    pub name: String,
    /// Where it listens, `host:port`; or `systemd:NAME`, a socket that systemd has opened.
    pub listen: String,
    /// Where its connections go.
    pub mode: Mode,
    /// Clients begin with a header of the PROXY protocol, version 1 or 2.
    pub accept_proxy: bool,
    /// Servers are sent a header of the PROXY protocol, version 2: for a pooler that understands it; PostgreSQL does not.
    pub send_proxy: bool,
}

/// Where the connections of a port go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// To the primary.
    ReadWrite,
    /// To a standby.
    ReadOnly(ReadOnly),
}

/// Which standbys connections go to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadOnly {
    /// How many bytes a standby may have to replay; none: any number.
    pub lag_max: Option<u64>,
    /// Members with this tag `site` go first.
    pub site: Option<String>,
    /// Whether connections go to the primary.
    pub primary: UsePrimary,
}

/// Whether connections that only read go to the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UsePrimary {
    /// Never.
    #[default]
    Never,
    /// When no standby can be used.
    Last,
    /// As to any standby.
    Always,
}
