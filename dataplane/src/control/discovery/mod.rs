//! Finding the other members of a KubeSpan cluster through its discovery service.
//!
//! The service is a blind store: members leave what they tell of themselves encrypted under the
//! cluster's secret, and are told when another one's changes. Everybody who knows the cluster's id
//! can read, add and delete there; so nothing from it is believed that the encryption does not
//! vouch for, and a member that vanishes is first asked after.
//!
//! Two layers, two cargo features:
//! - `discovery-codec`, no network: [`cipher`] (the encryption), [`payload`] (what is
//!   encrypted), [`messages`] (what the service is told), [`Roster`] (who is a member), [`Route`]
//!   and [`Backoff`] (where to connect to, and when).
//! - `discovery`: [`Client`], which runs all that on a thread of its own.

mod backoff;
pub mod cipher;
#[cfg(feature = "discovery")]
mod client;
#[cfg(feature = "discovery")]
mod connect;
pub mod messages;
pub mod payload;
mod roster;
mod route;
#[cfg(feature = "discovery")]
mod service;
#[cfg(feature = "discovery")]
mod session;
#[cfg(test)]
mod vectors;

pub use backoff::Backoff;
pub use cipher::{CipherError, ClusterCipher, EndpointError, OpenError};
#[cfg(feature = "discovery")]
pub use client::{Announcement, BadAnnouncement, Client, Config, Event, StartError, Timings};
pub use roster::{Change, Refusal, Roster};
pub use route::{BadUrl, RedirectError, Route, ServerUrl};
#[cfg(feature = "discovery")]
pub use service::CallError;

/// The service that Talos uses unless told otherwise.
pub const DEFAULT_URL: &str = "https://discovery.talos.dev/";
/// Members of a cluster at most.
pub const MAX_AFFILIATES: usize = 1024;
/// Endpoints of a member at most.
pub const MAX_ENDPOINTS: usize = 64;
/// Bytes of a cluster's or an affiliate's id at most.
pub const MAX_ID_LEN: usize = 256;
/// Bytes of a member's encrypted data at most.
pub const MAX_DATA_LEN: usize = 2048;
/// Bytes of an encrypted endpoint at most.
pub const MAX_ENDPOINT_LEN: usize = 32;
