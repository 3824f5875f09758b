use std::fmt::Debug;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::kv_client::KvClient;
use pgbaton_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use pgbaton_etcd_proto::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest,
    LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, ResponseHeader, TxnRequest, response_op,
};
use pgbaton_etcd_proto::etcdserverpb::{ResponseOp, TxnResponse};
use pgbaton_store_embedded::{EmbeddedStore, Listen, Options, ServerTls};
use pgbaton_testkit::debian::unpack;
use pgbaton_testkit::{Etcd, OsUser, TempDir, install};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Far above what a call or a start takes.
const LIMIT: Duration = Duration::from_secs(20);

/// How much of two answers is shown around their first difference.
const AROUND: usize = 150;

/// How much of a call is shown.
const CALL_CHARS: usize = 1_500;

/// A pause between two looks whether a server is up.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One call that both get.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    Grant(LeaseGrantRequest),
    Revoke(LeaseRevokeRequest),
    KeepAlive(LeaseKeepAliveRequest),
    TimeToLive(LeaseTimeToLiveRequest),
    Leases,
}

/// An answer, without what is each store's own.
pub(crate) type Answer = Result<String, (Code, String)>;

/// The etcd that ours is compared with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Release {
    /// Debian 12's.
    V3_4,
    /// Debian 13's.
    V3_5,
}

