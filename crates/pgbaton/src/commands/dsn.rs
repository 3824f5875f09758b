use std::fmt::Write as _;

use serde_json::json;

use crate::cli::{Dsn, DsnForm, Failure, Format, MemberView, Members, Out};

/// `dsn`: libpq finds the right server among all of them (PostgreSQL documentation, "Connection Strings", "Specifying Multiple Hosts").
pub(crate) async fn run(members: &Members, options: &Dsn, format: Format, out: &mut Out) -> Result<(), Failure> {
    let view = members.cluster(options.cluster.as_deref()).await?;
    let mut all: Vec<&MemberView> = view.members.iter().filter(|member| member.host.is_some()).collect();
    if all.is_empty() {
        return Err(Failure::text("Error: no member has said yet where its server is"));
    }
    // The one that is wanted is asked first.
    all.sort_by_key(|member| member.is_leader() == options.standby);
    let wanted = if options.standby { "prefer-standby" } else { "read-write" };
    let hosts: Vec<(&str, u16)> =
        all.iter().map(|member| (member.host.as_deref().unwrap_or_default(), member.port.unwrap_or(5432))).collect();
    let dsn = match options.form {
        DsnForm::Uri => uri(&hosts, options, wanted),
        DsnForm::Keywords => keywords(&hosts, options, wanted),
    };
    if format == Format::Json { out.json(&json!({ "dsn": dsn })) } else { out.line(&dsn) }
}

fn uri(hosts: &[(&str, u16)], options: &Dsn, wanted: &str) -> String {
    let hosts: Vec<String> = hosts
        .iter()
        .map(|(host, port)| if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
        .collect();
    let user = options.user.as_ref().map(|user| format!("{}@", encoded(user))).unwrap_or_default();
    format!("postgresql://{user}{}/{}?target_session_attrs={wanted}", hosts.join(","), encoded(&options.dbname))
}

fn keywords(hosts: &[(&str, u16)], options: &Dsn, wanted: &str) -> String {
    let names: Vec<&str> = hosts.iter().map(|(host, _)| *host).collect();
    let ports: Vec<String> = hosts.iter().map(|(_, port)| port.to_string()).collect();
    let user = options.user.as_ref().map(|user| format!(" user={}", quoted(user))).unwrap_or_default();
    format!(
        "host={} port={} dbname={}{user} target_session_attrs={wanted}",
        names.join(","),
        ports.join(","),
        quoted(&options.dbname)
    )
}

/// As a part of a URI.
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// As the value of a keyword.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty() && text.chars().all(|letter| letter.is_alphanumeric() || "-._".contains(letter));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(user: Option<&str>, dbname: &str) -> Dsn {
        Dsn {
            cluster: None,
            standby: false,
            form: DsnForm::Uri,
            user: user.map(str::to_owned),
            dbname: dbname.to_owned(),
        }
    }

    #[test]
    fn names_are_written_as_the_form_wants_them() {
        let (hosts, options) = ([("10.0.0.1", 5432), ("fd00::1", 5433)], options(Some("a b"), "it's"));
        let wanted = "postgresql://a%20b@10.0.0.1:5432,[fd00::1]:5433/it%27s?target_session_attrs=read-write";
        assert_eq!(uri(&hosts, &options, "read-write"), wanted);
        let wanted = r"host=10.0.0.1,fd00::1 port=5432,5433 dbname='it\'s' user='a b' target_session_attrs=read-write";
        assert_eq!(keywords(&hosts, &options, "read-write"), wanted);
    }
}
