//! What happens in the demo, in order.

use std::time::Duration;

use pgbaton_testkit::clock;
use pgbaton_testkit::writer::Writer;
use pgbaton_types::BootTime;

use super::cluster::Cluster;
use super::member::{Member, PASSWORD, SUPERUSER, TTL_SECONDS};
use super::place::Place;
use super::screen::{Colour, Screen};
use crate::cli::{Failure, Members};
use crate::commands::list;

/// How long the three members may take to become a cluster, also on a busy machine.
const FORM_WITHIN: Duration = Duration::from_secs(120);

/// How long a takeover or a return may take, also on a busy machine.
const CHANGE_WITHIN: Duration = Duration::from_secs(90);

/// How many seconds of writing are shown before an event and after it.
const QUIET_SECONDS: i64 = 2;

/// Time from freezing the clients' sessions to the kill: long against the way of a commit's WAL to a standby on a busy machine
/// (some milliseconds). Replication is asynchronous, so that a commit acknowledged in the very last instant could be lost with its
/// server; without this, it would be a throw of dice whether one was.
const FROZEN_BEFORE: Duration = Duration::from_millis(100);

/// How long standbys may take to replay the last rows.
const REPLAY_WITHIN: Duration = Duration::from_secs(15);

/// What it is about.
pub(super) fn headline(screen: &mut Screen<'_>) -> Result<(), Failure> {
    let title = screen.paint(Colour::Bold, "pgbaton demo");
    screen.out().line(&format!(
        "{title}: three members with their own store, lease (ttl) {TTL_SECONDS} s, one client that commits every 5 ms"
    ))
}

/// Plays all acts; the promises that did not hold are the failure.
pub(super) async fn play(place: &Place, screen: &mut Screen<'_>, exit: bool) -> Result<(), Failure> {
    let mut broken = Vec::new();
    let mut cluster = form(place, screen).await?;
    let first = cluster.wait_complete(FORM_WITHIN).await?;
    let writer = cluster.writer()?;
    let second = lose_primary(&mut cluster, &writer, first, screen, &mut broken).await?;
    come_back(&mut cluster, first, second, screen).await?;
    switch_over(&mut cluster, &writer, second, first, screen, &mut broken).await?;
    check_rows(&mut cluster, writer, screen, &mut broken).await?;
    if !exit {
        leave(&cluster, first, screen)?;
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure::text(format!("promises were broken: {}", broken.join("; ")))) }
}

async fn form(place: &Place, screen: &mut Screen<'_>) -> Result<Cluster, Failure> {
    screen.act("Three empty directories become a cluster")?;
    let begun = clock::now();
    let mut cluster = Cluster::start(place.clone())?;
    let leader = cluster.wait_complete(FORM_WITHIN).await?;
    let (name, took) = (&cluster.members[leader].name, seconds(clock::now().since(begun)));
    screen.say(&format!("{name} leads, the others stream from it, {took} after the first process was started"))?;
    show(&cluster, screen).await?;
    Ok(cluster)
}

