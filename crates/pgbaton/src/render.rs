//! `pgbaton render`: files that follow the cluster, made once or whenever it changes.

use std::collections::BTreeMap;

use pgbaton_api::Baton;
use pgbaton_config::{FollowerFile, Wanted, load_clients};
use pgbaton_render::{Context, FileError, Outcome};
use pgbaton_types::chain;
use serde_json::{Value, json};

use crate::cli::{Align, Failure, Format, Global, Out, Render, Table, config_in};
use crate::clients::follow::Cluster;
use crate::clients::{self, LEASE, Made, apply, made, template, word};

/// Runs the command.
pub(crate) fn run(global: &Global, options: &Render, out: &mut Out) -> Result<(), Failure> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let config = global.config_file.clone().or_else(|| config_in(&environment));
    if options.watch {
        return clients::run(config.as_deref(), Wanted::Files);
    }
    let file = load_clients(config.as_deref(), &environment, Wanted::Files)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
    let baton = runtime.block_on(now(&file.follower))?;
    match &options.template {
        Some(name) => print(&baton, name, &options.set, out),
        None => make(&baton, &made(&file.files)?, global.format, out),
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
