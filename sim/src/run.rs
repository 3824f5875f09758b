use pgbaton_core::Bug;

use crate::invariants::Violation;
use crate::rng::Rng;
use crate::scenario::Scenario;
use crate::time::SECOND;
use crate::world::World;

/// What came of one run.
#[derive(Debug)]
pub struct Outcome {
    /// The seed that everything followed from.
    pub seed: u64,
    /// The invariant that was broken, if one was.
    pub violation: Option<Violation>,
    /// How long the world existed, in its own seconds.
    pub simulated_seconds: u64,
    /// Grants of the lease.
    pub grants: usize,
    /// The trace, if it was asked for: one line for each event.
    pub trace: Vec<String>,
}

/// Runs the world that follows from `seed`, with a known bug put back if one is given.
pub fn run(seed: u64, bug: Option<Bug>, keep_trace: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let scenario = Scenario::draw(&mut rng, bug);
    let mut world = World::new(rng, scenario, keep_trace);
    world.run();
    let grants = world.monitor().map_or(0, |monitor| monitor.past().grants.len());
    Outcome {
        seed,
        violation: world.violation.take(),
        simulated_seconds: world.now / SECOND,
        grants,
        trace: world.trace.take().unwrap_or_default(),
    }
}
