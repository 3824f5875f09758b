//! The API over a real socket, with a snapshot and a store that the test makes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_api::{Position, PostgresState, PrepareReply, PrepareRequest, Proof, ProveRequest, Role};
use pgbaton_config::{DynamicConfig, Effective, Loaded};
use pgbaton_core::observation::{
    Cluster, Directory, Guard, LeaderKey, Lease, Local, Observation, Orders, Server, StoreView,
};
use pgbaton_core::{Memory, OperationKind, Settings};
use pgbaton_net::{HttpClient, HttpResponse, HttpServer};
use pgbaton_postgres::{Sample, SampledRole};
use pgbaton_store::{BoxFuture, MemoryStore, Op, Outage, Store, Txn};
use pgbaton_types::{BootTime, Epoch, Lsn, Revision, SystemId, TimelineId};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::clock;
use crate::event::{Event, Order, OrderReply};
use crate::shared::{AnswerPeers, GuardView, Shared, Snapshot};

const WITHIN: Duration = Duration::from_secs(20);
const PREFIX: &str = "/service/demo/";

/// Answers for the other members; none of these tests asks.
struct NoPeers;

impl AnswerPeers for NoPeers {
    fn position(&self) -> BoxFuture<'_, Option<Position>> {
        Box::pin(std::future::ready(None))
    }

    fn prepare(&self, request: PrepareRequest) -> BoxFuture<'_, PrepareReply> {
        let reason = Some(format!("{} is not ready", request.candidate));
        Box::pin(std::future::ready(PrepareReply { accepted: false, reason }))
    }

    fn prove(&self, _: ProveRequest) -> BoxFuture<'_, Proof> {
        unreachable!("no test asks for proof")
    }
}

/// A member `a` whose loop is the test.
struct Member {
    url: String,
    http: HttpClient,
    store: Arc<MemoryStore>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    orders: mpsc::Receiver<Event>,
    _server: HttpServer,
}

