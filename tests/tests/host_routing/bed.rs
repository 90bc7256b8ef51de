//! Two hosts on one network, and a mesh of three: the third member is down, and its addresses are
//! the second host's too, so that whatever is sent to it in clear is answered, and counted.

use std::error::Error;
use std::fs;
use std::io;
use std::io::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan::control::kubespan::{FWMARK_EGRESS, routing};
use ringspan::control::{PeerSpec, PeerState};
use ringspan::crypto::x25519::KeyPair;
use ringspan::crypto::{PrivateKey, PublicKey};
use ringspan::runtime::host_routing::HostRoutingConfig;
use ringspan::{Dataplane, HostRouting, Inner, Outer};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::traffic::ping::{Options, ping};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The tunnel, on either host.
pub(crate) const LINK: &str = "kubespan";
/// The link to the other host.
pub(crate) const LAN: &str = "lan";
pub(crate) const MTU: u16 = 1420;
/// For what takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What lies behind the member that is up: its own address on the LAN, and a network of pods.
pub(crate) const UP: [&str; 4] = ["10.9.0.2", "10.244.2.1", "2001:db8:9::2", "2001:db8:2::1"];
/// What lies behind the member that is down.
pub(crate) const DOWN: [&str; 3] = ["10.9.0.3", "10.244.3.1", "2001:db8:3::1"];

pub(crate) fn ula(member: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0xbc02, 0, 0, 0, member)
}

fn key(member: u8) -> PrivateKey {
    PrivateKey::from([member; 32])
}

pub(crate) fn public_key(member: u8) -> PublicKey {
    *KeyPair::new(&key(member)).expect("a good key").public()
}

pub(crate) fn prefixes(texts: &[&str]) -> Vec<IpNet> {
    texts
        .iter()
        .map(|text| text.parse().expect("a prefix"))
        .collect()
}

/// The peers of `member`, one of the two hosts.
fn peers(member: u8) -> Vec<PeerSpec> {
    let mut other = PeerSpec::new(public_key(3 - member));
    let address = [10, 9, 0, 3 - member];
    other.endpoints = vec![SocketAddr::from((address, 51820))];
    other.allowed_ips = prefixes(match member {
        1 => &[
            "10.9.0.2/32",
            "10.244.2.0/24",
            "2001:db8:9::2/128",
            "2001:db8:2::/64",
        ],
        _ => &["10.9.0.1/32", "2001:db8:9::1/128"],
    });
    other
        .allowed_ips
        .push(IpAddr::from(ula(u16::from(3 - member))).into());
    let mut down = PeerSpec::new(public_key(3));
    down.endpoints = vec!["10.9.0.77:51820".parse().expect("an address")];
    down.allowed_ips = prefixes(&["10.9.0.3/32", "10.244.3.0/24", "2001:db8:3::/64"]);
    down.allowed_ips.push(IpAddr::from(ula(3)).into());
    vec![other, down]
}

pub(crate) fn config(member: u16, bypass: bool) -> HostRoutingConfig {
    routing::host_routing(LINK, ula(member), MTU, bypass)
}

/// The hosts.
pub(crate) struct Bed {
    pub(crate) host: Namespace,
    pub(crate) other: Namespace,
}

impl Bed {
    pub(crate) fn new() -> Result<Self> {
        let (host, other) = (Namespace::new("host")?, Namespace::new("other")?);
        Veth::default().join(&host, LAN, &other, LAN)?;
        for address in prefixes(&["10.9.0.1/24", "2001:db8:9::1/64"]) {
            host.add_address(LAN, address)?;
        }
        let others = ["10.9.0.2/24", "10.9.0.3/24", "2001:db8:9::2/64"];
        for address in prefixes(&others) {
            other.add_address(LAN, address)?;
        }
        let behind = [
            "10.244.2.1/32",
            "10.244.3.1/32",
            "2001:db8:2::1/128",
            "2001:db8:3::1/128",
        ];
        for address in prefixes(&behind) {
            other.add_address("lo", address)?;
        }
        // Where packets go that are not for the tunnel.
        for (to, via) in [("0.0.0.0/0", "10.9.0.2"), ("::/0", "2001:db8:9::2")] {
            host.add_route(to.parse::<IpNet>()?, LAN, Some(via.parse()?))?;
        }
        let bed = Self { host, other };
        // Counts what arrives in clear; neighbour discovery and router solicitations aside.
        nft(
            &bed.other,
            &format!(
                "table inet probe {{\n\
                 counter clear {{ }}\n\
                 counter clamped4 {{ }}\ncounter clamped6 {{ }}\n\
                 chain in {{ type filter hook prerouting priority raw; policy accept;\n\
                 iifname {LINK} tcp flags & (syn|ack) == syn tcp option maxseg size 1368 \
                 counter name clamped4\n\
                 iifname {LINK} tcp flags & (syn|ack) == syn tcp option maxseg size 1348 \
                 counter name clamped6\n\
                 iifname != {LAN} accept\n\
                 udp dport 51820 accept\n\
                 meta l4proto icmpv6 icmpv6 type {{ 130-137, 143 }} accept\n\
                 counter name clear\n}}\n}}\n"
            ),
        )?;
        Ok(bed)
    }

