//! A new cluster, and putting a directory away.

use std::time::Duration;

use pgbaton_postgres::append_pg_hba;
use pgbaton_store::{Compare, Op, Txn};

use super::OperationError;
use crate::context::Context;
use crate::keys;
use crate::observe;
use crate::spec::options;

/// How long `initdb` may take: on slow disks it syncs for a while.
const INITDB_TIME: Duration = Duration::from_secs(600);

/// Until [`finish`] the directory counts as incomplete, whatever is in it.
pub(super) async fn initdb(context: &Context) -> Result<(), OperationError> {
    let config = context.config();
    let bootstrap = config.local.bootstrap.clone().unwrap_or_default();
    context.keep(|kept| kept.bootstrapping = true)?;
    pgbaton_postgres::initdb(&config.spec, &options(&bootstrap.initdb), INITDB_TIME).await?;
    append_pg_hba(&config.spec, &bootstrap.pg_hba)?;
    Ok(())
}

/// Makes the roles, publishes the dynamic configuration, and declares the directory complete.
pub(super) async fn finish(context: &Context) -> Result<(), OperationError> {
    let config = context.config();
    observe::client(&config.spec).create_users(&config.spec.authentication).await?;
    publish_config(context).await?;
    context.keep(|kept| kept.bootstrapping = false)?;
    Ok(())
}

/// Writes the key `config` if there is none.
pub(crate) async fn publish_config(context: &Context) -> Result<(), pgbaton_store::StoreError> {
    let key = context.key(keys::CONFIG);
    let document = pgbaton_api::to_compact(&context.config().dynamic.document).unwrap_or_default();
    let txn = Txn::when(vec![Compare::absent(&key)], vec![Op::put(&key, document)]);
    context.store.txn(txn, context.config().settings.retry_timeout).await?;
    Ok(())
}

/// Renames the directory, so that an empty one can take its place.
pub(super) fn quarantine(context: &Context) -> Result<(), OperationError> {
    let place = pgbaton_postgres::quarantine(&context.data_dir())?;
    tracing::warn!(place = %place.display(), "the data directory was put away");
    context.keep(|kept| kept.bootstrapping = false)?;
    Ok(())
}
