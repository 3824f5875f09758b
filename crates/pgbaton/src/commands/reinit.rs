use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{Failure, Format, MemberView, Members, Out, Reinit, Role, ask, body_text, confirm};
use crate::commands::{list, select};

/// How long the answer may take; the copy itself is made afterwards.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Time between two looks at a copy that is being made.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// `reinit`.
pub(crate) async fn run(members: &Members, options: &Reinit, format: Format, out: &mut Out) -> Result<(), Failure> {
    let view = members.cluster(None).await?;
    let names = select::split(&view, &options.names)?;
    if format == Format::Pretty {
        list::show(members, &view, out).await?;
    }
    let standbys = select::select(&view, &[], Role::Replica)?;
    let asked;
    let names = if names.is_empty() {
        let question = format!("Which member do you want to reinitialize ({})?", select::names_of(&standbys));
        asked = vec![ask(out, &question, "")?];
        asked.as_slice()
    } else {
        names
    };
    let chosen = select::select(&view, names, Role::Replica)?;
    if !options.force {
        let question = format!("Are you sure you want to reinitialize members {}?", select::names_of(&chosen));
        confirm(out, &question, "Aborted reinitialize")?;
    }
    let before = started(members, &chosen).await;
    let body = json!({"force": options.force, "from_leader": options.from_leader});
    let mut failed = false;
    for member in &chosen {
        let name = &member.name;
        let result = members.send("POST", member.base_url(), "/reinitialize", Some(&body), ANSWER_WITHIN).await;
        let line = match result {
            Ok(response) if response.status.is_success() => format!("Success: reinitialize for member {name}"),
            Ok(response) => {
                failed = true;
                let (code, text) = (response.status.as_u16(), body_text(&response));
                format!("Failed: reinitialize for member {name}, status code={code}, ({text})")
            }
            Err(error) => {
                failed = true;
                format!("Failed: reinitialize for member {name}: {error}")
            }
        };
        match format {
            Format::Pretty => out.line(&line)?,
            Format::Json => out.json(&json!({"member": name, "text": line}))?,
        }
    }
    if failed {
        return Err(Failure::Said);
    }
    if options.wait { wait(members, &chosen, &before, format, out).await } else { Ok(()) }
}

/// When each server was started; null where it does not answer.
async fn started(members: &Members, chosen: &[&MemberView]) -> Vec<Value> {
    let mut times = Vec::new();
    for member in chosen {
        times.push(status(members, member).await.get("postmaster_start_time").cloned().unwrap_or_default());
    }
    times
}

async fn status(members: &Members, member: &MemberView) -> Value {
    // A member that does not answer now is asked again.
    members.get(member.base_url(), "/patroni").await.unwrap_or_default()
}

/// Waits until on each member another server runs than before. Making a copy can take hours, so only the operator limits it.
async fn wait(
    members: &Members,
    chosen: &[&MemberView],
    before: &[Value],
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    if format == Format::Pretty {
        out.line(&format!("Waiting for reinitialize to complete on: {}", select::names_of(chosen)))?;
    }
    for (member, before) in chosen.iter().zip(before) {
        loop {
            let status = status(members, member).await;
            let another = status.get("postmaster_start_time").is_some_and(|started| started != before);
            if another && status.get("state").and_then(Value::as_str) == Some("running") {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if format == Format::Pretty {
            out.line(&format!("Reinitialize is completed on: {}", member.name))?;
        }
    }
    Ok(())
}
