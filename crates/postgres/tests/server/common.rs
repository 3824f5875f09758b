//! Starts real servers. Only here is a postmaster started without a guard.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{self, File, Permissions};
use std::future::{Future, Ready, ready};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pgbaton_postgres::{
    Authentication, ControlFile, Credentials, HostPort, Installation, LocalClient, Recovery, Secret, ServerSignal,
    ServerSpec, ServerVersion, SignalError, SqlTimeouts, StartAs, ToolOption, Upstream, base_backup, initdb,
    prepare_start, wait_ready, wait_streaming,
};
use pgbaton_sys::Signal;
use pgbaton_sys::child::{ChildSetup, Credentials as OsCredentials};
use rustix::process::{Pid, geteuid, kill_process};

pub(crate) const BIN_DIR: &str = "/usr/lib/postgresql/15/bin";
/// What anything here may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// Set in the process that runs a test as the user `postgres`.
const INNER: &str = "PGBATON_TEST_INNER";

/// A test with servers: as root it runs in a process of the user `postgres`, because servers refuse to be root's.
macro_rules! server_test {
    (async fn $name:ident() $body:block) => {
        #[test]
        fn $name() {
            crate::common::run(concat!(module_path!(), "::", stringify!($name)), async $body);
        }
    };
}
pub(crate) use server_test;

