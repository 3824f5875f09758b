//! The configuration: Patroni's YAML files and environment variables, and the document that all members share.
//!
//! Everything that is wrong is found in one go and shown with file, line and column. A key that promises safety and
//! cannot be kept stops the start; a key without effect is named once; nothing is passed over in silence.
//!
//! This crate reads and checks. It opens no connection, starts nothing and decides nothing; it does not read the
//! process's environment, which the caller hands over.

mod address;
mod clients;
mod diagnostic;
mod document;
mod dynamic;
mod effective;
mod environment;
mod etcd;
mod files;
mod keys;
mod load;
mod local;
mod merge;
mod pgbouncer;
mod promises;
mod publish;
mod router;
mod section;
mod store;
mod tags;
mod timing;
mod values;

pub use address::AddressConfig;
pub use clients::{ClientsFile, FollowerFile, Wanted};
pub use diagnostic::{Diagnostic, Place, Severity};
pub use dynamic::{ClusterSettings, DynamicConfig, PostgresqlSettings};
pub use effective::Effective;
pub use etcd::{EtcdConfig, EtcdSrv, EtcdTls};
pub use files::FileConfig;
pub use load::{LoadError, Loaded, Witness, load, load_clients, load_text, load_witness};
pub use local::{Authentication, Bootstrap, Credentials, DatabaseUser, LocalConfig, LogLevel, Postgresql, RestApi};
pub use merge::merge_patch;
pub use pgbouncer::PgbouncerConfig;
pub use publish::{DeliveryConfig, EventsCommand, EventsConfig, PublishConfig, WebhookSecret};
pub use router::{ClientStore, ClientTls, RouterConfig, RouterPort, RouterPrimary};
pub use section::ToolOption;
pub use store::{EmbeddedConfig, StoreConfig, StoreNetwork, StoreTls};
pub use tags::Tags;
pub use timing::Timing;
pub use values::{HostPort, Listen, Secret};
