//! The network: two namespaces, a cable, a daemon of one contender at each end.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use ipnet::IpNet;
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::peers::{DeviceConfig, KeyPair, PeerConfig};
use ringspan_tests::traffic::ping::{Options, ping};

use super::Case;
use super::contender::{Daemon, Installed};
use crate::Result;

/// The veth, at both ends.
pub(super) const CABLE: &str = "cable";
const PORT: u16 = 51820;
const MTU: u32 = 1420;

/// What the cable does with super-packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Link {
    /// As a veth is: super-packets pass whole
    Default,
    /// Single packets on the cable, merged again on receipt: nearest to a network card
    Gro,
    /// Single packets all the way
    Off,
}

impl Link {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Gro => "gro",
            Self::Off => "off",
        }
    }

    fn offloads(self) -> Vec<(&'static str, bool)> {
        let mut offloads: Vec<_> = [
            "tx-tcp-segmentation",
            "tx-tcp-ecn-segmentation",
            "tx-tcp-mangleid-segmentation",
            "tx-tcp6-segmentation",
            "tx-udp-segmentation",
            "tx-generic-segmentation",
        ]
        .map(|name| (name, false))
        .to_vec();
        match self {
            Self::Default => return Vec::new(),
            Self::Gro => offloads.push(("rx-gro", true)),
            Self::Off => offloads.push(("rx-gro", false)),
        }
        offloads
    }
}

/// Two daemons with a tunnel between them.
#[derive(Debug)]
pub(crate) struct Pair {
    // In this order: daemons go before the namespaces that they are in.
    daemons: [Daemon; 2],
    spaces: [Namespace; 2],
}

impl Pair {
    /// Returns when packets pass.
    pub(crate) fn start(contender: &Installed, case: Case) -> Result<Self> {
        let spaces = [Namespace::new("a")?, Namespace::new("b")?];
        Veth::default().join(&spaces[0], CABLE, &spaces[1], CABLE)?;
        let keys = [KeyPair::generate(), KeyPair::generate()];
        for (at, space) in spaces.iter().enumerate() {
            let offloads = case.link.offloads();
            if !offloads.is_empty() {
                space.set_offloads(CABLE, &offloads)?;
            }
            space.add_address(CABLE, IpNet::new(outer(at), 24)?)?;
        }
        let start = |at: usize| -> Result<Daemon> {
            let mut peers = vec![PeerConfig {
                public_key: keys[1 - at].public,
                preshared_key: None,
                endpoint: Some(SocketAddr::new(outer(1 - at), PORT)),
                allowed_ips: vec![inner(1 - at).into()],
                persistent_keepalive: None,
            }];
            peers.extend((1..case.peers).map(silent_peer));
            let config = DeviceConfig {
                private_key: keys[at].private.clone(),
                listen_port: PORT,
                peers,
            };
            let daemon = contender.start(&spaces[at], &config)?;
            let space = &spaces[at];
            space.set_mtu(&daemon.interface, MTU)?;
            space.up(&daemon.interface)?;
            space.add_address(&daemon.interface, IpNet::new(inner(at), 24)?)?;
            Ok(daemon)
        };
        let daemons = [start(0)?, start(1)?];
        let pair = Self { daemons, spaces };
        pair.wait()?;
        Ok(pair)
    }

    /// The end that sends.
    pub(crate) const fn sender(&self) -> &Namespace {
        &self.spaces[0]
    }

    /// The end that receives.
    pub(crate) const fn receiver(&self) -> &Namespace {
        &self.spaces[1]
    }

    /// The receiver's address inside the tunnel.
    pub(crate) fn target(&self) -> IpAddr {
        inner(1)
    }

    /// The processes of both daemons.
    pub(crate) fn processes(&self) -> [u32; 2] {
        [self.daemons[0].pid, self.daemons[1].pid]
    }

    fn wait(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(15);
        let once = Options {
            count: 1,
            timeout: Duration::from_millis(300),
            ..Options::default()
        };
        while Instant::now() < end {
            // No route yet is no failure yet.
            let answered = self.sender().run(|| ping(self.target(), once));
            if answered.is_ok_and(|pings| pings.all_answered()) {
                return Ok(());
            }
        }
        Err("no packet passed the tunnel within 15 seconds".into())
    }
}

/// A peer that is configured and never speaks.
fn silent_peer(number: u16) -> PeerConfig {
    let [high, low] = number.to_be_bytes();
    PeerConfig {
        public_key: KeyPair::generate().public,
        preshared_key: None,
        endpoint: Some(SocketAddr::new(IpAddr::from([192, 0, 2, 99]), PORT)),
        allowed_ips: vec![IpNet::from(IpAddr::from([10, 88, high, low]))],
        persistent_keepalive: None,
    }
}

fn outer(at: usize) -> IpAddr {
    IpAddr::from([192, 0, 2, 1 + at as u8])
}

fn inner(at: usize) -> IpAddr {
    IpAddr::from([10, 77, 0, 1 + at as u8])
}
