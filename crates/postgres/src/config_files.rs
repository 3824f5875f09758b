//! The server's configuration files.
//!
//! The user's own `postgresql.conf` is kept as `postgresql.base.conf`; ours includes it and says what the cluster's
//! configuration says. Every file is replaced as a whole and only when it changes, so that a crash leaves the old or
//! the new one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use crate::conninfo::{Upstream, primary_conninfo, write_passfile};
use crate::file::{read_if_exists, remove_if_exists, replace_if_changed, sync_dir};
use crate::parameters::{Parameters, is_recovery_setting};
use crate::spec::text;
use crate::{FileError, ServerSpec};

/// Begins our files, so that they are known again.
const HEADER: &str = "\
# Written by pgbaton: changes here are lost.
# Change the cluster's configuration instead, or, for postgresql.conf, postgresql.base.conf.
";
/// Our configuration file and the user's.
const CONF: &str = "postgresql.conf";
const BASE: &str = "postgresql.base.conf";
/// Makes a server start as a standby.
const STANDBY_SIGNAL: &str = "standby.signal";
/// Makes a server start as a restore, which ends by itself in a promotion: never wanted.
const RECOVERY_SIGNAL: &str = "recovery.signal";
/// Asks a standby to become primary.
pub(crate) const PROMOTE: &str = "promote";
/// Readable by the group where initdb allowed the group in; the server wants nothing less strict for itself.
const MODE: u32 = 0o600;

/// What changes with the server's role and the moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The server to stream from; without one a standby waits.
    pub upstream: Option<Upstream>,
    /// Settings that win over all others for now: `restore_command` cleared or `max_standby_streaming_delay = 0` on the
    /// candidate of a switchover.
    pub overrides: BTreeMap<String, String>,
}

impl Recovery {
    /// Streaming from this server.
    pub fn from_upstream(upstream: Upstream) -> Self {
        Self { upstream: Some(upstream), overrides: BTreeMap::new() }
    }
}

/// What writing the files came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Written {
    /// Whether any file changed: a running server then needs a reload.
    pub changed: bool,
    /// Refused values, as sentences.
    pub warnings: Vec<String>,
}

/// Writes all files but `standby.signal`: `postgresql.conf`, `pg_hba.conf`, `pg_ident.conf` and the password file;
/// takes recovery settings out of `postgresql.auto.conf`, where they would win.
pub fn write_config(spec: &ServerSpec, recovery: &Recovery) -> Result<Written, FileError> {
    let parameters = Parameters::of(spec);
    keep_base(&spec.data_dir)?;
    let mut changed = write_passfile(spec)?;
    for (file, lines) in [("pg_hba.conf", &spec.pg_hba), ("pg_ident.conf", &spec.pg_ident)] {
        if let Some(lines) = lines {
            changed |= replace_if_changed(&spec.file(file), &listed(lines), MODE)?;
        }
    }
    changed |= clean_auto_conf(&spec.data_dir)?;
    changed |= replace_if_changed(&spec.file(CONF), &render(spec, &parameters, recovery), MODE)?;
    Ok(Written { changed, warnings: parameters.warnings })
}

/// Like [`write_config`] for a standby that shall stream from nobody, as before a rewind.
pub fn write_config_without_upstream(spec: &ServerSpec) -> Result<Written, FileError> {
    write_config(spec, &Recovery::default())
}

/// Makes the next start that of a standby. Written before anything else that a start needs.
pub fn write_standby_signal(data_dir: &Path) -> Result<(), FileError> {
    replace_if_changed(&data_dir.join(STANDBY_SIGNAL), "", MODE)?;
    remove_if_exists(&data_dir.join(RECOVERY_SIGNAL))?;
    remove_if_exists(&data_dir.join(PROMOTE))?;
    Ok(())
}

/// Makes the next start that of a primary. Only for a member that holds the lease at this moment.
pub fn remove_standby_signal(data_dir: &Path) -> Result<(), FileError> {
    remove_if_exists(&data_dir.join(RECOVERY_SIGNAL))?;
    remove_if_exists(&data_dir.join(PROMOTE))?;
    remove_if_exists(&data_dir.join(STANDBY_SIGNAL))?;
    Ok(())
}

/// Whether the next start is that of a standby.
pub fn has_standby_signal(data_dir: &Path) -> bool {
    data_dir.join(STANDBY_SIGNAL).exists()
}

/// Adds lines to the `pg_hba.conf` that initdb wrote (`bootstrap.pg_hba`), unless the configuration has the whole file.
pub fn append_pg_hba(spec: &ServerSpec, lines: &[String]) -> Result<(), FileError> {
    if spec.pg_hba.is_some() || spec.parameters.contains_key("hba_file") || lines.is_empty() {
        return Ok(());
    }
    let path = spec.file("pg_hba.conf");
    let mut content = read_if_exists(&path)?.unwrap_or_default();
    content.push('\n');
    content.push_str(&lines.join("\n"));
    content.push('\n');
    replace_if_changed(&path, &content, MODE)?;
    Ok(())
}

