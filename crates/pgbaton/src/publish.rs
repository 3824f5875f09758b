//! `pgbaton publish`: records of the primary, and events, published once or whenever the cluster changes.

use std::collections::BTreeMap;

use pgbaton_api::View;
use pgbaton_config::{FollowerFile, Wanted, load_clients};
use pgbaton_publish::{Done, Outcome, Report};
use pgbaton_types::chain;
use serde_json::{Value, json};

use crate::cli::{Align, Failure, Format, Global, Out, Publish, Table, config_in};
use crate::clients::follow::Cluster;
use crate::clients::{self, LEASE, published};

/// Runs the command.
pub(crate) fn run(global: &Global, options: &Publish, out: &mut Out) -> Result<(), Failure> {
    let environment: BTreeMap<String, String> = std::env::vars().collect();
    let given = options.config.clone().or_else(|| global.config_file.clone());
    let config = given.or_else(|| config_in(&environment));
    if options.watch {
        return clients::run(config.as_deref(), Wanted::Publish);
    }
    let file = load_clients(config.as_deref(), &environment, Wanted::Publish)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::because("cannot prepare for network connections", error))?;
    let reports = runtime.block_on(async {
        let view = now(&file.follower).await?;
        Ok::<_, Failure>(pgbaton_publish::once(published(&file), view).await)
    })?;
    show(&reports, global.format, out)
}

async fn now(file: &FollowerFile) -> Result<View, Failure> {
    let cluster = Cluster::of(file, LEASE)?;
    cluster.view().await.map_err(|error| Failure::because("the store does not answer as it should", error))
}

fn show(reports: &[Report], format: Format, out: &mut Out) -> Result<(), Failure> {
    let failed = reports.iter().any(|report| report.result.is_err());
    if format == Format::Json {
        let rows = reports.iter().map(|Report { title, result }| match result {
            Ok(Done::Delivered(events)) => json!({"to": title, "outcome": "delivered", "events": events}),
            Ok(done) => json!({"to": title, "outcome": words(*done)}),
            Err(error) => json!({"to": title, "outcome": "failed", "error": chain(error.as_ref())}),
        });
        out.json(&Value::Array(rows.collect()))?;
    } else {
        let mut table = Table::new("", &[("To", Align::Left), ("Outcome", Align::Left)]);
        for Report { title, result } in reports {
            let outcome =
                result.as_ref().map_or_else(|error| format!("failed: {}", chain(error.as_ref())), |done| words(*done));
            table.row(vec![title.clone(), outcome]);
        }
        out.raw(&table.render())?;
    }
    if failed { Err(Failure::Said) } else { Ok(()) }
}

fn words(done: Done) -> String {
    match done {
        Done::Record(Outcome::Written) => "written".to_owned(),
        Done::Record(Outcome::Unchanged) => "unchanged".to_owned(),
        Done::Record(Outcome::Older) => "unchanged: a newer record is there".to_owned(),
        Done::Delivered(events) => format!("{events} events delivered"),
    }
}
