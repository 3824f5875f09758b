//! Files that say where the baton is, in the words of whoever reads them: HAProxy, PgBouncer, libpq, ssh, Barman, keepalived, a shell.
//!
//! A file is made of a template and one document, [`Context`]. It is written only when its content changes, by rename, after a check, with its
//! own mode and owner; then a command is run, until it succeeds. Beside each file a small one remembers the epoch it was made for: an
//! older one is never written over a newer one, and a command that failed is run again by whoever comes next.
//!
//! Nothing here watches or waits; whoever calls says when.

mod builtin;
mod context;
mod file;
mod template;

pub use builtin::BuiltIn;
pub use context::Context;
pub use file::{FileError, Outcome, Target};
pub use template::{Template, TemplateError};
