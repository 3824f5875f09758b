//! Which package may depend on which: the architecture as a table.

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::run::{self, Outcome, failure};

/// Every package of the workspace with those of ours that it may depend on. A new edge is a decision about the
/// architecture: it is made in ARCHITECTURE.md and then here.
const ALLOWED: [(&str, &[&str]); 24] = [
    ("pgbaton-types", &[]),
    ("pgbaton-sys", &[]),
    ("pgbaton-net", &[]),
    ("pgbaton-core", &["pgbaton-types"]),
    ("pgbaton-config", &["pgbaton-core", "pgbaton-types"]),
    ("pgbaton-store", &["pgbaton-types"]),
    ("pgbaton-etcd-proto", &[]),
    ("pgbaton-store-embedded", &["pgbaton-store", "pgbaton-net", "pgbaton-types", "pgbaton-sys", "pgbaton-etcd-proto"]),
    ("pgbaton-store-etcd", &["pgbaton-store", "pgbaton-net", "pgbaton-types", "pgbaton-etcd-proto"]),
    ("pgbaton-postgres", &["pgbaton-types", "pgbaton-net", "pgbaton-sys"]),
    ("pgbaton-api", &["pgbaton-types"]),
    ("pgbaton-guard", &["pgbaton-sys"]),
    ("pgbaton-agent", &LIBRARIES),
    ("pgbaton", &EVERYTHING),
    (
        "pgbaton-testkit",
        &[
            "pgbaton-api",
            "pgbaton-types",
            "pgbaton-sys",
            "pgbaton-postgres",
            "pgbaton-config",
            "pgbaton-etcd-proto",
            "pgbaton-zookeeper",
        ],
    ),
    ("pgbaton-sim", &["pgbaton-core", "pgbaton-core-bugs", "pgbaton-store", "pgbaton-types"]),
    // The core's sources with known bugs as switches: for the simulator, and for nobody who ships.
    ("pgbaton-core-bugs", &["pgbaton-types"]),
    ("xtask", &[]),
    ("pgbaton-pooler", &["pgbaton-api", "pgbaton-sys", "pgbaton-types"]),
    ("pgbaton-address", &["pgbaton-core", "pgbaton-sys", "pgbaton-types"]),
    ("pgbaton-render", &["pgbaton-api", "pgbaton-sys", "pgbaton-types"]),
    ("pgbaton-zookeeper", &[]),
    (
        "pgbaton-publish",
        &["pgbaton-api", "pgbaton-store", "pgbaton-store-etcd", "pgbaton-sys", "pgbaton-types", "pgbaton-zookeeper"],
    ),
    ("pgbaton-router", &["pgbaton-api", "pgbaton-net", "pgbaton-sys", "pgbaton-types"]),
];

const LIBRARIES: [&str; 12] = [
    "pgbaton-address",
    "pgbaton-types",
    "pgbaton-core",
    "pgbaton-config",
    "pgbaton-store",
    "pgbaton-store-embedded",
    "pgbaton-store-etcd",
    "pgbaton-postgres",
    "pgbaton-sys",
    "pgbaton-net",
    "pgbaton-api",
    "pgbaton-guard",
];

const EVERYTHING: [&str; 18] = [
    "pgbaton-types",
    "pgbaton-core",
    "pgbaton-config",
    "pgbaton-store",
    "pgbaton-store-embedded",
    "pgbaton-store-etcd",
    "pgbaton-postgres",
    "pgbaton-sys",
    "pgbaton-net",
    "pgbaton-api",
    "pgbaton-guard",
    "pgbaton-agent",
    "pgbaton-pooler",
    "pgbaton-publish",
    "pgbaton-zookeeper",
    "pgbaton-render",
    "pgbaton-router",
    "pgbaton-testkit",
];

/// Crates of others that a package must not even be able to call: the core is pure, the guard is small.
const FORBIDDEN: [(&str, &[&str]); 2] = [
    ("pgbaton-core", &["tokio", "tracing", "rand", "rustix", "libc", "jiff"]),
    ("pgbaton-guard", &["tokio", "tracing", "serde", "serde_json"]),
];

