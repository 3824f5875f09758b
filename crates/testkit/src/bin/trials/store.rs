//! The store lost in part and as a whole, members started in every order: no `initdb` over data, no second identity, and the
//! cluster is healthy again, or each member says why not.

use std::time::Duration;

use pgbaton_testkit::cluster::{Cluster, Options as ClusterOptions, Part};
use pgbaton_testkit::{clock, wait};
use pgbaton_types::chain;

use crate::report::Report;
use crate::{Context, Outcome, note, with_logs};

/// Longest wait for a healthy cluster: forming, waiting for leases recorded beside the data, rewinds, a new copy.
const HEALTHY: Duration = Duration::from_secs(90);

/// Longest wait for a member to end by SIGTERM, or to listen.
const MEMBER: Duration = Duration::from_secs(40);

/// The orders of three.
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// A cluster with some rows whose identity is known.
struct Trial {
    cluster: Cluster,
    identity: u64,
    rows: usize,
    report: Report,
}

pub(crate) fn run(context: &Context) -> Outcome<Report> {
    let mut cluster = Cluster::new(&context.programs, ClusterOptions::default())?;
    cluster.start_all()?;
    let outcome = cluster.wait_healthy(HEALTHY).map_err(Into::into);
    with_logs(&cluster, outcome)?;
    let identity = cluster.system_id(0)?;
    let report = Report::new("store", context.seed);
    let mut trial = Trial { cluster, identity, rows: 0, report };
    let outcome = trial.all();
    with_logs(&trial.cluster, outcome)?;
    Ok(trial.report)
}

impl Trial {
    fn all(&mut self) -> Outcome {
        self.more_rows()?;
        for order in ORDERS {
            self.stop_all()?;
            self.start_in(&order)?;
            self.check(&format!("stopped, started in order {order:?}"))?;
            self.kill_all()?;
            self.start_in(&order)?;
            self.check(&format!("killed at once, started in order {order:?}"))?;
        }
        for member in 0..self.cluster.size() {
            self.stop(member)?;
            self.cluster.lose_store(member)?;
            self.cluster.start(member)?;
            self.check(&format!("store of member {member} lost"))?;
        }
        for member in 0..self.cluster.size() {
            self.stop(member)?;
            self.cluster.lose_disk(member)?;
            self.cluster.start(member)?;
            self.check(&format!("disk of member {member} lost"))?;
        }
        for order in ORDERS {
            self.stop_all()?;
            self.wipe()?;
            self.start_in(&order)?;
            self.check(&format!("store wiped, started in order {order:?}"))?;
        }
        self.kill_all()?;
        self.wipe()?;
        self.start_in(&ORDERS[0])?;
        self.check("killed at once, store wiped")?;
        self.incomplete()
    }

    /// The store wiped and one listed member missing: two members with data and no history must not choose a primary.
    fn incomplete(&mut self) -> Outcome {
        self.stop_all()?;
        self.wipe()?;
        self.cluster.start(0)?;
        self.cluster.start(1)?;
        self.listens(0)?;
        self.listens(1)?;
        // Longer than any lease that the members may have recorded: it is the missing member that keeps them, not time.
        let until = clock::now() + Duration::from_secs_f64(2.0 * self.cluster.options().ttl);
        wait::until("the end of every recorded lease", HEALTHY, || {
            if clock::now().reached(until) { Ok(()) } else { Err("not yet".to_owned()) }
        })?;
        let states = self.cluster.states()?;
        if states.iter().any(pgbaton_testkit::cluster::ServerState::is_primary) {
            self.report.fail(format!("a primary without history and with a member missing: {states:?}"));
        }
        let reason = wait::until("a member's reason for not leading", HEALTHY, || {
            self.cluster.blocked(0).or_else(|| self.cluster.blocked(1)).ok_or_else(|| "none".to_owned())
        })?;
        self.report.reason("blocked while a listed member is missing", &reason);
        self.cluster.start(2)?;
        self.check("the missing member is back")
    }

