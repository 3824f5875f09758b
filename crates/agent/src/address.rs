//! The virtual address: what the core has decided of it, told to whoever keeps it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pgbaton_address::{Keeper, ManagedBy, Prefixed, Scripts, Settings, Status};
use pgbaton_config::{AddressConfig, LocalConfig};
use pgbaton_core::Address;
use pgbaton_core::address::end;
use pgbaton_types::{BootTime, Epoch};

use crate::clock;
use crate::context::Context;

/// How long is waited until the address has been taken away. It takes a millisecond, and nothing waits longer for it: it ends by itself.
const RELEASE_TIME: Duration = Duration::from_millis(200);

/// The virtual address of this member.
#[derive(Debug)]
pub(crate) struct VirtualAddress {
    /// None: there is none, or not one that could be kept.
    keeper: Option<Keeper>,
    /// Why there is none although one is configured.
    mistake: Option<String>,
    /// What was decided when it was last told.
    told: Mutex<Option<Address>>,
}

impl VirtualAddress {
    /// As this member's file has it. A mistake there keeps nobody from leading.
    pub(crate) fn start(local: &LocalConfig) -> Self {
        let (keeper, mistake) = match &local.address {
            Ok(None) => (None, None),
            Ok(Some(config)) => match Keeper::start(settings(config, &local.scope)) {
                Ok(keeper) => (Some(keeper), None),
                Err(error) => (None, Some(format!("its thread cannot be started: {error}"))),
            },
            Err(mistake) => (None, Some(mistake.clone())),
        };
        Self { keeper, mistake, told: Mutex::default() }
    }

    /// Does what was decided. Waits only for the address to be taken away.
    pub(crate) async fn obey(&self, context: &Context, decided: Address) {
        let Some(keeper) = &self.keeper else { return };
        if *self.told() == Some(decided) {
            return;
        }
        let held = match decided {
            Address::Held { epoch } | Address::Kept { epoch } => {
                // Strictly by the deadline, in a pause as well.
                let held = context.lease.valid(clock::now(), false).filter(|held| held.lease.epoch == epoch);
                // Lost since it was decided; the next decision knows.
                let Some(held) = held else { return };
                end(held.lease.deadline, context.config().settings.kill_time)
            }
            Address::Gone => BootTime::default(),
        };
        match decided {
            Address::Held { epoch } => keeper.hold(epoch, held),
            Address::Kept { epoch } => keeper.keep(epoch, held),
            Address::Gone => self.leave().await,
        }
        *self.told() = Some(decided);
    }

    /// The lease was renewed.
    pub(crate) fn renewed(&self, epoch: Epoch, deadline: BootTime, kill_time: Duration) {
        if let Some(keeper) = &self.keeper {
            keeper.prolong(epoch, end(deadline, kill_time));
        }
    }

    /// Takes the address away before the server is told to stop.
    pub(crate) async fn leave(&self) {
        let Some(keeper) = &self.keeper else { return };
        if !keeper.release().within(RELEASE_TIME).await {
            tracing::error!("the virtual address was not taken away; if it is still there, it ends with its lifetime");
        }
    }

    /// The agent ends, and no other is started.
    pub(crate) async fn finish(&self, within: Duration) {
        let Some(keeper) = &self.keeper else { return };
        if !keeper.finish().within(within).await {
            tracing::warn!("scripts of the virtual address have not ended in time");
        }
    }

    /// How it fares; none: there is none.
    pub(crate) fn status(&self) -> Option<Status> {
        self.keeper.as_ref().map(Keeper::status)
    }

    /// What an operator must know of it.
    pub(crate) fn problems(&self) -> Vec<String> {
        let found = self.status().map(|status| status.problems).unwrap_or_default();
        found.iter().chain(&self.mistake).map(|problem| format!("virtual address: {problem}")).collect()
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Option<Address>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn settings(config: &AddressConfig, scope: &str) -> Settings {
    let AddressConfig { interface, addresses, announce_interval, state_file, .. } = config.clone();
    Settings {
        name: scope.to_owned(),
        interface,
        addresses: addresses.into_iter().map(|(ip, prefix)| Prefixed { ip, prefix }).collect(),
        managed_by: if config.by_scripts { ManagedBy::Scripts } else { ManagedBy::Pgbaton },
        announce_interval,
        state_file,
        scripts: Scripts {
            notify: config.notify.clone(),
            notify_master: config.notify_master.clone(),
            notify_backup: config.notify_backup.clone(),
            notify_fault: config.notify_fault.clone(),
            notify_stop: config.notify_stop.clone(),
            priority: config.priority,
            up: config.upscript.clone(),
            down: config.downscript.clone(),
            extra: config.xparam.clone(),
            within: config.within,
        },
    }
}