/// Runs a test beside each release.
macro_rules! beside_each {
    ($test:ident) => {
        mod $test {
            use crate::pair::Release;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v3_4() {
                super::$test(Release::V3_4).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn v3_5() {
                super::$test(Release::V3_5).await;
            }
        }
    };
}
pub(crate) use beside_each;

/// A real etcd and an embedded store, both new.
pub(crate) struct Pair {
    pub(crate) etcd: Channel,
    pub(crate) ours: Channel,
    store: Arc<EmbeddedStore>,
    real: Etcd,
    address: String,
    _directory: TempDir,
}

impl Pair {
    pub(crate) async fn start(release: Release) -> Self {
        let directory = TempDir::new("ours", &OsUser::for_servers().unwrap()).unwrap();
        let real = match release {
            Release::V3_4 => Etcd::start(1).unwrap(),
            Release::V3_5 => {
                let files = unpack(Path::new(env!("CARGO_TARGET_TMPDIR")), "trixie", "etcd-server").unwrap();
                let program = directory.path().join("etcd");
                install(&files.join("usr/bin/etcd"), &program).unwrap();
                Etcd::start_in(&program, &std::env::temp_dir(), 1).unwrap()
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let data = directory.path().join("ours");
        fs::create_dir(&data).unwrap();
        let options =
            Options { listen: Some(Listen::On(listener)), self_address: address.clone(), ..Options::alone(data) };
        let store = EmbeddedStore::open(options).await.unwrap();
        let etcd = connect(&real.endpoint(0)).await;
        let ours = connect(&address).await;
        Self { etcd, ours, store, real, address, _directory: directory }
    }

    /// Gives both the call and compares the answers; what both say.
    pub(crate) async fn same(&self, call: &Call) -> Answer {
        let expected = answer(&self.etcd, call.clone()).await;
        let found = answer(&self.ours, call.clone()).await;
        if found != expected {
            let (found, expected) = (format!("{found:?}"), format!("{expected:?}"));
            let same = found.bytes().zip(expected.bytes()).take_while(|(ours, etcds)| ours == etcds).count();
            let around =
                |text: &str| text.chars().skip(same.saturating_sub(AROUND)).take(2 * AROUND).collect::<String>();
            let call: String = format!("{call:?}").chars().take(CALL_CHARS).collect();
            panic!("ours: ...{}\netcd: ...{}\nof {call}", around(&found), around(&expected));
        }
        expected
    }

    /// `host:port` of the real one and of ours.
    pub(crate) fn endpoints(&self) -> [String; 2] {
        [self.real.endpoint(0), self.address.clone()]
    }

    pub(crate) async fn stop(self) {
        self.store.shutdown().await;
    }
}

/// An embedded store that wants a password.
pub(crate) async fn with(password: &str, tls: Option<ServerTls>) -> (Arc<EmbeddedStore>, String, TempDir) {
    let directory = TempDir::new("ours", &OsUser::for_servers().unwrap()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = Options {
        listen: Some(Listen::On(listener)),
        self_address: address.clone(),
        password: Some(password.to_owned()),
        tls,
        ..Options::alone(directory.path())
    };
    let store = EmbeddedStore::open(options).await.unwrap();
    let mut formed = store.formed();
    tokio::time::timeout(LIMIT, formed.wait_for(|formed| *formed)).await.expect("the store is there").unwrap();
    (store, address, directory)
}

/// A channel to a store that answers.
async fn connect(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(LIMIT);
    let up = async {
        loop {
            if let Ok(channel) = endpoint.connect().await {
                let read = RangeRequest { key: b"k".to_vec(), ..RangeRequest::default() };
                if KvClient::new(channel.clone()).range(read).await.is_ok() {
                    return channel;
                }
            }
            // waits: a short pause between two looks; neither store tells when it is up
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    };
    tokio::time::timeout(LIMIT, up).await.expect("the store answers")
}

/// Gives a store the call.
async fn answer(channel: &Channel, call: Call) -> Answer {
    let mut kv = KvClient::new(channel.clone());
    let mut lease = LeaseClient::new(channel.clone());
    match call {
        Call::Range(request) => told(kv.range(request).await, |answer| own(&mut answer.header)),
        Call::Put(request) => told(kv.put(request).await, |answer| own(&mut answer.header)),
        Call::DeleteRange(request) => told(kv.delete_range(request).await, |answer| own(&mut answer.header)),
        Call::Txn(request) => told(kv.txn(request).await, own_txn),
        Call::Compact(request) => told(kv.compact(request).await, |answer| own(&mut answer.header)),
        Call::Grant(request) => {
            let chosen = request.id == 0;
            told(lease.lease_grant(request).await, |answer| {
                own(&mut answer.header);
                if chosen {
                    assert!(answer.id > 0);
                    answer.id = 0;
                }
            })
        }
        Call::Revoke(request) => told(lease.lease_revoke(request).await, |answer| own(&mut answer.header)),
        Call::KeepAlive(request) => {
            let once = tokio_stream::once(request);
            let mut answers = match lease.lease_keep_alive(Request::new(once)).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => return Err((status.code(), status.message().to_owned())),
            };
            let answer = answers.message().await.map(|answer| tonic::Response::new(answer.unwrap()));
            told(answer, |answer| own(&mut answer.header))
        }
        Call::TimeToLive(request) => told(lease.lease_time_to_live(request).await, |answer| {
            own(&mut answer.header);
            // In whatever order etcd's table has them.
            answer.keys.sort();
            // The two calls are not made at the same instant.
            if answer.granted_ttl - 5 <= answer.ttl && answer.ttl <= answer.granted_ttl && answer.ttl > 0 {
                answer.ttl = answer.granted_ttl;
            }
        }),
        Call::Leases => told(lease.lease_leases(LeaseLeasesRequest {}).await, |answer| {
            own(&mut answer.header);
            answer.leases.sort_by_key(|lease| lease.id);
        }),
    }
}

fn told<T: Debug>(answer: Result<tonic::Response<T>, Status>, own: impl FnOnce(&mut T)) -> Answer {
    let mut answer = answer.map_err(|status| (status.code(), status.message().to_owned()))?.into_inner();
    own(&mut answer);
    Ok(format!("{answer:?}"))
}

/// Takes out what is a store's own: who it is, and how often it has elected.
pub(crate) fn own(header: &mut Option<ResponseHeader>) {
    if let Some(header) = header {
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
}

fn own_txn(answer: &mut TxnResponse) {
    own(&mut answer.header);
    for ResponseOp { response } in &mut answer.responses {
        match response {
            Some(response_op::Response::ResponseRange(answer)) => own(&mut answer.header),
            Some(response_op::Response::ResponsePut(answer)) => own(&mut answer.header),
            Some(response_op::Response::ResponseDeleteRange(answer)) => own(&mut answer.header),
            Some(response_op::Response::ResponseTxn(answer)) => own_txn(answer),
            None => {}
        }
    }
}
