//! Transport: authenticated frames between the members' stores, an HTTP client in which every call has a deadline, and
//! an HTTP server loop with limits.
//!
//! Nothing here knows what is transported. Everything that waits has a deadline, everything that collects has a limit.

mod auth;
mod frame;
mod http;
mod peer_client;
mod peer_server;
mod server;
mod socket;

pub use auth::{PeerKey, SecurityError, require_password};
pub use frame::{Connection, FRAME_BYTES_MAX, FrameError};
pub use http::{HttpClient, HttpError, HttpResponse};
pub use peer_client::{CallError, PeerClient};
pub use peer_server::{ClientConnection, ClientSender, Clients, PeerHandler, PeerServer};
pub use server::{HttpServer, ServerLimits};
