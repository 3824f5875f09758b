//! The part of etcd's client protocol that pgbaton speaks, for the client and for the server.
//!
//! `proto/` says what there is; `src/generated/` is made from it and checked in, so that no build needs a protobuf compiler.
//! The test `generated` compares the two, and writes them anew with `UPDATE=1`.

/// Keys, values and events.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
pub mod mvccpb {
    include!("generated/mvccpb.rs");
}

/// Requests, answers and services.
#[allow(clippy::all, clippy::pedantic, missing_docs, unreachable_pub, reason = "generated")]
pub mod etcdserverpb {
    include!("generated/etcdserverpb.rs");
}
