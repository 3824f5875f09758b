use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pgbaton_etcd_proto::etcdserverpb::auth_client::AuthClient;
use pgbaton_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use pgbaton_etcd_proto::etcdserverpb::{AuthenticateRequest, StatusRequest, StatusResponse};
use pgbaton_store::{LeaseId, Refusal, StoreError};
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::endpoints::{Endpoints, Place, Reached};
use crate::judge::{Verdict, judge, words};
use crate::options::{Options, OptionsError};

/// The pause before the endpoints are gone through again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It only reads, or may be done twice: the next endpoint is asked while there is time.
    None,
    /// It changes something.
    Change,
}

/// One way to the store.
#[derive(Debug, Clone)]
pub(crate) struct Route {
    pub(crate) channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Route {
    /// A request with what etcd wants to be told beside it.
    pub(crate) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        // Without it a member that has lost its leader keeps the caller waiting.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Makes calls: chooses endpoints, logs in, and says what came of them.
#[derive(Debug)]
pub(crate) struct Caller {
    endpoints: Endpoints,
    user: Option<(String, String)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
}

impl Caller {
    pub(crate) fn new(options: &Options) -> Result<Self, OptionsError> {
        Ok(Self { endpoints: Endpoints::new(options)?, user: options.user.clone(), token: Mutex::new(None) })
    }

    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Makes a call, within the deadline; `lease` is the one that it is about.
    pub(crate) async fn call<T, F, Answer>(
        &self,
        effect: Effect,
        lease: Option<LeaseId>,
        deadline: Duration,
        send: F,
    ) -> Result<T, StoreError>
    where
        F: Fn(Route) -> Answer,
        Answer: Future<Output = Result<T, Status>>,
    {
        let end = Instant::now() + deadline;
        let mut problem = "no time was given".to_owned();
        let mut logged_in_again = false;
        let mut failed = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StoreError::unavailable(format!("{problem} (after {} ms)", deadline.as_millis())));
            }
            let Reached { number, place: Place { address, .. }, channel } = match self.endpoints.current() {
                Ok(current) => current,
                Err(why) => {
                    problem = why;
                    // Either way the next look says what there is.
                    drop(timeout(left, self.endpoints.any()).await);
                    continue;
                }
            };
            // A call that may be made again leaves time for the other endpoints.
            let endpoints = u32::try_from(self.endpoints.count()).unwrap_or(u32::MAX);
            let limit = if effect == Effect::None { left.min(deadline / endpoints) } else { left };
            let route = match self.let_in(channel, left).await {
                Ok(route) => route,
                Err((Verdict::Final(error), _)) => return Err(error),
                Err((_, why)) => {
                    problem = format!("{address}: {why}");
                    self.next(number, &mut failed, end).await;
                    continue;
                }
            };
            let Ok(answer) = timeout(limit, send(route)).await else {
                self.endpoints.failed(number);
                problem = format!("{address}: no answer within {} ms", limit.as_millis());
                if effect == Effect::Change {
                    return Err(StoreError::indeterminate(problem));
                }
                continue;
            };
            let status = match answer {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            problem = format!("{address}: {}", words(&status));
            match judge(&status) {
                Verdict::NoLease => {
                    return Err(lease.map_or(StoreError::Invalid(problem), |id| Refusal::LeaseNotFound(id).into()));
                }
                Verdict::Final(error) => return Err(error),
                Verdict::Token if self.user.is_some() && !logged_in_again => {
                    logged_in_again = true;
                    *self.locked() = None;
                }
                Verdict::Token => return Err(StoreError::Invalid(problem)),
                Verdict::Unknown if effect == Effect::Change => {
                    self.endpoints.failed(number);
                    return Err(StoreError::Indeterminate { what: problem, source: Some(Box::new(status)) });
                }
                Verdict::Elsewhere | Verdict::Unknown => self.next(number, &mut failed, end).await,
            }
        }
    }

    /// The endpoint in use with its number, for calls that go on for long.
    pub(crate) async fn long_route(&self) -> Result<(u64, Route), (u64, Status)> {
        self.endpoints.any().await;
        let Reached { number, channel, .. } =
            self.endpoints.current().map_err(|why| (u64::MAX, Status::unavailable(why)))?;
        self.route(channel).await.map(|route| (number, route)).map_err(|status| (number, status))
    }

    /// Asks one endpoint once, whichever is in use; none if it does not answer in time, or refuses.
    pub(crate) async fn ask<T, F, Answer>(&self, one: &Reached, within: Duration, send: F) -> Option<T>
    where
        F: FnOnce(Route) -> Answer,
        Answer: Future<Output = Result<T, Status>>,
    {
        let asked = async { send(self.route(one.channel.clone()).await?).await };
        match timeout(within, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(status)) => {
                tracing::debug!(endpoint = one.place.address, problem = words(&status), "an endpoint does not tell");
                None
            }
            Err(_) => None,
        }
    }

    /// What an endpoint says about itself.
    pub(crate) async fn status_of(&self, one: &Reached, within: Duration) -> Option<StatusResponse> {
        let status = self.ask(one, within, |route| async move {
            let request = route.request(StatusRequest {});
            Ok(MaintenanceClient::new(route.channel).status(request).await?.into_inner())
        });
        status.await
    }

    /// The token is not valid any more.
    pub(crate) fn log_in_again(&self) {
        *self.locked() = None;
    }

    /// The next endpoint, after a pause when all have been asked.
    async fn next(&self, number: u64, failed: &mut usize, end: Instant) {
        self.endpoints.failed(number);
        *failed += 1;
        if failed.is_multiple_of(self.endpoints.count()) {
            sleep(AGAIN_AFTER.min(end.saturating_duration_since(Instant::now()))).await;
        }
    }

    /// The way in, as soon as the endpoint gives it; otherwise what that says, also in words.
    async fn let_in(&self, channel: Channel, within: Duration) -> Result<Route, (Verdict, String)> {
        match timeout(within, self.route(channel)).await {
            Ok(Ok(route)) => Ok(route),
            Ok(Err(status)) => Err((judge(&status), words(&status))),
            Err(_) => {
                let why = format!("it does not let this client in within {} ms", within.as_millis());
                Err((Verdict::Elsewhere, why))
            }
        }
    }

    async fn route(&self, channel: Channel) -> Result<Route, Status> {
        let Some((name, password)) = &self.user else { return Ok(Route { channel, token: None }) };
        let known = self.locked().clone();
        if let Some(token) = known {
            return Ok(Route { channel, token: Some(token) });
        }
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await?.into_inner();
        let token: MetadataValue<Ascii> =
            answer.token.parse().map_err(|_| Status::internal("the token that etcd gave is not one line of text"))?;
        *self.locked() = Some(token.clone());
        Ok(Route { channel, token: Some(token) })
    }

    fn locked(&self) -> MutexGuard<'_, Option<MetadataValue<Ascii>>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
