//! Against another implementation, in memory: boringtun's `Tunn`.

use std::net::{IpAddr, Ipv4Addr};

use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey as TheirPublic, StaticSecret};

use super::*;

/// Handshake messages a second that boringtun takes without asking for a cookie.
const NO_LOAD: u64 = 1000;

/// Node 1 of this implementation, and node 2 of the other.
struct Pair {
    ours: Node,
    theirs: Tunn,
    now: Now,
}

/// An IPv4 packet of 40 bytes that can be told apart.
fn packet(mark: u8) -> Vec<u8> {
    let mut packet = vec![mark; 40];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    packet
}

impl Pair {
    fn new(psk: Option<[u8; 32]>, their_limit: u64) -> Self {
        let secret = StaticSecret::from(*private_key(2).as_bytes());
        let limiter = RateLimiter::new(&TheirPublic::from(&secret), their_limit);
        let theirs = Tunn::new(
            secret,
            TheirPublic::from(*public_key(1).as_bytes()),
            psk,
            None,
            1,
            Some(Arc::new(limiter)),
        );
        let config = PeerConfig {
            preshared_key: psk.unwrap_or_default().into(),
            ..PeerConfig::default()
        };
        let World { now, .. } = World::plain();
        Self {
            ours: Node::new(1, 2, config),
            theirs,
            now,
        }
    }

    /// Gives a datagram to our end.
    fn we_get(&mut self, bytes: &[u8]) -> bool {
        let from = endpoint("192.0.2.2:51820");
        match bytes[0] {
            4 => self.ours.open_data(self.now, bytes, from),
            _ => self.ours.receive(self.now, bytes, from).is_ok(),
        }
    }

    /// Carries what our end has sent and what that causes; what came out of their tunnel.
    fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut delivered = Vec::new();
        let mut buffer = [0; 2048];
        let from = Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)));
        while !self.ours.said.sent.is_empty() {
            for flying in core::mem::take(&mut self.ours.said.sent) {
                let mut result = self.theirs.decapsulate(from, &flying.bytes, &mut buffer);
                loop {
                    match result {
                        TunnResult::WriteToNetwork(answer) => {
                            let answer = answer.to_vec();
                            self.we_get(&answer);
                        }
                        TunnResult::WriteToTunnelV4(packet, _) => {
                            delivered.push(packet.to_vec());
                            break;
                        }
                        TunnResult::Done => break,
                        other => panic!("{other:?}"),
                    }
                    // Whatever it has queued meanwhile.
                    result = self.theirs.decapsulate(None, &[], &mut buffer);
                }
            }
        }
        delivered
    }

    /// Lets their end initiate, or send what it can.
    fn they_send(&mut self, packet: &[u8]) -> bool {
        let mut buffer = [0; 2048];
        match self.theirs.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(bytes) => {
                let bytes = bytes.to_vec();
                self.we_get(&bytes)
            }
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, span: Duration) {
        self.now.monotonic += span;
        self.now.unix += span;
    }

    /// A new initiation of theirs, whatever session there is.
    fn their_initiation(&mut self) -> Vec<u8> {
        let mut buffer = [0; 256];
        match self.theirs.format_handshake_initiation(&mut buffer, true) {
            TunnResult::WriteToNetwork(bytes) => bytes.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn assert_data_flows(&mut self) {
        for mark in 1..50 {
            assert!(self.ours.send_data(self.now, &packet(mark)));
            assert_eq!(self.settle(), [packet(mark)]);
            assert!(self.they_send(&packet(100 + mark)));
            assert_eq!(self.ours.inbox.pop().unwrap(), packet(100 + mark));
        }
    }
}

#[test]
fn our_handshake_is_answered_and_data_flows() {
    for psk in [None, Some([7; 32])] {
        let mut pair = Pair::new(psk, NO_LOAD);
        pair.ours.want(pair.now);
        pair.settle();
        assert!(pair.ours.current().is_some(), "psk {psk:?}");
        pair.assert_data_flows();
    }
}

#[test]
fn their_handshake_is_answered_and_data_flows() {
    for psk in [None, Some([7; 32])] {
        let mut pair = Pair::new(psk, NO_LOAD);
        assert!(
            pair.they_send(&packet(9)),
            "an initiation; the packet waits"
        );
        pair.settle();
        // Their keepalive and the waiting packet have confirmed the session.
        assert!(pair.ours.current().is_some(), "psk {psk:?}");
        assert_eq!(pair.ours.inbox.pop().unwrap(), packet(9));
        pair.assert_data_flows();
    }
}

#[test]
fn sessions_are_renewed_from_either_side() {
    let mut pair = Pair::new(None, NO_LOAD);
    pair.ours.want(pair.now);
    pair.settle();
    for _ in 0..3 {
        // By ours, because it is old and sends.
        let before = pair.ours.current().unwrap();
        pair.pass(secs(130));
        pair.ours.send_data(pair.now, &packet(1));
        assert_eq!(pair.settle(), [packet(1)]);
        let renewed = pair.ours.current().unwrap();
        assert!(!Arc::ptr_eq(&before, &renewed));
        pair.assert_data_flows();

        // By theirs, which has another clock.
        pair.pass(secs(1));
        let initiation = pair.their_initiation();
        assert!(pair.we_get(&initiation));
        pair.settle();
        assert!(pair.they_send(&packet(2)), "confirms");
        assert!(!Arc::ptr_eq(&renewed, &pair.ours.current().unwrap()));
        pair.assert_data_flows();

        // And by ours again, before that one is too old.
        pair.pass(secs(170));
        pair.ours.handshakes.forget_sessions();
        pair.ours.want(pair.now);
        pair.settle();
        pair.assert_data_flows();
    }
}

#[test]
fn other_preshared_keys_do_not_meet() {
    let mut pair = Pair::new(Some([7; 32]), NO_LOAD);
    let key = public_key(2);
    pair.ours.handshakes.set_preshared_key(&key, [8; 32].into());
    pair.ours.want(pair.now);
    pair.settle();
    assert!(pair.ours.current().is_none());
}

#[test]
fn their_cookie_is_understood() {
    let mut pair = Pair::new(None, 0); // always under load
    pair.ours.want(pair.now);
    pair.settle();
    assert!(pair.ours.current().is_none());
    pair.pass(secs(6));
    pair.ours.tick(pair.now);
    pair.settle();
    assert!(
        pair.ours.current().is_some(),
        "with mac2 the retry is admitted"
    );
    pair.assert_data_flows();
}

#[test]
fn our_cookie_is_understood() {
    let mut pair = Pair::new(None, NO_LOAD);
    pair.ours.handshakes.set_load(4096, 4096);
    assert!(!pair.they_send(&packet(9)), "refused: a cookie is sent");
    assert_eq!(pair.ours.said.sent[0].kind(), 3);
    pair.settle();
    let initiation = pair.their_initiation();
    assert!(pair.we_get(&initiation), "with mac2 it is admitted");
    pair.settle();
    pair.assert_data_flows();
}
