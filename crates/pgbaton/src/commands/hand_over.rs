use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::{
    ClusterView, Failover, Failure, Format, Members, Out, Switchover, When, ask, body_text, confirm, now_text,
    parse_when,
};
use crate::commands::list;

/// How long a member may take to answer: it waits for twice the larger of 10 s and `loop_wait` until somebody leads, and
/// says so itself when that was not enough.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// `switchover`.
pub(crate) async fn switchover(
    members: &Members,
    options: &Switchover,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let view = members.cluster(options.cluster.as_deref()).await?;
    let quiet = format == Format::Json;
    show_before(members, &view, quiet, out).await?;
    let Some(current) = view.leader() else { return Err(Failure::text("This cluster has no leader")) };
    let leader = match &options.leader {
        Some(leader) => leader.clone(),
        None if options.force => current.name.clone(),
        None => ask(out, "Primary", &current.name)?,
    };
    if leader != current.name {
        return Err(Failure::text(format!("Member {leader} is not the leader of cluster {}", view.scope)));
    }
    let candidate = candidate(&view, options.candidate.as_deref(), options.force, "switchover", out)?;
    let when = match &options.scheduled {
        Some(text) => parse_when(text)?,
        None if options.force => When::Now,
        None => parse_when(&ask(out, "When should the switchover take place (e.g. 2027-01-31T03:00)", "now")?)?,
    };
    if matches!(when, When::At(_)) && view.pause {
        return Err(Failure::text("Can't schedule switchover in the paused state"));
    }
    if !options.force {
        let scope = &view.scope;
        match &when {
            When::Now => confirm(
                out,
                &format!("Are you sure you want to switchover cluster {scope}, demoting current leader {leader}?"),
                "Aborting switchover",
            )?,
            When::At(at) => confirm(
                out,
                &format!(
                    "Are you sure you want to schedule switchover of cluster {scope} at {at}, demoting current leader {leader}?"
                ),
                "Aborting scheduled switchover",
            )?,
        }
    }
    let mut body = Map::from_iter([("leader".to_owned(), json!(leader))]);
    body.extend(candidate.map(|candidate| ("candidate".to_owned(), json!(candidate))));
    if let When::At(at) = when {
        body.insert("scheduled_at".to_owned(), json!(at));
    }
    send(members, &view, "Switchover", Value::Object(body), quiet, out).await
}

/// `failover`.
pub(crate) async fn failover(
    members: &Members,
    options: &Failover,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let view = members.cluster(options.cluster.as_deref()).await?;
    let quiet = format == Format::Json;
    show_before(members, &view, quiet, out).await?;
    let Some(candidate) = candidate(&view, options.candidate.as_deref(), options.force, "failover", out)? else {
        return Err(Failure::text("Failover could be performed only to a specific candidate"));
    };
    if !options.force {
        let scope = &view.scope;
        let question = match view.leader() {
            Some(leader) => {
                let leader = &leader.name;
                format!("Are you sure you want to failover cluster {scope}, demoting current leader {leader}?")
            }
            None => format!("Are you sure you want to failover cluster {scope}?"),
        };
        confirm(out, &question, "Aborting failover")?;
    }
    send(members, &view, "Failover", json!({"candidate": candidate}), quiet, out).await
}

async fn show_before(members: &Members, view: &ClusterView, quiet: bool, out: &mut Out) -> Result<(), Failure> {
    if quiet {
        return Ok(());
    }
    out.line("Current cluster topology")?;
    list::show(members, view, out).await
}

/// The member that shall lead, checked; none: whichever is best.
fn candidate(
    view: &ClusterView,
    given: Option<&str>,
    force: bool,
    action: &str,
    out: &mut Out,
) -> Result<Option<String>, Failure> {
    let mut able: Vec<&str> = view
        .members
        .iter()
        .filter(|member| !member.is_leader() && !member.nofailover())
        .map(|member| member.name.as_str())
        .collect();
    able.sort_unstable();
    if able.is_empty() {
        return Err(Failure::text(format!("No candidates found to {action} to")));
    }
    let chosen = match given {
        Some(given) => given.to_owned(),
        None if force => String::new(),
        None => ask(out, &format!("Candidate {able:?}"), "")?,
    };
    if chosen.is_empty() {
        return Ok(None);
    }
    if view.leader().is_some_and(|leader| leader.name == chosen) {
        return Err(Failure::text(format!("Member {chosen} is already the leader of cluster {}", view.scope)));
    }
    if !able.contains(&chosen.as_str()) {
        return Err(Failure::text(format!(
            "Member {chosen} does not exist in cluster {} or is tagged as nofailover",
            view.scope
        )));
    }
    Ok(Some(chosen))
}

async fn send(
    members: &Members,
    view: &ClusterView,
    action: &str,
    body: Value,
    quiet: bool,
    out: &mut Out,
) -> Result<(), Failure> {
    let path = format!("/{}", action.to_ascii_lowercase());
    let response = members.send_any(view, "POST", &path, Some(&body), ANSWER_WITHIN).await?;
    let (code, text) = (response.status.as_u16(), body_text(&response));
    let done = matches!(code, 200 | 202);
    if quiet {
        out.json(&json!({"done": done, "code": code, "text": text}))?;
        return if done { Ok(()) } else { Err(Failure::Said) };
    }
    if !done {
        let word = if text.contains("status unknown") { "result unknown" } else { "failed" };
        return Err(Failure::text(format!("{action} {word}, details: {code}, {text}")));
    }
    out.line(&format!("{} {text}", now_text()))?;
    let after = members.cluster(None).await?;
    list::show(members, &after, out).await
}
