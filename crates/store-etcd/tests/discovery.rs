//! Endpoints that nobody wrote down: named by DNS, and by the members of the store.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use pgbaton_store::Store;
use pgbaton_store::conformance::put_once;
use pgbaton_store_etcd::{EtcdStore, Options, Srv};
use pgbaton_testkit::{Etcd, Launch, OsUser, PortLease, Process, TempDir, wait};

/// Far above what anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A name server that knows these records and nothing else.
struct NameServer {
    port: PortLease,
    // Ends before its directory goes.
    _process: Process,
    _directory: TempDir,
}

impl NameServer {
    async fn start(records: &[(&str, &str)]) -> Self {
        let user = OsUser::for_servers().unwrap();
        let directory = TempDir::new("dns", &user).unwrap();
        let port = PortLease::hold().unwrap();
        let mut arguments: Vec<String> =
            ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]
                .map(str::to_owned)
                .to_vec();
        arguments.push("--listen-address=127.0.0.1".to_owned());
        arguments.push("--local=/example.test/".to_owned());
        arguments.push(format!("--port={}", port.port()));
        arguments.push(format!("--pid-file={}", directory.path().join("pid").display()));
        for (name, address) in records {
            let (host, port) = address.split_once(':').unwrap();
            arguments.push(format!("--srv-host={name}.example.test,{host},{port}"));
        }
        let log = directory.path().join("log");
        let launch = Launch::new("/usr/sbin/dnsmasq", log).args(arguments).user(&user);
        let process = Process::start(&launch).unwrap();
        let answers = || tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port.port()));
        wait::until_async("a name server", DEADLINE, || async { answers().await.map_err(|error| error.to_string()) })
            .await
            .unwrap();
        Self { port, _process: process, _directory: directory }
    }

    fn srv(&self, suffix: Option<&str>) -> Srv {
        Srv {
            domain: "example.test".to_owned(),
            suffix: suffix.map(str::to_owned),
            name_server: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port.port()))),
        }
    }
}

fn by_dns(srv: Srv) -> EtcdStore {
    EtcdStore::new(&Options { srv: Some(srv), ..Options::default() }).unwrap()
}

async fn addresses(store: &EtcdStore) -> BTreeSet<String> {
    store.each().await.unwrap().into_iter().map(|(address, _)| address).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dns_names_the_endpoints() {
    let etcd = Etcd::start(1).unwrap();
    let name = "localhost";
    let clients = etcd.endpoint(0).replace("127.0.0.1", name);
    let peers = etcd.peer_endpoint(0).replace("127.0.0.1", name);
    let records = [
        ("_etcd-client._tcp", clients.as_str()),
        ("_etcd-server._tcp", "localhost:1"),
        ("_etcd-server-second._tcp", peers.as_str()),
    ];
    let dns = NameServer::start(&records).await;
    let first = by_dns(dns.srv(None));
    first.snapshot("/", DEADLINE).await.unwrap();
    put_once(&first, "/a", "1", None).await;
    assert_eq!(addresses(&first).await, BTreeSet::from([clients]), "clients' records count before members'");
    let second = by_dns(dns.srv(Some("second")));
    put_once(&second, "/b", "1", None).await;
    assert_eq!(addresses(&second).await, BTreeSet::from([etcd.endpoint(0)]), "a member tells its clients' port");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_domain_without_records_is_said() {
    let dns = NameServer::start(&[("_etcd-client._tcp", "localhost:1")]).await;
    let short = Duration::from_secs(1);
    let nobody = by_dns(dns.srv(Some("other")));
    // The first look may take longer than a call.
    assert!(nobody.each().await.unwrap().is_empty());
    let error = nobody.snapshot("/", short).await.unwrap_err().to_string();
    assert!(error.contains("DNS has no record SRV for _etcd-client-other._tcp.example.test"), "{error}");
    let silent = by_dns(Srv { name_server: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 1))), ..dns.srv(None) });
    assert!(silent.each().await.unwrap().is_empty());
    let error = silent.snapshot("/", short).await.unwrap_err().to_string();
    assert!(error.contains("no name server answered for _etcd-client-ssl._tcp.example.test"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_name_each_other() {
    let mut etcd = Etcd::start(3).unwrap();
    let one = vec![etcd.endpoint(0)];
    let told = |discover| Options { endpoints: one.clone(), discover, ..Options::default() };
    let (all, only_one) = (EtcdStore::new(&told(true)).unwrap(), EtcdStore::new(&told(false)).unwrap());
    for member in 0..3 {
        let alone = Options { endpoints: vec![etcd.endpoint(member)], ..Options::default() };
        // A read is asked again until the members have found each other.
        EtcdStore::new(&alone).unwrap().snapshot("/", DEADLINE).await.unwrap();
    }
    assert_eq!(addresses(&all).await, etcd.endpoints().into_iter().collect());
    assert_eq!(addresses(&only_one).await, BTreeSet::from([etcd.endpoint(0)]));
    etcd.kill(0);
    // Whoever reads is not told that an endpoint has gone.
    all.snapshot("/", DEADLINE).await.unwrap();
    put_once(&all, "/a", "1", None).await;
    let error = only_one.snapshot("/", Duration::from_secs(1)).await.unwrap_err();
    assert!(!error.is_indeterminate(), "{error}");
    assert_eq!(addresses(&all).await, etcd.endpoints().into_iter().collect(), "who was there once is not forgotten");
}
