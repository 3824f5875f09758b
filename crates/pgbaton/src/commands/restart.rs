use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::cli::{Failure, Format, MemberView, Members, Out, Restart, When, body_text, confirm, parse_when};
use crate::commands::{list, select};

/// How long a restart is waited for: a shutdown checkpoint and a recovery can take minutes.
const RESTART_WITHIN: Duration = Duration::from_mins(10);

/// How long a member may take to forget a restart.
const UNSCHEDULE_WITHIN: Duration = Duration::from_secs(15);

/// `restart`.
pub(crate) async fn run(members: &Members, options: &Restart, format: Format, out: &mut Out) -> Result<(), Failure> {
    let view = members.cluster(None).await?;
    let names = select::split(&view, &options.names)?;
    if format == Format::Pretty {
        list::show(members, &view, out).await?;
    }
    let mut chosen = select::select(&view, names, options.role)?;
    if options.any {
        chosen.truncate(1);
    }
    if options.pending {
        chosen.retain(|member| member.pending_restart);
        if chosen.is_empty() {
            return Ok(());
        }
    }
    let when = parse_when(options.scheduled.as_deref().unwrap_or("now"))?;
    if !options.force {
        let question = match &when {
            When::Now => format!("Are you sure you want to restart members {}?", select::names_of(&chosen)),
            When::At(at) => {
                format!("Are you sure you want to schedule restart of members {} at {at}?", select::names_of(&chosen))
            }
        };
        confirm(out, &question, "Aborted restart")?;
    }
    let mut body = Map::new();
    if let When::At(at) = when {
        body.insert("schedule".to_owned(), json!(at));
    }
    if options.pending {
        body.insert("restart_pending".to_owned(), json!(true));
    }
    for (key, value) in [("postgres_version", &options.pg_version), ("timeout", &options.timeout)] {
        body.extend(value.as_ref().map(|value| (key.to_owned(), json!(value))));
    }
    if options.force && body.contains_key("schedule") {
        unschedule(members, &chosen).await?;
    }
    restart_all(members, &chosen, &Value::Object(body), format, out).await
}

/// Forgets restarts that wait on these members.
async fn unschedule(members: &Members, chosen: &[&MemberView]) -> Result<(), Failure> {
    for member in chosen.iter().filter(|member| member.scheduled_restart.is_some()) {
        let response = members.send("DELETE", member.base_url(), "/restart", None, UNSCHEDULE_WITHIN).await?;
        if !matches!(response.status.as_u16(), 200 | 404) {
            let (name, text) = (&member.name, body_text(&response));
            return Err(Failure::text(format!("the restart that waits on member {name} was not deleted: {text}")));
        }
    }
    Ok(())
}

async fn restart_all(
    members: &Members,
    chosen: &[&MemberView],
    body: &Value,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let mut failed = false;
    let mut results = Vec::new();
    for member in chosen {
        let name = &member.name;
        let (code, text) = match members.send("POST", member.base_url(), "/restart", Some(body), RESTART_WITHIN).await {
            Ok(response) => (response.status.as_u16(), body_text(&response)),
            Err(error) => (0, error.to_string()),
        };
        failed |= !matches!(code, 200 | 202);
        results.push(json!({"member": name, "code": code, "text": text}));
        if format == Format::Pretty {
            out.line(&match code {
                200 => format!("Success: restart on member {name}"),
                202 => format!("Success: restart scheduled on member {name}"),
                409 => format!("Failed: another restart is already scheduled on member {name}"),
                0 => format!("Failed: restart for member {name}: {text}"),
                code => format!("Failed: restart for member {name}, status code={code}, ({text})"),
            })?;
        }
    }
    if format == Format::Json {
        out.json(&Value::Array(results))?;
    }
    if failed { Err(Failure::Said) } else { Ok(()) }
}
