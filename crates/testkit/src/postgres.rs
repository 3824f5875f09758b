//! Where PostgreSQL is installed.

use std::path::{Path, PathBuf};

/// Where Debian's packages put the programs: one directory for each major version.
const ROOT: &str = "/usr/lib/postgresql";

/// No usable installation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no PostgreSQL programs in {ROOT}/*/bin; run `cargo xtask setup`, or set PGBATON_BIN_DIR to their directory")]
pub struct NotInstalled;

/// The directory of PostgreSQL's programs: `PGBATON_BIN_DIR`, else the newest of Debian's.
pub fn bin_dir() -> Result<PathBuf, NotInstalled> {
    match std::env::var_os("PGBATON_BIN_DIR") {
        Some(directory) => Ok(directory.into()),
        None => newest(Path::new(ROOT)).ok_or(NotInstalled),
    }
}

fn newest(root: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(root).ok()?.flatten();
    let versions = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let bin = |version: u32| root.join(version.to_string()).join("bin");
    versions.filter(|version| bin(*version).join("initdb").is_file()).max().map(bin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_root_has_no_installation() {
        assert_eq!(newest(Path::new("/nonexistent")), None);
    }
}
