//! `make test`: everything that exists, the demo included, and a last line that counts it.

use crate::checks::Checks;
use crate::leftovers::Scratch;
use crate::run::{self, Outcome};
use crate::{demo, setup, verify};

/// `cargo xtask test`. Fails before any build if something is missing on the machine that it may not install.
pub(crate) fn run() -> Outcome {
    setup::ensure(setup::Purpose::Test)?;
    let scratch = Scratch::new()?;
    let mut checks = Checks::begin();
    verify::source(&mut checks);
    verify::everything(&mut checks, &scratch);
    demos(&mut checks, &scratch);
    checks.count("nothing left behind", || scratch.check());
    checks.close()
}

fn demos(checks: &mut Checks, scratch: &Scratch) {
    let binary = match demo::build("dev") {
        Ok(binary) => binary,
        Err(failure) => return checks.count("demo", || Err(failure)),
    };
    if run::is_root() {
        checks.count("demo as root", || demo::check_as_self(&binary, scratch));
        checks.count("demo as an unprivileged user", || demo::check_unprivileged(&binary, scratch));
    } else {
        checks.skip("demo as root", "this is not root");
        checks.count("demo as an unprivileged user", || demo::check_as_self(&binary, scratch));
    }
}
