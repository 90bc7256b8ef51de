//! Running nodes shown and changed over their configuration sockets, while traffic flows.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use ringspan::control::uapi::{SocketError, UapiServer, UapiSocket};
use ringspan::control::{AllowedIpChange, DeviceChange, PeerChange};
use ringspan::crypto::PrivateKey;
use ringspan::io::memory::{DEFAULT_CAPACITY, InnerUser, Network, inner_port};
use ringspan::{Builder, Dataplane, Inner, Outer};

/// Far more than anything here takes; only a failing test waits that long.
const LIMIT: Duration = Duration::from_secs(30);

struct Node {
    plane: Arc<Dataplane>,
    host: InnerUser,
    address: SocketAddr,
}

impl Node {
    fn start(builder: Builder, outer: Outer, address: SocketAddr) -> Self {
        let (rx, tx, host) = inner_port(DEFAULT_CAPACITY).unwrap();
        let inner = Inner::custom(vec![(Box::new(rx), Box::new(tx))]);
        let plane = builder.outer(outer).inner(inner).start().unwrap();
        Self {
            plane: Arc::new(plane),
            host,
            address,
        }
    }

    fn on_network(network: &Network, byte: u8) -> Self {
        let address = SocketAddr::from(([192, 0, 2, byte], 51820));
        let end = network.attach(address, DEFAULT_CAPACITY).unwrap();
        let control_tx = Box::new(end.tx.clone());
        let outer = Outer::custom(vec![Box::new(end.rx)], vec![Box::new(end.tx)], control_tx);
        Self::start(Dataplane::builder([byte; 32].into()), outer, address)
    }

    fn on_loopback(builder: Builder) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut node = Self::start(builder.listen_port(0), Outer::udp(), nowhere);
        node.address.set_port(node.plane.listen_port());
        node
    }

    /// What another node is told of this one, which has the prefix 10.0.0.`byte`/32.
    fn as_peer(&self, byte: u8) -> PeerChange {
        PeerChange {
            endpoint: Some(self.address),
            allowed_ips: vec![AllowedIpChange::Add(prefix(byte))],
            ..PeerChange::new(self.plane.public_key())
        }
    }

    fn configure(&self, peers: Vec<PeerChange>) {
        let change = DeviceChange {
            peers,
            ..DeviceChange::default()
        };
        self.plane.control().configure(change).unwrap();
    }

    fn receive(&self) -> Vec<u8> {
        self.host
            .receive_within(LIMIT, <[u8]>::to_vec)
            .expect("the packet arrives")
    }
}

fn prefix(byte: u8) -> ipnet::IpNet {
    format!("10.0.0.{byte}/32").parse().unwrap()
}

/// An IPv4 packet with `number` in it, from 10.0.0.`from` to 10.0.0.`to`.
fn packet(from: u8, to: u8, number: u32) -> Vec<u8> {
    let mut packet = vec![
        0x45, 0, 0, 24, 0, 0, 0, 0, 64, 253, 0, 0, 10, 0, 0, from, 10, 0, 0, to,
    ];
    packet.extend_from_slice(&number.to_be_bytes());
    packet
}

