use std::sync::Arc;

use openraft::BasicNode;
use openraft::entry::RaftEntry;
use openraft::vote::RaftLeaderId;
use pgbaton_store::{Command, Op, Txn};

use super::memory_disk::{Crash, MemoryDisk};
use crate::codec;
use crate::disk::Disk;
use crate::journal::{Journal, JournalError, Recovered};
use crate::raft_types::Request;
use crate::raft_types::alias::{Entry, LogIdT, Vote};
use crate::snapshot_file::SnapshotFiles;

const SEGMENT_BYTES: u64 = 4 * 1024;

fn log_id(index: u64) -> LogIdT {
    let leader = openraft::vote::leader_id_adv::LeaderId { term: 3, node_id: 7 };
    LogIdT::new(leader.to_committed(), index)
}

fn entry(index: u64) -> (u64, Arc<[u8]>) {
    let command = Command::Txn(Txn::of(vec![Op::put(format!("/key/{index}"), vec![7; 40])]));
    let entry = Entry::new_normal(log_id(index), Request(command));
    (index, codec::encode(&entry).into())
}

fn open(disk: &MemoryDisk) -> Result<(Journal, Recovered), JournalError> {
    Journal::open(Arc::new(disk.clone()), SEGMENT_BYTES)
}

fn indexes(recovered: &Recovered) -> Vec<u64> {
    recovered.entries.iter().map(|(log_id, _)| log_id.index).collect()
}

fn append(journal: &mut Journal, range: std::ops::Range<u64>) {
    let batch: Vec<_> = range.map(entry).collect();
    journal.append(&batch).unwrap();
}

#[test]
fn the_format_on_disk_stays() {
    let disk = MemoryDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    journal.save_vote(&Vote::new(3, 7)).unwrap();
    journal.append(&[(0, codec::encode(&Entry::new_blank(log_id(0))).into())]).unwrap();
    let mut bytes = vec![0; 100];
    disk.open("log-0000000000000001").unwrap().read_at(0, &mut bytes).unwrap();
    let committed: Vec<u8> = (0..COMMITTED.len() / 2)
        .map(|position| u8::from_str_radix(&COMMITTED[2 * position..2 * position + 2], 16).unwrap())
        .collect();
    assert_eq!(bytes, committed);
}

/// State, vote and a blank entry, as version 1 wrote them.
const COMMITTED: &str = "\
    03000000010100000100000000000000000000000000000001000082a95b31\
    04000000010300000200000000000000010000000000000001030700594c8c42\
    0500000001020000030000000000000002000000000000000103070000ebe2406a\
    00000000";

#[test]
fn what_was_written_is_there_after_a_crash_through_many_segments() {
    let mut disk = MemoryDisk::default();
    let mut written = 0;
    let mut first = 0;
    for round in 0..30 {
        let (mut journal, recovered) = open(&disk).unwrap();
        assert_eq!(indexes(&recovered), (first..written).collect::<Vec<_>>(), "round {round}");
        assert_eq!(recovered.vote, (round > 0).then(|| Vote::new(round, 7)));
        append(&mut journal, written..written + 10);
        written += 10;
        journal.save_vote(&Vote::new(round + 1, 7)).unwrap();
        if round % 7 == 6 {
            first = written - 5;
            journal.purge(log_id(first - 1)).unwrap();
        }
        disk = disk.crash(if round % 2 == 0 { Crash::Forget } else { Crash::Tear(round) });
    }
    let segments = disk.names().unwrap().iter().filter(|name| name.starts_with("log-")).count();
    assert!(segments < 6, "{segments} segments: those that were purged were not given back");
}

#[test]
fn a_truncated_entry_does_not_come_back() {
    let mut disk = MemoryDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    append(&mut journal, 0..100);
    journal.truncate_after(Some(log_id(49))).unwrap();
    disk = disk.crash(Crash::Forget);
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered), (0..50).collect::<Vec<_>>());
    append(&mut journal, 50..52);
    disk = disk.crash(Crash::Forget);
    let (mut journal, recovered) = open(&disk).unwrap();
    assert_eq!(indexes(&recovered), (0..52).collect::<Vec<_>>());
    journal.truncate_after(None).unwrap();
    disk = disk.crash(Crash::Forget);
    assert!(indexes(&open(&disk).unwrap().1).is_empty());
}

