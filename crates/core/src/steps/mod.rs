//! The steps of a decision, each in its own file: a leaf that looks at the observation and writes into the plan.

pub(crate) mod bootstrap;
pub(crate) mod demotion;
pub(crate) mod follower;
pub(crate) mod identity;
pub(crate) mod leader;
pub(crate) mod operation;
pub(crate) mod order;
pub(crate) mod patience;
pub(crate) mod pause;
pub(crate) mod race;
pub(crate) mod rejoin;
pub(crate) mod switchover;
pub(crate) mod terminate;
