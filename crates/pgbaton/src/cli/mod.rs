//! What all commands share: the command line itself, how members are found, how output is written.

mod arguments;
mod failure;
mod members;
mod out;
mod prompt;
mod schedule;
mod table;
mod view;

pub(crate) use arguments::{
    Again, Command, Dsn, DsnForm, EditConfig, Failover, Format, Global, List, Pause, PgbatonArguments, Publish, Reinit,
    Render, Restart, Role, RunIfPrimary, Store, Switchover, Topology,
};
pub(crate) use failure::Failure;
pub(crate) use members::{Members, body_text, config_in};
pub(crate) use out::Out;
pub(crate) use prompt::{ask, confirm};
pub(crate) use schedule::{When, now_text, parse_when};
pub(crate) use table::{Align, Table};
pub(crate) use view::{ClusterView, MemberView, Position};
