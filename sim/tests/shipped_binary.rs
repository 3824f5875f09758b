//! The known bugs are in a package of their own, which nothing that is shipped depends on.

use std::process::Command;

/// The lines of `cargo tree` for the binary that is shipped, with all features that it could be built with.
fn tree() -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--package", "pgbaton", "--edges", "features,no-dev", "--all-features"])
        .current_dir(std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into()))
        .output()
        .unwrap_or_else(|error| panic!("cargo does not start: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_shipped_binary_cannot_contain_a_known_bug() {
    let tree = tree();
    assert!(tree.contains("pgbaton-core v"), "the binary is not built from the core at all:\n{tree}");
    assert!(!tree.contains("pgbaton-core-bugs"), "the package with the bugs is in the binary:\n{tree}");
    assert!(!tree.contains("pgbaton-core feature \"bugs\""), "the bugs are switched on in the binary:\n{tree}");
}
