//! Floor 3: the WireGuard protocol as pure functions of bytes and time.

pub mod constants;
pub mod cookie;
pub mod handshake;
pub mod marks;
pub mod ratelimit;
pub mod replay;
pub mod session;
pub mod tai64n;
pub mod timers;

pub use marks::Marks;
pub use replay::ReplayWindow;
pub use session::{Role, Session, SessionKeys, Sessions};
