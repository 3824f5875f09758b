//! The voters of one store, of either kind.

use std::path::Path;
use std::time::Duration;

use pgbaton_testkit::{ETCD, Etcd, Voters as Embedded, wait};

use crate::Outcome;
use crate::client::Client;

/// How long a store may take until it answers.
const READY_TIME: Duration = Duration::from_secs(30);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Kind {
    /// A real etcd
    Etcd,
    /// pgbaton's embedded store
    Embedded,
}

impl Kind {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Embedded => "embedded",
        }
    }
}

/// All voters; they end with this.
pub(crate) enum Voters {
    Etcd(Etcd),
    Embedded(Embedded),
}

impl Voters {
    /// Starts so many, with nothing in them.
    pub(crate) fn start(kind: Kind, members: usize, work: &Path, pgbaton: &Path) -> Outcome<Self> {
        Ok(match kind {
            Kind::Etcd => Self::Etcd(Etcd::start_in(Path::new(ETCD), work, members)?),
            Kind::Embedded => Self::Embedded(Embedded::on_loopback(pgbaton, work, members)?),
        })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.endpoints().len()
    }

    /// `host:port` of one, for clients.
    pub(crate) fn endpoint(&self, number: usize) -> String {
        self.endpoints().swap_remove(number)
    }

    fn endpoints(&self) -> Vec<String> {
        match self {
            Self::Etcd(etcd) => etcd.endpoints(),
            Self::Embedded(voters) => voters.endpoints(),
        }
    }

    /// The numbers of the processes that run.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let pid = |number| match self {
            Self::Etcd(etcd) => etcd.pid(number),
            Self::Embedded(voters) => voters.pid(number),
        };
        (0..self.count()).filter_map(pid).map(|pid| pid.as_raw_nonzero().get()).collect()
    }

    /// Starts one on what is in its directory.
    pub(crate) fn run(&mut self, number: usize) -> Outcome {
        match self {
            Self::Etcd(etcd) => Ok(etcd.start_member(number)?),
            Self::Embedded(voters) => Ok(voters.start_member(number)?),
        }
    }

    /// Kills one.
    pub(crate) fn kill(&mut self, number: usize) {
        match self {
            Self::Etcd(etcd) => etcd.kill(number),
            Self::Embedded(voters) => voters.kill(number),
        }
    }

    /// Waits until every one of them answers and knows the leader.
    pub(crate) async fn ready(&self) -> Outcome {
        for number in 0..self.count() {
            let client = Client::new(&self.endpoint(number))?;
            let looks = wait::until_async("a store that answers", READY_TIME, || async {
                client.put("/bench/ready", Vec::new()).await.map_err(|status| status.to_string())
            });
            looks.await?;
        }
        Ok(())
    }

    /// Who leads, in everybody's words.
    pub(crate) async fn leader(&self) -> Outcome<usize> {
        let clients = (0..self.count()).map(|number| Client::new(&self.endpoint(number)));
        let clients = clients.collect::<Outcome<Vec<_>>>()?;
        let found = wait::until_async("a leader that all voters know", READY_TIME, || async {
            let mut said = Vec::new();
            for client in &clients {
                said.push(client.who().await.map_err(|status| status.to_string())?);
            }
            let leader = said[0].1;
            let agreed = said.iter().all(|(_, known)| *known == leader);
            let number = said.iter().position(|(number, _)| *number == leader);
            number.filter(|_| agreed).ok_or_else(|| format!("{said:?}"))
        });
        Ok(found.await?)
    }
}
