use std::time::Duration;

use serde_json::{Value, json};

use crate::cli::{ClusterView, Failure, Format, Members, Out, Pause, body_text};

/// How long a change of the configuration may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(10);

/// Time between two looks at whether all members have seen it.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// `loop_wait` in seconds where the configuration does not say it.
const LOOP_WAIT_DEFAULT: f64 = 1.0;

/// `pause` and `resume`.
pub(crate) async fn run(
    members: &Members,
    options: &Pause,
    pause: bool,
    format: Format,
    out: &mut Out,
) -> Result<(), Failure> {
    let (word, done) = if pause { ("pause", "paused") } else { ("resume", "resumed") };
    let view = members.cluster(options.cluster.as_deref()).await?;
    if view.pause == pause {
        return Err(Failure::text(if pause { "Cluster is already paused" } else { "Cluster is not paused" }));
    }
    let patch = json!({"pause": if pause { json!(true) } else { Value::Null }});
    let response = members.send_any(&view, "PATCH", "/config", Some(&patch), CHANGE_WITHIN).await?;
    if response.status.as_u16() != 200 {
        let (code, body) = (response.status.as_u16(), body_text(&response));
        return Err(Failure::text(format!("Failed: {word} cluster management status code={code}, ({body})")));
    }
    if options.wait {
        if format == Format::Pretty {
            out.line(&format!("'{word}' request sent, waiting until it is recognized by all nodes"))?;
        }
        let config: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let loop_wait = config.get("loop_wait").and_then(Value::as_f64).unwrap_or(LOOP_WAIT_DEFAULT);
        wait(members, &view, pause, loop_wait + 1.0).await?;
    }
    match format {
        Format::Json => out.json(&json!({"pause": pause})),
        Format::Pretty => out.line(&format!("Success: cluster management is {done}")),
    }
}

/// Waits until each member says so itself.
async fn wait(members: &Members, view: &ClusterView, pause: bool, seconds: f64) -> Result<(), Failure> {
    let look = async {
        loop {
            let left = behind(members, view, pause).await;
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    let limit = Duration::try_from_secs_f64(seconds).unwrap_or(CHANGE_WITHIN);
    if tokio::time::timeout(limit, look).await.is_ok() {
        return Ok(());
    }
    let left = behind(members, view, pause).await;
    if left.is_empty() {
        return Ok(());
    }
    let (names, word) = (left.join(", "), if pause { "pause" } else { "resume" });
    Err(Failure::text(format!("{names} members didn't recognized {word} state after {seconds:.0} seconds")))
}

async fn behind(members: &Members, view: &ClusterView, pause: bool) -> Vec<String> {
    let mut left = Vec::new();
    for member in &view.members {
        let paused = match members.get(member.base_url(), "/patroni").await {
            Ok(status) => Some(status.get("pause").and_then(Value::as_bool).unwrap_or(false)),
            Err(_) => None,
        };
        if paused != Some(pause) {
            left.push(member.name.clone());
        }
    }
    left
}
