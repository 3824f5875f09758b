//! Which renewal a store's release allows.
//!
//! In etcd before 3.4.31 and 3.5.13 a leader that was replaced, and does not know it yet, still answers keep-alives: the holder believes in a
//! lease that the new leader lets run out (etcd's changelogs of those releases, "lease"). There only a write proves that a lease lives.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::call::Caller;

/// So long a look at the releases is believed: members are exchanged one by one, for an older release as well.
const BELIEVED_FOR: Duration = Duration::from_mins(1);

/// How long one endpoint may take to tell its release.
const ASK_TIME: Duration = Duration::from_millis(500);

/// What is known of the endpoints' releases.
#[derive(Debug, Default)]
pub(crate) struct Releases(Mutex<Option<(bool, Instant)>>);

impl Releases {
    /// Whether every endpoint that answers has a release whose keep-alives prove something. Who does not answer says nothing: when it is
    /// back, it is asked within a minute.
    pub(crate) async fn keep_alive_is_safe(&self, caller: &Caller, deadline: Duration) -> bool {
        let known = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((safe, at)) = known
            && Instant::now().duration_since(at) < BELIEVED_FOR
        {
            return safe;
        }
        let within = ASK_TIME.min(deadline / 4);
        let endpoints = caller.endpoints().all();
        let answers = join_all(endpoints.iter().map(|endpoint| caller.status_of(endpoint, within))).await;
        let releases: Vec<String> = answers.into_iter().flatten().map(|status| status.version).collect();
        if releases.is_empty() {
            return false;
        }
        let safe = releases.iter().all(|release| is_safe(release));
        let before = self.0.lock().unwrap_or_else(PoisonError::into_inner).replace((safe, Instant::now()));
        if !safe && before.is_none_or(|(before, _)| before) {
            tracing::info!(
                ?releases,
                "this etcd's keep-alives prove nothing: each renewal takes a new lease; 3.4.31 and 3.5.13 mended that"
            );
        }
        safe
    }
}

/// Whether a release such as "3.4.23" is one of the mended ones.
fn is_safe(release: &str) -> bool {
    let numbers: Vec<u32> = release.split(['.', '-', '+']).map_while(|part| part.parse().ok()).collect();
    match numbers[..] {
        [3, 4, patch, ..] => patch >= 31,
        [3, 5, patch, ..] => patch >= 13,
        [3, minor, ..] => minor > 5,
        [major, ..] => major > 3,
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_told_apart() {
        for safe in ["3.4.31", "3.5.13", "3.6.0", "3.6.0-rc.1", "4.0.0"] {
            assert!(is_safe(safe), "{safe}");
        }
        for old in ["3.4.23", "3.4.30", "3.5.12", "3.3.27", "2.3.7", "", "unknown"] {
            assert!(!is_safe(old), "{old}");
        }
    }
}
