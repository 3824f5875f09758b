use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgbaton_net::HttpClient;
use pgbaton_testkit::postgres;
use pgbaton_testkit::writer::{Record, Target, Writer, missing_on};
use serde_json::json;
use tokio::time::timeout;

use super::member::{Member, PASSWORD, SUPERUSER};
use super::place::Place;
use super::tree::{Identity, Killed, freeze_sessions, kill_at_once};
use crate::cli::{ClusterView, Failure};

/// How long a member may take to say how things are; most of it is the store's, which elects when a voter is gone.
const LOOK_WITHIN: Duration = Duration::from_millis(1900);

/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// How long a switchover may take to be answered.
const SWITCHOVER_WITHIN: Duration = Duration::from_secs(60);

/// The copy of this program that the members run, so that building it anew meanwhile does not change it.
const PROGRAM: &str = "pgbaton";

/// The three members, and the ways to look at them and to treat them badly.
pub(super) struct Cluster {
    /// The members.
    pub(super) members: Vec<Member>,
    place: Place,
    program: PathBuf,
    http: HttpClient,
}

impl Cluster {
    /// Prepares all files and starts the members.
    pub(super) fn start(place: Place) -> Result<Self, Failure> {
        let bin_dir = postgres::bin_dir().map_err(|error| Failure::because("PostgreSQL is needed", error))?;
        let program = place.directory().join(PROGRAM);
        let own = std::env::current_exe().and_then(|own| std::fs::copy(own, &program));
        own.map_err(|error| Failure::because("cannot copy this program", error))?;
        let members = Member::three(&place, &bin_dir)?;
        let mut cluster = Self { members, place, program, http: HttpClient::new() };
        for member in 0..cluster.members.len() {
            cluster.start_member(member)?;
        }
        Ok(cluster)
    }

    /// Starts a member that does not run.
    pub(super) fn start_member(&mut self, member: usize) -> Result<(), Failure> {
        self.members[member].start(&self.program, &self.place)?;
        let running: Vec<Identity> = self.members.iter().filter_map(Member::identity).collect();
        self.place.record(&running)
    }

    /// Kills everything that a member consists of, at once; its clients' sessions are frozen that much earlier.
    pub(super) async fn kill(&mut self, member: usize, earlier: Duration) -> Result<Killed, Failure> {
        let gone = || Failure::text("the member to be killed does not run");
        let root = self.members[member].identity().ok_or_else(gone)?;
        freeze_sessions(root);
        tokio::time::sleep(earlier).await;
        let killed = kill_at_once(root);
        self.members[member].reap()?;
        Ok(killed)
    }

    /// The cluster as the first of these members that answers sees it; none while none does.
    pub(super) async fn view(&self, asked: &[usize]) -> Option<ClusterView> {
        for member in asked {
            let url = format!("{}/cluster", self.members[*member].url());
            if let Ok(answer) = self.http.get(&url, LOOK_WITHIN).await
                && let Ok(view) = serde_json::from_slice::<ClusterView>(&answer.body)
                && view.stale_ms.is_none()
            {
                return Some(view);
            }
        }
        None
    }

