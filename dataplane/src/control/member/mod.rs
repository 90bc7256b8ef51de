//! A member of a KubeSpan mesh: what finds the peers of a node through discovery, and has them
//! find it.
//!
//! A [`Member`] is a [`Source`](super::Source): it begins with the node and leaves with it.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ringspan::control::kubespan::{FWMARK_EGRESS, LINK_NAME, LISTEN_PORT, MachineConfig};
//! use ringspan::control::member::Member;
//! use ringspan::{Dataplane, Inner, Outer};
//!
//! let config = MachineConfig::load("worker.yaml".as_ref())?;
//! let member = Member::builder(&config).state_dir("/var/lib/ringspan").build()?;
//! let mesh = member.handle();
//! let plane = Dataplane::builder(member.private_key().clone())
//!     .listen_port(LISTEN_PORT)
//!     .fwmark(FWMARK_EGRESS)
//!     .outer(Outer::auto("eth0"))
//!     .inner(Inner::tun(LINK_NAME).mtu(config.mtu))
//!     .source(member)
//!     .start()?;
//!
//! println!("{} joins as {}", mesh.identity().address, plane.public_key());
//! for peer in mesh.state().peers {
//!     println!("{}: {} at {:?}", peer.label, peer.address, peer.endpoints);
//! }
//! plane.shutdown()?; // leaves the mesh, too: others need not wait until its time runs out
//! # Ok(())
//! # }
//! ```
//!
//! What it does not do is the host's part: the address on the link and the routes into it.
//!
//! Decisions are in [`Membership`], which has neither I/O nor a clock; the thread that the source
//! runs on only carries news to it and back.

mod builder;
mod membership;
mod node_id;
mod run;
#[cfg(test)]
mod tests;
mod view;

pub use builder::{Member, MemberBuilder, MemberError};
pub use membership::{Membership, Settings};
pub use node_id::{NODE_ID_FILE, NodeIdError};
pub use view::{MemberHandle, MemberState, Refused, ServiceState, ServiceStatus};
