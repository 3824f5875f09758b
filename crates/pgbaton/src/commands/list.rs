use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::{
    Again, Align, ClusterView, Failure, Format, List, MemberView, Members, Out, Position, Table, Topology,
};

/// Lines longer than this are not shown in a table's cell, in characters; as in Patroni.
const REASON_LENGTH_MAX: usize = 50;

/// Clears a terminal and goes to its upper left corner (ECMA-48: ED, CUP).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// `list`.
pub(crate) async fn list(members: &Members, options: &List, format: Format, out: &mut Out) -> Result<(), Failure> {
    loop {
        let view = members.cluster(options.cluster.as_deref()).await?;
        begin_again(&options.again, out)?;
        if options.timestamp && format == Format::Pretty {
            out.line(&jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S").to_string())?;
        }
        match format {
            Format::Json => {
                out.json(&Value::Array(view.members.iter().map(|member| as_json(&view, member)).collect()))?;
            }
            Format::Pretty => out.raw(&pretty(&view, &members.system_id(&view).await, options.extended, false))?,
        }
        if !wait(&options.again).await? {
            return Ok(());
        }
    }
}

/// `topology`.
pub(crate) async fn topology(
    members: &Members,
    options: &Topology,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    loop {
        let mut view = members.cluster(options.cluster.as_deref()).await?;
        begin_again(&options.again, out)?;
        let json = format == Format::Json;
        as_tree(&mut view, !json);
        if json {
            out.json(&Value::Array(view.members.iter().map(|member| as_json(&view, member)).collect()))?;
        } else {
            out.raw(&pretty(&view, &members.system_id(&view).await, false, true))?;
        }
        if !wait(&options.again).await? {
            return Ok(());
        }
    }
}

fn begin_again(again: &Again, out: &mut Out) -> Result<(), Failure> {
    if (again.every_two_seconds || again.every.is_some()) && out.is_terminal() { out.raw(CLEAR) } else { Ok(()) }
}

/// Waits for the next time, if there is one.
async fn wait(again: &Again) -> Result<bool, Failure> {
    let seconds = again.every.or(again.every_two_seconds.then_some(2.0));
    let Some(seconds) = seconds else { return Ok(false) };
    let pause = Duration::try_from_secs_f64(seconds)
        .map_err(|error| Failure::because(format!("{seconds} is not a number of seconds"), error))?;
    tokio::time::sleep(pause).await;
    Ok(true)
}

/// The table of members, as all commands show it before they ask and after they acted.
pub(crate) async fn show(members: &Members, view: &ClusterView, out: &mut Out) -> Result<(), Failure> {
    out.raw(&table(members, view).await)
}

/// That table as text.
pub(crate) async fn table(members: &Members, view: &ClusterView) -> String {
    pretty(view, &members.system_id(view).await, false, false)
}

/// The table with what belongs below it.
fn pretty(view: &ClusterView, system_id: &str, extended: bool, tree: bool) -> String {
    let mut columns = vec![
        ("Member", Align::Left),
        ("Host", Align::Left),
        ("Role", Align::Left),
        ("State", Align::Left),
        ("TL", Align::Right),
        ("Receive LSN", Align::Right),
        ("Lag", Align::Right),
        ("Replay LSN", Align::Right),
        ("Lag", Align::Right),
    ];
    let any = |has: &dyn Fn(&MemberView) -> bool| extended || view.members.iter().any(has);
    let shown = [
        ("Pending restart", any(&|member| member.pending_restart)),
        ("Pending restart reason", any(&|member| !member.pending_restart_reason.is_empty())),
        ("Scheduled restart", any(&|member| member.scheduled_restart.is_some())),
        ("Tags", any(&|member| !member.tags.is_empty())),
    ];
    columns.extend(shown.iter().filter(|(_, shown)| *shown).map(|(name, _)| (*name, Align::Left)));
    let mut table = Table::new(format!(" Cluster: {} ({system_id}) ", view.scope), &columns);
    for member in &view.members {
        let mut cells = cells(view, member);
        let optional = [
            if member.pending_restart { "*".to_owned() } else { String::new() },
            reasons(member),
            member.scheduled_restart.as_ref().map(scheduled_restart).unwrap_or_default(),
            lines(&member.tags),
        ];
        cells.extend(optional.into_iter().zip(&shown).filter(|(_, (_, shown))| *shown).map(|(cell, _)| cell));
        table.row(cells);
    }
    let mut text = if view.members.is_empty() && tree { String::new() } else { table.render() };
    text.push_str(&below(view));
    text
}

fn below(view: &ClusterView) -> String {
    let mut text = String::new();
    if view.pause {
        text.push_str(" Maintenance mode: on\n");
        text.push_str(" Guards are disarmed: no lease deadline is enforced until `pgbaton resume`\n");
    }
    if let Some(stale) = view.stale_ms {
        let seconds = stale.div_ceil(1000);
        // Writing to a `String` cannot fail, here and below.
        writeln!(text, " The store does not answer: this was last known {seconds} s ago").unwrap_or_default();
    }
    if let Some(scheduled) = &view.scheduled_switchover {
        writeln!(text, " Switchover scheduled at: {}", scheduled.at).unwrap_or_default();
        for (word, name) in [("from", &scheduled.from), ("to", &scheduled.to)] {
            if let Some(name) = name {
                writeln!(text, "{word:>24}: {name}").unwrap_or_default();
            }
        }
    }
    text
}

fn cells(view: &ClusterView, member: &MemberView) -> Vec<String> {
    let lag = |lag: &Option<Position>| match lag {
        Some(Position::Bytes(bytes)) => megabytes(*bytes).to_string(),
        Some(Position::Text(_)) | None => String::new(),
    };
    vec![
        member.name.clone(),
        host(view, member),
        member.role_text(),
        member.state.clone(),
        member.timeline.map(|timeline| timeline.to_string()).unwrap_or_default(),
        position(member.receive_lsn.as_ref()),
        lag(&member.receive_lag),
        position(member.replay_lsn.as_ref()),
        lag(&member.replay_lag),
    ]
}

fn position(position: Option<&Position>) -> String {
    match position {
        Some(Position::Bytes(bytes)) => bytes.to_string(),
        Some(Position::Text(text)) => text.clone(),
        None => String::new(),
    }
}

/// Rounded to the next megabyte, as Patroni shows a lag.
fn megabytes(bytes: u64) -> u64 {
    (bytes + (1 << 19)) >> 20
}

/// The host, with its port where that says something.
fn host(view: &ClusterView, member: &MemberView) -> String {
    let Some(host) = &member.host else { return String::new() };
    let unusual = view.members.iter().any(|member| member.port.is_some_and(|port| port != 5432));
    let shared = view.members.iter().filter(|other| other.host.as_ref() == Some(host)).count() > 1;
    match member.port {
        Some(port) if unusual || shared => {
            if host.contains(':') {
                format!("[{host}]:{port}")
            } else {
                format!("{host}:{port}")
            }
        }
        _ => host.clone(),
    }
}

fn reasons(member: &MemberView) -> String {
    let line = |(name, values): (&String, &Value)| {
        let text = |key: &str| values.get(key).map(plain).unwrap_or_default();
        if values.get("new_value").is_none() {
            return name.clone();
        }
        let line = format!("{name}: {}->{}", text("old_value"), text("new_value"));
        if line.chars().count() > REASON_LENGTH_MAX { format!("{name}: [hidden - too long]") } else { line }
    };
    member.pending_restart_reason.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn lines(map: &Map<String, Value>) -> String {
    map.iter().map(|(key, value)| format!("{key}: {}", plain(value))).collect::<Vec<_>>().join("\n")
}

/// A value without the quotes of JSON.
pub(crate) fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn scheduled_restart(scheduled: &Value) -> String {
    let at = scheduled.get("schedule").map(plain).unwrap_or_default();
    match scheduled.get("postgres_version") {
        Some(version) => format!("{at} if version < {}", plain(version)),
        None => at,
    }
}

/// A row under Patroni's names of columns; what is empty is left out.
fn as_json(view: &ClusterView, member: &MemberView) -> Value {
    let lag = |lag: &Option<Position>| match lag {
        Some(Position::Bytes(bytes)) => json!(megabytes(*bytes)),
        Some(Position::Text(text)) => json!(text),
        None => Value::Null,
    };
    let columns = [
        ("Cluster", json!(view.scope)),
        ("Member", json!(member.name)),
        ("Host", json!(host(view, member))),
        ("Role", json!(member.role_text())),
        ("State", json!(member.state)),
        ("TL", json!(member.timeline)),
        ("Receive LSN", json!(position(member.receive_lsn.as_ref()))),
        ("Receive Lag", lag(&member.receive_lag)),
        ("Replay LSN", json!(position(member.replay_lsn.as_ref()))),
        ("Replay Lag", lag(&member.replay_lag)),
        ("Pending restart", json!(if member.pending_restart { "*" } else { "" })),
        ("Pending restart reason", json!(reasons(member))),
        ("Scheduled restart", json!(member.scheduled_restart.as_ref().map(scheduled_restart).unwrap_or_default())),
        ("Tags", if member.tags.is_empty() { Value::Null } else { Value::Object(member.tags.clone()) }),
    ];
    let kept = columns.into_iter().filter(|(_, value)| !value.is_null() && value.as_str() != Some(""));
    Value::Object(kept.map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Puts the leader first and the others below whom they stream from; names are indented for a person's eye.
fn as_tree(view: &mut ClusterView, indent: bool) {
    let upstream = |member: &MemberView, all: &[MemberView]| {
        let named = member.tags.get("replicatefrom").and_then(Value::as_str).map(str::to_owned);
        let known = named
            .filter(|name| *name != member.name && all.iter().any(|other| other.name == *name && !other.is_leader()));
        known.or_else(|| all.iter().find(|other| other.is_leader()).map(|leader| leader.name.clone()))
    };
    let mut rest = std::mem::take(&mut view.members);
    rest.sort_by_key(|member| !member.is_leader());
    let all = rest.clone();
    while !rest.is_empty() {
        // The next top: the leader, then whoever is below nobody (or in a circle of tags).
        let mut open = vec![(rest.remove(0), 0_usize)];
        while let Some((mut member, depth)) = open.pop() {
            let name = member.name.clone();
            let (below, others) =
                rest.into_iter().partition(|other| upstream(other, &all).as_deref() == Some(name.as_str()));
            rest = others;
            open.extend(Vec::into_iter(below).rev().map(|child| (child, depth + 1)));
            if indent && depth > 0 {
                member.name = format!("{}+ {name}", "  ".repeat(depth - 1));
            }
            view.members.push(member);
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn view() -> ClusterView {
        serde_json::from_value(json!({
            "scope": "demo",
            "pause": true,
            "members": [
                {"name": "a", "role": "replica", "state": "streaming", "api_url": "http://10.0.0.1:8008/patroni", "host": "10.0.0.1",
                 "port": 5432, "timeline": 2, "receive_lsn": "0/3000148", "receive_lag": 0, "replay_lsn": "0/3000148", "replay_lag": 1_048_576,
                 "lag": 0, "lsn": "0/3000148"},
                {"name": "b", "role": "leader", "state": "running", "api_url": "http://10.0.0.2:8008/patroni", "host": "10.0.0.2", "port": 5432, "timeline": 2},
                {"name": "c", "role": "replica", "state": "stopped", "api_url": "http://10.0.0.3:8008/patroni", "host": "10.0.0.3",
                 "port": 5432, "receive_lag": "unknown", "receive_lsn": "unknown", "tags": {"replicatefrom": "a"}}
            ]
        }))
        .unwrap()
    }

    #[test]
    fn the_table_has_the_columns_that_say_something() {
        expect![[r"
            + Cluster: demo (7412) -------+-----------+----+-------------+-----+------------+-----+------------------+
            | Member | Host     | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag | Tags             |
            +--------+----------+---------+-----------+----+-------------+-----+------------+-----+------------------+
            | a      | 10.0.0.1 | Replica | streaming |  2 |   0/3000148 |   0 |  0/3000148 |   1 |                  |
            | b      | 10.0.0.2 | Leader  | running   |  2 |             |     |            |     |                  |
            | c      | 10.0.0.3 | Replica | stopped   |    |     unknown |     |            |     | replicatefrom: a |
            +--------+----------+---------+-----------+----+-------------+-----+------------+-----+------------------+
             Maintenance mode: on
             Guards are disarmed: no lease deadline is enforced until `pgbaton resume`
        "]]
        .assert_eq(&pretty(&view(), "7412", false, false));
    }

    #[test]
    fn the_tree_follows_the_streams() {
        let mut view = view();
        as_tree(&mut view, true);
        let names: Vec<_> = view.members.iter().map(|member| member.name.as_str()).collect();
        assert_eq!(names, ["b", "+ a", "  + c"]);
    }

    #[test]
    fn json_has_the_columns_of_patroni_and_nothing_empty() {
        let view = view();
        let expected = r#"{"Cluster":"demo","Host":"10.0.0.2","Member":"b","Role":"Leader","State":"running","TL":2}"#;
        assert_eq!(as_json(&view, &view.members[1]).to_string(), expected);
    }
}
