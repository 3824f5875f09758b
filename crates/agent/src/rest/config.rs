use std::time::Duration;

use pgbaton_api::{Reply, to_compact};
use pgbaton_config::{Diagnostic, DynamicConfig};
use pgbaton_store::{Compare, KeyValue, Op, StoreError, Txn};
use serde_json::{Map, Value};

use super::answer::Answer;
use super::body;
use crate::shared::{Shared, Snapshot};

/// How long a change may take; an election of the store fits.
pub(super) const STORE_WITHIN: Duration = Duration::from_secs(5);

/// `GET /config`.
pub(super) fn get(now: &Snapshot) -> Answer {
    match now.dynamic() {
        Some(document) => Answer::json(200, &document),
        None => Reply::ConfigUnreadable { reading: true }.into(),
    }
}

/// `PATCH /config`: laid over what stands in the store now, by compare-and-swap. What promises safety that pgbaton cannot
/// keep is refused with the reason, instead of being stored and ignored.
pub(super) async fn patch(shared: &Shared, bytes: &[u8]) -> Answer {
    let patch = match body::object(bytes) {
        Ok(patch) => patch,
        Err(refused) => return refused,
    };
    let pair = match read(shared).await {
        Ok(pair) => pair,
        Err(answer) => return answer,
    };
    let Some((pair, document)) = pair.and_then(|pair| document_of(&pair).map(|document| (pair, document))) else {
        return Reply::ConfigUnreadable { reading: false }.into();
    };
    let (current, _) = DynamicConfig::read(document);
    match current.patched(&patch) {
        Err(findings) => refused(&findings),
        Ok(None) => Answer::json(200, &current.document),
        Ok(Some(wanted)) => write(shared, Some(&pair), &wanted.document).await,
    }
}

/// `PUT /config`: replaces the document.
pub(super) async fn put(shared: &Shared, bytes: &[u8]) -> Answer {
    let document = match body::object(bytes) {
        Ok(document) => document,
        Err(refused) => return refused,
    };
    match DynamicConfig::validate(document) {
        Err(findings) => refused(&findings),
        Ok((wanted, _)) => write(shared, None, &wanted.document).await,
    }
}

fn refused(findings: &[Diagnostic]) -> Answer {
    let reasons: Vec<String> = findings.iter().filter(|finding| finding.is_error()).map(Diagnostic::summary).collect();
    Reply::ConfigRefused { reasons: reasons.join("; ") }.into()
}

async fn read(shared: &Shared) -> Result<Option<KeyValue>, Answer> {
    let key = key(shared);
    let snapshot = shared.store.snapshot(&key, STORE_WITHIN).await.map_err(|error| unavailable(&error))?;
    Ok(snapshot.get(&key).cloned())
}

async fn write(shared: &Shared, seen: Option<&KeyValue>, document: &Map<String, Value>) -> Answer {
    let Ok(text) = to_compact(document) else { return Reply::ConfigUnreadable { reading: false }.into() };
    let compares = seen.map(|seen| Compare::modified_at(key(shared), seen.mod_revision)).into_iter().collect();
    match shared.store.txn(Txn::when(compares, vec![Op::put(key(shared), text)]), STORE_WITHIN).await {
        Ok(result) if result.succeeded => Answer::json(200, document),
        Ok(_) => Reply::ConfigChangedMeanwhile.into(),
        Err(error) => unavailable(&error),
    }
}

/// What is said when the store does not do it, and whether it may have done it all the same.
pub(super) fn unavailable(error: &StoreError) -> Answer {
    let doubt = if error.is_indeterminate() { " (it may have been written all the same)" } else { "" };
    Reply::StoreUnavailable { reason: format!("{error}{doubt}") }.into()
}

fn key(shared: &Shared) -> String {
    format!("{}config", shared.prefix)
}

fn document_of(pair: &KeyValue) -> Option<Map<String, Value>> {
    match serde_json::from_slice(&pair.value) {
        Ok(Value::Object(document)) => Some(document),
        _ => None,
    }
}