pub(crate) fn run(test: &str, body: impl Future<Output = ()>) {
    if geteuid().is_root() {
        return run_as_postgres(test);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(body);
}

fn run_as_postgres(test: &str) {
    let (_, name) = test.split_once("::").unwrap();
    let credentials = OsCredentials::of_user("postgres").unwrap().expect("there is no user postgres");
    // The user may not be allowed to reach the executable where it is: root's home is closed to others.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    let (built, program) = (std::env::current_exe().unwrap(), directory.path().join("test"));
    if fs::hard_link(&built, &program).is_err() {
        fs::copy(&built, &program).unwrap();
    }
    let mut command = Command::new(program);
    command.args(["--exact", name, "--nocapture"]).env(INNER, "1").env("HOME", "/nonexistent").current_dir("/");
    ChildSetup { credentials: Some(credentials), parent_death_signal: Some(Signal::KILL), ..ChildSetup::default() }
        .apply(&mut command);
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && shown.contains("1 passed"),
        "{shown}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A port that no other test holds, until dropped. The UDP port of the same number is the lock: nothing is left behind.
struct Port(u16, #[expect(dead_code, reason = "held, not read")] UdpSocket);

impl Port {
    /// Below the ephemeral ports, so that no outgoing connection gets it.
    fn take() -> Self {
        let first = u16::try_from(std::process::id() % 8000).unwrap();
        for port in (0..8000).map(|step| 21_000 + (first + step) % 8000) {
            let Ok(lock) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
            if TcpListener::bind(("127.0.0.1", port)).is_ok() {
                return Self(port, lock);
            }
        }
        panic!("no free port");
    }
}

/// A directory for the servers of one test.
pub(crate) fn scratch() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("pgbaton-postgres-").tempdir().unwrap()
}

/// Lets a tool leave its files to the kernel: to sync each of them may take longer than `PATIENCE` on a slow disk, and
/// no test takes the power away.
pub(crate) fn no_sync() -> [ToolOption; 1] {
    [ToolOption::Flag("no-sync".into())]
}

/// One server and everything that is needed to reach it. Killed when dropped.
pub(crate) struct Server {
    pub(crate) spec: ServerSpec,
    pub(crate) client: LocalClient,
    child: Option<Child>,
    log: PathBuf,
    _port: Port,
}

pub(crate) fn superuser() -> Credentials {
    Credentials::new("postgres", Some(Secret::new(r"super:s\ecret'1")))
}

impl Server {
    /// Nothing but a place and a name.
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        let port = Port::take();
        let hba = [
            "local all all scram-sha-256",
            "host all all 127.0.0.1/32 scram-sha-256",
            "host replication all 127.0.0.1/32 scram-sha-256",
        ];
        let spec = ServerSpec {
            name: name.parse().unwrap(),
            scope: "demo".to_owned(),
            data_dir: root.join(name),
            installation: Installation::in_dir(BIN_DIR),
            listen_addresses: "127.0.0.1".to_owned(),
            port: port.0,
            connect_address: HostPort::new("127.0.0.1", port.0),
            unix_socket_directories: vec![root.to_owned()],
            authentication: Authentication {
                superuser: superuser(),
                replication: Credentials::new("replicator", Some(Secret::new("repl:pass"))),
                rewind: Some(Credentials::new("rewinder", Some(Secret::new("rewind-pass")))),
            },
            database: "postgres".to_owned(),
            parameters: BTreeMap::from([
                ("shared_buffers".to_owned(), "8MB".to_owned()),
                ("fsync".to_owned(), "off".to_owned()),
                ("log_statement".to_owned(), "all".to_owned()),
            ]),
            pg_hba: Some(hba.map(str::to_owned).to_vec()),
            pg_ident: None,
            pgpass: root.join(format!("{name}.pgpass")),
            pg_ctl_timeout: PATIENCE,
        };
        let client = LocalClient::new(&spec, SqlTimeouts { connect: PATIENCE, query: PATIENCE });
        Self { client, child: None, log: root.join(format!("{name}.log")), spec, _port: port }
    }

    /// A primary with pgbaton's users.
    pub(crate) async fn primary(root: &Path, name: &str) -> Self {
        Self::new(root, name).bootstrap().await
    }

    pub(crate) async fn bootstrap(mut self) -> Self {
        initdb(&self.spec, &no_sync(), PATIENCE).await.unwrap();
        self.start(StartAs::Primary, &Recovery::default()).await;
        self.client.create_users(&self.spec.authentication).await.unwrap();
        self
    }

    /// A streaming standby of `primary`.
    pub(crate) async fn standby_of(root: &Path, name: &str, primary: &mut Server) -> Self {
        Self::new(root, name).clone_from(primary).await
    }

    pub(crate) async fn clone_from(mut self, primary: &mut Server) -> Self {
        primary.client.ensure_slots(&[self.spec.name.clone()]).await.unwrap();
        base_backup(&self.spec, &self.upstream(primary), &no_sync(), PATIENCE, |_| ()).await.unwrap();
        self.start(StartAs::Standby, &Recovery::from_upstream(self.upstream(primary))).await;
        let signals = self.signals();
        wait_streaming(&mut self.client, &primary.spec.connect_address, signals, PATIENCE).await.unwrap();
        self
    }

    pub(crate) fn upstream(&self, primary: &Server) -> Upstream {
        Upstream { address: primary.spec.connect_address.clone(), slot: Some(self.spec.name.slot_name()) }
    }

    pub(crate) fn control(&self) -> ControlFile {
        ControlFile::read(&self.spec.data_dir).unwrap()
    }

    pub(crate) async fn start(&mut self, start_as: StartAs, recovery: &Recovery) {
        self.spawn(start_as, recovery);
        let ready = wait_ready(&self.client, PATIENCE).await;
        assert!(ready.is_ok(), "{ready:?}\n{}", self.log());
    }

    pub(crate) fn spawn(&mut self, start_as: StartAs, recovery: &Recovery) {
        assert!(self.child.is_none(), "it runs already");
        let start = prepare_start(&self.spec, start_as, recovery, &self.control()).unwrap().command;
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut command = Command::new(&start.program);
        command.arg0(&start.arguments[0]).args(&start.arguments[1..]).current_dir(&start.directory);
        command.env_clear().envs(start.environment).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        ChildSetup { parent_death_signal: Some(Signal::QUIT), ..ChildSetup::default() }.apply(&mut command);
        self.child = Some(command.spawn().unwrap());
        self.client.disconnect();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it does not run"))
    }

    pub(crate) fn kill(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// What the guard does for an agent.
    pub(crate) fn signals(&self) -> impl FnMut(ServerSignal) -> Ready<Result<(), SignalError>> + Send + use<> {
        let pid = self.pid();
        move |signal| {
            let signal = match signal {
                ServerSignal::Reload => Signal::HUP,
                ServerSignal::User1 => Signal::USR1,
            };
            ready(kill_process(pid, signal).map_err(Into::into))
        }
    }

    /// Stops the server in order (or not, with `Signal::QUIT`) and waits for its end.
    pub(crate) fn stop(&mut self, signal: Signal) {
        self.client.disconnect();
        self.kill(signal);
        self.child.take().unwrap().wait().unwrap();
    }

    pub(crate) async fn sql(&mut self, sql: &str) -> String {
        self.client.value(sql).await.unwrap().unwrap_or_default()
    }

    /// Makes a table `public.t` with this many rows.
    pub(crate) async fn fill(&mut self, rows: u32) {
        let sql = format!("CREATE TABLE public.t AS SELECT generate_series(1, {rows}) AS i");
        self.client.execute_within(&sql, PATIENCE).await.unwrap();
    }

    /// Waits until `sql` gives `expected`.
    pub(crate) async fn wait_for(&mut self, sql: &str, expected: &str) {
        let mut last = String::new();
        for _ in 0..4000 {
            last = self.sql(sql).await;
            if last == expected {
                return;
            }
            // waits: a short pause between two looks; the state itself gives no event
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{sql} should give {expected}, but gives {last}\n{}", self.log());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself; then there is nothing to stop.
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.spec.name, self.log());
        }
    }
}

/// Runs one of PostgreSQL's tools to have something to compare with.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> String {
    let output = Command::new(Path::new(BIN_DIR).join(name)).args(arguments).env("LC_ALL", "C").output().unwrap();
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) async fn version(server: &Server) -> ServerVersion {
    server.spec.installation.version().await.unwrap()
}

#[track_caller]
pub(crate) fn assert_same<T: PartialEq + Debug>(what: &str, ours: &T, theirs: &T) {
    assert_eq!(ours, theirs, "{what}");
}