    /// Healthy, the same identity everywhere, every row there; then some more rows.
    fn check(&mut self, when: &str) -> Outcome {
        let begun = clock::now();
        if let Err(error) = self.cluster.wait_healthy(HEALTHY) {
            let reasons: Vec<_> = (0..self.cluster.size()).filter_map(|member| self.cluster.blocked(member)).collect();
            if reasons.is_empty() {
                self.report.fail(format!("{when}: not healthy and nobody says why: {error}"));
            } else {
                for reason in &reasons {
                    self.report.reason("not healthy", &format!("{when}: {reason}"));
                }
                self.report.fail(format!("{when}: not healthy: {error}; {}", reasons.join("; ")));
            }
            return Err(format!("{when}: {error}").into());
        }
        self.report.time("until healthy", clock::now().since(begun));
        for member in 0..self.cluster.size() {
            let found = self.cluster.system_id(member)?;
            if found != self.identity {
                self.report.fail(format!("{when}: member {member} has identity {found}, not {}", self.identity));
            }
        }
        let primary = self.cluster.wait_primary(MEMBER)?;
        let rows = self.cluster.sql(primary, "SELECT count(*) FROM pgbaton_trial")?;
        let rows = rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).unwrap_or(0);
        if rows < self.rows {
            self.report.fail(format!("{when}: {rows} of {} rows are left", self.rows));
        }
        self.report.count("restarts", 1);
        note(&format!("{when}: healthy"));
        self.more_rows()
    }

    /// Rows that every standby has before anything else happens: what is lost later is not lost to asynchrony.
    fn more_rows(&mut self) -> Outcome {
        let primary = self.cluster.wait_primary(MEMBER)?;
        self.cluster.sql(
            primary,
            "CREATE TABLE IF NOT EXISTS pgbaton_trial (id bigserial PRIMARY KEY); \
             INSERT INTO pgbaton_trial SELECT FROM generate_series(1, 100)",
        )?;
        self.rows += 100;
        let wanted = self.rows;
        for member in 0..self.cluster.size() {
            self.cluster.awaiting("the rows on a standby", MEMBER, || {
                let rows = self.cluster.sql(member, "SELECT count(*) FROM pgbaton_trial")?;
                let number = rows.first().and_then(|row| row.first()?.clone()).unwrap_or_default();
                Ok(if number == wanted.to_string() { Ok(()) } else { Err(number) })
            })?;
        }
        Ok(())
    }

    fn stop(&mut self, member: usize) -> Outcome {
        let code = self.cluster.stop_member(member, MEMBER)?;
        if code != 0 {
            self.report.fail(format!("member {member} ended with {code} after SIGTERM"));
        }
        Ok(())
    }

    /// SIGTERM to all at once, as when all hosts are shut down.
    fn stop_all(&mut self) -> Outcome {
        for member in 0..self.cluster.size() {
            self.cluster.terminate(member)?;
        }
        for member in 0..self.cluster.size() {
            wait::until("the end of all members", MEMBER, || match self.cluster.pids(member, Part::All) {
                Ok(left) if left.is_empty() => Ok(()),
                Ok(left) => Err(format!("member {member} still has {left:?}")),
                Err(error) => Err(error.to_string()),
            })?;
        }
        Ok(())
    }

    fn kill_all(&mut self) -> Outcome {
        for member in 0..self.cluster.size() {
            self.cluster.kill_member(member)?;
        }
        Ok(())
    }

    fn wipe(&self) -> Outcome {
        for member in 0..self.cluster.size() {
            self.cluster.lose_store(member)?;
        }
        Ok(())
    }

    /// Each one is there before the next one starts.
    fn start_in(&mut self, order: &[usize]) -> Outcome {
        for member in order {
            self.cluster.start(*member)?;
            self.listens(*member)?;
        }
        Ok(())
    }

    fn listens(&self, member: usize) -> Outcome {
        wait::until("a member's REST server", MEMBER, || {
            let answer = self.cluster.rest(member, "GET", "/liveness", "", Duration::from_secs(2));
            answer.map(|_| ()).map_err(|error| chain(&error))
        })?;
        Ok(())
    }
}
