//! The roles that pgbaton connects as, made once in a new database cluster.

use postgres_protocol::password::scram_sha_256;

use crate::sql::{LocalClient, SqlError, identifier, literal};
use crate::{Authentication, Credentials};

/// What the rewind role may do besides logging in (PostgreSQL documentation, `pg_rewind`).
const REWIND_FUNCTIONS: [&str; 4] = [
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
];

/// What keeps the statements out of the log, and from waiting for a standby that cannot be there yet.
const QUIET: &str = "\
SET log_statement = none;
SET log_min_duration_statement = -1;
SET log_min_error_statement = panic;
SET synchronous_commit = local";

impl LocalClient {
    /// Makes or alters the superuser, the replication role and the rewind role. Needs a primary; can be repeated.
    ///
    /// Passwords go over the wire as SCRAM verifiers, so that not even an error in the server's log shows them.
    pub async fn create_users(&mut self, authentication: &Authentication) -> Result<(), SqlError> {
        let Authentication { superuser, replication, rewind } = authentication;
        self.query(QUIET).await?;
        let result = self.create_all(superuser, replication, rewind.as_ref()).await;
        // The settings above must not outlive this.
        self.disconnect();
        result
    }

    async fn create_all(
        &mut self,
        superuser: &Credentials,
        replication: &Credentials,
        rewind: Option<&Credentials>,
    ) -> Result<(), SqlError> {
        if superuser.password.is_some() {
            self.create_role(superuser, "SUPERUSER LOGIN").await?;
        }
        if replication.username != superuser.username {
            self.create_role(replication, "LOGIN REPLICATION").await?;
        }
        let distinct =
            |user: &&Credentials| user.username != superuser.username && user.username != replication.username;
        if let Some(rewind) = rewind.filter(distinct) {
            self.create_role(rewind, "LOGIN").await?;
            for function in REWIND_FUNCTIONS {
                let role = identifier(&rewind.username);
                self.query(&format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {role}")).await?;
            }
        }
        Ok(())
    }

    async fn create_role(&mut self, user: &Credentials, attributes: &str) -> Result<(), SqlError> {
        let found = format!("SELECT 1 FROM pg_roles WHERE rolname = {}", literal(&user.username));
        let verb = if self.value(&found).await?.is_some() { "ALTER" } else { "CREATE" };
        let shown = format!("{verb} ROLE {} WITH {attributes}", identifier(&user.username));
        let sql = match &user.password {
            Some(password) => {
                format!("{shown} PASSWORD {}", literal(&scram_sha_256(password.expose().as_bytes())))
            }
            None => shown.clone(),
        };
        self.execute_shown(&sql, &shown).await
    }
}
