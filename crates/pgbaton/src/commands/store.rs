//! The store that the members share, asked directly and not through a member: it may be what is wrong.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use pgbaton_api::layout::{EPOCH_BASE, Keys};
use pgbaton_config::{LocalConfig, StoreConfig};
use pgbaton_store::{Compare, Health, Op, Snapshot, Store as _, StoreError, Txn};
use pgbaton_store_etcd::{EtcdStore, Options, OptionsError};
use pgbaton_types::chain;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cli::{Align, Failure, Format, Global, Out, Store, Table, config_in, confirm};

/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(5);

/// How long one member may take to defragment: it copies all that it has.
const DEFRAG_TIME: Duration = Duration::from_mins(2);

/// The version of [`Export`].
const VERSION: u32 = 1;

/// Only its owner reads it: the dynamic configuration may hold passwords.
const EXPORT_MODE: u32 = 0o600;

/// A cluster's keys, as a file.
#[derive(Debug, Serialize, Deserialize)]
struct Export {
    /// The version of this form.
    #[serde(rename = "pgbaton_export")]
    version: u32,
    /// What all keys began with.
    prefix: String,
    /// Above every epoch that was given out: epochs go on from there in whatever store.
    epoch_base: u64,
    /// The keys without the prefix, with their values.
    keys: BTreeMap<String, String>,
}

/// The store of one configuration, and where the cluster's keys are in it.
struct Place {
    options: Options,
    prefix: String,
    embedded: bool,
}

/// `store`.
pub(crate) async fn run(global: &Global, command: &Store, format: Format, out: &mut Out) -> Result<(), Failure> {
    let place = Place::of(global)?;
    match command {
        Store::Status => status(&place, format, out).await,
        Store::Members => members(&place, format, out).await,
        Store::Add { peer_url } => add(&place, peer_url, format, out).await,
        Store::Remove { id, force } => remove(&place, id, *force, format, out).await,
        Store::Defrag => defrag(&place, format, out).await,
        Store::Export { file } => export(&place, file, format, out).await,
        Store::Import { file } => import(&place, file, format, out).await,
    }
}

impl Place {
    fn of(global: &Global) -> Result<Self, Failure> {
        let environment: BTreeMap<String, String> = std::env::vars().collect();
        let config = global.config_file.clone().or_else(|| config_in(&environment));
        let config = config.ok_or_else(|| {
            Failure::text("Error: the store is found by a member's configuration: give it with --config-file")
        })?;
        let local: LocalConfig = pgbaton_config::load(Some(&config), &environment)?.local;
        let options = pgbaton_agent::client_options(&local.store).ok_or_else(|| {
            Failure::text(
                "Error: the store of this member listens nowhere: give it raft.self_addr, also as the only member",
            )
        })?;
        let embedded = matches!(local.store, StoreConfig::Embedded(_));
        Ok(Self { options, prefix: Keys::new(&local.namespace, &local.scope).prefix().to_owned(), embedded })
    }

    /// A client of all endpoints, of which one that answers is asked.
    fn store(&self) -> Result<EtcdStore, Failure> {
        EtcdStore::new(&self.options).map_err(unusable)
    }
}

/// Each endpoint with a client of it alone.
async fn each(place: &Place) -> Result<Vec<(String, EtcdStore)>, Failure> {
    let endpoints = place.store()?.each().await.map_err(unusable)?;
    if endpoints.is_empty() {
        return Err(Failure::text(
            "Error: DNS names no endpoint of the store: is etcd3.srv right, and do its name servers answer?",
        ));
    }
    Ok(endpoints)
}

fn unusable(error: OptionsError) -> Failure {
    Failure::because("the store cannot be asked", error)
}

fn unanswered(error: StoreError) -> Failure {
    Failure::because("the store does not answer as it should", error)
}

async fn status(place: &Place, format: Format, out: &mut Out) -> Result<(), Failure> {
    let mut answers: Vec<(String, Result<Health, StoreError>)> = Vec::new();
    for (endpoint, one) in each(place).await? {
        answers.push((endpoint, one.health(DEADLINE).await));
    }
    match format {
        Format::Json => {
            out.json(&Value::Array(answers.iter().map(|(at, answer)| status_json(at, answer)).collect()))?;
        }
        Format::Pretty => out.raw(&status_table(&answers))?,
    }
    // What a script asks for: is there a store?
    let led = answers.iter().any(|(_, answer)| answer.as_ref().is_ok_and(|health| health.leader.is_some()));
    if led { Ok(()) } else { Err(Failure::text("Error: no endpoint knows a leader of the store")) }
}

fn status_json(endpoint: &str, answer: &Result<Health, StoreError>) -> Value {
    match answer {
        Ok(health) => json!({
            "Endpoint": endpoint,
            "Leads": health.is_leader,
            "Leader": health.leader.map(|leader| format!("{leader:016x}")),
            "Term": health.term,
            "Revision": health.revision.0,
            "Problem": health.fatal,
        }),
        Err(error) => json!({ "Endpoint": endpoint, "Problem": chain(error) }),
    }
}

