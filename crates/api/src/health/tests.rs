use serde_json::json;

use super::*;

fn tags(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("no map: {other}"),
    }
}

fn primary(tags: &Map<String, Value>) -> HealthInput<'_> {
    HealthInput {
        path: "/",
        query: "",
        holds_lock: true,
        view_fresh: true,
        paused: false,
        role: Role::Primary,
        state: Some(PostgresState::Running),
        replication_state: None,
        tags,
        leader_position: Lsn(2000),
        sender_position: Lsn::INVALID,
        replayed: Lsn::INVALID,
    }
}

fn replica(tags: &Map<String, Value>) -> HealthInput<'_> {
    HealthInput {
        holds_lock: false,
        role: Role::Replica,
        replication_state: Some("streaming"),
        sender_position: Lsn(2100),
        replayed: Lsn(1500),
        ..primary(tags)
    }
}

/// Path, code of a primary with the key, code of a streaming standby.
const PATH_ROWS: &[(&str, u16, u16)] = &[
    ("/", 200, 503),
    ("/primary", 200, 503),
    ("/master", 200, 503),
    ("/read-write", 200, 503),
    ("/leader", 200, 503),
    ("/standby-leader", 503, 503),
    ("/standby_leader", 503, 503),
    ("/replica", 503, 200),
    ("/read-only", 200, 200),
    ("/health", 200, 200),
    ("/sync", 503, 503),
    ("/synchronous", 503, 503),
    ("/async", 503, 200),
    ("/asynchronous", 503, 200),
    ("/quorum", 503, 503),
    ("/read-only-quorum", 200, 503),
    ("/read-only-sync", 200, 503),
    ("/read-only-synchronous", 200, 503),
    ("/nonsense", 503, 503),
    ("/primary/deeper", 200, 503),
    ("/my-replica-check", 503, 200),
];

#[test]
fn each_path_has_its_code() {
    let none = Map::new();
    for (path, on_primary, on_replica) in PATH_ROWS {
        assert_eq!(health_code(&HealthInput { path, ..primary(&none) }), *on_primary, "primary {path}");
        assert_eq!(health_code(&HealthInput { path, ..replica(&none) }), *on_replica, "replica {path}");
    }
    assert!(is_health_path("/async") && !is_health_path("/nonsense"));
}

#[test]
fn the_key_decides_not_the_server() {
    let none = Map::new();
    let promoting = HealthInput { state: Some(PostgresState::Starting), role: Role::Promoted, ..primary(&none) };
    assert_eq!(health_code(&promoting), 200, "the key is in hand");
    let deposed = HealthInput { holds_lock: false, ..primary(&none) };
    assert_eq!(health_code(&deposed), 503, "a primary without the key");
    let alone = HealthInput { view_fresh: false, paused: true, ..deposed.clone() };
    assert_eq!(health_code(&alone), 200, "paused and without a store the server's role counts");
    assert_eq!(health_code(&HealthInput { view_fresh: false, ..deposed }), 503);
    let blind = HealthInput { path: "/async", view_fresh: false, ..replica(&none) };
    assert_eq!(health_code(&blind), 503, "the paths of synchronous standbys need a fresh view");
}

#[test]
fn queries_narrow_a_replica() {
    let some = tags(json!({"zone": "a b", "clonefrom": true, "n": 5}));
    for (query, code) in [
        ("lag=600", 200),
        ("lag=599", 503),
        ("lag=1kB", 200),
        ("lag=nonsense", 200),
        ("lag=", 200),
        ("replication_state=streaming", 200),
        ("replication_state=in%20archive+recovery", 503),
        ("tag_zone=a%20b", 200),
        ("tag_zone=a+b&tag_zone=c", 200),
        ("tag_zone=c", 503),
        ("tag_clonefrom=true&tag_n=5", 200),
        ("tag_clonefrom=True", 503),
        ("tag_missing=1", 503),
        ("tag_zone=%ZZ", 503),
    ] {
        let input = HealthInput { path: "/replica", query, ..replica(&some) };
        assert_eq!(health_code(&input), code, "{query}");
    }
    let leader = HealthInput { query: "tag_missing=1", ..primary(&some) };
    assert_eq!(health_code(&leader), 200, "tags do not count for a primary");
    let unknown = HealthInput {
        path: "/replica",
        query: "lag=1",
        leader_position: Lsn::INVALID,
        sender_position: Lsn::INVALID,
        ..replica(&some)
    };
    assert_eq!(health_code(&unknown), 200, "a position that nobody knows is no lag");
}

#[test]
fn a_member_that_takes_no_load_is_no_replica() {
    let unbalanced = tags(json!({"noloadbalance": true}));
    for (path, code) in [("/replica", 503), ("/read-only", 503), ("/health", 200)] {
        assert_eq!(health_code(&HealthInput { path, ..replica(&unbalanced) }), code, "{path}");
    }
    let none = Map::new();
    for state in [Some(PostgresState::Starting), None] {
        for path in ["/replica", "/health"] {
            assert_eq!(health_code(&HealthInput { path, state, ..replica(&none) }), 503, "{path} {state:?}");
        }
    }
}

#[test]
fn readiness_wants_the_key_or_a_near_stream() {
    let none = Map::new();
    let code = |health: &HealthInput<'_>, limit| {
        readiness_code(&ReadinessInput { health, received: Lsn(2050), maximum_lag_on_failover: limit })
    };
    assert_eq!(code(&primary(&none), 0), 200);
    assert_eq!(code(&replica(&none), 600), 200);
    assert_eq!(code(&replica(&none), 599), 503);
    assert_eq!(code(&HealthInput { query: "lag=50&mode=write", ..replica(&none) }, 0), 200);
    assert_eq!(code(&HealthInput { query: "lag=50&mode=apply", ..replica(&none) }, 0), 503);
    assert_eq!(code(&HealthInput { replication_state: None, ..replica(&none) }, 600), 503);
    let blind = HealthInput { leader_position: Lsn(0), sender_position: Lsn(0), ..replica(&none) };
    assert_eq!(code(&blind, 600), 503);
}

#[test]
fn liveness_allows_a_primary_half_the_time() {
    for (paused, is_primary, overdue, code) in [
        (false, true, 9_999, 200),
        (false, true, 10_000, 503),
        (false, false, 19_999, 200),
        (false, false, 20_000, 503),
        (true, true, 1_000_000, 200),
    ] {
        assert_eq!(liveness_code(paused, is_primary, overdue, 10_000), code, "{paused} {is_primary} {overdue}");
    }
}