    /// Waits until the cluster, as these members see it, is as wanted. `found` says what it is, or what is missing.
    pub(super) async fn wait<T>(
        &mut self,
        awaited: &str,
        asked: &[usize],
        limit: Duration,
        mut found: impl FnMut(&ClusterView) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let mut seen = "no member answers".to_owned();
        let search = async {
            loop {
                if let Some(view) = self.view(asked).await {
                    match found(&view) {
                        Ok(value) => return Ok(value),
                        Err(instead) => seen = instead,
                    }
                }
                if let Some(words) = self.members.iter_mut().find_map(Member::ended) {
                    return Err(Failure::text(words));
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let outcome = timeout(limit, search).await;
        outcome.unwrap_or_else(|_| {
            let seconds = limit.as_secs();
            Err(Failure::text(format!("waited {seconds} s for {awaited}; last seen: {seen}. Logs: {}", self.logs())))
        })
    }

    /// Waits until one member leads and the two others stream.
    pub(super) async fn wait_complete(&mut self, limit: Duration) -> Result<usize, Failure> {
        let names: Vec<String> = self.members.iter().map(|member| member.name.clone()).collect();
        self.wait("one primary and two streaming standbys", &[0, 1, 2], limit, |view| {
            let states: Vec<String> =
                view.members.iter().map(|m| format!("{} {} {}", m.name, m.role, m.state)).collect();
            let streaming = view.members.iter().filter(|member| member.state == "streaming").count();
            let leader = view.leader().filter(|leader| leader.state == "running" && streaming + 1 == names.len());
            let leader = leader.and_then(|leader| names.iter().position(|name| *name == leader.name));
            leader.ok_or_else(|| states.join(", "))
        })
        .await
    }

    /// Asks for a switchover; gives the answer's text.
    pub(super) async fn switchover(&self, leader: usize, candidate: usize) -> Result<String, Failure> {
        let body = json!({"leader": self.members[leader].name, "candidate": self.members[candidate].name});
        let url = format!("{}/switchover", self.members[leader].url());
        let answer = self.http.post(&url, body.to_string().into_bytes(), SWITCHOVER_WITHIN).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        if answer.status.is_success() { Ok(text) } else { Err(Failure::text(format!("the switchover failed: {text}"))) }
    }

    /// Starts the writer.
    pub(super) fn writer(&self) -> Result<Writer, Failure> {
        Writer::start(&self.target()).map_err(|error| Failure::because("the writer cannot start", error))
    }

    /// The acknowledged rows that a member's server does not have.
    pub(super) async fn missing(&self, record: Record, member: usize) -> Result<Vec<i64>, Failure> {
        let (target, server) = (self.target(), self.members[member].postgres);
        let look = tokio::task::spawn_blocking(move || missing_on(&record, &target, server));
        let looked = look.await.map_err(|error| Failure::because("looking for the rows failed", error))?;
        looked.map_err(|error| Failure::because("cannot look for the rows", error))
    }

    fn target(&self) -> Target {
        let servers: Vec<SocketAddr> = self.members.iter().map(|member| member.postgres).collect();
        let (user, password) = (SUPERUSER.to_owned(), Some(PASSWORD.to_owned()));
        Target { servers, user, password, database: "postgres".to_owned() }
    }

    /// Where the members' words are written.
    pub(super) fn logs(&self) -> String {
        format!("{}/*/member.log", self.place.directory().display())
    }

    /// The members' REST APIs, for `--url`.
    pub(super) fn urls(&self) -> Vec<String> {
        self.members.iter().map(Member::url).collect()
    }

    /// The last words of each member, for a failure: what its server repeats twice a second does not hide what its agent decided.
    pub(super) fn last_words(place: &Place) -> String {
        /// Lines of each log that are the agent's.
        const DECISIONS: usize = 40;
        /// Lines of each log, whoever wrote them.
        const LINES: usize = 10;
        let mut text = String::new();
        for name in Member::NAMES {
            let log = std::fs::read(place.directory().join(name).join(Member::LOG)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let count = log.lines().count();
            let decisions = log.lines().filter(|line| is_the_agents(line)).count();
            let (mut of_agent, mut shown) = (0, Vec::new());
            for (index, line) in log.lines().enumerate() {
                let agents = is_the_agents(line);
                of_agent += usize::from(agents);
                if index + LINES >= count || agents && of_agent + DECISIONS > decisions {
                    shown.push(line);
                }
            }
            text.push_str(&format!("--- {name}\n{}\n", shown.join("\n")));
        }
        text
    }

    /// The program, for commands to type.
    pub(super) fn program(&self) -> &Path {
        &self.program
    }
}

/// Whether a line of a member's log is its agent's and not its server's, whose time has a space in it.
fn is_the_agents(line: &str) -> bool {
    line.as_bytes().get(10) == Some(&b'T')
}
