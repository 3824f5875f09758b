//! Properties of the machine.

use std::collections::BTreeMap;

use pgbaton_store::{Command, Compare, EventKind, KeyValue, LeaseId, Machine, Op, Refusal, Txn, limits};
use pgbaton_types::Revision;
use proptest::prelude::*;

fn any_op() -> impl Strategy<Value = Op> {
    let key = "/[ab]/[xyz]";
    prop_oneof![
        (key, any::<u8>(), proptest::option::of(1..4_u64)).prop_map(|(key, value, lease)| Op::Put {
            key,
            value: vec![value],
            lease: lease.map(LeaseId)
        }),
        key.prop_map(Op::delete),
        "/[ab]/".prop_map(|prefix| Op::DeletePrefix { prefix }),
        key.prop_map(Op::get),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let ops = || proptest::collection::vec(any_op(), 0..4);
    prop_oneof![
        4 => (ops(), ops(), "/[ab]/[xyz]", 0..6_u64).prop_map(|(success, failure, key, revision)| {
            let compares = vec![Compare::modified_at(key, Revision(revision))];
            Command::Txn(Txn { compares, success, failure })
        }),
        2 => (1..4_u64).prop_map(|id| Command::LeaseGrant { id: LeaseId(id), ttl_ms: 5_000 }),
        1 => (1..4_u64).prop_map(|id| Command::LeaseRevoke { id: LeaseId(id) }),
        1 => (1..4_u64).prop_map(|id| Command::LeaseExpire { ids: vec![LeaseId(id), LeaseId(id + 1)] }),
    ]
}

proptest! {
    /// Who only sees the events knows the state; revisions grow by one with each change and with nothing else; no key
    /// hangs on a lease that does not exist.
    #[test]
    fn events_tell_the_whole_story(commands in proptest::collection::vec(any_command(), 0..60)) {
        let mut machine = Machine::new();
        let mut mirror: BTreeMap<String, KeyValue> = BTreeMap::new();
        for command in &commands {
            let before = machine.clone();
            let applied = machine.apply(command);
            let expected = before.revision().0 + u64::from(!applied.events.is_empty());
            prop_assert_eq!(machine.revision().0, expected);
            if applied.result.is_err() {
                prop_assert_eq!(&machine, &before);
            }
            for event in applied.events {
                prop_assert_eq!(event.revision, machine.revision());
                match event.kind {
                    EventKind::Put(pair) => drop(mirror.insert(pair.key.clone(), pair)),
                    EventKind::Delete { key } => prop_assert!(mirror.remove(&key).is_some()),
                }
            }
            let leases: Vec<LeaseId> = machine.leases().map(|(id, _)| id).collect();
            for pair in machine.range("") {
                prop_assert!(pair.lease.is_none_or(|lease| leases.contains(&lease)));
            }
        }
        let state: Vec<KeyValue> = mirror.into_values().collect();
        prop_assert_eq!(machine.range(""), state);
    }
}

#[test]
fn limits_hold() {
    let mut machine = Machine::new();
    let too_long = Op::put("/a", vec![0; limits::VALUE_BYTES_MAX + 1]);
    let result = machine.apply(&Command::Txn(Txn::of(vec![too_long]))).result;
    assert!(matches!(result, Err(Refusal::Limit(_))), "{result:?}");
    for number in 0..17 {
        let fill = Op::put(format!("/fill/{number}"), vec![0; limits::VALUE_BYTES_MAX - 100]);
        let result = machine.apply(&Command::Txn(Txn::of(vec![fill]))).result;
        assert_eq!(result.is_ok(), number < 16, "value {number}: {result:?}");
    }
    for ttl_ms in [0, limits::TTL_MS_MIN - 1, limits::TTL_MS_MAX + 1] {
        let result = machine.apply(&Command::LeaseGrant { id: LeaseId(1), ttl_ms }).result;
        assert!(matches!(result, Err(Refusal::Limit(_))), "{ttl_ms} ms: {result:?}");
    }
}

#[test]
fn an_expiry_deletes_in_one_revision_and_passes_over_what_is_gone() {
    let mut machine = Machine::new();
    machine.apply(&Command::LeaseGrant { id: LeaseId(1), ttl_ms: 5_000 }).result.unwrap();
    let ops = vec![Op::put_leased("/a", "x", LeaseId(1)), Op::put_leased("/b", "x", LeaseId(1))];
    machine.apply(&Command::Txn(Txn::of(ops))).result.unwrap();
    let applied = machine.apply(&Command::LeaseExpire { ids: vec![LeaseId(9), LeaseId(1)] });
    assert_eq!(applied.events.len(), 2);
    assert_eq!(applied.events[0].revision, applied.events[1].revision);
    assert!(machine.range("").is_empty());
}
