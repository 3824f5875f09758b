//! What the simulator is good for: clean seeds stay clean, known bugs are found, and a run can be had again.

use std::process::{Command, Output};

/// Seeds within which every known bug has to be found: several times as many as the rarest one needs.
const SEEDS: u64 = 8_000;

fn simulate(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pgbaton-sim"))
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("the simulator does not start: {error}"))
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_core_as_it_is_breaks_no_invariant() {
    let output = simulate(&["--seeds", "300"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_run_can_be_had_again_byte_for_byte() {
    for seed in ["0", "7", "42"] {
        let (one, other) = (simulate(&["--seed", seed]), simulate(&["--seed", seed]));
        assert!(one.stdout.len() > 10_000, "the trace of seed {seed} has only {} bytes", one.stdout.len());
        assert!(one.stdout == other.stdout, "two runs of seed {seed} differ");
    }
}

#[test]
fn an_unknown_bug_is_refused_by_name() {
    let output = simulate(&["--bug", "nobody-1"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("there is no known bug \"nobody-1\""), "{}", text(&output));
}

/// A run with a known bug has to fail, and to say how it can be had again.
fn finds(bug: &str) {
    let output = simulate(&["--seeds", &SEEDS.to_string(), "--bug", bug]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{bug} was not found in {SEEDS} seeds: {said}");
    assert!(said.contains(&format!("--bug {bug}")), "{said}");
}

macro_rules! found {
    ($($test:ident: $bug:literal,)*) => {
        $(#[test]
        fn $test() {
            finds($bug);
        })*

        #[test]
        fn every_known_bug_has_a_test() {
            let tested = [$($bug),*];
            for (known, _) in pgbaton_core::Bug::ALL {
                assert!(tested.contains(&known), "no test looks for {known}");
            }
        }
    };
}

found! {
    finds_patroni_2779: "patroni-2779",
    finds_patroni_2773: "patroni-2773",
    finds_kubernetes_23731: "kubernetes-23731",
    finds_kubernetes_44887: "kubernetes-44887",
    finds_fabric8_7249: "fabric8-7249",
    finds_deadline_from_reply: "deadline-from-reply",
    finds_patroni_3639: "patroni-3639",
    finds_patroni_2082: "patroni-2082",
    finds_cnpg_2513: "cnpg-2513",
    finds_repmgr_766: "repmgr-766",
    finds_stolon_3065459: "stolon-3065459",
    finds_patroni_1054: "patroni-1054",
    finds_paf_228: "paf-228",
    finds_pgaf_683: "pgaf-683",
    finds_patroni_890: "patroni-890",
    finds_patroni_2220: "patroni-2220",
    finds_patroni_2302: "patroni-2302",
    finds_patroni_2118: "patroni-2118",
    finds_patroni_2970: "patroni-2970",
    finds_keepalived_2361: "keepalived-2361",
}
