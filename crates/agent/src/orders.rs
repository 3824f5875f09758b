//! What operators ask of this member, from the request to the reply.

use std::time::Duration;

use pgbaton_api::RoleFilter;
use pgbaton_core::decision::StopMode;
use pgbaton_core::observation::{Answer, Directory, Outcome, Server};
use pgbaton_core::{Observation, OperationKind};
use tokio::sync::oneshot;

use crate::event::{Order, OrderReply};
use crate::ha_loop::HaLoop;
use crate::observe::Look;
use crate::scheduled::{Due, Moment, Scheduled};

impl HaLoop {
    /// Takes an order, or says at once why not.
    pub(crate) fn take_order(&mut self, order: Order, reply: oneshot::Sender<OrderReply>) {
        // Whoever asked may have given up: then nobody is there to be told.
        let tell = |reply: oneshot::Sender<OrderReply>, what| drop(reply.send(what));
        match order {
            Order::Reload => {
                self.settings_mut().reload();
                tell(reply, OrderReply::Done);
            }
            Order::Restart { start_within } => {
                self.orders.restart = true;
                self.orders.start_within = start_within;
                self.restart_replies.push(reply);
            }
            Order::ScheduleRestart(_) if self.scheduled.is_some() => {
                tell(reply, OrderReply::Refused("another restart is scheduled".to_owned()));
            }
            Order::ScheduleRestart(request) => {
                let now = self.shown();
                let started = now.sample.as_ref().map(|sample| sample.postmaster_started.as_str());
                self.scheduled = Scheduled::new(request, started);
                tell(reply, OrderReply::Done);
            }
            Order::UnscheduleRestart => tell(
                reply,
                match self.scheduled.take() {
                    Some(_) => OrderReply::Done,
                    None => OrderReply::Refused("no restart is scheduled".to_owned()),
                },
            ),
            Order::Reinitialize if self.context.lease.valid(crate::clock::now(), true).is_some() => {
                tell(reply, OrderReply::Refused("this member leads: it is not rebuilt".to_owned()));
            }
            Order::Reinitialize => {
                self.orders.reinitialize = true;
                tell(reply, OrderReply::Done);
            }
        }
    }

    /// Begins the restart that waits when it is time; says how long it is until then. Only beside a leader, with nothing else under
    /// way, and not in maintenance mode.
    pub(crate) fn scheduled_restart(&mut self, look: &Look, seen: &Observation) -> Option<Duration> {
        let scheduled = self.scheduled.as_ref()?;
        let settings = self.context.config().settings.clone();
        let idle = !self.is_busy() && !self.orders.restart && !self.orders.reinitialize && !self.orders.terminate;
        if settings.paused || !idle || seen.store.cluster.leader.is_none() {
            return None;
        }
        let primary = matches!(seen.local.server, Server::Running { answer: Answer::Primary(_), .. });
        let moment = Moment {
            now: jiff::Timestamp::now(),
            loop_wait: settings.loop_wait,
            postmaster_started: look.sample.as_ref().map(|sample| sample.postmaster_started.as_str()),
            role: if primary { RoleFilter::Primary } else { RoleFilter::Replica },
            version: look.sample.as_ref().map_or(0, |sample| sample.version),
            pending: !self.pending_restart().is_empty(),
        };
        match scheduled.due(&moment) {
            Due::In(left) => return Some(left),
            Due::Now => {
                tracing::info!("it is time for the restart that was asked for");
                self.orders.restart = true;
                self.orders.start_within = scheduled.start_within();
            }
            Due::Never(why) => tracing::info!(why, "the restart that was asked for is dropped"),
        }
        self.scheduled = None;
        Some(Duration::ZERO)
    }

    /// Orders that what is seen has fulfilled already.
    pub(crate) fn settle_orders(&mut self, look: &Look) {
        let empty = look.local.directory == Directory::Empty && matches!(look.local.server, Server::Stopped { .. });
        if self.orders.reinitialize && empty {
            self.orders.reinitialize = false;
        }
    }

    /// An operation ended: a restart is over when the server is up again, or cannot be.
    pub(crate) fn order_progress(&mut self, kind: &OperationKind, outcome: &Outcome) {
        if let (OperationKind::Quarantine { .. }, Outcome::Done) = (kind, outcome) {
            self.orders.reinitialize = false;
        }
        if !self.orders.restart {
            return;
        }
        let reply = match (kind, outcome) {
            (OperationKind::StartPrimary { .. } | OperationKind::StartStandby { .. }, Outcome::Done) => {
                OrderReply::Done
            }
            (
                OperationKind::StartPrimary { .. }
                | OperationKind::StartStandby { .. }
                | OperationKind::Stop { mode: StopMode::Fast },
                Outcome::Failed(why),
            ) => OrderReply::Failed(why.clone()),
            _ => return,
        };
        self.orders.restart = false;
        self.orders.start_within = None;
        for waiting in self.restart_replies.drain(..) {
            // As above.
            drop(waiting.send(reply.clone()));
        }
    }
}
