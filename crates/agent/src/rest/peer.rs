use pgbaton_api::{PATH_PREPARE, PATH_PROVE, Reply};

use super::answer::Answer;
use super::body;
use crate::shared::Shared;

/// `GET /pgbaton/position`.
pub(super) async fn position(shared: &Shared) -> Answer {
    match shared.peer.position().await {
        Some(position) => Answer::json(200, &position),
        None => Answer::text(503, "the agent is ending"),
    }
}

/// `POST /pgbaton/prepare` and `/pgbaton/prove`.
pub(super) async fn post(shared: &Shared, path: &str, bytes: &[u8]) -> Answer {
    match path {
        PATH_PREPARE => match body::message(bytes) {
            Ok(request) => Answer::json(200, &shared.peer.prepare(request).await),
            Err(refused) => refused,
        },
        PATH_PROVE => match body::message(bytes) {
            Ok(request) => Answer::json(200, &shared.peer.prove(request).await),
            Err(refused) => refused,
        },
        _ => Reply::NotImplemented.into(),
    }
}
