use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};

use crate::options::{Options, OptionsError, TlsFiles};

/// How long connecting to one endpoint may take: a host that is there answers within milliseconds, and the next one is waiting.
const CONNECT_TIME: Duration = Duration::from_millis(500);

/// A connection with a watch is asked this often whether it is alive. etcd ends connections that ask more often than each 5 s (its
/// `--grpc-keepalive-min-time`). A watch does not wait for it where other calls find out earlier.
const ALIVE_EVERY: Duration = Duration::from_secs(6);

/// So long it may take to say so.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// `host:port`.
    pub(crate) address: String,
    /// Whether TLS is spoken there.
    pub(crate) secure: bool,
}

impl Place {
    /// Of a URL such as `http://10.0.0.1:2379`.
    pub(crate) fn of_url(url: &str) -> Option<Self> {
        let (secure, rest) = match url.split_once("://")? {
            ("https", rest) => (true, rest),
            ("http", rest) => (false, rest),
            _ => return None,
        };
        let address = rest.split('/').next().filter(|address| !address.is_empty())?.to_owned();
        Some(Self { address, secure })
    }
}

/// An endpoint that can be asked.
#[derive(Debug, Clone)]
pub(crate) struct Reached {
    /// For [`Endpoints::failed`].
    pub(crate) number: u64,
    pub(crate) place: Place,
    pub(crate) channel: Channel,
}

/// The endpoints, of which one is used until it fails. Each has one connection, made when it is needed.
#[derive(Debug)]
pub(crate) struct Endpoints {
    tls: Option<ClientTlsConfig>,
    all: Mutex<All>,
    /// The number of the one in use; none is known as long as it is none.
    current: watch::Sender<Option<u64>>,
    /// One failed: there may be others to be found.
    wanted: Arc<Notify>,
}

#[derive(Debug, Default)]
struct All {
    list: Vec<Reached>,
    /// The number of the next one that comes to be known.
    next: u64,
    /// Why there are none.
    why_none: String,
}

/// Tells when an endpoint is not the one in use any more.
#[derive(Debug)]
pub(crate) struct EndpointLeft {
    number: u64,
    current: watch::Receiver<Option<u64>>,
}

impl EndpointLeft {
    /// Waits for it.
    pub(crate) async fn wait(&mut self) {
        let number = self.number;
        if self.current.wait_for(|current| *current != Some(number)).await.is_err() {
            // The client is gone, and with it whoever could leave an endpoint.
            std::future::pending::<()>().await;
        }
    }
}

impl Endpoints {
    /// Those that are written down.
    pub(crate) fn new(options: &Options) -> Result<Self, OptionsError> {
        if options.endpoints.is_empty() && options.srv.is_none() {
            return Err(OptionsError::NoEndpoint);
        }
        let endpoints = Self {
            tls: options.tls.as_ref().map(TlsFiles::load).transpose()?,
            all: Mutex::default(),
            current: watch::Sender::new(None),
            wanted: Arc::default(),
        };
        endpoints.set(options.places(), Err)?;
        endpoints.none_because("no endpoint has been found yet".to_owned());
        Ok(endpoints)
    }

    /// Exchanges them; who stays keeps its connection. One that cannot be is for `wrong` to judge.
    pub(crate) fn set<E>(
        &self,
        places: Vec<Place>,
        mut wrong: impl FnMut(OptionsError) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut all = self.locked();
        let mut list: Vec<Reached> = Vec::new();
        for place in places {
            if list.iter().any(|one| one.place == place) {
                continue;
            }
            if let Some(known) = all.list.iter().find(|one| one.place == place) {
                list.push(known.clone());
                continue;
            }
            match self.channel(&place) {
                Ok(channel) => {
                    list.push(Reached { number: all.next, place, channel });
                    all.next += 1;
                }
                Err(error) => wrong(error)?,
            }
        }
        all.list = list;
        let (numbers, first) =
            (all.list.iter().map(|one| one.number).collect::<Vec<_>>(), all.list.first().map(|one| one.number));
        drop(all);
        self.current.send_if_modified(|current| {
            let gone = current.is_none_or(|number| !numbers.contains(&number));
            let changes = gone && *current != first;
            if changes {
                *current = first;
            }
            changes
        });
        Ok(())
    }

    /// Why there are none, for whoever asks in vain.
    pub(crate) fn none_because(&self, why: String) {
        self.locked().why_none = why;
    }