impl Member {
    async fn start() -> Self {
        let store = Arc::new(MemoryStore::new(clock::now));
        let (snapshots, snapshot) = watch::channel(Arc::new(standby()));
        let (sender, orders) = mpsc::channel(8);
        let shared = Shared {
            snapshot,
            orders: sender,
            store: Arc::<MemoryStore>::clone(&store),
            prefix: PREFIX.into(),
            local: Arc::new(loaded().local),
            peer: Arc::new(NoPeers),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = super::start(listener, shared).unwrap();
        let http = HttpClient::new().with_basic_auth("user", "pass").unwrap();
        Self { url: format!("http://{}", server.address()), http, store, snapshots, orders, _server: server }
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> HttpResponse {
        let method = method.parse().unwrap();
        self.http
            .call(method, &format!("{}{path}", self.url), body.map(|body| body.to_string().into_bytes()), WITHIN)
            .await
            .unwrap()
    }

    async fn expect(&self, method: &str, path: &str, body: Option<Value>, code: u16, text: &str) {
        let response = self.call(method, path, body).await;
        let found = (response.status.as_u16(), String::from_utf8(response.body.to_vec()).unwrap());
        assert_eq!(found, (code, text.to_owned()), "{method} {path}");
    }

    async fn put(&self, pairs: &[(&str, &str)]) {
        let ops = pairs.iter().map(|(key, value)| Op::put(format!("{PREFIX}{key}"), *value)).collect();
        self.store.txn(Txn::of(ops), WITHIN).await.unwrap();
    }

    /// Shows what stands in the store, as the loop does after each change.
    async fn publish(&self) {
        let fresh = self.store.snapshot(PREFIX, WITHIN).await.unwrap();
        let keys: BTreeMap<_, _> =
            fresh.items.into_iter().map(|pair| (pair.key.trim_start_matches(PREFIX).to_owned(), pair)).collect();
        self.snapshots.send_modify(|snapshot| {
            let snapshot = Arc::make_mut(snapshot);
            (snapshot.keys, snapshot.revision) = (Arc::new(keys), fresh.revision);
        });
    }

    fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots.send_modify(|snapshot| change(Arc::make_mut(snapshot)));
    }

    /// A cluster of `a`, which leads, and `b`, both with this member's API.
    async fn two_members(&self) {
        let record = |role: &str| {
            json!({"api_url": format!("{}/patroni", self.url), "role": role, "state": "running"}).to_string()
        };
        let (a, b) = (record("primary"), record("replica"));
        self.put(&[("leader", "a"), ("members/a", &a), ("members/b", &b)]).await;
        self.publish().await;
    }

    /// Waits until the handler has asked for a handover, by the key that it writes.
    async fn asked(&self) -> Value {
        let mut watch = self.store.watch(PREFIX, Revision(1), WITHIN).await.unwrap();
        let found = async {
            loop {
                let pair = self.store.snapshot(&format!("{PREFIX}failover"), WITHIN).await.unwrap().items.pop();
                if let Some(pair) = pair {
                    return serde_json::from_slice(&pair.value).unwrap();
                }
                watch.next().await;
            }
        };
        tokio::time::timeout(WITHIN, found).await.expect("the key `failover` was not written")
    }
}

fn loaded() -> Loaded {
    let text = "{scope: demo, name: a, restapi: {listen: '127.0.0.1:8008', authentication: {username: user, password: pass}}, \
                postgresql: {listen: '127.0.0.1:5432', data_dir: /nowhere/data, authentication: \
                {superuser: {username: postgres, password: x}, replication: {username: rep, password: x}}}}";
    pgbaton_config::load_text("test.yml", text).unwrap()
}

/// A standby that streams from `b`.
fn standby() -> Snapshot {
    let now = clock::now();
    let loaded = loaded();
    let dynamic = DynamicConfig::default();
    let observation = Observation {
        now,
        me: "a".parse().unwrap(),
        local: Local { directory: Directory::Empty, found: None, server: Server::Stopped { since: now } },
        store: StoreView { as_of: Some(now), cluster: led_by("b"), ..StoreView::default() },
        lease: None,
        guard: Guard { alive: true, armed: false },
        peers: BTreeMap::new(),
        operation: None,
        finished: None,
        checkpoint: None,
        orders: Orders::default(),
        memory: Memory::default(),
    };
    let sample = Sample {
        system_id: SystemId(7_000_000_000_000_000_001),
        version: 150_018,
        postmaster_started: "2026-11-20 09:16:05.491248+00:00".to_owned(),
        role: SampledRole::Standby {
            timeline: TimelineId(2),
            received: Some(Lsn(0x300_0148)),
            replayed: Lsn(0x300_0100),
            replay_paused: false,
            replayed_at: None,
            receiver: None,
        },
        replication: Vec::new(),
        slots: Vec::new(),
    };
    Snapshot {
        observation: Arc::new(observation),
        report: Vec::new(),
        unfit: None,
        last_handover: None,
        settings: Settings::default(),
        effective: Arc::new(Effective::of(&loaded.local, &dynamic)),
        local: Arc::new(loaded.local),
        keys: Arc::default(),
        revision: Revision(0),
        sample: Some(Arc::new(sample)),
        pending_restart: Vec::new(),
        scheduled_restart: serde_json::Map::new(),
        state: PostgresState::Running,
        role: Role::Replica,
        guard: GuardView { alive: true, kill_time: Duration::from_secs(1), ..GuardView::default() },
        progress: None,
        store_last_seen: 7,
        next_run: now + Duration::from_secs(3600),
        guarantee: "lease",
        address: None,
        alarms: Vec::new(),
    }
}

fn led_by(name: &str) -> Cluster {
    let leader = LeaderKey { member: name.parse().unwrap(), created: Revision(5), epoch: Epoch(5) };
    Cluster { leader: Some(leader), ..Cluster::default() }
}

/// Makes a leader of the member, whose lease does not run out during a test.
fn lead(snapshot: &mut Snapshot) {
    let mut observation = Observation::clone(&snapshot.observation);
    observation.store.cluster = led_by("a");
    let deadline = BootTime(u64::MAX);
    observation.lease =
        Some(Lease { epoch: Epoch(5), created: Revision(5), granted: Duration::from_secs(10), deadline });
    snapshot.observation = Arc::new(observation);
    snapshot.role = Role::Primary;
}

#[tokio::test]
async fn health_checks_say_who_is_who() {
    let member = Member::start().await;
    let codes =
        [("/", 503), ("/primary", 503), ("/replica", 200), ("/read-only", 200), ("/health", 200), ("/nothing", 503)];
    for (path, code) in codes {
        assert_eq!(member.call("GET", path, None).await.status.as_u16(), code, "standby {path}");
    }
    member.change(lead);
    for (path, code) in [("/", 200), ("/leader", 200), ("/read-write", 200), ("/replica", 503), ("/read-only", 200)] {
        assert_eq!(member.call("GET", path, None).await.status.as_u16(), code, "leader {path}");
        assert_eq!(member.call("HEAD", path, None).await.status.as_u16(), code, "leader HEAD {path}");
    }
    member.expect("GET", "/liveness", None, 200, "").await;
    member.change(|snapshot| snapshot.next_run = BootTime(0));
    member.expect("GET", "/liveness", None, 503, "").await;
    member.expect("POST", "/nothing", None, 501, "Server does not support this operation").await;
}

#[tokio::test]
async fn the_status_is_the_one_of_patroni() {
    let member = Member::start().await;
    let status: Value = serde_json::from_slice(&member.call("GET", "/patroni", None).await.body).unwrap();
    assert_eq!(
        (&status["role"], &status["state"], &status["timeline"]),
        (&json!("replica"), &json!("running"), &json!(2))
    );
    assert_eq!(status["xlog"]["received_location"], json!(0x300_0148));
    assert_eq!(status["database_system_identifier"], "7000000000000000001");
    member.change(|snapshot| snapshot.sample = None);
    let silent: Value = serde_json::from_slice(&member.call("GET", "/patroni", None).await.body).unwrap();
    assert_eq!((&silent["state"], silent.get("xlog")), (&json!("unknown"), None));
    let metrics = member.call("GET", "/metrics", None).await;
    assert!(
        String::from_utf8_lossy(&metrics.body).contains("patroni_postgres_timeline{scope=\"demo\",name=\"a\"}"),
        "{metrics:?}"
    );
}

#[tokio::test]
async fn the_configuration_is_changed_by_compare_and_swap_and_keeps_its_promises() {
    let member = Member::start().await;
    member.expect("GET", "/config", None, 502, "the config key is missing or is not a JSON object").await;
    member.put(&[("config", r#"{"ttl":20}"#)]).await;
    member.publish().await;
    member.expect("GET", "/config", None, 200, r#"{"ttl": 20}"#).await;
    member.expect("PATCH", "/config", Some(json!({"pause": true})), 200, r#"{"pause": true, "ttl": 20}"#).await;
    let refused = member.call("PATCH", "/config", Some(json!({"synchronous_mode": true}))).await;
    assert_eq!(refused.status.as_u16(), 422);
    assert!(String::from_utf8_lossy(&refused.body).contains("synchronous_mode"), "{refused:?}");
    assert_eq!(member.call("PUT", "/config", Some(json!({"ttl": 1}))).await.status.as_u16(), 422);
    assert_eq!(member.call("PATCH", "/config", Some(json!([]))).await.status.as_u16(), 400);
    let stored = member.store.snapshot(&format!("{PREFIX}config"), WITHIN).await.unwrap().items.pop().unwrap();
    assert_eq!(String::from_utf8(stored.value).unwrap(), r#"{"pause":true,"ttl":20}"#);
    let stranger = HttpClient::new().patch(&format!("{}/config", member.url), b"{}".to_vec(), WITHIN).await.unwrap();
    assert_eq!((stranger.status.as_u16(), &*stranger.body), (401, &b"no auth header received"[..]));
}

#[tokio::test]
async fn a_switchover_is_answered_when_the_new_leader_says_so() {
    let member = Member::start().await;
    member.two_members().await;
    let request = json!({"leader": "a", "candidate": "b"});
    let answer = member.expect("POST", "/switchover", Some(request), 200, "Successfully switched over to \"b\"");
    let cluster = async {
        assert_eq!(member.asked().await, json!({"leader": "a", "member": "b"}));
        member.publish().await;
        // The key has changed hands, and the new leader is not up yet: too early for an answer.
        member.put(&[("leader", "b"), ("failover", "{}")]).await;
        member.publish().await;
        member.put(&[("members/b", r#"{"role":"primary","state":"running"}"#)]).await;
        member.publish().await;
    };
    tokio::join!(answer, cluster);
}

#[tokio::test]
async fn a_switchover_that_fails_says_why() {
    let member = Member::start().await;
    member.two_members().await;
    let text = "Switchover failed: b does not stream";
    let answer = member.expect("POST", "/switchover", Some(json!({"leader": "a"})), 503, text);
    let cluster = async {
        member.asked().await;
        member.change(|snapshot| snapshot.last_handover = Some("b does not stream".to_owned()));
        member.put(&[("failover", "{}")]).await;
        member.publish().await;
    };
    tokio::join!(answer, cluster);
}

#[tokio::test]
async fn handovers_that_cannot_be_are_refused_in_the_words_of_patroni() {
    let member = Member::start().await;
    member.two_members().await;
    member
        .put(&[("members/c", r#"{"api_url":"http://127.0.0.1:1/patroni","role":"replica","state":"running"}"#)])
        .await;
    let cases = [
        ("/failover", json!({}), 400, "Failover could be performed only to a specific candidate"),
        ("/switchover", json!({"leader": "b"}), 412, "leader name does not match"),
        ("/switchover", json!({"leader": "a", "candidate": "x"}), 412, "candidate does not exists"),
        ("/switchover", json!({"leader": "a", "candidate": "a"}), 400, "Switchover target and source are the same"),
        ("/failover", json!({"candidate": "c"}), 412, "failover is not possible: no good candidates have been found"),
    ];
    for (path, body, code, text) in cases {
        member.expect("POST", path, Some(body), code, text).await;
    }
    member.expect("DELETE", "/switchover", None, 404, "no switchover is scheduled").await;
    let later = json!({"leader": "a", "scheduled_at": "2099-01-01T00:00:00Z"});
    member.expect("POST", "/switchover", Some(later), 202, "Switchover scheduled").await;
    let cluster: Value = serde_json::from_slice(&member.call("GET", "/cluster", None).await.body).unwrap();
    assert_eq!(cluster["scheduled_switchover"], json!({"at": "2099-01-01T00:00:00+00:00", "from": "a"}));
    member.expect("DELETE", "/switchover", None, 200, "scheduled switchover deleted").await;
}

#[tokio::test]
async fn orders_go_to_the_loop_and_come_back() {
    let mut member = Member::start().await;
    let url = format!("{}/restart", member.url);
    let http = member.http.clone();
    for (outcome, code, text) in [
        (OrderReply::Done, 200, "restarted successfully"),
        (OrderReply::Failed("no space".to_owned()), 503, "restart failed: no space"),
    ] {
        let answer = http.post(&url, Vec::new(), WITHIN);
        let turn = async {
            match member.orders.recv().await {
                Some(Event::Order { order: Order::Restart { .. }, reply }) => reply.send(outcome).unwrap(),
                other => panic!("not a restart: {other:?}"),
            }
        };
        let (answer, ()) = tokio::join!(answer, turn);
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (code, text.as_bytes()));
    }
    member
        .expect("POST", "/restart", Some(json!({"role": "primary"})), 503, "restart conditions are not satisfied")
        .await;
    member.change(|snapshot| {
        let mut observation = Observation::clone(&snapshot.observation);
        let since = observation.now;
        observation.operation = Some(pgbaton_core::observation::Operation { kind: OperationKind::RecoverAlone, since });
        snapshot.observation = Arc::new(observation);
    });
    member.expect("POST", "/restart", None, 503, "recover without upstream already in progress").await;
    member.change(lead);
    member.expect("POST", "/reinitialize", None, 503, "I am the leader, can not reinitialize").await;
}

#[tokio::test]
async fn a_store_that_is_silent_leaves_the_last_view() {
    let member = Member::start().await;
    member.two_members().await;
    let read = || async { serde_json::from_slice::<Value>(&member.call("GET", "/cluster", None).await.body).unwrap() };
    let fresh = read().await;
    assert_eq!((fresh["members"].as_array().unwrap().len(), fresh.get("stale_ms")), (2, None));
    member.store.set_outage(Some(Outage::Unavailable));
    let stale = read().await;
    assert_eq!(stale["members"].as_array().unwrap().len(), 2);
    assert!(stale["stale_ms"].is_u64(), "{stale}");
    member.expect("PATCH", "/config", Some(json!({})), 503, &stale_text(&member).await).await;
}

/// What the store itself says.
async fn stale_text(member: &Member) -> String {
    member.store.snapshot(PREFIX, WITHIN).await.unwrap_err().to_string()
}

#[tokio::test]
async fn explain_names_the_next_leader_and_the_reasons() {
    let member = Member::start().await;
    member.two_members().await;
    member.put(&[("leader", "b"), ("status", r#"{"optime":2000}"#)]).await;
    member.put(&[("members/a", r#"{"role":"replica","state":"running","xlog_location":1000}"#)]).await;
    member.put(&[("members/c", r#"{"role":"replica","state":"starting","tags":{"nofailover":true}}"#)]).await;
    member.publish().await;
    let explained: Value = serde_json::from_slice(&member.call("GET", "/explain", None).await.body).unwrap();
    assert_eq!(explained["lease"]["holder"], "b");
    assert_eq!(explained["guarantee"], "lease");
    assert!(explained["store"]["leads"].is_boolean(), "{explained}");
    let would_lead = explained["would_lead"].as_array().unwrap();
    assert_eq!((&would_lead[0]["member"], &would_lead[0]["eligible"]), (&json!("a"), &json!(true)));
    assert_eq!(would_lead[1]["reasons"].as_array().unwrap().len(), 3, "{explained}");
}

#[tokio::test]
async fn explain_names_the_holder_before_the_store_has_been_read_as_well() {
    let member = Member::start().await;
    let holder = async || {
        let explained: Value = serde_json::from_slice(&member.call("GET", "/explain", None).await.body).unwrap();
        (explained["lease"]["holder"].clone(), explained["epoch"].clone())
    };
    member.change(lead);
    let unread = |snapshot: &mut Snapshot| {
        let mut observation = Observation::clone(&snapshot.observation);
        observation.store = StoreView::default();
        snapshot.observation = Arc::new(observation);
    };
    member.change(unread);
    assert_eq!(holder().await, (json!("a"), json!(5)));
    member.change(|snapshot| {
        let mut observation = Observation::clone(&snapshot.observation);
        observation.lease = None;
        snapshot.observation = Arc::new(observation);
    });
    assert_eq!(holder().await, (Value::Null, Value::Null));
}

#[tokio::test]
async fn members_ask_each_other() {
    let member = Member::start().await;
    let request = json!({"scope": "demo", "candidate": "a", "holder": "b", "epoch": 5});
    let refused = json!({"accepted": false, "reason": "a is not ready"});
    let answer = member.call("POST", "/pgbaton/prepare", Some(request)).await;
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap(), refused);
    assert_eq!(member.call("POST", "/pgbaton/prove", Some(json!({}))).await.status.as_u16(), 400);
    member.expect("GET", "/pgbaton/position", None, 503, "the agent is ending").await;
}
