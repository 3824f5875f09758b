//! Waiting for a state: ask until it is there, and say what was seen instead when it does not come.

use std::future::Future;
use std::time::Duration;

use crate::clock;

/// Time between two looks. Short against everything that is waited for, long against what a look costs.
const INTERVAL: Duration = Duration::from_millis(20);

/// A state that did not come in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("waited {seconds} s for {awaited}; last seen: {seen}")]
pub struct TimedOut {
    /// What was awaited, as a noun phrase.
    pub awaited: String,
    /// How long, in seconds.
    pub seconds: u64,
    /// What the last look saw.
    pub seen: String,
}

/// Looks until `look` answers with a value, at most for `limit`. An `Err` says what it saw instead. The last look is
/// made after the deadline, so that a machine that stood still does not fail a state that is there.
pub fn until<T>(awaited: &str, limit: Duration, mut look: impl FnMut() -> Result<T, String>) -> Result<T, TimedOut> {
    let deadline = clock::now() + limit;
    loop {
        let late = clock::now().reached(deadline);
        match look() {
            Ok(value) => return Ok(value),
            Err(seen) if late => return Err(timed_out(awaited, limit, seen)),
            Err(_) => std::thread::sleep(INTERVAL),
        }
    }
}

/// [`until`] for a look that awaits.
pub async fn until_async<T, F>(awaited: &str, limit: Duration, mut look: impl FnMut() -> F) -> Result<T, TimedOut>
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = clock::now() + limit;
    loop {
        let late = clock::now().reached(deadline);
        match look().await {
            Ok(value) => return Ok(value),
            Err(seen) if late => return Err(timed_out(awaited, limit, seen)),
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

fn timed_out(awaited: &str, limit: Duration, seen: String) -> TimedOut {
    TimedOut { awaited: awaited.to_owned(), seconds: limit.as_secs(), seen }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_ends_the_wait() {
        let mut looks = 0;
        let found = until("the third look", Duration::from_secs(10), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
        });
        assert_eq!(found, Ok(3));
    }

    #[test]
    fn a_failure_says_what_was_awaited_and_what_was_seen() {
        let failed = until("a primary", Duration::ZERO, || Err::<(), _>("two standbys".to_owned())).unwrap_err();
        assert_eq!(failed.to_string(), "waited 0 s for a primary; last seen: two standbys");
    }
}
