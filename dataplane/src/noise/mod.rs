//! Floor 3: the WireGuard protocol as pure functions of bytes and time.

pub mod constants;
pub mod marks;
pub mod replay;
pub mod session;

pub use marks::Marks;
pub use replay::ReplayWindow;
pub use session::{Role, Session, SessionKeys, Sessions};