/// Keeps the user's file under another name, once. A crash between the two steps leaves a base and no
/// `postgresql.conf`, which is then written.
fn keep_base(data_dir: &Path) -> Result<(), FileError> {
    let (conf, base) = (data_dir.join(CONF), data_dir.join(BASE));
    if base.exists() {
        return Ok(());
    }
    if conf.exists() {
        fs::rename(&conf, &base).map_err(FileError::at("rename", &conf))?;
        return sync_dir(data_dir);
    }
    replace_if_changed(&base, "# Settings of your own may stand here.\n", MODE)?;
    Ok(())
}

fn listed(lines: &[String]) -> String {
    format!("{HEADER}{}\n", lines.join("\n"))
}

fn render(spec: &ServerSpec, parameters: &Parameters, recovery: &Recovery) -> String {
    let mut settings = parameters.file.clone();
    // The base file may point elsewhere.
    for (setting, file) in [("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")] {
        settings.entry(setting.to_owned()).or_insert_with(|| text(&spec.file(file)));
    }
    let mut content = format!("{HEADER}include '{BASE}'\n\n");
    let mut add = |name: &str, value: &str| {
        writeln!(content, "{name} = {}", quote(value)).expect("writing to a string cannot fail");
    };
    settings.extend(recovery.overrides.clone());
    for (name, value) in &settings {
        add(name, value);
    }
    let conninfo = recovery.upstream.as_ref().map(|upstream| primary_conninfo(spec, &upstream.address));
    let slot = recovery.upstream.as_ref().and_then(|upstream| upstream.slot.as_deref());
    add("primary_conninfo", conninfo.as_deref().unwrap_or_default());
    add("primary_slot_name", slot.unwrap_or_default());
    add("recovery_target_timeline", "latest");
    // A target would end recovery, and with it the standby, by itself.
    for target in ["", "_name", "_time", "_xid", "_lsn"] {
        add(&format!("recovery_target{target}"), "");
    }
    content
}

/// A value as the configuration file wants it: quotes and backslashes doubled, line ends escaped (`guc-file.l`).
fn quote(value: &str) -> String {
    let mut quoted = String::from("'");
    for character in value.chars() {
        match character {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// Takes recovery settings out of `postgresql.auto.conf`, where `ALTER SYSTEM` or `pg_basebackup -R` put them.
fn clean_auto_conf(data_dir: &Path) -> Result<bool, FileError> {
    let path = data_dir.join("postgresql.auto.conf");
    let Some(content) = read_if_exists(&path)? else { return Ok(false) };
    let setting = |line: &str| line.split(['=', ' ', '\t']).next().unwrap_or_default().to_ascii_lowercase();
    let kept: String =
        content.split_inclusive('\n').filter(|line| !is_recovery_setting(&setting(line.trim_start()))).collect();
    replace_if_changed(&path, &kept, MODE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec;

    fn in_dir(dir: &Path) -> ServerSpec {
        ServerSpec { data_dir: dir.to_owned(), pgpass: dir.join("pgpass"), ..spec() }
    }

    #[test]
    fn the_users_file_is_kept_once_and_ours_includes_it() {
        let dir = tempfile::tempdir().unwrap();
        let spec = in_dir(dir.path());
        fs::write(spec.file(CONF), "work_mem = '1MB'\n").unwrap();
        assert!(write_config(&spec, &Recovery::default()).unwrap().changed);
        assert!(!write_config(&spec, &Recovery::default()).unwrap().changed);
        assert_eq!(fs::read_to_string(spec.file(BASE)).unwrap(), "work_mem = '1MB'\n");
        let ours = fs::read_to_string(spec.file(CONF)).unwrap();
        assert!(ours.contains("include 'postgresql.base.conf'") && !ours.contains("work_mem"));
        assert!(!spec.file("pg_hba.conf").exists(), "a file that nobody configured was written");
    }

    #[test]
    fn a_base_without_our_file_is_what_a_crash_leaves() {
        let dir = tempfile::tempdir().unwrap();
        let spec = in_dir(dir.path());
        fs::write(spec.file(BASE), "# user\n").unwrap();
        write_config(&spec, &Recovery::default()).unwrap();
        assert_eq!(fs::read_to_string(spec.file(BASE)).unwrap(), "# user\n");
    }

    #[test]
    fn recovery_settings_leave_the_automatic_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("postgresql.auto.conf");
        fs::write(&path, "# x\nprimary_conninfo = 'host=old'\nwork_mem = '2MB'\nrecovery_target_lsn='0/1'\n").unwrap();
        assert!(clean_auto_conf(dir.path()).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "# x\nwork_mem = '2MB'\n");
    }

    #[test]
    fn no_password_is_in_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let mut spec = in_dir(dir.path());
        spec.authentication.replication.password = Some(crate::Secret::new("hunter2"));
        let upstream = Upstream { address: crate::HostPort::new("10.0.0.2", 5432), slot: Some("a".into()) };
        write_config(&spec, &Recovery::from_upstream(upstream)).unwrap();
        let ours = fs::read_to_string(spec.file(CONF)).unwrap();
        assert!(ours.contains("passfile=") && !ours.contains("hunter2"), "{ours}");
        assert!(fs::read_to_string(&spec.pgpass).unwrap().contains("*:*:*:replicator:hunter2\n"));
    }
}
