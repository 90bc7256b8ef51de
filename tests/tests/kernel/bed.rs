//! A node of ours on the host and somebody else's WireGuard in a room of the virtual machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::control::{PeerSpec, PeerStatus as OurStatus};
use ringspan::crypto::{PresharedKey, PublicKey};
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::peers::{self, DeviceConfig, KeyPair, PeerConfig, PeerStatus};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::vm::{Guest, Machine, Room};

use crate::boringtun::{BORINGTUN, UNCONNECTED};

pub(crate) type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

/// Our node's outer link.
pub(crate) const OUTER: &str = Room::LINK;
/// Our node's inner interface.
const TUNNEL: &str = "ring0";
/// Everybody's port.
pub(crate) const PORT: u16 = 51820;
/// How long anything may take in an emulated machine; only a failing test waits that long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What our node sends and receives datagrams by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driver {
    Udp,
    Xdp,
}

/// Whose WireGuard is in the machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The kernel's, of the host's Debian.
    Kernel,
    /// The kernel's, of a newer Debian.
    NewerKernel,
    WireguardGo,
    Boringtun,
}

impl Driver {
    pub(crate) const ALL: [Self; 2] = [Self::Udp, Self::Xdp];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Xdp => "xdp",
        }
    }

    pub(crate) fn needs(self) -> &'static [Need] {
        match self {
            Self::Udp => &[],
            Self::Xdp => &[Need::Bpf, Need::AfXdp],
        }
    }
}

impl Kind {
    pub(crate) const KERNELS: [Self; 2] = [Self::Kernel, Self::NewerKernel];
    pub(crate) const ALL: [Self; 4] = [
        Self::Kernel,
        Self::NewerKernel,
        Self::WireguardGo,
        Self::Boringtun,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::NewerKernel => "newer_kernel",
            Self::WireguardGo => "wireguard_go",
            Self::Boringtun => "boringtun",
        }
    }

    pub(crate) fn is_kernel(self) -> bool {
        Self::KERNELS.contains(&self)
    }

    pub(crate) fn needs(self) -> &'static [Need] {
        match self {
            Self::Kernel => &[Need::Namespaces, Need::Tun, Need::Vm],
            Self::NewerKernel | Self::Boringtun => &[Need::Namespaces, Need::Tun, Need::NewerVm],
            Self::WireguardGo => &[
                Need::Namespaces,
                Need::Tun,
                Need::NewerVm,
                Need::Program("wireguard-go"),
            ],
        }
    }

    /// Its machine, started for the first that asks.
    pub(crate) fn guest(self) -> Fallible<&'static Guest> {
        type Started = OnceLock<Result<Guest, String>>;
        static STOCK: Started = OnceLock::new();
        static NEWER: Started = OnceLock::new();
        let (started, machine) = match self {
            Self::Kernel => (&STOCK, Machine::default()),
            _ => (&NEWER, Machine::newer()),
        };
        let start = || {
            let machine = Machine {
                limit: Duration::from_secs(1200),
                ..machine
            };
            let guest = Guest::start(machine, 1)?;
            guest.open_rooms()?;
            Ok(guest)
        };
        started
            .get_or_init(|| start().map_err(|error: std::io::Error| error.to_string()))
            .as_ref()
            .map_err(|error| format!("the test VM did not start: {error}").into())
    }
}

