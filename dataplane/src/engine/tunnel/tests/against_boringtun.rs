//! Differential: the same exchange with Cloudflare's implementation on the other end.

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;

use super::*;
use crate::crypto::Random;

/// boringtun's end, with a buffer large enough for anything.
struct Other {
    tunn: Tunn,
    buffer: Vec<u8>,
}

impl Other {
    fn new(preshared: bool) -> Self {
        let own = x25519::StaticSecret::from([2; 32]);
        let peer = x25519::PublicKey::from(*public_key(1).as_bytes());
        let psk = preshared.then_some([0x77; 32]);
        Self {
            tunn: Tunn::new(own, peer, psk, None, 7, None),
            buffer: vec![0; 70_000],
        }
    }

    fn encapsulate(&mut self, packet: &[u8]) -> Vec<u8> {
        match self.tunn.encapsulate(packet, &mut self.buffer) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// What comes of a datagram: datagrams to send, then packets.
    fn decapsulate(&mut self, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut datagrams, mut packets) = (Vec::new(), Vec::new());
        let mut input = datagram;
        loop {
            let result = self.tunn.decapsulate(None, input, &mut self.buffer);
            match result {
                TunnResult::WriteToNetwork(datagram) => datagrams.push(datagram.to_vec()),
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    packets.push(packet.to_vec());
                    break;
                }
                TunnResult::Done => break,
                TunnResult::Err(error) => panic!("{error:?}"),
            }
            input = &[];
        }
        (datagrams, packets)
    }
}

struct Mixed {
    ours: End,
    theirs: Other,
    now: Now,
}

impl Mixed {
    fn new(preshared: bool) -> Self {
        let mut ours = End::new(1, A);
        let peer = ours.add(2, Some(B), &["10.0.2.0/24", "fd00:2::/32"]);
        if !preshared {
            let none = PresharedKey::default();
            assert!(
                ours.tunnel
                    .handshakes
                    .set_preshared_key(peer.public_key(), none)
            );
        }
        Self {
            ours,
            theirs: Other::new(preshared),
            now: Pair::new().now,
        }
    }

    /// Exchanges until all is quiet; returns what boringtun received.
    fn settle(&mut self, to_us: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let (mut to_us, mut received) = (to_us, Vec::new());
        loop {
            let from = B.parse().unwrap();
            let batch: Vec<_> = to_us.drain(..).map(|datagram| (from, datagram)).collect();
            self.ours.open(self.now, &batch);
            if self.ours.sent.is_empty() {
                return received;
            }
            for (_, datagram) in self.ours.fly() {
                let (datagrams, packets) = self.theirs.decapsulate(&datagram);
                to_us.extend(datagrams);
                received.extend(packets);
            }
        }
    }

    /// Packets of many lengths, both ways, must arrive unchanged and in order.
    fn exchange(&mut self) {
        let mut random = SeededRandom::new(9);
        let mut lengths = || random.next_u32().unwrap() as usize % 1370;
        let (there, back): (Vec<_>, Vec<_>) = (0..300)
            .map(|_| (a_to_b(lengths()), b_to_a(lengths())))
            .unzip();
        self.ours.seal(self.now, &there);
        assert!(self.settle(Vec::new()) == there);
        let sealed = back
            .iter()
            .map(|packet| self.theirs.encapsulate(packet))
            .collect();
        self.settle(sealed);
        assert!(self.ours.received() == back);
        let totals = self.ours.tunnel.counters().totals();
        assert_eq!(
            (totals.forged, totals.replayed, totals.unknown_index),
            (0, 0, 0)
        );
    }
}

#[test]
fn ours_initiates() {
    for preshared in [false, true] {
        let mut mixed = Mixed::new(preshared);
        mixed.ours.seal(mixed.now, &[a_to_b(0)]);
        assert_eq!(mixed.settle(Vec::new()), [a_to_b(0)]);
        assert_eq!(mixed.ours.news, ["ready"]);
        mixed.exchange();
    }
}

#[test]
fn theirs_initiates() {
    for preshared in [false, true] {
        let mut mixed = Mixed::new(preshared);
        let initiation = mixed.theirs.encapsulate(&b_to_a(0));
        mixed.settle(vec![initiation]);
        assert_eq!(mixed.ours.received(), [b_to_a(0)]);
        mixed.exchange();
    }
}

#[test]
fn both_refuse_the_same_datagrams() {
    let mut mixed = Mixed::new(true);
    mixed.ours.seal(mixed.now, &[a_to_b(0)]);
    mixed.settle(Vec::new());
    // Sealed by either end and then changed in one bit: refused by the other.
    mixed.ours.seal(mixed.now, &[a_to_b(64)]);
    let (_, datagram) = mixed.ours.fly().remove(0);
    let theirs = mixed.theirs.encapsulate(&b_to_a(64));
    for at in 0..datagram.len() {
        let mut changed = datagram.clone();
        changed[at] ^= 0x10;
        let result = mixed
            .theirs
            .tunn
            .decapsulate(None, &changed, &mut mixed.theirs.buffer);
        assert!(matches!(result, TunnResult::Err(_)), "byte {at}");
    }
    for at in 0..theirs.len() {
        let mut changed = theirs.clone();
        changed[at] ^= 0x10;
        mixed.settle(vec![changed]);
        assert!(mixed.ours.received().is_empty(), "byte {at}");
    }
    // And unchanged accepted.
    assert_eq!(mixed.theirs.decapsulate(&datagram).1, [a_to_b(64)]);
    mixed.settle(vec![theirs]);
    assert_eq!(mixed.ours.received(), [b_to_a(64)]);
}
