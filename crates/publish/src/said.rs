use std::collections::BTreeSet;
use std::error::Error;

use pgbaton_types::chain;

/// How many different failures in a row are told apart; a target that has more of them says nothing new.
const FAILURES_MAX: usize = 8;

/// What was said of something that is tried again and again: each failure once, and when it works again.
#[derive(Debug)]
pub(crate) struct Said {
    title: String,
    failures: BTreeSet<String>,
}

impl Said {
    /// Of something with this title.
    pub(crate) fn of(title: impl Into<String>) -> Self {
        Self { title: title.into(), failures: BTreeSet::new() }
    }

    /// It works.
    pub(crate) fn works(&mut self) {
        if !self.failures.is_empty() {
            tracing::info!(to = %self.title, "works again");
            self.failures.clear();
        }
    }

    /// It does not.
    pub(crate) fn fails(&mut self, error: &dyn Error) {
        let text = chain(error);
        if self.failures.len() < FAILURES_MAX && self.failures.insert(text.clone()) {
            tracing::error!(to = %self.title, error = %text, "nothing gets there; it is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn each_failure_counts_once_until_it_works_again() {
        let mut said = Said::of("somewhere");
        for text in ["away", "no", "away"] {
            said.fails(&io::Error::other(text));
        }
        assert_eq!(said.failures.len(), 2);
        said.works();
        assert!(said.failures.is_empty());
    }
}
