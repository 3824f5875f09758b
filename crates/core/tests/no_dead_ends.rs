//! **L5, no dead ends**: in every combination of what a member can see, some step settles the matter with a reason, the
//! member looks again in time, and no rule of safety is broken. Half a million combinations, most of which no run ever
//! reaches: the simulator checks the same on the states that runs do reach.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use pgbaton_core::observation::{
    Answer, Cluster, ControlState, Database, Directory, FailoverRequest, Guard, Initialize, LeaderKey, Lease, Local,
    MemberFacts, Orders, PrimaryStatus, Reservation, Server, StandbyStatus, StoreView, Work,
};
use pgbaton_core::{Memory, Observation, Settings, Verdict, decide, safety};
use pgbaton_types::{BootTime, Epoch, Lsn, MemberName, Revision, SystemId, TimelineHistory, TimelineId};

const NOW: BootTime = BootTime(1_000_000_000_000);
const EPOCH: Epoch = Epoch(12);

fn name(text: &str) -> MemberName {
    text.parse().unwrap()
}

fn directories() -> Vec<Directory> {
    let mut all = vec![
        Directory::Unreadable { error: "input/output error".to_owned() },
        Directory::Empty,
        Directory::Foreign { found: "lost+found".to_owned() },
    ];
    all.extend([Work::Bootstrap, Work::Clone, Work::Rewind].map(|work| Directory::Incomplete { work }));
    let states = [
        ControlState::ShutDown,
        ControlState::ShutDownInRecovery,
        ControlState::InProduction,
        ControlState::InRecovery,
    ];
    for state in states {
        for (system, end) in [(7, Some(Lsn(0x3000))), (7, None), (8, Some(Lsn(0x3000)))] {
            let history = TimelineHistory::root(TimelineId(1));
            all.push(Directory::Database(Database {
                system_id: SystemId(system),
                state,
                history,
                end,
                rewindable: true,
            }));
        }
    }
    all
}

fn servers() -> Vec<Server> {
    let history = TimelineHistory::root(TimelineId(1));
    let standby = |upstream: Option<&str>, streaming| {
        Answer::Standby(StandbyStatus {
            history: history.clone(),
            received: Lsn(0x3000),
            reported_received: Lsn(0x3000),
            replayed: Lsn(0x3000),
            replay_paused: false,
            upstream: upstream.map(name),
            streaming,
        })
    };
    let primary =
        Answer::Primary(PrimaryStatus { history: history.clone(), position: Lsn(0x3000), checkpointed: true });
    let answers =
        [Answer::Starting, Answer::Silent { since: NOW }, primary, standby(Some("b"), true), standby(None, false)];
    let running =
        |guarded, promoting| answers.clone().map(|answer| Server::Running { guarded, since: NOW, promoting, answer });
    let mut all = vec![Server::Stopped { since: NOW }, Server::Dying { since: NOW }];
    all.extend(running(true, false));
    all.extend(running(true, true));
    all.extend(running(false, false));
    all
}

fn failovers() -> [Option<FailoverRequest>; 4] {
    let request = |from: Option<&str>, to: &str, handed_over| {
        Some(FailoverRequest {
            leader: from.map(name),
            candidate: Some(name(to)),
            handed_over,
            due: None,
            revision: Revision(60),
        })
    };
    [None, request(None, "a", false), request(Some("b"), "a", true), request(Some("a"), "b", false)]
}

fn orders() -> [Orders; 4] {
    let none = Orders::default();
    [
        none.clone(),
        Orders { terminate: true, ..none.clone() },
        Orders { restart: true, ..none.clone() },
        Orders { reinitialize: true, ..none },
    ]
}

/// The own lease and the leader key: none and nobody, another's, a valid one, one past its deadline, one whose key is gone,
/// a key with this name but no lease.
fn leases() -> Vec<(Option<Lease>, Option<LeaderKey>)> {
    let key = |member: &str| Some(LeaderKey { member: name(member), created: Revision(EPOCH.0), epoch: EPOCH });
    let lease =
        |deadline| Some(Lease { epoch: EPOCH, created: Revision(EPOCH.0), granted: Duration::from_secs(10), deadline });
    let (later, past) = (NOW + Duration::from_secs(9), NOW - Duration::from_secs(1));
    vec![
        (None, None),
        (None, key("b")),
        (None, key("a")),
        (lease(later), key("a")),
        (lease(past), key("a")),
        (lease(later), None),
        (lease(later), key("b")),
    ]
}

fn cluster(initialize: Initialize, leader: Option<LeaderKey>, failover: Option<FailoverRequest>) -> Cluster {
    let member = |primary| MemberFacts { nofailover: false, has_data: true, primary };
    Cluster {
        initialize,
        members: BTreeMap::from([(name("a"), member(false)), (name("b"), member(leader.is_some()))]),
        leader,
        position: Lsn(0x3000),
        history: Some(TimelineHistory::root(TimelineId(1))),
        history_epoch: None,
        reserved: Some(Reservation { timeline: TimelineId(1), revision: Revision(5) }),
        failover,
        base: 0,
        poolers: BTreeMap::new(),
    }
}

fn check(settings: &Settings, seen: &Observation) {
    let decision = decide(settings, seen);
    let last = decision.report.last().expect("a decision has a report");
    let settled = match &last.verdict {
        Verdict::Taken(why) | Verdict::Blocked(why) => !why.is_empty(),
        Verdict::NotApplicable(_) => false,
    };
    assert!(settled, "nothing settles this: {last}\n{seen:#?}");
    let broken = safety::check(settings, seen, &decision);
    assert!(broken.is_empty(), "{broken:?}: {:?}\n{seen:#?}", decision.actions);
    assert!(decision.wake_at <= seen.now + settings.loop_wait, "looks again too late\n{seen:#?}");
}

#[test]
fn every_state_has_a_way_on() {
    let mut observation = Observation {
        now: NOW,
        me: name("a"),
        local: Local {
            directory: Directory::Empty,
            found: Some(ControlState::InRecovery),
            server: Server::Stopped { since: NOW },
        },
        store: StoreView { as_of: None, revision: Revision(100), cluster: Cluster::default(), listed: Vec::new() },
        lease: None,
        guard: Guard { alive: true, armed: false },
        peers: BTreeMap::new(),
        operation: None,
        finished: None,
        checkpoint: None,
        orders: Orders::default(),
        memory: Memory::default(),
    };
    let initialize = [
        Initialize::Absent,
        Initialize::UnderWay { mine: true },
        Initialize::UnderWay { mine: false },
        Initialize::Done(SystemId(7)),
    ];
    let mut looked_at = 0_u32;
    for paused in [false, true] {
        let settings = Settings { paused, use_pg_rewind: true, ..Settings::default() };
        for directory in directories() {
            observation.local.directory = directory;
            for server in servers() {
                observation.local.server = server;
                for (lease, leader) in leases() {
                    observation.lease = lease;
                    observation.guard.armed = lease.is_some();
                    for known in initialize {
                        for failover in failovers() {
                            observation.store.cluster = cluster(known, leader.clone(), failover);
                            for as_of in [Some(NOW), Some(NOW - Duration::from_secs(60))] {
                                observation.store.as_of = as_of;
                                for order in orders() {
                                    observation.orders = order;
                                    check(&settings, &observation);
                                    looked_at += 1;
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    assert!(looked_at > 300_000, "only {looked_at} combinations");
}