fn status_table(answers: &[(String, Result<Health, StoreError>)]) -> String {
    let columns = [
        ("Endpoint", Align::Left),
        ("Leads", Align::Left),
        ("Term", Align::Right),
        ("Revision", Align::Right),
        ("Problem", Align::Left),
    ];
    let mut table = Table::new("Store", &columns);
    for (endpoint, answer) in answers {
        table.row(match answer {
            Ok(health) => vec![
                endpoint.clone(),
                if health.is_leader { "yes".to_owned() } else { String::new() },
                health.term.to_string(),
                health.revision.to_string(),
                health.fatal.clone().unwrap_or_default(),
            ],
            Err(error) => vec![endpoint.clone(), String::new(), String::new(), String::new(), chain(error)],
        });
    }
    table.render()
}

async fn members(place: &Place, format: Format, out: &mut Out) -> Result<(), Failure> {
    let health = place.store()?.health(DEADLINE).await.map_err(unanswered)?;
    if format == Format::Json {
        let voter = |voter: &pgbaton_store::Voter| json!({ "Id": format!("{:016x}", voter.id), "Address": voter.address, "Leads": health.leader == Some(voter.id) });
        return out.json(&Value::Array(health.voters.iter().map(voter).collect()));
    }
    let mut table = Table::new("Voters", &[("Id", Align::Left), ("Address", Align::Left), ("Leads", Align::Left)]);
    for voter in &health.voters {
        let leads = if health.leader == Some(voter.id) { "yes" } else { "" };
        table.row(vec![format!("{:016x}", voter.id), voter.address.clone(), leads.to_owned()]);
    }
    out.raw(&table.render())
}

async fn add(place: &Place, peer_url: &str, format: Format, out: &mut Out) -> Result<(), Failure> {
    if place.embedded {
        let text = "a member of the embedded store adds itself: start its agent, or `pgbaton witness`, with raft.partner_addrs";
        return Err(Failure::text(format!("Error: {text} naming {}", place.options.endpoints.join(", "))));
    }
    let id = place.store()?.add_member(peer_url, DEADLINE).await.map_err(unanswered)?;
    match format {
        Format::Json => out.json(&json!({ "Id": format!("{id:016x}"), "PeerUrl": peer_url })),
        Format::Pretty => out.line(&format!(
            "Added member {id:016x} at {peer_url}: start it with --initial-cluster-state existing; it counts for the majority from now on"
        )),
    }
}

async fn remove(place: &Place, id: &str, force: bool, format: Format, out: &mut Out) -> Result<(), Failure> {
    let number = u64::from_str_radix(id, 16).map_err(|_| {
        Failure::text(format!("Error: {id:?} is no member's number: `pgbaton store members` shows them"))
    })?;
    let store = place.store()?;
    let health = store.health(DEADLINE).await.map_err(unanswered)?;
    let voter = health.voters.iter().find(|voter| voter.id == number);
    let voter = voter.ok_or_else(|| Failure::text(format!("Error: the store has no voter {number:016x}")))?;
    if !force {
        let question = format!("Take the vote of {number:016x} at {} away for good?", voter.address);
        confirm(out, &question, "The member was not removed")?;
    }
    store.remove_member(number, DEADLINE).await.map_err(unanswered)?;
    let left = health.voters.len() - 1;
    match format {
        Format::Json => out.json(&json!({ "Id": format!("{number:016x}"), "Left": left })),
        Format::Pretty => out.line(&format!("Removed member {number:016x}; {left} are left")),
    }
}

async fn defrag(place: &Place, format: Format, out: &mut Out) -> Result<(), Failure> {
    if place.embedded {
        return Err(Failure::text(
            "Error: the embedded store has nothing to defragment: it gives unused room back by itself",
        ));
    }
    let mut done = Vec::new();
    for (endpoint, one) in each(place).await? {
        let failed = |error| Failure::because(format!("{endpoint} was not defragmented"), error);
        let before = one.bytes_on_disk(DEADLINE).await.map_err(failed)?;
        one.defragment(DEFRAG_TIME).await.map_err(failed)?;
        let after = one.bytes_on_disk(DEADLINE).await.map_err(failed)?;
        match format {
            Format::Json => done.push(json!({ "Endpoint": endpoint, "BytesBefore": before, "BytesAfter": after })),
            Format::Pretty => out.line(&format!("{endpoint}: {before} bytes before, {after} after"))?,
        }
    }
    if format == Format::Json { out.json(&Value::Array(done)) } else { Ok(()) }
}

