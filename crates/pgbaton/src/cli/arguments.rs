#![expect(clippy::doc_markdown, reason = "these comments are the help text, which a terminal shows without markup")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// One PostgreSQL cluster, always available: agent, guard and command line.
#[derive(Debug, Parser)]
#[command(name = "pgbaton", version, about, max_term_width = 110, disable_help_subcommand = true)]
pub(crate) struct PgbatonArguments {
    /// How the cluster is found and results are shown.
    #[command(flatten)]
    pub(crate) global: Global,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// A member's configuration: its REST API is asked first [env: PGBATON_CONFIG_FILE, PATRONICTL_CONFIG_FILE]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) config_file: Option<PathBuf>,
    /// The REST API of any member, such as http://10.0.0.1:8008; several are tried in order [env: PGBATON_URL]
    #[arg(long, global = true, value_name = "URL", value_delimiter = ',')]
    pub(crate) url: Vec<String>,
    /// How results are shown
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Pretty)]
    pub(crate) format: Format,
}

/// How results are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Pretty,
    /// For programs.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a member: this process becomes the guard, which starts the agent
    Agent {
        /// The member's configuration, in Patroni's format: a file or a directory of .yml files; without it, the
        /// environment variables PATRONI_* are read alone
        config: Option<PathBuf>,
    },
    /// Run a voter of the members' store without a server, for a place where only the majority is to be kept
    Witness {
        /// Its configuration: of a member's, the section raft and the key log.level
        config: Option<PathBuf>,
    },
    /// Serve ports that always lead to the primary, or to a standby
    Router {
        /// Its configuration: scope, the store (etcd3, or raft with partner_addrs and password), and the section router
        config: Option<PathBuf>,
    },
    /// Make the clients of this host follow the cluster: the sections router, files, pgbouncer, publish and events of the configuration in one
    /// process. A member's agent starts one by itself
    Clients {
        /// Its configuration: scope, the store (etcd3, or raft with partner_addrs and password), and the sections
        config: Option<PathBuf>,
    },
    /// Print a connection string for libpq that finds the primary among all members
    Dsn(Dsn),
    /// Run a command if this host's member is the primary, and say so if it was not all the time: for cron jobs
    RunIfPrimary(RunIfPrimary),
    /// Make the files that follow the cluster (`files` in the configuration), or print one
    Render(Render),
    /// Tell others where the primary is, as the sections publish and events say: records in ZooKeeper or an etcd, webhooks, commands
    Publish(Publish),
    /// Show the members of the cluster
    List(List),
    /// Show the members as a tree of who streams from whom
    Topology(Topology),
    /// Hand the lease over to another member, without losing a commit
    Switchover(Switchover),
    /// Make a member the primary although the old one does not answer
    Failover(Failover),
    /// Maintenance mode on: nothing is promoted or stopped by itself, the guards are disarmed, and a member that ends leaves its
    /// server running
    Pause(Pause),
    /// Maintenance mode off
    Resume(Pause),
    /// Restart PostgreSQL on members
    Restart(Restart),
    /// Throw away a standby's copy and make a new one
    Reinit(Reinit),
    /// Show the history of timelines
    History {
        /// The cluster's name
        cluster: Option<String>,
    },
    /// Show the dynamic configuration
    ShowConfig {
        /// The cluster's name
        cluster: Option<String>,
    },
    /// Change the dynamic configuration
    EditConfig(EditConfig),
    /// Say who leads and why, who would be next, and what keeps the others from it
    Explain {
        /// Only these members
        members: Vec<String>,
    },
    /// Look at the store that the members share, or move the cluster's keys to another one
    #[command(subcommand)]
    Store(Store),
    /// Show it on this machine: three members, a primary that dies, a switchover
    Demo(crate::demo::Options),
}

/// `dsn`.
#[derive(Debug, Args)]
pub(crate) struct Dsn {
    /// The cluster's name, to be sure
    pub(crate) cluster: Option<String>,
    /// A standby is wanted, and the primary only if there is none (PostgreSQL 14 or newer on the client)
    #[arg(long)]
    pub(crate) standby: bool,
    /// How it is written
    #[arg(long, value_enum, default_value = "uri")]
    pub(crate) form: DsnForm,
    /// The role
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// The database
    #[arg(long, default_value = "postgres")]
    pub(crate) dbname: String,
}

/// How a connection string is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DsnForm {
    /// postgresql://...
    Uri,
    /// host=... port=...
    Keywords,
}

/// `run-if-primary`.
#[derive(Debug, Args)]
pub(crate) struct RunIfPrimary {
    /// Fail if this member is not the primary; otherwise that is a success without a word
    #[arg(long)]
    pub(crate) or_fail: bool,
    /// The command with its arguments; it finds the epoch in PGBATON_EPOCH
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub(crate) command: Vec<String>,
}

/// `render`.
#[derive(Debug, Args)]
pub(crate) struct Render {
    /// Print this template instead of making files: haproxy, nginx, pgbouncer, pg_service, ssh, barman, keepalived, environment, or a path
    #[arg(long, conflicts_with = "watch")]
    pub(crate) template: Option<String>,
    /// Give the template a variable below `vars`
    #[arg(long, value_name = "NAME=VALUE", requires = "template")]
    pub(crate) set: Vec<String>,
    /// Go on, and make them anew whenever the cluster changes
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `publish`.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// Its configuration: scope, the store (etcd3, or raft with partner_addrs and password), and the sections publish and events; otherwise
    /// that of --config-file
    pub(crate) config: Option<PathBuf>,
    /// Go on, and publish whatever changes
    #[arg(long)]
    pub(crate) watch: bool,
}

