//! A voter of the embedded store without a server: for a third place where only a majority is to be kept.

use std::path::Path;
use std::time::Duration;

use pgbaton_config::{LoadError, Witness};
use pgbaton_core::observation::HostFacts;
use pgbaton_store_embedded::EmbeddedStore;
use pgbaton_types::{Epoch, chain};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::connect;
use crate::host_facts::OwnFacts;
use crate::logging;
use crate::startup::StartError;

/// How long the store may take to end.
const CLOSE_TIME: Duration = Duration::from_secs(5);

/// Runs a witness until SIGTERM or SIGINT; gives the exit code.
pub fn witness(config: Option<&Path>) -> u8 {
    let environment = std::env::vars().collect();
    match pgbaton_config::load_witness(config, &environment) {
        Ok(witness) => run(&witness),
        Err(error) => refuse(&error.into()),
    }
}

fn run(witness: &Witness) -> u8 {
    logging::start(witness.log_level);
    let ended = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| StartError::System { what: "make its threads", source })
        .and_then(|runtime| runtime.block_on(vote(witness)));
    match ended {
        Ok(()) => {
            logging::finish();
            0
        }
        Err(error) => refuse(&error),
    }
}

async fn vote(witness: &Witness) -> Result<(), StartError> {
    let failed = |source| StartError::System { what: "take signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let own = OwnFacts::default();
    // Nothing runs here and nothing is kept here, which the others have to hear before they make or lead a cluster.
    own.set(&HostFacts {
        system_id: None,
        timeline: None,
        promised: Epoch::default(),
        primary_may_run: false,
        lease_left: Duration::ZERO,
    });
    let store = EmbeddedStore::open(connect::embedded(&witness.store, own)?).await?;
    store.prefer_not_leading(true);
    tracing::info!(node = format!("{:016x}", store.status().node_id), "this witness votes and has no server");
    if witness.store.is_single() {
        tracing::warn!("raft.partner_addrs lists nobody: the store is lost with this host");
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    if tokio::time::timeout(CLOSE_TIME, store.shutdown()).await.is_err() {
        tracing::warn!("the store did not close in time");
    }
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a mistake in the start is said whatever the log does")]
fn refuse(error: &StartError) -> u8 {
    logging::finish();
    let text = match error {
        // Its findings carry their own "error:".
        StartError::Config(invalid @ LoadError::Invalid { .. }) => invalid.to_string(),
        error => format!("pgbaton: {}", chain(error)),
    };
    eprintln!("{text}");
    1
}
