//! The two ends of a tunnel, whichever implementation they are.

use std::error::Error;
use std::num::NonZeroU16;
use std::process::Stdio;

use ringspan::control::PeerSpec;
use ringspan::runtime::worker::DriverReport;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::netns::{Namespace, unique_name};
use ringspan_tests::peers::{self, Device, DeviceConfig, PeerConfig, PeerStatus, wireguard_go};
use ringspan_tests::privilege::Need;
use ringspan_tests::vm::Guest;

use crate::boringtun::BORINGTUN;
use crate::place::Place;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An implementation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Ours.
    Ringspan(Transport),
    WireguardGo,
    Boringtun,
    /// The Linux kernel's own, in the virtual machine.
    Kernel,
}

/// Who carries our datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Transport {
    Xdp,
    Udp,
}

impl Kind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ringspan(Transport::Xdp) => "xdp",
            Self::Ringspan(Transport::Udp) => "udp",
            Self::WireguardGo => "wireguard_go",
            Self::Boringtun => "boringtun",
            Self::Kernel => "kernel",
        }
    }

    pub(crate) fn needs(self) -> Vec<Need> {
        match self {
            Self::Ringspan(Transport::Xdp) => {
                vec![Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp]
            }
            Self::Ringspan(Transport::Udp) => vec![Need::Namespaces, Need::Tun],
            Self::WireguardGo => vec![Need::Namespaces, Need::Tun, wireguard_go::NEED],
            Self::Boringtun => vec![Need::Namespaces, Need::Tun],
            Self::Kernel => vec![Need::Namespaces, Need::Vm],
        }
    }

    /// Where it lives.
    pub(crate) fn place(self) -> Result<Place> {
        match self {
            Self::Kernel => Place::guest(),
            _ => Place::space(self.name()),
        }
    }

    /// Starts it in `place`; its interface is not up yet.
    pub(crate) fn start(self, place: &Place, config: &DeviceConfig) -> Result<Box<dyn End>> {
        Ok(match (self, place) {
            (Self::Ringspan(transport), Place::Space(space)) => {
                Box::new(Ours::start(space, place.outer_link(), transport, config)?)
            }
            (Self::WireguardGo, Place::Space(space)) => {
                Box::new(wireguard_go::start(space, config)?)
            }
            (Self::Boringtun, Place::Space(space)) => Box::new(boringtun(space, config)?),
            (Self::Kernel, Place::Guest(guest)) => Box::new(KernelDevice::start(guest, config)?),
            _ => return Err(format!("{} does not live there", self.name()).into()),
        })
    }
}

/// A running implementation.
pub(crate) trait End {
    fn interface(&self) -> &str;
    /// What it says of its one peer; `place` is where it lives.
    fn peer(&self, place: &Place) -> Result<PeerStatus>;
}

impl End for Device {
    fn interface(&self) -> &str {
        Self::interface(self)
    }

    fn peer(&self, _: &Place) -> Result<PeerStatus> {
        let [peer] = <[PeerStatus; 1]>::try_from(self.peers()?)
            .map_err(|peers| format!("one peer expected: {peers:?}"))?;
        Ok(peer)
    }
}

/// A data plane in this process, its threads and sockets in a namespace.
struct Ours {
    plane: Dataplane,
    transport: Transport,
}

impl Ours {
    fn start(
        space: &Namespace,
        card: &str,
        transport: Transport,
        config: &DeviceConfig,
    ) -> Result<Self> {
        let plane = space.run(|| {
            Dataplane::builder(config.private_key.clone())
                .listen_port(config.listen_port)
                .outer(match transport {
                    Transport::Xdp => Outer::xdp(card),
                    Transport::Udp => Outer::udp(),
                })
                .inner(Inner::tun("ringspan").mtu(1420))
                .start()
        })?;
        let specs: Vec<_> = config.peers.iter().map(spec).collect();
        let applied = plane.control().apply(&specs)?;
        if applied.added != specs.len() {
            return Err(format!("peers were refused: {:?}", applied.rejected).into());
        }
        Ok(Self { plane, transport })
    }
}

/// Whether AF_XDP, not the socket beside it, carried the traffic, both ways.
fn carried_by_xdp(drivers: &[DriverReport]) -> Result<()> {
    for (port, counter) in [("outer rx", "rx_datagrams"), ("outer tx", "tx_datagrams")] {
        let count: u64 = drivers
            .iter()
            .filter(|driver| driver.port == port && driver.info.driver == "xdp")
            .flat_map(|driver| &driver.statistics)
            .filter(|(name, _)| *name == counter)
            .map(|(_, count)| count)
            .sum();
        // The traffic of a test takes several thousand datagrams each way.
        if count < 2000 {
            return Err(format!("only {count} datagrams by AF_XDP ({port}): {drivers:?}").into());
        }
    }
    Ok(())
}

fn spec(peer: &PeerConfig) -> PeerSpec {
    let mut spec = PeerSpec::new(peer.public_key);
    spec.preshared_key.clone_from(&peer.preshared_key);
    spec.endpoints = peer.endpoint.into_iter().collect();
    spec.allowed_ips.clone_from(&peer.allowed_ips);
    spec.persistent_keepalive = peer.persistent_keepalive.and_then(NonZeroU16::new);
    spec
}

impl End for Ours {
    fn interface(&self) -> &str {
        self.plane.interface().unwrap_or_default()
    }

    fn peer(&self, _: &Place) -> Result<PeerStatus> {
        let statuses = self.plane.statuses();
        let [status] = statuses.as_slice() else {
            return Err(format!("one peer expected: {statuses:?}").into());
        };
        if self.transport == Transport::Xdp && status.receive_packets > 0 {
            carried_by_xdp(&self.plane.drivers())?;
        }
        Ok(PeerStatus {
            public_key: status.public_key,
            endpoint: status.endpoint,
            rx_bytes: status.receive_bytes,
            tx_bytes: status.transmit_bytes,
            handshaken: status.last_handshake.is_some(),
        })
    }
}

fn boringtun(namespace: &Namespace, config: &DeviceConfig) -> Result<Device> {
    let name = unique_name("bor");
    let process = namespace.spawn_role(&BORINGTUN, &[&name], |command| {
        command.stdout(Stdio::null());
    })?;
    Ok(Device::configure(name, process, config)?)
}

/// `wg0` of the guest's kernel, made anew for each test.
struct KernelDevice;

impl KernelDevice {
    fn start(guest: &Guest, config: &DeviceConfig) -> Result<Self> {
        guest.shell(&format!(
            "ip link del wg0 2>/dev/null || true
             ip link add wg0 type wireguard
             wg setconf wg0 <(cat <<'END'
{}END
             )",
            peers::setconf(config)
        ))?;
        Ok(Self)
    }
}

impl End for KernelDevice {
    fn interface(&self) -> &str {
        "wg0"
    }

    fn peer(&self, place: &Place) -> Result<PeerStatus> {
        let Place::Guest(guest) = place else {
            return Err("the kernel lives in the machine".into());
        };
        let [peer] =
            <[PeerStatus; 1]>::try_from(peers::parse_dump(&guest.shell("wg show wg0 dump")?)?)
                .map_err(|peers| format!("one peer expected: {peers:?}"))?;
        Ok(peer)
    }
}