/// `store`.
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Ask every endpoint of the store how it is
    Status,
    /// Show who votes in the store
    Members,
    /// Let a new member into etcd; a member of the embedded store adds itself
    Add {
        /// Where its peers reach it, such as http://10.0.0.4:2380
        peer_url: String,
    },
    /// Take the vote of a member that is gone for good
    Remove {
        /// Its number, as `store members` shows it
        id: String,
        /// Do not ask
        #[arg(long)]
        force: bool,
    },
    /// Have the members of etcd give unused room on their disks back, one after the other
    Defrag,
    /// Write the cluster's keys, but those that hang on a lease, as JSON to a file
    Export {
        /// The file; it must not exist yet
        file: PathBuf,
    },
    /// Put exported keys into a store that does not know this cluster
    Import {
        /// The file
        file: PathBuf,
    },
}

/// `list`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct List {
    /// The cluster's name
    pub(crate) cluster: Option<String>,
    /// All columns, also the empty ones
    #[arg(short, long)]
    pub(crate) extended: bool,
    /// The time above the table
    #[arg(short, long)]
    pub(crate) timestamp: bool,
    #[command(flatten)]
    pub(crate) again: Again,
}

/// `topology`.
#[derive(Debug, Args)]
pub(crate) struct Topology {
    /// The cluster's name
    pub(crate) cluster: Option<String>,
    #[command(flatten)]
    pub(crate) again: Again,
}

/// Showing something again and again.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Again {
    /// Again every 2 seconds
    #[arg(short = 'W')]
    pub(crate) every_two_seconds: bool,
    /// Again every so many seconds
    #[arg(short = 'w', long = "watch", value_name = "SECONDS")]
    pub(crate) every: Option<f64>,
}

/// `switchover`.
#[derive(Debug, Args)]
pub(crate) struct Switchover {
    /// The cluster's name
    pub(crate) cluster: Option<String>,
    /// The member that leads now
    #[arg(long, alias = "primary", value_name = "MEMBER")]
    pub(crate) leader: Option<String>,
    /// The member that shall lead
    #[arg(long, value_name = "MEMBER")]
    pub(crate) candidate: Option<String>,
    /// When, such as 2027-01-31T03:00+01:00; `now` at once
    #[arg(long, value_name = "TIME")]
    pub(crate) scheduled: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

/// `failover`.
#[derive(Debug, Args)]
pub(crate) struct Failover {
    /// The cluster's name
    pub(crate) cluster: Option<String>,
    /// The member that shall lead
    #[arg(long, value_name = "MEMBER")]
    pub(crate) candidate: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

/// `pause` and `resume`.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// The cluster's name
    pub(crate) cluster: Option<String>,
    /// Wait until all members have seen it
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `restart`.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// The cluster's name, then members; without members: all
    pub(crate) names: Vec<String>,
    /// Only members of this role
    #[arg(short, long, value_enum, default_value_t = Role::Any)]
    pub(crate) role: Role,
    /// Any one of the members
    #[arg(long)]
    pub(crate) any: bool,
    /// When, such as 2027-01-31T03:00+01:00; `now` at once. With --force it takes the place of one that waits
    #[arg(long, value_name = "TIME")]
    pub(crate) scheduled: Option<String>,
    /// Only where PostgreSQL is older than this
    #[arg(long, value_name = "VERSION")]
    pub(crate) pg_version: Option<String>,
    /// Only where a changed parameter waits for a restart
    #[arg(long)]
    pub(crate) pending: bool,
    /// Seconds that the restart may take before a primary hands over
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<String>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}

/// Which members a command is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// The holder of the lease.
    #[value(alias = "primary")]
    Leader,
    /// All others.
    #[value(alias = "standby")]
    Replica,
    /// All.
    Any,
}

/// `reinit`.
#[derive(Debug, Args)]
pub(crate) struct Reinit {
    /// The cluster's name, then members
    pub(crate) names: Vec<String>,
    /// Ask nothing, and give up what the member is doing
    #[arg(long)]
    pub(crate) force: bool,
    /// Take the copy from the leader
    #[arg(long)]
    pub(crate) from_leader: bool,
    /// Wait until the new copy runs
    #[arg(long)]
    pub(crate) wait: bool,
}

/// `edit-config`.
#[derive(Debug, Args)]
pub(crate) struct EditConfig {
    /// The cluster's name
    pub(crate) cluster: Option<String>,
    /// Do not show what changes
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Set a value, such as loop_wait=2; null removes it
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Set a parameter of PostgreSQL, such as work_mem=8MB
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(crate) pg: Vec<String>,
    /// Lay a YAML file over the configuration; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) apply: Option<PathBuf>,
    /// Replace the configuration by a YAML file; - reads standard input
    #[arg(long, value_name = "FILE")]
    pub(crate) replace: Option<PathBuf>,
    /// Ask nothing
    #[arg(long)]
    pub(crate) force: bool,
}
