//! libpq connection strings and the password file. No password is ever in a connection string: strings are shown in
//! process lists, in `pg_settings` and in logs.

use std::collections::BTreeMap;

use crate::file::replace_if_changed;
use crate::spec::text;
use crate::{Credentials, FileError, HostPort, ServerSpec};

/// Seconds until a connection attempt to an upstream is given up. A lost host answers nothing; the shortest lease is
/// 5 s.
const CONNECT_TIMEOUT_S: u32 = 3;
/// Seconds of silence until keep-alives begin, between two of them, and how many may be lost: a dead peer is noticed
/// after about 5 s.
const KEEPALIVES: [(&str, &str); 3] =
    [("keepalives_idle", "2"), ("keepalives_interval", "1"), ("keepalives_count", "3")];

/// Another server to stream from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is.
    pub address: HostPort,
    /// This member's slot there; none when slots are not used.
    pub slot: Option<String>,
}

/// A connection string of keywords and values (PostgreSQL documentation, "Keyword/Value Connection Strings").
pub(crate) fn render<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let quoted = pairs.into_iter().map(|(keyword, value)| {
        let plain = !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c == '\'' || c == '\\');
        if plain {
            format!("{keyword}={value}")
        } else {
            format!("{keyword}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// How to reach `address` as `user`: what all our connection strings have in common.
fn base<'a>(address: &HostPort, user: &'a Credentials, application_name: &str) -> Vec<(&'a str, String)> {
    let mut pairs = vec![("user", user.username.clone()), ("host", address.host.clone())];
    if let Some(ip) = address.address() {
        pairs.push(("hostaddr", ip.to_string()));
    }
    pairs.push(("port", address.port.to_string()));
    pairs.push(("application_name", application_name.to_owned()));
    pairs.push(("connect_timeout", CONNECT_TIMEOUT_S.to_string()));
    pairs.extend(KEEPALIVES.map(|(keyword, value)| (keyword, value.to_owned())));
    pairs.extend(user.options.iter().map(|(keyword, value)| (keyword.as_str(), value.clone())));
    pairs
}

/// `primary_conninfo` for streaming from another member.
pub fn primary_conninfo(spec: &ServerSpec, upstream: &HostPort) -> String {
    let mut pairs = base(upstream, &spec.authentication.replication, spec.name.as_str());
    pairs.push(("passfile", text(&spec.pgpass)));
    render(pairs)
}

/// The source for `pg_basebackup`; the password comes by `PGPASSFILE`.
pub(crate) fn backup_conninfo(spec: &ServerSpec, source: &HostPort) -> String {
    render(base(source, &spec.authentication.replication, spec.name.as_str()))
}

/// The source for `pg_rewind`; the password comes by `PGPASSFILE`.
pub(crate) fn rewind_conninfo(spec: &ServerSpec, source: &HostPort) -> String {
    let mut pairs = base(source, spec.authentication.for_rewind(), "pgbaton rewind");
    pairs.push(("dbname", spec.database.clone()));
    render(pairs)
}

/// Writes the password file: one line for each user that has a password, for every host, so that it need not change
/// in the moment in which the leader does. Says whether it changed.
pub fn write_passfile(spec: &ServerSpec) -> Result<bool, FileError> {
    let authentication = &spec.authentication;
    let mut lines = BTreeMap::new();
    let users = [Some(&authentication.superuser), Some(&authentication.replication), authentication.rewind.as_ref()];
    for user in users.into_iter().flatten() {
        if let Some(password) = &user.password {
            let line = format!("*:*:*:{}:{}\n", escape(&user.username), escape(password.expose()));
            lines.entry(user.username.as_str()).or_insert(line);
        }
    }
    replace_if_changed(&spec.pgpass, &lines.into_values().collect::<String>(), 0o600)
}

/// `:` and `\` are escaped by `\` (PostgreSQL documentation, "The Password File").
fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_needed() {
        let text = render([("user", "a".into()), ("dbname", "it's a\\b".into()), ("password", String::new())]);
        assert_eq!(text, r"user=a dbname='it\'s a\\b' password=''");
    }

    #[test]
    fn an_address_needs_no_name_lookup() {
        let user = Credentials::new("replicator", None);
        let of = |host: &str| render(base(&HostPort::new(host, 5433), &user, "a"));
        assert!(of("10.0.0.1").contains("host=10.0.0.1 hostaddr=10.0.0.1 port=5433"));
        assert!(of("::1").contains("hostaddr=::1"));
        assert!(!of("db1.example").contains("hostaddr"));
    }

    #[test]
    fn password_file_fields_are_escaped() {
        assert_eq!(escape(r"a:b\c"), r"a\:b\\c");
    }
}