async fn export(place: &Place, file: &Path, format: Format, out: &mut Out) -> Result<(), Failure> {
    let snapshot = place.store()?.snapshot(&place.prefix, DEADLINE).await.map_err(unanswered)?;
    let export = exported(&place.prefix, &snapshot)?;
    let text =
        serde_json::to_string_pretty(&export).map_err(|error| Failure::because("the keys cannot be written", error))?;
    let written = OpenOptions::new().write(true).create_new(true).mode(EXPORT_MODE).open(file).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    written.map_err(|error| Failure::because(format!("{} cannot be written", file.display()), error))?;
    match format {
        Format::Json => out.json(&json!({ "File": file, "Keys": export.keys.len(), "EpochBase": export.epoch_base })),
        Format::Pretty => {
            let count = export.keys.len();
            out.line(&format!("Wrote {count} keys of {} at revision {}", place.prefix, snapshot.revision))
        }
    }
}

fn exported(prefix: &str, snapshot: &Snapshot) -> Result<Export, Failure> {
    let mut keys = BTreeMap::new();
    // Who leads and who is there is for the members to say again.
    for item in snapshot.items.iter().filter(|item| item.lease.is_none()) {
        let Some(name) = item.key.strip_prefix(prefix) else { continue };
        let value = String::from_utf8(item.value.clone())
            .map_err(|_| Failure::text(format!("Error: the value of {} is not text", item.key)))?;
        keys.insert(name.to_owned(), value);
    }
    if !keys.contains_key("initialize") {
        return Err(Failure::text(format!("Error: the store knows no cluster at {prefix}: nothing to export")));
    }
    let base: u64 = keys.get(EPOCH_BASE).and_then(|text| text.parse().ok()).unwrap_or(0);
    let epoch_base = base + snapshot.revision.0;
    Ok(Export { version: VERSION, prefix: prefix.to_owned(), epoch_base, keys })
}

async fn import(place: &Place, file: &Path, format: Format, out: &mut Out) -> Result<(), Failure> {
    let cannot = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::because(format!("{} is not an export of a store", file.display()), error)
    };
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::because(format!("{} cannot be read", file.display()), error))?;
    let export: Export = serde_json::from_str(&text).map_err(|error| cannot(error.into()))?;
    if export.version != VERSION {
        let what = format!("version {} of the form, this program knows {VERSION}", export.version);
        return Err(cannot(what.into()));
    }
    let store = place.store()?;
    let known = store.snapshot(&place.prefix, DEADLINE).await.map_err(unanswered)?;
    if let Some(item) = known.items.iter().find(|item| item.lease.is_none()) {
        let text = "import into a store that does not know this cluster, so that nothing is overwritten";
        return Err(Failure::text(format!("Error: {} is there already: {text}", item.key)));
    }
    let txn = imported(&place.prefix, &export);
    let result = store.txn(txn, DEADLINE).await.map_err(unanswered)?;
    if !result.succeeded {
        return Err(Failure::text(
            "Error: somebody else began to use this cluster's keys just now: nothing was imported",
        ));
    }
    match format {
        Format::Json => out.json(&json!({ "Keys": export.keys.len(), "Revision": result.revision.0 })),
        Format::Pretty => out.line(&format!(
            "Imported {} keys to {} at revision {}",
            export.keys.len(),
            place.prefix,
            result.revision
        )),
    }
}

/// All of it or nothing. The base of epochs is raised, so that no epoch comes again.
fn imported(prefix: &str, export: &Export) -> Txn {
    let key = |name: &str| format!("{prefix}{name}");
    let put = |(name, value): (&String, &String)| Op::put(key(name), value.clone());
    let mut success: Vec<Op> = export.keys.iter().filter(|(name, _)| *name != EPOCH_BASE).map(put).collect();
    success.push(Op::put(key(EPOCH_BASE), export.epoch_base.to_string()));
    Txn::when(vec![Compare::absent(key("initialize")), Compare::absent(key("leader"))], success)
}

#[cfg(test)]
mod tests {
    use pgbaton_store::{KeyValue, LeaseId};
    use pgbaton_types::Revision;

    use super::*;

    fn item(name: &str, value: &str, lease: Option<LeaseId>) -> KeyValue {
        KeyValue {
            key: format!("/service/demo/{name}"),
            value: value.into(),
            create_revision: Revision(3),
            mod_revision: Revision(4),
            version: 1,
            lease,
        }
    }

    #[test]
    fn what_hangs_on_a_lease_stays_and_epochs_go_on() {
        let leased = Some(LeaseId(7));
        let items = vec![
            item("initialize", "42", None),
            item("leader", "a", leased),
            item("members/a", "{}", leased),
            item(EPOCH_BASE, "100", None),
        ];
        let export = exported("/service/demo/", &Snapshot { revision: Revision(50), items }).unwrap();
        assert_eq!(export.keys.keys().collect::<Vec<_>>(), ["initialize", EPOCH_BASE]);
        assert_eq!(export.epoch_base, 150);
        let txn = imported("/other/demo/", &export);
        assert_eq!(txn.success, [Op::put("/other/demo/initialize", "42"), Op::put("/other/demo/pgbaton/base", "150")]);
    }

    #[test]
    fn nothing_is_exported_where_no_cluster_is() {
        let empty = Snapshot { revision: Revision(1), items: Vec::new() };
        assert!(exported("/service/demo/", &empty).unwrap_err().message().unwrap().contains("knows no cluster"));
    }
}
