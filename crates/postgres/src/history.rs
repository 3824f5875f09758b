//! Timeline history files in `pg_wal`.

use std::path::{Path, PathBuf};

use pgbaton_types::{ParseError, TimelineHistory, TimelineId};

use crate::FileError;
use crate::file::read_if_exists;

/// Why a timeline's history is not known.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// There is no file for a timeline that must have one.
    #[error("timeline {timeline} has no history file {}", path.display())]
    Missing {
        /// The timeline.
        timeline: TimelineId,
        /// Where the file should be.
        path: PathBuf,
    },
    /// The file is not a history.
    #[error("cannot read {}", path.display())]
    Text {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        #[source]
        source: ParseError,
    },
}

/// The history of a timeline from `pg_wal`. Timeline 1 has no file and no ancestors.
pub fn read_history(data_dir: &Path, timeline: TimelineId) -> Result<TimelineHistory, HistoryError> {
    if timeline == TimelineId::FIRST {
        return Ok(TimelineHistory::root(timeline));
    }
    let path = data_dir.join("pg_wal").join(format!("{:08X}.history", timeline.0));
    let text = read_if_exists(&path)?.ok_or_else(|| HistoryError::Missing { timeline, path: path.clone() })?;
    TimelineHistory::parse(timeline, &text).map_err(|source| HistoryError::Text { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_timeline_has_no_file_and_others_must_have_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_history(dir.path(), TimelineId(1)).unwrap(), TimelineHistory::root(TimelineId(1)));
        assert!(matches!(read_history(dir.path(), TimelineId(2)), Err(HistoryError::Missing { .. })));
        std::fs::create_dir(dir.path().join("pg_wal")).unwrap();
        std::fs::write(dir.path().join("pg_wal/0000000A.history"), "9\t0/3000000\tpromoted\n").unwrap();
        let history = read_history(dir.path(), TimelineId(10)).unwrap();
        assert_eq!(history.ancestors()[0].timeline, TimelineId(9));
    }
}
