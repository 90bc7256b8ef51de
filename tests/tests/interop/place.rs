//! Where an end of the tunnel lives: in a namespace of this host, or in the virtual machine.

use std::any::Any;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use ringspan_tests::netns::Namespace;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::{Pings, tcp, udp};
use ringspan_tests::vm::{Guest, Machine, TCP_PORT, UDP_PORT};

use crate::ends::Result;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) enum Place {
    Space(Namespace),
    /// The one machine of this test binary: whoever holds it has it alone.
    Guest(MutexGuard<'static, Guest>),
}

impl Place {
    pub(crate) fn space(label: &str) -> Result<Self> {
        Ok(Self::Space(Namespace::new(label)?))
    }

    /// The machine, started for the first that asks.
    pub(crate) fn guest() -> Result<Self> {
        static GUEST: OnceLock<std::result::Result<Mutex<Guest>, String>> = OnceLock::new();
        let machine = Machine {
            limit: Duration::from_secs(900),
            ..Machine::default()
        };
        GUEST
            .get_or_init(|| {
                Guest::start(machine, 1)
                    .map(Mutex::new)
                    .map_err(|error| error.to_string())
            })
            .as_ref()
            // A test that panicked leaves the machine as usable as any other.
            .map(|guest| Self::Guest(guest.lock().unwrap_or_else(PoisonError::into_inner)))
            .map_err(|error| format!("the test VM did not start: {error}").into())
    }

    /// The interface that the outer datagrams take.
    pub(crate) const fn outer_link(&self) -> &'static str {
        match self {
            Self::Space(_) => "up",
            Self::Guest(_) => Guest::CARD,
        }
    }

    pub(crate) fn add_address(&self, link: &str, address: IpNet) -> Result<()> {
        match self {
            Self::Space(space) => space.add_address(link, address)?,
            Self::Guest(guest) => {
                let nodad = if address.addr().is_ipv6() {
                    "nodad"
                } else {
                    ""
                };
                guest.shell(&format!("ip address replace {address} dev {link} {nodad}"))?;
            }
        }
        Ok(())
    }

    pub(crate) fn up(&self, link: &str) -> Result<()> {
        match self {
            Self::Space(space) => space.up(link)?,
            Self::Guest(guest) => drop(guest.shell(&format!("ip link set {link} up"))?),
        }
        Ok(())
    }

    /// Runs a TCP server and a UDP echo on every address, until the answer is dropped.
    pub(crate) fn serve(&self) -> Result<Box<dyn Any>> {
        Ok(match self {
            Self::Space(space) => {
                let everywhere = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
                Box::new((
                    space.run(|| tcp::Server::start_at(everywhere(TCP_PORT)))?,
                    space.run(|| udp::Echo::start_at(everywhere(UDP_PORT)))?,
                ))
            }
            // The guest's agent does always.
            Self::Guest(_) => Box::new(()),
        })
    }

    pub(crate) fn ping(&self, to: IpAddr, size: usize) -> Result<Pings> {
        self.ping_with(
            to,
            Options {
                size,
                timeout: PATIENCE,
                ..Options::default()
            },
        )
    }

    /// Pings where no answer is expected: not for long.
    pub(crate) fn ping_briefly(&self, to: IpAddr) -> Result<Pings> {
        self.ping_with(
            to,
            Options {
                timeout: Duration::from_secs(1),
                ..Options::default()
            },
        )
    }

    fn ping_with(&self, to: IpAddr, options: Options) -> Result<Pings> {
        Ok(match self {
            Self::Space(space) => space.run(|| ping(to, options))?,
            Self::Guest(guest) => guest.ping(to, options)?,
        })
    }

    /// Moves `bytes` each way; they are verified at both ends.
    pub(crate) fn transfer(&self, to: IpAddr, bytes: u64) -> Result<()> {
        let server = SocketAddr::new(to, TCP_PORT);
        match self {
            Self::Space(space) => {
                let _ = space.run(|| tcp::transfer(server, bytes, bytes, PATIENCE, |_| true))?;
            }
            Self::Guest(guest) => guest.transfer(server, bytes, bytes, PATIENCE)?,
        }
        Ok(())
    }

    pub(crate) fn exchange(&self, to: IpAddr, count: u64, size: usize) -> Result<udp::Exchange> {
        let echo = SocketAddr::new(to, UDP_PORT);
        Ok(match self {
            Self::Space(space) => {
                space.run(|| udp::exchange(echo, count, size, 8, PATIENCE, |_| true))?
            }
            Self::Guest(guest) => guest.exchange(echo, count, size, 8, PATIENCE)?,
        })
    }
}
