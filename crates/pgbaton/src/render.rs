//! `pgbaton render`: files that follow the cluster, made once or whenever it changes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_agent::logging;
use pgbaton_api::Baton;
use pgbaton_config::{FileConfig, FollowerFile, load_follower};
use pgbaton_render::{BuiltIn, Context, FileError, Outcome, Run, Target, Template};
use pgbaton_router::View;
use pgbaton_sys::child::{Credentials, group_of_name};
use pgbaton_types::chain;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::{Align, Failure, Format, Global, Out, Render, Table, config_in};
use crate::follow::{self, Cluster};

/// How long the store may take to answer, and how old a view may be by which a file is made.
const LEASE: Duration = Duration::from_secs(10);
/// How often it is looked at all files even if nothing has changed: somebody else may have changed one, or a command may have failed.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// A file with what its template gets.
struct Made {
    target: Target,
    vars: BTreeMap<String, Value>,
}

/// Runs the command.
pub(crate) fn run(global: &Global, options: &Render, out: &mut Out) -> Result<(), Failure> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let config = global.config_file.clone().or_else(|| config_in(&environment));
    let file = load_follower(config.as_deref(), &environment)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
    if options.watch {
        logging::start(file.log_level);
        let ended = runtime.block_on(watch_cluster(&file));
        logging::finish();
        return ended;
    }
    let baton = runtime.block_on(now(&file))?;
    match &options.template {
        Some(name) => print(&baton, name, &options.set, out),
        None => make(&baton, &made(&file)?, global.format, out),
    }
}

async fn now(file: &FollowerFile) -> Result<Baton, Failure> {
    let cluster = Cluster::of(file, LEASE)?;
    cluster.now().await.map_err(|error| Failure::because("the store does not answer as it should", error))
}

fn print(baton: &Baton, name: &str, set: &[String], out: &mut Out) -> Result<(), Failure> {
    let mut vars = BTreeMap::new();
    for pair in set {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| Failure::text(format!("Error: --set {pair}: expected NAME=VALUE")))?;
        vars.insert(name.to_owned(), Value::from(value));
    }
    let template = template(name);
    if template.needs_primary() && baton.primary.is_none() {
        return Err(Failure::text("Error: there is no primary at the moment, and who reads this file needs one"));
    }
    let text = template.render(&Context::new(baton, vars));
    out.raw(&text.map_err(|error| Failure::because("nothing is made", error))?)
}

/// All files once.
fn make(baton: &Baton, files: &[Made], format: Format, out: &mut Out) -> Result<(), Failure> {
    if files.is_empty() {
        return Err(Failure::text("Error: the configuration has no list `files`: give it one, or use --template"));
    }
    let results: Vec<(String, Result<Outcome, FileError>)> =
        files.iter().map(|file| (file.target.path.display().to_string(), apply(file, baton))).collect();
    let failed = results.iter().any(|(_, result)| result.is_err());
    if format == Format::Json {
        let rows = results.iter().map(|(path, result)| match result {
            Ok(outcome) => json!({"path": path, "outcome": word(*outcome)}),
            Err(error) => json!({"path": path, "outcome": "failed", "error": chain(error)}),
        });
        out.json(&Value::Array(rows.collect()))?;
    } else {
        let mut table = Table::new("", &[("File", Align::Left), ("Outcome", Align::Left)]);
        for (path, result) in &results {
            let outcome = result
                .as_ref()
                .map_or_else(|error| format!("failed: {}", chain(error)), |outcome| word(*outcome).to_owned());
            table.row(vec![path.clone(), outcome]);
        }
        out.raw(&table.render())?;
    }
    if failed { Err(Failure::Said) } else { Ok(()) }
}

/// Until SIGTERM or SIGINT.
async fn watch_cluster(file: &FollowerFile) -> Result<(), Failure> {
    let files = Arc::new(made(file)?);
    let take = |kind| signal(kind).map_err(|error| Failure::because("cannot receive signals", error));
    let (mut terminate, mut interrupt) = (take(SignalKind::terminate())?, take(SignalKind::interrupt())?);
    let (views, mut newest) = watch::channel(View::default());
    let following = tokio::spawn(follow::follow(Cluster::of(file, LEASE)?, views));
    let mut said = vec![None; files.len()];
    loop {
        let view = newest.borrow_and_update().clone();
        if view.as_of.is_some() {
            // Checks and commands take their time; the store is followed meanwhile.
            let files = Arc::clone(&files);
            let applied = tokio::task::spawn_blocking(move || {
                for (file, said) in files.iter().zip(&mut said) {
                    tell(file, &apply(file, &view.baton), said);
                }
                said
            });
            said = applied.await.map_err(|error| Failure::because("a file was not made; this is a bug", error))?;
        }
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            changed = newest.changed() => if changed.is_err() { break },
            () = tokio::time::sleep(LOOK_INTERVAL) => {}
        }
    }
    following.abort();
    Ok(())
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

fn apply(file: &Made, baton: &Baton) -> Result<Outcome, FileError> {
    file.target.apply(&Context::new(baton, file.vars.clone()))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unchanged => "unchanged",
        Outcome::NoPrimary => "unchanged: there is no primary",
        Outcome::Older => "unchanged: it is of a later epoch",
        Outcome::Told => "unchanged, command run",
        Outcome::Written => "written",
    }
}

fn made(file: &FollowerFile) -> Result<Vec<Made>, Failure> {
    file.files.iter().map(|file| Ok(Made { target: target(file)?, vars: file.vars.clone() })).collect()
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
fn template(name: &str) -> Template {
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