/// Reads `cargo metadata` and returns the violations.
pub(super) fn check() -> Outcome<Vec<String>> {
    let mut command = MetadataCommand::new();
    command.current_dir(run::root()).no_deps();
    let metadata = command.exec().map_err(|error| failure!("`cargo metadata` failed: {error}"))?;
    Ok(violations(&edges(&metadata)))
}

/// One dependency: who depends, on what, and whether only its tests do.
struct Edge {
    from: String,
    to: String,
    only_tests: bool,
    ours: bool,
    features: Vec<String>,
}

fn edges(metadata: &Metadata) -> Vec<Edge> {
    let packages = metadata.packages.iter();
    let edge = |from: &str, dependency: &cargo_metadata::Dependency| Edge {
        from: from.to_owned(),
        to: dependency.name.clone(),
        only_tests: dependency.kind == DependencyKind::Development,
        ours: dependency.path.is_some(),
        features: dependency.features.clone(),
    };
    packages
        .flat_map(|package| package.dependencies.iter().map(move |dependency| edge(&package.name, dependency)))
        .collect()
}

fn violations(edges: &[Edge]) -> Vec<String> {
    let mut found = Vec::new();
    for Edge { from, to, only_tests, ours, features } in edges {
        let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| name == from) else {
            found.push(format!("{from}: unknown package: give it a row in xtask/src/tidy/edges.rs"));
            continue;
        };
        // Tests of every package may use the test kit: such an edge never reaches what is shipped.
        let for_tests = *only_tests && to == "pgbaton-testkit";
        if *ours && !for_tests && !allowed.contains(&to.as_str()) {
            found.push(format!("{from}: must not depend on {to}: the table in ARCHITECTURE.md has no such edge"));
        }
        if to == "pgbaton-core" && features.iter().any(|feature| feature == "bugs") {
            found.push(format!("{from}: must not switch on the known bugs of {to}"));
        }
        let forbidden = FORBIDDEN.iter().any(|(name, crates)| name == from && crates.contains(&to.as_str()));
        if forbidden && !only_tests {
            found.push(format!("{from}: must not depend on {to}: see the invariants in ARCHITECTURE.md"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(from: &str, to: &str, only_tests: bool, ours: bool) -> Edge {
        Edge { from: from.into(), to: to.into(), only_tests, ours, features: Vec::new() }
    }

    #[test]
    fn allowed_edges_pass() {
        let edges = [
            edge("pgbaton-core", "pgbaton-types", false, true),
            edge("pgbaton-core", "serde", false, false),
            edge("pgbaton-guard", "pgbaton-testkit", true, true),
        ];
        assert_eq!(violations(&edges), Vec::<String>::new());
    }

    #[test]
    fn each_kind_of_forbidden_edge_is_named() {
        for (edge, message) in [
            (edge("pgbaton-core", "pgbaton-store", false, true), "pgbaton-core: must not depend on pgbaton-store"),
            (edge("pgbaton-core", "pgbaton-store", true, true), "pgbaton-core: must not depend on pgbaton-store"),
            (
                edge("pgbaton-guard", "pgbaton-testkit", false, true),
                "pgbaton-guard: must not depend on pgbaton-testkit",
            ),
            (edge("pgbaton-core", "tokio", false, false), "pgbaton-core: must not depend on tokio"),
            (edge("pgbaton-new", "serde", false, false), "pgbaton-new: unknown package"),
        ] {
            let found = violations(&[edge]);
            assert_eq!(found.len(), 1, "{message}");
            assert!(found[0].starts_with(message), "{}", found[0]);
        }
        let bugs = Edge { features: vec!["bugs".into()], ..edge("pgbaton-agent", "pgbaton-core", false, true) };
        assert_eq!(violations(&[bugs]), ["pgbaton-agent: must not switch on the known bugs of pgbaton-core"]);
    }
}