/// A directory for sockets, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ringspan-uapi-{}-{count}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn serve(&self, name: &str, node: &Node) -> UapiServer {
        let socket = UapiSocket::bind_in(&self.0, name).unwrap();
        UapiServer::start(socket, Arc::clone(&node.plane)).unwrap()
    }

    fn client(&self, name: &str) -> UnixStream {
        let client = UnixStream::connect(self.0.join(format!("{name}.sock"))).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client
    }

    fn ask(&self, name: &str, request: &str) -> String {
        ask(&mut self.client(name), request)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn ask(client: &mut UnixStream, request: &str) -> String {
    client.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    String::from_utf8(answer).unwrap()
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_socket_is_its_owners_alone_and_goes_with_its_server() {
    let scratch = Scratch::new();
    let node = Node::on_loopback(Dataplane::without_identity());
    let path = scratch.0.join("wg7.sock");

    // What a killed process leaves behind is replaced; what answers is not.
    std::fs::create_dir_all(&scratch.0).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let server = scratch.serve("wg7", &node);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = UapiSocket::bind_in(&scratch.0, "wg7").unwrap_err();
    assert!(matches!(second, SocketError::Running { .. }), "{second}");

    // A client that only waits does not keep the server from ending.
    let mut idle = scratch.client("wg7");
    ask(&mut idle, "get=1\n\n");
    drop(server);
    assert!(!path.exists());
    assert_eq!(idle.read(&mut [0]).unwrap(), 0);

    std::fs::write(&path, "a file").unwrap();
    let occupied = UapiSocket::bind_in(&scratch.0, "wg7").unwrap_err();
    assert!(matches!(occupied, SocketError::Occupied { .. }));
    for bad in ["", "..", "a/b", "sixteen-letters!", "a b"] {
        let error = UapiSocket::bind_in(&scratch.0, bad).unwrap_err();
        assert!(matches!(error, SocketError::Name { .. }), "{bad}");
    }
}

#[test]
fn everything_that_is_set_is_shown() {
    let scratch = Scratch::new();
    let node = Node::on_loopback(Dataplane::without_identity());
    let _server = scratch.serve("wg0", &node);
    let port = node.plane.listen_port();
    assert_eq!(
        scratch.ask("wg0", "get=1\n\n"),
        format!("listen_port={port}\nerrno=0\n\n"),
        "a node without an identity shows none"
    );

    // Clamped: it is shown as it is set.
    let mut own = [0x41; 32];
    own[0] = 0x40;
    let (peer, secret) = ([0x42; 32], [0x43; 32]);
    let request = format!(
        "set=1\nprivate_key={}\nreplace_peers=true\npublic_key={}\npreshared_key={}\n\
         endpoint=[2001:db8::1]:51820\npersistent_keepalive_interval=25\n\
         replace_allowed_ips=true\nallowed_ip=10.1.0.0/16\nallowed_ip=fd00::/64\n\n",
        hex(&own),
        hex(&peer),
        hex(&secret)
    );
    assert_eq!(scratch.ask("wg0", &request), "errno=0\n\n");
    // An initiation may have been counted, for the keepalive.
    let shown = scratch.ask("wg0", "get=1\n\n");
    let shown: Vec<_> = shown
        .lines()
        .filter(|line| !line.starts_with("tx_bytes="))
        .collect();
    let expected = format!(
        "private_key={}\nlisten_port={port}\npublic_key={}\npreshared_key={}\n\
         protocol_version=1\nendpoint=[2001:db8::1]:51820\nlast_handshake_time_sec=0\n\
         last_handshake_time_nsec=0\nrx_bytes=0\npersistent_keepalive_interval=25\n\
         allowed_ip=10.1.0.0/16\nallowed_ip=fd00::/64\nerrno=0\n\n",
        hex(&own),
        hex(&peer),
        hex(&secret)
    );
    assert_eq!(shown, expected.lines().collect::<Vec<_>>());
    let public_key = node.plane.public_key();

    // One connection, many requests; one that is refused changes nothing.
    let mut client = scratch.client("wg0");
    let key = hex(&peer);
    let taken = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    let taken = taken.local_addr().unwrap().port();
    for (lines, errno) in [
        (
            format!("public_key={key}\nallowed_ip=-10.1.0.0/16\npersistent_keepalive_interval=0\n"),
            0,
        ),
        (
            format!("public_key={key}\nallowed_ip=10.2.0.0/16\nallowed_ip=nonsense\n"),
            libc::EINVAL,
        ),
        (
            format!(
                "public_key={}\nupdate_only=true\nallowed_ip=10.3.0.0/16\n",
                hex(&[9; 32])
            ),
            0,
        ),
        (format!("public_key={}\nremove=true\n", hex(&[9; 32])), 0),
        // The node itself, and a point of low order: both as the kernel takes them.
        (format!("public_key={}\n", hex(public_key.as_bytes())), 0),
        (
            format!("public_key={}\nallowed_ip=10.4.0.0/16\n", hex(&[0; 32])),
            0,
        ),
        (format!("listen_port={port}\n"), 0),
        (format!("listen_port={taken}\n"), libc::EADDRINUSE),
    ] {
        let answer = ask(&mut client, &format!("set=1\n{lines}\n"));
        assert_eq!(answer, format!("errno={}\n\n", -errno), "{lines}");
    }
    let shown = ask(&mut client, "get=1\n\n");
    let of = |key: &str| {
        let lines = shown.lines().filter_map(|line| line.strip_prefix(key));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of("public_key="), [hex(&[0; 32]), key]);
    assert_eq!(of("allowed_ip="), ["10.4.0.0/16", "fd00::/64"]);
    assert_eq!(of("persistent_keepalive_interval="), ["0", "0"]);
    assert_eq!(of("listen_port="), [port.to_string()]);

    assert_eq!(
        ask(&mut client, "set=1\nreplace_peers=true\n\n"),
        "errno=0\n\n"
    );
    assert!(!ask(&mut client, "get=1\n\n").contains("public_key"));
    // Nonsense is answered, and ends the connection.
    assert_eq!(
        ask(&mut client, "GET / HTTP/1.1\n\n"),
        format!("errno={}\n\n", -libc::EPROTO)
    );
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// Everything that `wg set` can do to other peers, again and again, while packets go to one: none
/// of its packets is lost, and their order stays.
#[test]
fn an_untouched_peer_loses_no_packet() {
    const PACKETS: u32 = 20_000;
    const WINDOW: u32 = 50;
    let network = Network::new();
    let (hub, leaf, other) = (
        Node::on_network(&network, 1),
        Node::on_network(&network, 2),
        Node::on_network(&network, 3),
    );
    hub.configure(vec![leaf.as_peer(2), other.as_peer(3)]);
    leaf.configure(vec![hub.as_peer(1)]);
    other.configure(vec![hub.as_peer(1)]);
    assert!(hub.host.send(&packet(1, 3, 0)));
    assert_eq!(other.receive(), packet(1, 3, 0));

    let ended = AtomicBool::new(false);
    let changes = std::thread::scope(|scope| {
        let churn = scope.spawn(|| {
            let mut rounds = 0_u32;
            while !ended.load(Ordering::Relaxed) {
                rounds += 1;
                let byte = 10 + (rounds % 100) as u8;
                let mut peer = other.as_peer(3);
                peer.allowed_ips.push(AllowedIpChange::Add(prefix(byte)));
                peer.preshared_key = Some([byte; 32].into());
                peer.persistent_keepalive = Some(byte.into());
                let mut fresh = PeerChange::new([byte; 32].into());
                fresh.endpoint = Some(other.address);
                // Taken from the other peer, with a range that holds the leaf's address.
                fresh.allowed_ips = vec![
                    AllowedIpChange::Add(prefix(byte)),
                    AllowedIpChange::Add("10.0.0.0/24".parse().unwrap()),
                ];
                hub.configure(vec![peer.clone(), fresh.clone()]);
                fresh.remove = true;
                peer.replace_allowed_ips = true;
                hub.configure(vec![fresh, peer.clone()]);
                peer.remove = true;
                hub.configure(vec![peer, other.as_peer(3)]);
            }
            rounds
        });
        for first in (0..PACKETS).step_by(WINDOW as usize) {
            for number in first..first + WINDOW {
                assert!(hub.host.send(&packet(1, 2, number)));
            }
            for number in first..first + WINDOW {
                assert_eq!(leaf.receive(), packet(1, 2, number));
            }
        }
        ended.store(true, Ordering::Relaxed);
        churn.join().unwrap()
    });
    assert!(changes > 1, "nothing was changed meanwhile");
    let status = &leaf.plane.statuses()[0];
    assert_eq!(status.receive_packets, u64::from(PACKETS));
}

/// A prefix goes from one peer to another between two packets: each packet arrives at one of them,
/// and the peer that has it no longer is not heard from it either.
#[test]
fn a_prefix_moves_between_peers() {
    let network = Network::new();
    let (hub, a, b) = (
        Node::on_network(&network, 1),
        Node::on_network(&network, 2),
        Node::on_network(&network, 3),
    );
    hub.configure(vec![a.as_peer(2), b.as_peer(3)]);
    for node in [&a, &b] {
        node.configure(vec![hub.as_peer(1)]);
    }
    // Both have sessions.
    for (node, byte) in [(&a, 2), (&b, 3)] {
        assert!(hub.host.send(&packet(1, byte, 0)));
        assert_eq!(node.receive(), packet(1, byte, 0));
    }
    for number in 1..200 {
        let mover = if number % 2 == 0 { &a } else { &b };
        hub.configure(vec![PeerChange {
            update_only: true,
            allowed_ips: vec![AllowedIpChange::Add(prefix(9))],
            ..PeerChange::new(mover.plane.public_key())
        }]);
        assert!(hub.host.send(&packet(1, 9, number)));
        assert_eq!(mover.receive(), packet(1, 9, number));
        assert!(mover.host.send(&packet(9, 1, number)));
        assert_eq!(hub.receive(), packet(9, 1, number));
    }
    let prefixes: Vec<_> = hub
        .plane
        .statuses()
        .into_iter()
        .map(|status| (status.public_key, status.allowed_ips.len()))
        .collect();
    let has = |node: &Node, count| prefixes.contains(&(node.plane.public_key(), count));
    assert!(has(&a, 1) && has(&b, 2), "{prefixes:?}");
}

/// A preshared key counts from the next handshake on; a peer removed and added again needs one.
#[test]
fn a_preshared_key_is_for_the_next_handshake() {
    let network = Network::new();
    let (a, b) = (Node::on_network(&network, 1), Node::on_network(&network, 2));
    a.configure(vec![b.as_peer(2)]);
    b.configure(vec![a.as_peer(1)]);
    assert!(a.host.send(&packet(1, 2, 0)));
    assert_eq!(b.receive(), packet(1, 2, 0));
    let handshakes = |node: &Node| {
        let counters = node.plane.counters();
        let find = |name| counters.iter().find(|(key, _)| *key == name).unwrap().1;
        find("initiations_sent")
    };
    let before = handshakes(&a);
    for node in [&a, &b] {
        let peer = [&b, &a][usize::from(std::ptr::eq(node, &b))];
        let mut change = PeerChange::new(peer.plane.public_key());
        change.preshared_key = Some([5; 32].into());
        node.configure(vec![change]);
    }
    assert!(a.host.send(&packet(1, 2, 1)));
    assert_eq!(b.receive(), packet(1, 2, 1));
    assert_eq!(handshakes(&a), before, "the session goes on");

    let mut again = b.as_peer(2);
    again.preshared_key = Some([5; 32].into());
    let mut gone = b.as_peer(2);
    gone.remove = true;
    a.configure(vec![gone, again]);
    assert!(a.host.send(&packet(1, 2, 2)));
    assert_eq!(b.receive(), packet(1, 2, 2));
    assert!(handshakes(&a) > before);
}

/// A node moves to another port and another identity over its socket, and is found again.
#[test]
fn port_and_private_key_change_while_running() {
    let scratch = Scratch::new();
    let a = Node::on_loopback(Dataplane::builder([1; 32].into()));
    let b = Node::on_loopback(Dataplane::builder([2; 32].into()));
    let _server = scratch.serve("wg0", &a);
    a.configure(vec![b.as_peer(2)]);
    b.configure(vec![a.as_peer(1)]);
    assert!(a.host.send(&packet(1, 2, 0)));
    assert_eq!(b.receive(), packet(1, 2, 0));

    let (before, key) = (a.plane.listen_port(), a.plane.public_key());
    assert_eq!(
        scratch.ask("wg0", "set=1\nlisten_port=0\n\n"),
        "errno=0\n\n"
    );
    let after = a.plane.listen_port();
    assert_ne!(before, after);
    std::net::UdpSocket::bind(("0.0.0.0", before)).expect("the old port is free");
    // The session goes on, and the other end follows to the new port: both ways work.
    assert!(a.host.send(&packet(1, 2, 1)));
    assert_eq!(b.receive(), packet(1, 2, 1));
    assert!(b.host.send(&packet(2, 1, 2)));
    assert_eq!(a.receive(), packet(2, 1, 2));
    assert_eq!(b.plane.statuses()[0].endpoint.unwrap().port(), after);

    let new = PrivateKey::from([0x70; 32]);
    let request = format!("set=1\nprivate_key={}\n\n", hex(new.as_bytes()));
    assert_eq!(scratch.ask("wg0", &request), "errno=0\n\n");
    assert_ne!(a.plane.public_key(), key);
    assert_eq!(a.plane.control().device().private_key, Some(new));
    let mut a_before = PeerChange::new(key);
    a_before.remove = true;
    let mut a_after = a.as_peer(1);
    a_after.endpoint = Some(SocketAddr::from(([127, 0, 0, 1], after)));
    b.configure(vec![a_before, a_after]);
    assert!(b.host.send(&packet(2, 1, 3)));
    assert_eq!(a.receive(), packet(2, 1, 3));
}