/// Kills the primary's whole member and watches until somebody else has been written to for a while.
async fn lose_primary(
    cluster: &mut Cluster,
    writer: &Writer,
    primary: usize,
    screen: &mut Screen<'_>,
    broken: &mut Vec<String>,
) -> Result<usize, Failure> {
    let name = cluster.members[primary].name.clone();
    screen.act(&format!("{name}, the primary, is lost: kill -9 to everything that it consists of"))?;
    let survivors: Vec<usize> = (0..cluster.members.len()).filter(|member| *member != primary).collect();
    let begun = clock::now();
    wait_until(begun + Duration::from_secs(QUIET_SECONDS.unsigned_abs() + 1)).await;
    for second in 1..=QUIET_SECONDS {
        let from = begun + Duration::from_secs(second.unsigned_abs());
        screen.second(second - QUIET_SECONDS - 1, &name, commits_in(writer, from), "")?;
    }
    let begun = clock::now();
    let killed = cluster.kill(primary, FROZEN_BEFORE).await?;
    let killed_at = clock::now();
    let words = format!(
        "{name} is dead: {} guards, {} agent with its vote, PostgreSQL with {} processes",
        killed.guards, killed.agents, killed.servers
    );
    let words = screen.paint(Colour::Red, &words);
    screen.say(&format!("   0 s  {words}"))?;
    let words = format!(
        "        (its sessions were frozen {} earlier: with asynchronous replication, what is acknowledged in the last instant\n        \
         before a loss can be lost with it)",
        milliseconds(FROZEN_BEFORE)
    );
    screen.say(&screen.paint(Colour::Dim, &words))?;
    watch(cluster, writer, &name, &survivors, killed_at, screen).await?;
    let leader = cluster
        .wait("a new primary", &survivors, CHANGE_WITHIN, |view| {
            let leader = view.leader().filter(|leader| leader.name != name && leader.state == "running");
            leader.map(|leader| leader.name.clone()).ok_or_else(|| format!("{:?}", view.leader()))
        })
        .await?;
    let successor = cluster.members.iter().position(|member| member.name == leader).unwrap_or(primary);
    let record = writer.so_far();
    let gap = record.longest_gap(begun, clock::now());
    let gap = gap.ok_or_else(|| Failure::text("nobody could write any more after the primary was lost"))?;
    screen.say(&format!("nobody could write for {}; {leader} took over by itself", seconds(gap.length())))?;
    let before = record.commits().iter().filter(|commit| commit.ended <= killed_at).count();
    let missing = cluster.missing(record, successor).await?.len();
    if missing == 0 {
        screen.kept(&format!("all {before} rows that {name} had acknowledged are on {leader}"))?;
    } else {
        let text = format!("{missing} acknowledged rows are missing on {leader}");
        screen.broken(&text)?;
        broken.push(text);
    }
    Ok(successor)
}

/// Shows each second until commits have been going on for a while.
async fn watch(
    cluster: &Cluster,
    writer: &Writer,
    dead: &str,
    survivors: &[usize],
    killed_at: BootTime,
    screen: &mut Screen<'_>,
) -> Result<(), Failure> {
    let limit = i64::try_from(CHANGE_WITHIN.as_secs()).unwrap_or(i64::MAX);
    let mut writing = 0;
    for second in 1..=limit {
        let end = killed_at + Duration::from_secs(second.unsigned_abs());
        // The look may take a part of the second, not more.
        wait_until(end.minus(Duration::from_millis(500))).await;
        let look = tokio::time::timeout(end.since(clock::now()), cluster.view(survivors)).await.ok().flatten();
        wait_until(end).await;
        let (leader, note) = match look.as_ref().map(|view| view.leader()) {
            None => ("?".to_owned(), "the store is electing, without the dead vote"),
            Some(None) => ("nobody".to_owned(), "the lease has run out"),
            Some(Some(leader)) if leader.name == dead => {
                (dead.to_owned(), "dead, but its lease still runs: nobody may take over")
            }
            Some(Some(leader)) if leader.state == "running" && leader.role == "leader" => {
                (leader.name.clone(), "holds the lease")
            }
            Some(Some(leader)) => (leader.name.clone(), "holds the lease, is being promoted"),
        };
        let commits = commits_in(writer, end.minus(Duration::from_secs(1)));
        screen.second(second, &leader, commits, note)?;
        writing = if commits > 0 && leader != dead { writing + 1 } else { 0 };
        if writing > QUIET_SECONDS {
            return Ok(());
        }
    }
    Err(Failure::text(format!("nobody took over within {} s", CHANGE_WITHIN.as_secs())))
}

/// Starts the lost member again.
async fn come_back(cluster: &mut Cluster, lost: usize, leader: usize, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let name = cluster.members[lost].name.clone();
    screen.act(&format!("{name} is started again, with the directory as it was left"))?;
    let begun = clock::now();
    cluster.start_member(lost)?;
    cluster.wait_complete(CHANGE_WITHIN).await?;
    let leader = &cluster.members[leader].name;
    screen.kept(&format!("{name} streams from {leader} again, after {}", seconds(clock::now().since(begun))))
}

