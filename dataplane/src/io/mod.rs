//! Floor 6: drivers. One folder a driver, one file a kernel concept; all behind the ports of
//! [`engine::port`](crate::engine::port).
