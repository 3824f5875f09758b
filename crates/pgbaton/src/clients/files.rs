//! The list `files`: each made anew whenever the cluster changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::Baton;
use pgbaton_config::FileConfig;
use pgbaton_render::{BuiltIn, Context, FileError, Outcome, Target, Template};
use pgbaton_sys::child::{Credentials, group_of_name};
use pgbaton_sys::command::Run;
use pgbaton_types::chain;
use serde_json::Value;
use tokio::time::{Instant, sleep_until};

use super::Parts;
use crate::cli::Failure;

/// How often it is looked at all files even if nothing has changed: somebody else may have changed one, or a command may have failed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A file with what its template gets.
pub(crate) struct Made {
    pub(crate) target: Target,
    vars: BTreeMap<String, Value>,
}

/// Makes them until it is told to stop. An owner whom this host does not know (yet) keeps them from being made, and is looked up again.
pub(super) async fn run(mut parts: Parts) {
    let mut files: Arc<Vec<Made>> = Arc::default();
    let mut said = Vec::new();
    let mut wrong = None;
    let mut known = false;
    // Of what they were made last. Most views differ in nothing that a file may show.
    let mut made_of = None;
    let mut look_at = Instant::now();
    loop {
        if !known {
            match made(&parts.file.borrow_and_update().files) {
                Ok(anew) => {
                    said = vec![None; anew.len()];
                    files = Arc::new(anew);
                    (known, wrong) = (true, None);
                }
                Err(failure) => {
                    let message = failure.message();
                    if message != wrong {
                        tracing::error!(
                            message = message.clone().unwrap_or_default(),
                            "files are not made as configured"
                        );
                        wrong = message;
                    }
                }
            }
        }
        let view = parts.views.borrow_and_update().clone();
        let shown = Some(Context::new(&view.baton, BTreeMap::new()));
        let due = made_of != shown || Instant::now() >= look_at;
        if due {
            look_at = Instant::now() + LOOK_INTERVAL;
            made_of = shown;
        }
        if due && view.as_of.is_some() && !files.is_empty() {
            // Checks and commands take their time; everything else goes on meanwhile.
            let made = Arc::clone(&files);
            let applied = tokio::task::spawn_blocking(move || {
                for (file, said) in made.iter().zip(&mut said) {
                    tell(file, &apply(file, &view.baton), said);
                }
                said
            });
            said = match applied.await {
                Ok(said) => said,
                Err(error) => {
                    tracing::error!(%error, "a file was not made; this is a bug");
                    vec![None; files.len()]
                }
            };
        }
        tokio::select! {
            () = parts.stop.cancelled() => return,
            changed = parts.views.changed() => if changed.is_err() { return },
            changed = parts.file.changed() => {
                if changed.is_err() {
                    return;
                }
                (known, made_of) = (false, None);
            }
            () = sleep_until(look_at) => {}
        }
    }
}

/// Logs what has happened, and a failure once.
fn tell(file: &Made, result: &Result<Outcome, FileError>, said: &mut Option<String>) {
    let path = file.target.path.display();
    let failure = result.as_ref().err().map(|error| chain(error));
    match result {
        Ok(outcome @ (Outcome::Written | Outcome::Told)) => tracing::info!(%path, "{}", word(*outcome)),
        Ok(_) => {}
        Err(_) if *said == failure => {}
        Err(error) => tracing::error!(%path, error = %chain(error), "a file is not as it should be"),
    }
    *said = failure;
}

pub(crate) fn apply(file: &Made, baton: &Baton) -> Result<Outcome, FileError> {
    file.target.apply(&Context::new(baton, file.vars.clone()))
}

pub(crate) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unchanged => "unchanged",
        Outcome::NoPrimary => "unchanged: there is no primary",
        Outcome::Older => "unchanged: it is of a later epoch",
        Outcome::Told => "unchanged, command run",
        Outcome::Written => "written",
    }
}

pub(crate) fn made(files: &[FileConfig]) -> Result<Vec<Made>, Failure> {
    files.iter().map(|file| Ok(Made { target: target(file)?, vars: file.vars.clone() })).collect()
}

fn target(file: &FileConfig) -> Result<Target, Failure> {
    let run = |command: &Option<Vec<String>>| {
        command.as_ref().map(|command| Run { command: command.clone(), within: file.within })
    };
    let owner =
        file.owner.as_ref().map(|(user, group)| Ok::<_, Failure>((user_id(user)?, group_id(group)?))).transpose()?;
    Ok(Target {
        path: file.path.clone(),
        template: template(&file.template),
        mode: file.mode,
        owner,
        check: run(&file.check),
        command: run(&file.command),
    })
}

/// A name without a slash is one of ours; a file of such a name is given as `./name`.
pub(crate) fn template(name: &str) -> Template {
    BuiltIn::of_name(name).map_or_else(|| Template::File(PathBuf::from(name)), Template::BuiltIn)
}

fn user_id(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found = Credentials::of_user(name)
        .map_err(|error| Failure::because(format!("cannot look up the user {name}"), error))?;
    found.map(|user| user.uid).ok_or_else(|| Failure::text(format!("Error: there is no user {name}")))
}

fn group_id(name: &str) -> Result<u32, Failure> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let found =
        group_of_name(name).map_err(|error| Failure::because(format!("cannot look up the group {name}"), error))?;
    found.ok_or_else(|| Failure::text(format!("Error: there is no group {name}")))
}
