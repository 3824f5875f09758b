//! One local PostgreSQL server: its files, its SQL, its tools.
//!
//! Everything about the server that an agent supervises, but never starting, signalling or stopping it: the guard
//! does that, with the command line that [`prepare_start`] gives, and whatever here needs a signal takes a closure
//! that asks the guard. Nothing here decides about the cluster; each function does one thing and says what came of
//! it. Functions that are not `async` read or write small local files and block for as long as the disk does.

mod archive;
mod base_backup;
mod command;
mod config_files;
mod conninfo;
mod control_file;
mod data_dir;
mod file;
mod follow;
mod history;
mod initdb;
mod installation;
mod options;
mod parameters;
mod port;
mod promote;
mod readiness;
mod rewind;
mod sample;
mod secret;
mod senders;
mod shutdown;
mod signal;
mod slots;
mod spec;
mod sql;
mod start;
mod users;
mod wal;

pub use archive::{ArchiveError, Archived, archive_waiting};
pub use base_backup::{BaseBackupError, Progress, base_backup};
pub use command::CommandError;
pub use config_files::{
    Recovery, Written, append_pg_hba, has_standby_signal, remove_standby_signal, write_config,
    write_config_without_upstream, write_standby_signal,
};
pub use conninfo::{Upstream, primary_conninfo, write_passfile};
pub use control_file::{ControlFile, ControlFileError, DatabaseState};
pub use data_dir::{
    DataDirError, DataDirState, NewerGoodCopy, Operation, inspect, prune_quarantine, quarantine, quarantined,
};
pub use file::FileError;
pub use follow::{FollowError, follow, nudge_receiver, point_to, wait_streaming};
pub use history::{HistoryError, read_history};
pub use initdb::{InitdbError, initdb};
pub use installation::{Installation, InstallationError, Program, SUPPORTED_MAJORS, ServerVersion};
pub use options::{ForbiddenOption, ToolOption};
pub use parameters::{Parameters, Raised};
pub use port::{PortError, check_port};
pub use promote::{PromoteError, Promoted, promote};
pub use readiness::{NotReady, wait_ready};
pub use rewind::{RewindError, can_rewind, rewind, save_wal_tail, saved_wal_dir};
pub use sample::{Receiver, ReplicationRow, Sample, SampledRole, SlotRow};
pub use secret::Secret;
pub use senders::{SendersError, held_up_senders};
pub use shutdown::{ShutdownError, wait_shut_down};
pub use signal::{ServerSignal, SignalError};
pub use spec::{Authentication, Credentials, HostPort, LocalHost, ServerSpec};
pub use sql::{LocalClient, Readiness, SqlError, SqlTimeouts};
pub use start::{CommandLine, PreparedStart, StartAs, prepare_start};
pub use wal::{Possession, RecordHeader, Wal, WalError, holds, shutdown_checkpoint, unarchived_segments};
