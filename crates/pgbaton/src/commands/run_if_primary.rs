use std::process::Command;

use pgbaton_api::Explain;

use crate::cli::{Failure, Members, RunIfPrimary};

/// What a shell says of a command that was ended by a signal: this and its number.
const SIGNALLED: i32 = 128;

/// `run-if-primary`: for jobs that every host has and one is to do.
pub(crate) async fn run(members: &Members, options: &RunIfPrimary) -> Result<(), Failure> {
    let Some(before) = reign(members).await? else {
        let code = u8::from(options.or_fail);
        return if code == 0 { Ok(()) } else { Err(Failure::Code(code)) };
    };
    let (program, arguments) = options.command.split_first().ok_or_else(|| Failure::text("Error: which command?"))?;
    let status = Command::new(program)
        .args(arguments)
        .env("PGBATON_EPOCH", before.to_string())
        .status()
        .map_err(|error| Failure::because(format!("cannot start {program}"), error))?;
    let code = status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt as _;
        SIGNALLED + status.signal().unwrap_or(0)
    });
    if code != 0 {
        return Err(Failure::Code(u8::try_from(code).unwrap_or(u8::MAX)));
    }
    match reign(members).await {
        Ok(Some(after)) if after == before => Ok(()),
        Ok(_) => Err(Failure::text(format!(
            "Error: this member has not been the primary of epoch {before} all the time: what {program} did here may be lost"
        ))),
        Err(failure) => Err(Failure::because(
            format!("whether this member was the primary of epoch {before} until {program} ended is not known"),
            failure,
        )),
    }
}

/// The epoch in which this member's server is the primary, by a lease that still runs.
async fn reign(members: &Members) -> Result<Option<u64>, Failure> {
    let document = members.get(members.own()?, "/explain").await?;
    let explain: Explain = serde_json::from_value(document)
        .map_err(|error| Failure::because("the member gave no explanation that can be read", error))?;
    let holds = explain.lease.holder.as_deref() == Some(&explain.member) && explain.lease.remaining_ms > Some(0);
    Ok(explain.epoch.filter(|_| holds && explain.role == "primary"))
}
