use std::io::{self, BufRead};

use crate::cli::{Failure, Out};

/// Asks for one line; an empty answer means the default.
pub(crate) fn ask(out: &mut Out, question: &str, default: &str) -> Result<String, Failure> {
    out.raw(&format!("{question} [{default}]: "))?;
    let mut answer = String::new();
    let read =
        io::stdin().lock().read_line(&mut answer).map_err(|error| Failure::because("cannot read the answer", error))?;
    if read == 0 {
        return Err(Failure::text(
            "Aborted! There is nobody to answer: give --force and the options that are asked for",
        ));
    }
    let answer = answer.trim();
    Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
}

/// Asks for a yes; everything else is a no, which ends the command with `declined`.
pub(crate) fn confirm(out: &mut Out, question: &str, declined: &str) -> Result<(), Failure> {
    let answer = ask(out, &format!("{question} y/N"), "N")?;
    if matches!(answer.to_ascii_lowercase().as_str(), "y" | "yes") { Ok(()) } else { Err(Failure::text(declined)) }
}
