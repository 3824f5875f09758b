//! Tests that need more than the public interface: the forgetful disk, and clusters in this process.

mod cluster;
mod cluster_tests;
mod disk_tests;
mod journal;
mod lease_tests;
mod memory_disk;
mod process;
mod process_tests;
mod storage;
