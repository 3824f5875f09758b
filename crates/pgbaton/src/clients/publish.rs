//! The sections `publish` and `events`: where the primary is, told to others.

use std::path::Path;

use pgbaton_config::{
    ClientStore, ClientsFile, DeliveryConfig, EventsCommand, EventsConfig, PublishConfig, WebhookSecret,
};
use pgbaton_publish::{
    ConsumerSettings, CourierSettings, EventCommand, EventName, OutboxSettings, Place, Secret, Settings,
    TargetSettings, WebhookSettings,
};

use super::Parts;

/// Publishes until it is told to stop; anew, when the configuration of it has changed.
pub(super) async fn run(mut parts: Parts) {
    loop {
        let file = parts.file.borrow_and_update().clone();
        let stop = parts.stop.child_token();
        let publishing = tokio::spawn(pgbaton_publish::run(settings(&file), parts.views.clone(), stop.clone()));
        let changed = changed(&mut parts, &file).await;
        stop.cancel();
        if let Err(error) = publishing.await {
            tracing::error!(%error, "a publisher did not end in order; this is a bug");
        }
        if !changed {
            return;
        }
    }
}

/// Waits until something else is to be published; false: nothing more is.
async fn changed(parts: &mut Parts, file: &ClientsFile) -> bool {
    loop {
        tokio::select! {
            () = parts.stop.cancelled() => return false,
            changed = parts.file.changed() => if changed.is_err() { return false },
        }
        let now = parts.file.borrow_and_update().clone();
        if (&now.publish, &now.events) != (&file.publish, &file.events) {
            return true;
        }
    }
}

/// What is to be published by a configuration.
pub(crate) fn settings(file: &ClientsFile) -> Settings {
    let member = file.follower.name.as_ref().map(|name| name.as_str().to_owned());
    let publisher = member.unwrap_or_else(super::host_name);
    let mut settings = Settings::default();
    for config in &file.publish {
        match config {
            PublishConfig::Webhook { url, secret, authority, delivery } => {
                settings.couriers.push(webhook(file, &publisher, url, secret.as_ref(), authority.as_deref(), delivery));
            }
            PublishConfig::ZooKeeper { .. } | PublishConfig::Etcd { .. } => {
                settings.targets.extend(target(config, &publisher));
            }
        }
    }
    if let Some(EventsConfig { command, delivery }) = &file.events {
        let command = match command {
            EventsCommand::Shell(line) => EventCommand::Shell(line.clone()),
            EventsCommand::Words(words) => EventCommand::Words(words.clone()),
        };
        let consumer = ConsumerSettings::Command(command);
        settings.couriers.push(courier(file, &publisher, "command of events".to_owned(), delivery, consumer));
    }
    settings
}

/// A record's place; none: it is no record.
fn target(config: &PublishConfig, publisher: &str) -> Option<TargetSettings> {
    let named = |name: &Option<String>| name.clone().unwrap_or_else(|| publisher.to_owned());
    Some(match config {
        PublishConfig::ZooKeeper { hosts, path, user, name, session, within } => {
            let options = pgbaton_zookeeper::Options {
                servers: hosts.iter().map(ToString::to_string).collect(),
                session: *session,
                digest: user.as_ref().map(|(name, password)| (name.clone(), password.reveal().to_owned())),
            };
            let place = Place::ZooKeeper { options, path: path.clone() };
            TargetSettings { title: format!("ZooKeeper {path}"), publisher: named(name), within: *within, place }
        }
        PublishConfig::Etcd { store, path, name, heartbeat, within } => {
            let options = pgbaton_agent::follower_options(&ClientStore::Etcd(store.clone()));
            let place = Place::Etcd { options, key: path.clone(), heartbeat: *heartbeat };
            TargetSettings { title: format!("etcd {path}"), publisher: named(name), within: *within, place }
        }
        PublishConfig::Webhook { .. } => return None,
    })
}

fn webhook(
    file: &ClientsFile,
    publisher: &str,
    url: &str,
    secret: Option<&WebhookSecret>,
    authority: Option<&Path>,
    delivery: &DeliveryConfig,
) -> CourierSettings {
    let secret = secret.map(|secret| match secret {
        WebhookSecret::Text(text) => Secret::Text(text.reveal().to_owned()),
        WebhookSecret::File(path) => Secret::File(path.clone()),
    });
    // Not the rest of the URL: what follows its host may be what lets one in.
    let host = url.split("://").nth(1).and_then(|rest| rest.split(['/', '?']).next()).unwrap_or_default();
    let title = format!("webhook {host}");
    let consumer = ConsumerSettings::Webhook(WebhookSettings {
        url: url.to_owned(),
        secret,
        authority: authority.map(Path::to_owned),
    });
    courier(file, publisher, title, delivery, consumer)
}

fn courier(
    file: &ClientsFile,
    publisher: &str,
    title: String,
    delivery: &DeliveryConfig,
    consumer: ConsumerSettings,
) -> CourierSettings {
    let wanted = |name: &EventName| delivery.only.iter().any(|wanted| wanted == name.as_str());
    let only = (!delivery.only.is_empty()).then(|| EventName::ALL.into_iter().filter(wanted).collect());
    CourierSettings {
        title,
        publisher: publisher.to_owned(),
        outbox: OutboxSettings {
            directory: delivery.outbox.clone(),
            name: delivery.name.clone(),
            only,
            member: file.follower.name.clone().filter(|_| delivery.own),
            events_max: delivery.events_max,
        },
        within: delivery.within,
        retry_for: delivery.retry_for,
        consumer,
    }
}
