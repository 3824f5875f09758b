//! What operators ask of this member, from the request to the reply.

use pgbaton_core::OperationKind;
use pgbaton_core::decision::StopMode;
use pgbaton_core::observation::{Directory, Outcome, Server};
use tokio::sync::oneshot;

use crate::event::{Order, OrderReply};
use crate::ha_loop::HaLoop;
use crate::observe::Look;

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
            Order::Restart => {
                self.orders.restart = true;
                self.restart_replies.push(reply);
            }
            Order::Reinitialize if self.context.lease.valid(crate::clock::now(), true).is_some() => {
                tell(reply, OrderReply::Refused("this member leads: it is not rebuilt".to_owned()));
            }
            Order::Reinitialize => {
                self.orders.reinitialize = true;
                tell(reply, OrderReply::Done);
            }
        }
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
        for waiting in self.restart_replies.drain(..) {
            // As above.
            drop(waiting.send(reply.clone()));
        }
    }
}
