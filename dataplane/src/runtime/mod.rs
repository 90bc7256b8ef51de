//! Floor 7: threads, event loops, choice of drivers, start and stop.
//!
//! Threads of a running node, and what each owns:
//!
//! | thread | owns | waits on |
//! | --- | --- | --- |
//! | `worker N` | its receive drivers, its send drivers, an [`engine::Worker`](crate::engine::Worker) | epoll on the drivers and on its [`Waker`](wake::Waker) |
//! | `control` | the [`Handshakes`](crate::engine::Handshakes) of all peers, a send driver of its own | its two channels and the next timer |
//!
//! Workers tell control through a bounded channel ([`mailbox`]); control tells workers by what it
//! publishes in the [`Mesh`](crate::mesh::Mesh), and wakes them. Neither ever waits for the other.

pub mod clock;
pub mod control_thread;
pub mod host_routing;
pub mod interruption;
pub mod mailbox;
pub mod nftables;
pub mod node;
mod outer_choice;
pub mod outer_pair;
pub mod outer_settings;
pub mod paths;
mod ready;
pub mod rtnetlink;
pub mod setup;
pub mod spin;
mod team;
mod veth_setup;
pub mod wake;
pub mod wishes;
pub mod worker;
mod xdp_setup;
