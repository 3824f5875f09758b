//! Everything against real servers of PostgreSQL.

mod common;

mod backup;
mod control;
mod files;
mod promotion;
mod proof;
mod rejoin;
mod sql;
