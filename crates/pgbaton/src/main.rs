//! The pgbaton binary.
fn main() {}
