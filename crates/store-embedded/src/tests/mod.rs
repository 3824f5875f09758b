//! Tests that need more than the public interface: the forgetful disk, and clusters in this process.

mod cluster;
mod cluster_tests;
mod journal;
mod memory_disk;
mod storage;