    /// Packets of the counter with this name on the other host.
    pub(crate) fn count(&self, counter: &str) -> Result<u64> {
        let text = nft_output(&self.other, &["list", "counter", "inet", "probe", counter])?;
        let mut words = text.split_whitespace();
        words.find(|word| *word == "packets").ok_or("no counter")?;
        Ok(words.next().ok_or("no count")?.parse()?)
    }

    /// Packets that have come to the other host in clear.
    pub(crate) fn clear(&self) -> Result<u64> {
        self.count("clear")
    }

    pub(crate) fn assert_reached(&self, address: &str) -> Result<()> {
        let to: IpAddr = address.parse()?;
        let pings = self.host.run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{address}: {pings:?}");
        Ok(())
    }

    /// Sends to `address`; nobody answers.
    pub(crate) fn assert_lost(&self, address: &str) -> Result<()> {
        let to: IpAddr = address.parse()?;
        let options = Options {
            count: 2,
            timeout: Duration::from_millis(300),
            ..Options::default()
        };
        match self.host.run(|| ping(to, options)) {
            // The kernel may say at once that it goes nowhere.
            Err(error) if error.raw_os_error().is_some() => {}
            Err(error) => return Err(error.into()),
            Ok(pings) => assert!(pings.round_trips.is_empty(), "{address}: {pings:?}"),
        }
        Ok(())
    }
}

/// A data plane and its host's routing.
pub(crate) struct Member {
    // Dropped in this order.
    pub(crate) routing: HostRouting,
    pub(crate) plane: Dataplane,
}

impl Member {
    /// In the calling thread's namespace.
    pub(crate) fn start_here(member: u8, outer: Outer, bypass: bool) -> Result<Self> {
        let plane = Dataplane::builder(key(member))
            .fwmark(FWMARK_EGRESS)
            .outer(outer)
            .inner(Inner::tun(LINK).mtu(MTU))
            .start()?;
        let routing = HostRouting::start(config(member.into(), bypass))?;
        assert!(routing.notes().is_empty(), "{:?}", routing.notes());
        let started = Self { routing, plane };
        let applied = started.plane.control().apply(&peers(member))?;
        assert!(applied.rejected.is_empty(), "{:?}", applied.rejected);
        started.route(bypass)?;
        Ok(started)
    }

    pub(crate) fn start(
        namespace: &Namespace,
        member: u8,
        outer: Outer,
        bypass: bool,
    ) -> Result<Self> {
        let started = namespace
            .run(|| Self::start_here(member, outer, bypass).map_err(|error| error.to_string()));
        Ok(started?)
    }

    /// Routes by the peers' states of now.
    pub(crate) fn route(&self, bypass: bool) -> Result<()> {
        let prefixes = routing::routed_of(bypass, &self.plane.statuses());
        Ok(self.routing.set_routed(&prefixes)?)
    }

    pub(crate) fn state(&self, member: u8) -> PeerState {
        let key = public_key(member);
        let statuses = self.plane.statuses();
        let peer = statuses.iter().find(|peer| peer.public_key == key);
        peer.map_or(PeerState::Unknown, |peer| peer.state)
    }

    /// Packets sent into the tunnel to a member.
    pub(crate) fn sent_to(&self, member: u8) -> u64 {
        let key = public_key(member);
        let statuses = self.plane.statuses();
        let peer = statuses.iter().find(|peer| peer.public_key == key);
        peer.map_or(0, |peer| peer.transmit_packets)
    }

    pub(crate) fn close(self) -> Result<()> {
        self.routing.close()?;
        self.plane.shutdown()?;
        Ok(())
    }
}

/// Looks until `what` holds.
pub(crate) fn wait_for(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + PATIENCE;
    while !holds()? {
        if Instant::now() > end {
            return Err(format!("in vain waited for: {what}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Has nft carry out a transaction.
pub(crate) fn nft(namespace: &Namespace, transaction: &str) -> Result<()> {
    let output = namespace.run(|| {
        let mut child = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut stdin = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        stdin.write_all(transaction.as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

pub(crate) fn nft_output(namespace: &Namespace, arguments: &[&str]) -> Result<String> {
    let output = namespace.run(|| Command::new("nft").args(arguments).output())?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned().into())
}

/// The lines of `/proc/net/if_inet6` for a link: address, prefix length, scope, flags.
pub(crate) fn ipv6_addresses(namespace: &Namespace, link: &str) -> Result<Vec<[String; 4]>> {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/if_inet6"))?;
    let of_link = text.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [address, _, length, scope, flags, name] = words.as_slice() else {
            return None;
        };
        (*name == link).then(|| [*address, *length, *scope, *flags].map(str::to_owned))
    });
    Ok(of_link.collect())
}
