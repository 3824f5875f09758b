//! The real keepalived, with the configuration of the documentation: its address follows the state file; and what it says to
//! the built-in template.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use pgbaton_testkit::cluster::{Cluster, Options, Place};
use pgbaton_testkit::{AddressWatch, Launch, Process, user};

use crate::ground::namespaces;
use crate::{LIMIT, options, others, prepared};

/// Where Debian's package has it.
const KEEPALIVED: &str = "/usr/sbin/keepalived";
/// The last number of the address that it has.
const HOST: u8 = 201;

#[test]
fn keepalived_follows_the_state_file() {
    if !user::is_root() {
        return;
    }
    let virtual_address = Some("  state_file: '{directory}/state'\n".to_owned());
    let mut cluster = prepared(Options { place: Place::Namespaces, virtual_address, ..options() });
    let files: Vec<PathBuf> = (0..cluster.size()).map(|member| configure(&cluster, member)).collect();
    for (namespace, file) in namespaces(&cluster).iter().zip(&files) {
        let checked = inside(namespace).args([KEEPALIVED, "-t", "-f"]).arg(file).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    let _keepalived: Vec<Process> = (0..cluster.size()).map(|member| start(&cluster, member, &files[member])).collect();
    let address = cluster.network().unwrap().address(HOST).into();
    let watch = AddressWatch::start(namespaces(&cluster), address);
    cluster.start_all().unwrap();
    cluster.wait_healthy(LIMIT).unwrap();
    for member in 0..cluster.size() {
        takes_the_template(&cluster, member);
    }
    let old = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watch, old);
    let new = others(old)[0];
    let answer = cluster.switchover(old, old, Some(new)).unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    wait_held(&cluster, &watch, new);
    // A member that ends is no primary any more.
    assert_eq!(cluster.stop_member(new, LIMIT).unwrap(), 0);
    let last = cluster.wait_primary(LIMIT).unwrap();
    wait_held(&cluster, &watch, last);
}

/// The documentation's sample with this member's own file and address.
fn configure(cluster: &Cluster, member: usize) -> PathBuf {
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/keepalived.conf");
    let sample = fs::read_to_string(sample).unwrap();
    let directory = cluster.socket_dir(member);
    let network = cluster.network().unwrap();
    let text = sample
        .replace("/run/pgbaton/state", &directory.join("state").display().to_string())
        .replace("10.0.0.9/24", &format!("{}/24", network.address(HOST)));
    assert_ne!(text, sample);
    let file = directory.join("keepalived.conf");
    fs::write(&file, text).unwrap();
    file
}

/// keepalived has nothing to say against what the built-in template makes for this member.
fn takes_the_template(cluster: &Cluster, member: usize) {
    let directory = cluster.socket_dir(member);
    let [config, file] = ["render.yml", "rendered.conf"].map(|name| directory.join(name));
    let vars = format!(
        "{{interface: eth0, address: {}/24, member: {}}}",
        cluster.network().unwrap().address(HOST),
        cluster.name(member)
    );
    let text = format!(
        "scope: test
{}files:
  - path: {}
    template: keepalived
    vars: {vars}
    check: [{KEEPALIVED}, -t, -f, '{{file}}']
",
        cluster.client_section(),
        file.display(),
    );
    fs::write(&config, text).unwrap();
    let mut rendering = inside(&namespaces(cluster)[member]);
    rendering.arg(env!("CARGO_BIN_EXE_pgbaton")).arg("-c").arg(&config).arg("render");
    let output = rendering.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    // It warns on standard error, and ends well with warnings of some kinds.
    let checked = inside(&namespaces(cluster)[member]).args([KEEPALIVED, "-t", "-f"]).arg(&file).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
}

fn inside(namespace: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{namespace}")).arg("--");
    command
}

fn start(cluster: &Cluster, member: usize, file: &std::path::Path) -> Process {
    let directory = cluster.socket_dir(member);
    let pid = |name: &str| directory.join(name).display().to_string();
    let launch = Launch::new("nsenter", directory.join("keepalived.log")).args([
        format!("--net=/run/netns/{}", namespaces(cluster)[member]),
        "--".to_owned(),
        KEEPALIVED.to_owned(),
        "--dont-fork".to_owned(),
        "--log-console".to_owned(),
        "--use-file".to_owned(),
        file.display().to_string(),
        "--pid".to_owned(),
        pid("keepalived.pid"),
        "--vrrp_pid".to_owned(),
        pid("vrrp.pid"),
        "--checkers_pid".to_owned(),
        pid("checkers.pid"),
    ]);
    Process::start(&launch).unwrap()
}

fn wait_held(cluster: &Cluster, watch: &AddressWatch, member: usize) {
    cluster
        .awaiting(&format!("keepalived's address at {}", cluster.name(member)), LIMIT, || {
            let holders = watch.holders();
            Ok(if holders == [member] { Ok(()) } else { Err(format!("{holders:?}")) })
        })
        .unwrap();
}
