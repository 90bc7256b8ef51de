//! The status socket: how `ringspan status` learns what `ringspan up` is doing.
//!
//! A running tunnel listens on a Unix stream socket `NAME.sock` (mode 0600) in the run directory.
//! The protocol is one line of JSON each way, then the server closes:
//!
//! ```text
//! → {"version":1,"request":"status"}
//! ← {"version":1,"status":{…}}            or   {"version":1,"error":"…"}
//! ```
//!
//! or, of a member of a KubeSpan mesh,
//!
//! ```text
//! → {"version":1,"request":"get","resource":"peerstatus"}
//! ← {"version":1,"resources":{"node":"…","items":[…]}}
//! ```
//!
//! `status` is a [`TunnelStatus`](report::TunnelStatus). New fields may join it without a new
//! version, so a reader ignores what it does not know; a changed meaning raises the version.
//! `docs/configuration.md` has the fields.

mod client;
mod get;
mod protocol;
pub(crate) mod report;
mod server;
mod table;
#[cfg(test)]
mod tests;

pub(crate) use client::{ClientError, print};
pub(crate) use get::get;
#[cfg(feature = "discovery")]
pub(crate) use protocol::Resources;
#[cfg(feature = "discovery")]
pub(crate) use server::Answers;
pub(crate) use server::{ServerError, StatusSocket};
