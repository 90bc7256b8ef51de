//! The cross-platform configuration protocol of user-space WireGuard
//! (<https://www.wireguard.com/xplatform/>), which `wg` and `wg-quick` speak:
//!
//! | file | holds |
//! | --- | --- |
//! | [`request`] | text to [`Request`]; pure, total on any bytes |
//! | [`answer`] | [`DeviceState`] or an errno to text; pure |
//! | [`socket`] | the socket's file: made, kept from others, removed |
//! | [`server`] | the threads that answer on it |
//!
//! [`DeviceState`]: super::DeviceState

pub mod answer;
pub mod errno;
pub mod request;
pub mod server;
pub mod socket;

pub use errno::Errno;
pub use request::{ParseError, Request};
pub use server::{Device, UapiServer};
pub use socket::{SocketError, UapiSocket};