/// Writes, with a crash in the middle of a batch that nobody was told about, many times over; returns what was
/// acknowledged and missing at the end of any round.
fn torn_rounds(lie_about: Option<&'static str>, rounds: u64) -> Vec<u64> {
    let mut disk = MemoryDisk::default();
    if let Some(prefix) = lie_about {
        disk.lie_about(prefix);
    }
    let mut acknowledged = 0;
    for round in 0..rounds {
        let Ok((mut journal, recovered)) = open(&disk) else { return (0..acknowledged).collect() };
        let found = indexes(&recovered);
        let lost: Vec<u64> = (0..acknowledged).filter(|index| !found.contains(index)).collect();
        if !lost.is_empty() {
            return lost;
        }
        // What was written but not acknowledged may be there, consecutively.
        let next = found.last().map_or(0, |last| last + 1);
        assert_eq!(found, (0..next).collect::<Vec<_>>());
        append(&mut journal, next..next + 8);
        acknowledged = next + 8;
        disk.set_failing(true);
        let unacknowledged: Vec<_> = (acknowledged..acknowledged + 6).map(entry).collect();
        assert!(journal.append(&unacknowledged).is_err());
        disk.set_failing(false);
        disk = disk.crash(Crash::Tear(round.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1));
    }
    Vec::new()
}

#[test]
fn a_torn_tail_is_cut_and_nothing_acknowledged_is_lost() {
    assert_eq!(torn_rounds(None, 60), Vec::<u64>::new());
}

#[test]
fn without_the_sync_of_the_log_or_of_its_directory_the_same_rounds_lose() {
    assert!(!torn_rounds(Some("log-"), 60).is_empty(), "a missing sync of the segments was not noticed");
    // New segments are made under another name and renamed.
    assert!(!torn_rounds(Some(""), 60).is_empty(), "a missing sync of the directory was not noticed");
}

#[test]
fn damage_in_the_middle_is_refused_and_damage_of_the_last_write_is_cut() {
    let disk = MemoryDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    for index in 0..5 {
        append(&mut journal, index..index + 1);
    }
    disk.flip("log-0000000000000001", 150);
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("although it had been synced"), "{error}");
    disk.flip("log-0000000000000001", 150);
    assert_eq!(indexes(&open(&disk).unwrap().1).len(), 5);
}

#[test]
fn a_missing_segment_is_noticed() {
    let disk = MemoryDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    for start in 0..30 {
        append(&mut journal, start * 10..start * 10 + 10);
    }
    disk.remove("log-0000000000000002").unwrap();
    let error = open(&disk).unwrap_err();
    assert!(error.to_string().contains("log-0000000000000002 is missing"), "{error}");
}

#[test]
fn a_full_disk_does_not_stop_a_log_that_is_purged() {
    let disk = MemoryDisk::default();
    let (mut journal, _) = open(&disk).unwrap();
    disk.set_full(true);
    for start in 0..100_u64 {
        append(&mut journal, start..start + 1);
        if start % 10 == 9 {
            journal.purge(log_id(start)).unwrap();
        }
    }
    let (_, recovered) = open(&disk.crash(Crash::Forget)).unwrap();
    assert_eq!(recovered.purged, Some(log_id(99)));
}

#[test]
fn a_torn_snapshot_leaves_the_one_before() {
    for seed in 1..40 {
        let disk = MemoryDisk::default();
        let (mut files, none) = SnapshotFiles::open(&disk).unwrap();
        assert_eq!(none, None);
        files.save(&[1; 5_000]).unwrap();
        files.save(&[2; 5_000]).unwrap();
        disk.set_failing(true);
        assert!(files.save(&[3; 5_000]).is_err());
        disk.set_failing(false);
        let (_, found) = SnapshotFiles::open(&disk.crash(Crash::Tear(seed))).unwrap();
        let found = found.unwrap();
        assert!(found == [2; 5_000] || found == [3; 5_000], "seed {seed}: a mixture");
    }
}

#[test]
fn nodes_are_encoded_as_before() {
    let bytes = codec::encode(&BasicNode::new("db1:2379"));
    assert_eq!(bytes, [&[1, 8][..], b"db1:2379"].concat());
}
