use std::path::{Path, PathBuf};

use pgbaton_sys::durable::{DurableError, replace};
use pgbaton_types::Epoch;

/// The number in the file of a member that is not the primary: the least that keepalived takes for a fault (keepalived.conf(5), "TRACK
/// FILES": below -253), so that no such host is a MASTER, whatever its priority.
pub const NOT_PRIMARY: i32 = -254;

/// Permission bits: keepalived may run as another user.
const MODE: u32 = 0o644;

/// Writes the number for keepalived's `track_file`, 0 or [`NOT_PRIMARY`], and beside it the reign that it is from, in `PATH.epoch`.
///
/// The epoch is there first: whoever sees a primary sees its epoch.
pub(crate) fn write(path: &Path, primary: Option<Epoch>) -> Result<(), DurableError> {
    if let Some(epoch) = primary {
        replace(&beside(path), format!("{}\n", epoch.0).as_bytes(), MODE)?;
    }
    let number = if primary.is_some() { 0 } else { NOT_PRIMARY };
    replace(path, format!("{number}\n").as_bytes(), MODE)
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".epoch");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_counts_in_full_and_anybody_else_is_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        write(&path, Some(Epoch(42))).unwrap();
        assert_eq!([read("state"), read("state.epoch")], ["0\n", "42\n"]);
        write(&path, None).unwrap();
        assert_eq!([read("state"), read("state.epoch")], ["-254\n", "42\n"]);
    }
}