/// The part of all addresses that tells one test from another.
pub(crate) fn number() -> u8 {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// An outer address: host `host` of test `number`.
pub(crate) fn outer(number: u8, host: u8, family: u8) -> IpAddr {
    match family {
        4 => Ipv4Addr::new(198, 19, number, host).into(),
        _ => Ipv6Addr::new(0xfd19, number.into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// An inner address: ours are of host 1, theirs of host 2.
pub(crate) fn inner(number: u8, host: u8, family: u8) -> IpAddr {
    match family {
        4 => Ipv4Addr::new(10, 10, number, host).into(),
        _ => Ipv6Addr::new(0xfd10, number.into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
}

pub(crate) fn network(address: IpAddr) -> IpNet {
    let length = if address.is_ipv4() { 24 } else { 64 };
    IpNet::new(address, length).expect("a length of its family")
}

/// Our node.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) plane: Dataplane,
    number: u8,
}

impl Node {
    pub(crate) fn start(namespace: Namespace, number: u8, driver: Driver) -> Fallible<Self> {
        let plane = namespace.run(|| {
            Dataplane::builder(KeyPair::generate().private)
                .listen_port(PORT)
                .outer(match driver {
                    Driver::Udp => Outer::udp(),
                    Driver::Xdp => Outer::xdp(OUTER),
                })
                .inner(Inner::tun(TUNNEL))
                .start()
        })?;
        for family in [4, 6] {
            namespace.add_address(TUNNEL, network(inner(number, 1, family)))?;
        }
        namespace.up(TUNNEL)?;
        Ok(Self {
            namespace,
            plane,
            number,
        })
    }

    /// Makes `specs` its peers.
    pub(crate) fn apply(&self, specs: &[PeerSpec]) -> Fallible<()> {
        let applied = self.plane.control().apply(specs)?;
        if !applied.rejected.is_empty() {
            return Err(format!("refused: {:?}", applied.rejected).into());
        }
        Ok(())
    }

    /// What it says of its one peer.
    pub(crate) fn peer(&self) -> Fallible<OurStatus> {
        let [peer] = <[OurStatus; 1]>::try_from(self.plane.statuses())
            .map_err(|peers| format!("one peer expected: {peers:?}"))?;
        Ok(peer)
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.plane.counters();
        let found = counters.iter().find(|(key, _)| *key == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).1
    }

    pub(crate) fn counted(&self) -> Vec<(&'static str, u64)> {
        let mut counters = self.plane.counters();
        counters.retain(|(_, value)| *value != 0);
        counters
    }

    /// Whether the other end answers a ping soon.
    pub(crate) fn knock(&self, family: u8) -> bool {
        let options = Options {
            count: 1,
            timeout: Duration::from_secs(1),
            ..Options::default()
        };
        let to = inner(self.number, 2, family);
        let pings = self.namespace.run(|| ping(to, options));
        pings.is_ok_and(|pings| pings.all_answered())
    }

    /// Pings of which every one must be answered.
    pub(crate) fn reaches(&self) -> Fallible<()> {
        for family in [4, 6] {
            let to = inner(self.number, 2, family);
            let pings = self.namespace.run(|| ping(to, patient()))?;
            if !pings.all_answered() {
                return Err(format!("we to {to}: {pings:?}; {:?}", self.counted()).into());
            }
        }
        Ok(())
    }
}

/// Somebody else's WireGuard, in a room of the machine.
pub(crate) struct Peer {
    pub(crate) room: Room<'static>,
    pub(crate) kind: Kind,
    pub(crate) device: String,
    number: u8,
    keys: KeyPair,
}

impl Peer {
    /// Makes its device; it has no peer yet, and its room no outer address.
    pub(crate) fn start(kind: Kind, number: u8) -> Fallible<Self> {
        let room = kind.guest()?.room(number)?;
        let device = format!("wg{number}");
        match kind {
            Kind::Kernel | Kind::NewerKernel => {
                room.shell(&format!("ip link add {device} type wireguard"))?;
            }
            Kind::WireguardGo => {
                run(
                    &room,
                    &device,
                    &format!("wireguard-go --foreground {device}"),
                )?;
            }
            Kind::Boringtun => {
                let program = std::env::current_exe()?;
                let role = BORINGTUN.arguments().join(" ");
                let command = format!("{} {role} {device} {UNCONNECTED}", program.display());
                run(&room, &device, &command)?;
            }
        }
        room.move_out(&device)?;
        let addresses = [4, 6].map(|family| {
            let address = network(inner(number, 2, family));
            let nodad = if family == 6 { "nodad" } else { "" };
            format!("ip address add {address} dev {device} {nodad}")
        });
        room.guest().shell(&format!(
            "ip link set {device} mtu 1420 up\n{}",
            addresses.join("\n")
        ))?;
        Ok(Self {
            room,
            kind,
            device,
            number,
            keys: KeyPair::generate(),
        })
    }

    pub(crate) fn public_key(&self) -> PublicKey {
        self.keys.public
    }

    /// Adds outer addresses to its room.
    pub(crate) fn add_outer(&self, addresses: &[IpAddr]) -> Fallible<()> {
        for &address in addresses {
            let nodad = if address.is_ipv6() { "nodad" } else { "" };
            self.room.shell(&format!(
                "ip address add {} dev {} {nodad}",
                network(address),
                Room::LINK
            ))?;
        }
        Ok(())
    }

    /// Tells it of its one peer.
    pub(crate) fn configure(&self, peer: PeerConfig) -> Fallible<()> {
        let config = DeviceConfig {
            private_key: self.keys.private.clone(),
            listen_port: PORT,
            peers: vec![peer],
        };
        self.room.guest().shell(&format!(
            "wg setconf {} <(cat <<'END'\n{}END\n)",
            self.device,
            peers::setconf(&config)
        ))?;
        Ok(())
    }

    /// Sets something of its peer, in the words of `wg set`.
    pub(crate) fn set(&self, peer: PublicKey, words: &str) -> Fallible<()> {
        self.room
            .guest()
            .shell(&format!("wg set {} peer {peer} {words}", self.device))?;
        Ok(())
    }

    /// What it says of its one peer.
    pub(crate) fn peer(&self) -> Fallible<PeerStatus> {
        let dump = self
            .room
            .guest()
            .shell(&format!("wg show {} dump", self.device))?;
        let [peer] = <[PeerStatus; 1]>::try_from(peers::parse_dump(&dump)?)
            .map_err(|peers| format!("one peer expected: {peers:?}"))?;
        Ok(peer)
    }

    pub(crate) fn knock(&self, family: u8) -> bool {
        let options = Options {
            count: 1,
            timeout: Duration::from_secs(1),
            ..Options::default()
        };
        let pings = self
            .room
            .guest()
            .ping(inner(self.number, 1, family), options);
        pings.is_ok_and(|pings| pings.all_answered())
    }

    /// Pings of which every one must be answered.
    pub(crate) fn reaches(&self) -> Fallible<()> {
        for family in [4, 6] {
            let to = inner(self.number, 1, family);
            let pings = self.room.guest().ping(to, patient())?;
            if !pings.all_answered() {
                return Err(format!("{} to {to}: {pings:?}", self.kind.name()).into());
            }
        }
        Ok(())
    }
}

/// Starts a userspace implementation in a room and waits for its socket. A shell stays its parent:
/// a process in a role ends with the one that started it.
fn run(room: &Room<'_>, device: &str, command: &str) -> Fallible<()> {
    room.shell(&format!(
        "{{ setsid {command}; true; }} < /dev/null > /run/{device}.log 2>&1 &
         for i in $(seq 300); do
             [ ! -S /var/run/wireguard/{device}.sock ] || exit 0
             kill -0 $! || break
             sleep 0.1
         done
         cat /run/{device}.log; exit 1"
    ))?;
    Ok(())
}

fn patient() -> Options {
    Options {
        timeout: PATIENCE,
        ..Options::default()
    }
}

/// Both ends on one link.
pub(crate) struct Bed {
    pub(crate) us: Node,
    pub(crate) peer: Peer,
    pub(crate) number: u8,
    pub(crate) secret: Option<PresharedKey>,
}

/// Joins a link of `space` with all rooms of `guest`.
pub(crate) fn bridge(space: &Namespace, link: &str, guest: &Guest) -> Fallible<()> {
    let bridged = guest.namespace();
    let port = ringspan_tests::netns::unique_name("port");
    Veth::default().join(space, link, bridged, &port)?;
    bridged.attach(&port, Guest::BRIDGE)?;
    Ok(())
}

impl Bed {
    /// Two ends that do not know each other yet: we are host 1, they are host 2, in both families.
    pub(crate) fn strangers(kind: Kind, driver: Driver) -> Fallible<Self> {
        let number = number();
        let peer = Peer::start(kind, number)?;
        let space = Namespace::new("us")?;
        bridge(&space, OUTER, peer.room.guest())?;
        for family in [4, 6] {
            space.add_address(OUTER, network(outer(number, 1, family)))?;
        }
        peer.add_outer(&[4, 6].map(|family| outer(number, 2, family)))?;
        Ok(Self {
            us: Node::start(space, number, driver)?,
            peer,
            number,
            secret: None,
        })
    }

    /// Two ends that know each other's IPv4 address.
    pub(crate) fn acquainted(kind: Kind, driver: Driver) -> Fallible<Self> {
        let bed = Self::strangers(kind, driver)?;
        bed.tell_them(Some(outer(bed.number, 1, 4)), None)?;
        bed.tell_us(Some(outer(bed.number, 2, 4)))?;
        Ok(bed)
    }

    /// Makes the other end our peer.
    pub(crate) fn tell_us(&self, at: Option<IpAddr>) -> Fallible<()> {
        self.us.apply(&[self.spec(at)])
    }

    /// The other end, as we know it.
    pub(crate) fn spec(&self, at: Option<IpAddr>) -> PeerSpec {
        PeerSpec {
            preshared_key: self.secret.clone(),
            endpoints: at.map(|ip| SocketAddr::new(ip, PORT)).into_iter().collect(),
            allowed_ips: self.allowed(2),
            ..PeerSpec::new(self.peer.public_key())
        }
    }

    /// Makes us the other end's peer.
    pub(crate) fn tell_them(&self, at: Option<IpAddr>, keepalive: Option<u16>) -> Fallible<()> {
        self.peer.configure(PeerConfig {
            public_key: self.us.plane.public_key(),
            preshared_key: self.secret.clone(),
            endpoint: at.map(|ip| SocketAddr::new(ip, PORT)),
            allowed_ips: self.allowed(1),
            persistent_keepalive: keepalive,
        })
    }

    fn allowed(&self, host: u8) -> Vec<IpNet> {
        [4, 6]
            .map(|family| inner(self.number, host, family).into())
            .to_vec()
    }
}

/// Waits until `done`; an error that says `what` when that does not come about.
pub(crate) fn wait_for(
    what: &str,
    limit: Duration,
    mut done: impl FnMut() -> Fallible<bool>,
) -> Fallible<()> {
    let end = Instant::now() + limit;
    while !done()? {
        if Instant::now() > end {
            return Err(format!("{what}: not within {limit:?}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