    fn channel(&self, place: &Place) -> Result<Channel, OptionsError> {
        let scheme = if place.secure { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{}", place.address))
            .map_err(|source| OptionsError::Endpoint { endpoint: place.address.clone(), source })?;
        let endpoint = if place.secure {
            let tls = self.tls.clone().unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
            endpoint.tls_config(tls).map_err(|source| OptionsError::Tls { endpoint: place.address.clone(), source })?
        } else {
            endpoint
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIME)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(ALIVE_EVERY)
            .keep_alive_timeout(ALIVE_WITHIN);
        Ok(endpoint.connect_lazy())
    }

    /// All of them, in their order.
    pub(crate) fn all(&self) -> Vec<Reached> {
        self.locked().list.clone()
    }

    /// One that is not among them, or not yet; none if nothing can be there.
    pub(crate) fn reach(&self, place: &Place) -> Option<Reached> {
        let known = self.locked().list.iter().find(|one| one.place == *place).cloned();
        let new =
            || self.channel(place).ok().map(|channel| Reached { number: u64::MAX, place: place.clone(), channel });
        known.or_else(new)
    }

    /// How many there are, at least one: what a deadline is divided by.
    pub(crate) fn count(&self) -> usize {
        self.locked().list.len().max(1)
    }

    /// The one in use; otherwise why there is none.
    pub(crate) fn current(&self) -> Result<Reached, String> {
        let all = self.locked();
        let number = *self.current.borrow();
        let found = all.list.iter().find(|one| Some(one.number) == number).or(all.list.first());
        found.cloned().ok_or_else(|| all.why_none.clone())
    }

    /// Waits until there is one.
    pub(crate) async fn any(&self) {
        if self.current.subscribe().wait_for(Option::is_some).await.is_err() {
            // It cannot be: the sender is this object's own.
            std::future::pending::<()>().await;
        }
    }

    /// That one failed: the next one is used from now on, unless another caller was faster to say so.
    pub(crate) fn failed(&self, number: u64) {
        let next = {
            let all = self.locked();
            let at = all.list.iter().position(|one| one.number == number);
            at.map(|at| all.list[(at + 1) % all.list.len()].number)
        };
        self.current.send_if_modified(|current| {
            let still = *current == Some(number) && next.is_some() && next != Some(number);
            if still {
                *current = next;
            }
            still
        });
        self.wanted.notify_one();
    }

    /// Told whenever one failed.
    pub(crate) fn wanted(&self) -> Arc<Notify> {
        Arc::clone(&self.wanted)
    }

    /// Tells when that one is not used any more.
    pub(crate) fn left(&self, number: u64) -> EndpointLeft {
        EndpointLeft { number, current: self.current.subscribe() }
    }

    fn locked(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Endpoints {
        let endpoints = ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
        Endpoints::new(&Options { endpoints, ..Options::default() }).unwrap()
    }

    fn place(address: &str) -> Place {
        Place { address: address.to_owned(), secure: false }
    }

    #[tokio::test]
    async fn the_next_one_is_used_once_however_many_say_that_one_failed() {
        let endpoints = three();
        let first = endpoints.current().unwrap();
        assert_eq!(first.place.address, "a:1");
        endpoints.failed(first.number);
        endpoints.failed(first.number);
        let second = endpoints.current().unwrap();
        assert_eq!(second.place.address, "b:1");
        endpoints.failed(second.number);
        endpoints.failed(endpoints.current().unwrap().number);
        assert_eq!(endpoints.current().unwrap().place.address, "a:1", "round and round");
    }

    #[tokio::test]
    async fn the_one_in_use_stays_in_use_when_others_come_and_go() {
        let endpoints = three();
        let first = endpoints.current().unwrap();
        endpoints.failed(first.number);
        let second = endpoints.current().unwrap();
        let ignore = |_: OptionsError| Ok::<_, ()>(());
        endpoints.set(vec![place("d:1"), place("b:1")], ignore).unwrap();
        assert_eq!(endpoints.current().unwrap().number, second.number);
        endpoints.failed(first.number);
        assert_eq!(endpoints.current().unwrap().number, second.number, "who has gone cannot fail");
        endpoints.set(vec![place("e:1"), place("d:1")], ignore).unwrap();
        assert_eq!(endpoints.current().unwrap().place.address, "e:1");
        endpoints.none_because("nobody is there".to_owned());
        endpoints.set(Vec::new(), ignore).unwrap();
        assert_eq!(endpoints.current().unwrap_err(), "nobody is there");
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(Endpoints::new(&Options::default()), Err(OptionsError::NoEndpoint)));
        let endpoints = vec!["not an address".to_owned()];
        let error = Endpoints::new(&Options { endpoints, ..Options::default() }).unwrap_err();
        assert!(error.to_string().contains("\"not an address\""), "{error}");
    }
}
