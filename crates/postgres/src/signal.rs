/// A signal for the postmaster, which only the guard can send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServerSignal {
    /// SIGHUP: read the configuration files again; also wakes a standby that waits to try its upstream again.
    Reload,
    /// SIGUSR1: look for the file `promote`.
    User1,
}

/// Why a signal was not sent.
pub type SignalError = Box<dyn std::error::Error + Send + Sync>;
