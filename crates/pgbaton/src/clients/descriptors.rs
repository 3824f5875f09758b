//! How many file descriptors this process may have.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A session of the router has its client and its server, and for a long transfer a pipe in between, which does without when there is none.
const PER_SESSION: u64 = 2;
/// For all but sessions: the store, consoles, files, listening sockets, and connections that are being refused.
const RESERVED: u64 = 128;

/// Allows this process as many as it may allow itself: the usual limit is for programs that use select(2).
pub(super) fn allow_all() {
    let most = getrlimit(Resource::Nofile).maximum;
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }) {
        tracing::warn!(%error, "the limit of file descriptors stays as it is");
    }
}

/// How many sessions there may be when so many are wanted; says when they are fewer.
pub(super) fn sessions_max(wanted: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    let fit = fitting(wanted, limit);
    if fit < wanted {
        tracing::warn!(
            wanted,
            sessions_max = fit,
            limit,
            "the router may have fewer sessions than sessions_max: it may not open more files; raise LimitNOFILE in the service, or `ulimit -n`"
        );
    }
    fit
}

/// `limit` is of descriptors; none: there is no limit.
fn fitting(wanted: usize, limit: Option<u64>) -> usize {
    let room = limit.map(|limit| (limit.saturating_sub(RESERVED) / PER_SESSION).max(1));
    room.and_then(|room| usize::try_from(room).ok()).map_or(wanted, |room| room.min(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_leave_descriptors_for_everything_else() {
        assert_eq!(fitting(10_000, Some(1024)), 448);
        assert_eq!(fitting(10_000, Some(1_048_576)), 10_000);
        assert_eq!(fitting(10_000, None), 10_000);
        assert_eq!(fitting(10_000, Some(100)), 1);
    }
}
