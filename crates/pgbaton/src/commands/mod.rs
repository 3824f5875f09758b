//! One module per command that asks a running cluster. They talk to members' REST APIs only.

mod dsn;
mod edit_config;
mod explain;

mod hand_over;
mod history;
pub(crate) mod list;
mod pause;
mod reinit;
mod restart;
mod run_if_primary;
mod select;
mod show_config;
mod store;

use crate::cli::{Command, Failure, Members, Out, PgbatonArguments};

/// Runs one of them.
pub(crate) async fn run(arguments: PgbatonArguments, out: &mut Out) -> Result<(), Failure> {
    let format = arguments.global.format;
    if let Command::Store(command) = &arguments.command {
        return store::run(&arguments.global, command, format, out).await;
    }
    let members = Members::new(&arguments.global)?;
    match arguments.command {
        Command::List(options) => list::list(&members, &options, format, out).await,
        Command::Topology(options) => list::topology(&members, &options, format, out).await,
        Command::Switchover(options) => hand_over::switchover(&members, &options, format, out).await,
        Command::Failover(options) => hand_over::failover(&members, &options, format, out).await,
        Command::Pause(options) => pause::run(&members, &options, true, format, out).await,
        Command::Resume(options) => pause::run(&members, &options, false, format, out).await,
        Command::Restart(options) => restart::run(&members, &options, format, out).await,
        Command::Reinit(options) => reinit::run(&members, &options, format, out).await,
        Command::History { cluster } => history::run(&members, cluster.as_deref(), format, out).await,
        Command::ShowConfig { cluster } => show_config::run(&members, cluster.as_deref(), format, out).await,
        Command::EditConfig(options) => edit_config::run(&members, &options, format, out).await,

        Command::Explain { members: names } => explain::run(&members, &names, format, out).await,
        Command::Dsn(options) => dsn::run(&members, &options, format, out).await,
        Command::RunIfPrimary(options) => run_if_primary::run(&members, &options).await,
        Command::Agent { .. }
        | Command::Witness { .. }
        | Command::Router { .. }
        | Command::Clients { .. }
        | Command::Publish(_)
        | Command::Render(_)
        | Command::Demo(_)
        | Command::Store(_) => {
            unreachable!("these run without asking members")
        }
    }
}
