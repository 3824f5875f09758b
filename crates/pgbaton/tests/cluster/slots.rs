//! The slot of a member that is away is kept for `member_slots_ttl`, so that its WAL does not fill the disk for ever.

use pgbaton_testkit::cluster::Options;

use super::{LIMIT, others, prepared, value, wait_for_value};

#[test]
fn a_member_that_is_gone_for_good_loses_its_slot_and_a_new_one_is_made_when_it_comes_back() {
    let dcs = vec!["member_slots_ttl: 3".to_owned()];
    let mut cluster = prepared(Options { dcs, ..super::options() });
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    let primary = cluster.wait_primary(LIMIT).unwrap();
    let [gone, stays] = others(primary);
    // Somebody's own: never a member's.
    cluster.sql(primary, "SELECT pg_create_physical_replication_slot('own')").unwrap();

    cluster.stop_member(gone, LIMIT).unwrap();
    let slots = |names: [usize; 2]| names.map(|member| format!("'{}'", cluster.name(member))).join(",");
    let count = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name IN ({})", slots([gone, stays]));
    assert_eq!(value(&cluster, primary, &count), "2", "the slot went with the member");
    wait_for_value(&cluster, primary, &count, "1");
    let names = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    assert_eq!(value(&cluster, primary, names), format!("{} own", cluster.name(stays)));

    cluster.start(gone).unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    assert_eq!(value(&cluster, primary, &count), "2");
}