/// Hands the lease back, with the writer still writing.
async fn switch_over(
    cluster: &mut Cluster,
    writer: &Writer,
    from: usize,
    to: usize,
    screen: &mut Screen<'_>,
    broken: &mut Vec<String>,
) -> Result<(), Failure> {
    let (old, new) = (cluster.members[from].name.clone(), cluster.members[to].name.clone());
    screen.act(&format!("A switchover from {old} to {new}"))?;
    let begun = clock::now();
    let text = cluster.switchover(from, to).await?;
    let answered = clock::now();
    wait_until(answered + Duration::from_secs(1)).await;
    screen.say(&format!("{text}, answered after {}", seconds(answered.since(begun))))?;
    let gap = writer.so_far().longest_gap(begun, clock::now());
    match gap {
        Some(gap) => screen.kept(&format!("nobody could write for {}", milliseconds(gap.length())))?,
        None => {
            let text = "nobody could write any more after the switchover".to_owned();
            screen.broken(&text)?;
            broken.push(text);
        }
    }
    let leader = cluster.wait_complete(CHANGE_WITHIN).await?;
    if leader != to {
        broken.push(format!("{} leads after the switchover to {new}", cluster.members[leader].name));
    }
    Ok(())
}

/// The whole account: each acknowledged row on each member, and never two primaries.
async fn check_rows(
    cluster: &mut Cluster,
    writer: Writer,
    screen: &mut Screen<'_>,
    broken: &mut Vec<String>,
) -> Result<(), Failure> {
    screen.act("The account")?;
    let stopped = tokio::task::spawn_blocking(move || writer.stop()).await;
    let stopped = stopped.map_err(|error| Failure::because("the writer did not end", error))?;
    let record = stopped.map_err(|error| Failure::because("the writer did not end", error))?;
    let rows = record.commits().len();
    let limit = clock::now() + REPLAY_WITHIN;
    let mut short = Vec::new();
    for member in 0..cluster.members.len() {
        // A standby replays the last rows a moment after they were acknowledged.
        loop {
            let missing = cluster.missing(record.clone(), member).await?.len();
            if missing == 0 {
                break;
            }
            if clock::now().reached(limit) {
                short.push(format!(
                    "{missing} of {rows} acknowledged rows are missing on {}",
                    cluster.members[member].name
                ));
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    if short.is_empty() {
        screen.kept(&format!("all {rows} acknowledged rows are on all three members"))?;
    }
    if record.two_writable().is_some() {
        short.push("two servers accepted commits at once".to_owned());
    } else {
        screen.kept("no two servers accepted commits at once")?;
    }
    for text in short {
        screen.broken(&text)?;
        broken.push(text);
    }
    show(cluster, screen).await
}

/// How to play with what is left running.
fn leave(cluster: &Cluster, leader: usize, screen: &mut Screen<'_>) -> Result<(), Failure> {
    screen.act("The cluster stays up. To play with it")?;
    let program = cluster.program().display();
    let port = cluster.members[leader].postgres.port();
    let log = cluster.members[leader].log();
    let lines = [
        format!("export PGBATON_URL={}", cluster.urls().join(",")),
        format!("alias pgbaton={program}"),
        "pgbaton list".to_owned(),
        "pgbaton explain".to_owned(),
        "pgbaton switchover --force".to_owned(),
        "pgbaton edit-config -p work_mem=8MB --force".to_owned(),
        format!("PGPASSWORD={PASSWORD} psql -h 127.0.0.1 -p {port} -U {SUPERUSER}"),
        format!("tail -f {}", log.display()),
        "make demo-stop".to_owned(),
    ];
    for line in lines {
        screen.say(&format!("  {line}"))?;
    }
    Ok(())
}

/// The table that `pgbaton list` shows.
async fn show(cluster: &Cluster, screen: &mut Screen<'_>) -> Result<(), Failure> {
    let members = Members::at(cluster.members.iter().map(Member::url).collect());
    let view = members.cluster(None).await?;
    let table = list::table(&members, &view).await;
    screen.say(&table)
}

/// How many commits were acknowledged in the second from there on.
fn commits_in(writer: &Writer, from: BootTime) -> usize {
    let until = from + Duration::from_secs(1);
    writer.so_far().commits().iter().filter(|commit| commit.ended >= from && commit.ended < until).count()
}

async fn wait_until(moment: BootTime) {
    tokio::time::sleep(moment.since(clock::now())).await;
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn milliseconds(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
