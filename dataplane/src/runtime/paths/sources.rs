//! Sticky source addresses, given up where a route has moved to another interface.
//!
//! A peer is answered from the address that it wrote to. The kernel's WireGuard looks its route up
//! at every send, and forgets the address when the route no longer leads over the interface that
//! the peer was heard on (`send4` in its `socket.c`). Here the kernel's events say when to look
//! (docs/decisions/0130).

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use netlink_packet_route::route::RouteAttribute;

use super::netlink::{Questions, RouteQuestion};
use crate::io::udp::UdpPort;
use crate::io::xdp::PathKey;
use crate::mesh::{Endpoint, Peer};
use crate::runtime::rtnetlink::Events;

/// Multicast groups (`enum rtnetlink_groups`): links, and addresses, routes and rules of both
/// families.
const GROUPS: [u32; 7] = [1, 5, 7, 8, 9, 11, 19];

/// How often events are looked for.
const PERIOD: Duration = Duration::from_millis(500);

/// Looks after an event: what was under way to the old address brings it back, once.
const LOOKS: u32 = 4;

/// Peers whose route is looked up between two letters of the control thread (some 10 µs each).
const PEERS_PER_TURN: usize = 32;

/// Watches the routes of a network namespace, and clears the source addresses that they make wrong.
#[derive(Debug)]
pub struct SourceWatch {
    events: Events,
    questions: Questions,
    port: UdpPort,
    next: Instant,
    looks: u32,
    waiting: Vec<Arc<Peer>>,
}

impl SourceWatch {
    /// In the calling thread's network namespace. Routes are looked up under the mark of `port`.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open(port: UdpPort) -> io::Result<Self> {
        Ok(Self {
            events: Events::open(&GROUPS)?,
            questions: Questions::open()?,
            port,
            next: Instant::now(),
            looks: 0,
            waiting: Vec::new(),
        })
    }

    /// Looks whether a route has changed, and after some of the peers if so; `all` lists them. True
    /// while there are more to look after.
    pub fn look(&mut self, all: impl FnOnce() -> Vec<Arc<Peer>>) -> bool {
        let now = Instant::now();
        if self.waiting.is_empty() {
            if now < self.next {
                return false;
            }
            self.next = now + PERIOD;
            if self.events.drain() {
                self.looks = LOOKS;
            }
            if self.looks == 0 {
                return false;
            }
            self.looks -= 1;
            self.waiting = all();
        }
        let some = self.waiting.len().saturating_sub(PEERS_PER_TURN);
        for peer in self.waiting.split_off(some) {
            if let Some(endpoint) = peer.endpoint()
                && self.leads_elsewhere(&endpoint)
            {
                peer.forget_source();
            }
        }
        !self.waiting.is_empty()
    }

    /// Whether the way to the peer no longer begins at the interface that it was heard on.
    fn leads_elsewhere(&mut self, endpoint: &Endpoint) -> bool {
        let key = PathKey::from(endpoint);
        if key.source.is_none() || endpoint.interface == 0 {
            return false;
        }
        let answer = self.questions.route(RouteQuestion {
            destination: key.remote,
            source: key.source,
            interface: key.scope,
            mark: self.port.fwmark(),
        });
        match answer {
            Ok(Some(route)) => {
                let leads_over = route
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        RouteAttribute::Oif(index) => Some(*index),
                        _ => None,
                    });
                leads_over.is_some_and(|index| index != endpoint.interface)
            }
            // Nothing is known.
            Ok(None) => false,
            // No route, or none from this address: the kernel forgets it too.
            Err(_) => true,
        }
    }
}
