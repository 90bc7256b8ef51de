//! Peers that vanish are kept for a while.
//!
//! A discovery service may report a living node as deleted: where a few of its endpoints expire,
//! Talos's service does, until the node's next refresh, up to 15 minutes later. Taking its prefixes
//! away at once would cut it off.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use super::ranges::RangeSet;
use crate::control::PeerSpec;
use crate::crypto::PublicKey;
use crate::time::Instant;

/// How long a peer that vanished is kept unless somebody confirms: members refresh every 15
/// minutes, and may be a minute late.
pub const DELETION_GRACE: Duration = Duration::from_secs(16 * 60);

/// Peers wanted, and those wanted until lately.
#[derive(Clone, Debug)]
pub struct HoldDown {
    grace: Duration,
    wanted: BTreeMap<PublicKey, PeerSpec>,
    held: BTreeMap<PublicKey, (PeerSpec, Instant)>,
}

impl HoldDown {
    /// Keeps what vanishes for `grace`.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            wanted: BTreeMap::new(),
            held: BTreeMap::new(),
        }
    }

    /// Takes a new whole set. What it lacks is held from `now`.
    pub fn update(&mut self, now: Instant, wanted: impl IntoIterator<Item = PeerSpec>) {
        let new: BTreeMap<_, _> = wanted
            .into_iter()
            .map(|spec| (spec.public_key, spec))
            .collect();
        self.held.retain(|key, _| !new.contains_key(key));
        for (key, spec) in core::mem::replace(&mut self.wanted, new) {
            if !self.wanted.contains_key(&key) {
                self.held.insert(key, (spec, now + self.grace));
            }
        }
        self.expire(now);
    }

    /// The peer has really gone: it is not held. False where it was not.
    pub fn confirm(&mut self, key: &PublicKey) -> bool {
        self.held.remove(key).is_some()
    }

    /// Every peer to run now: those wanted, then those held, less the addresses that a wanted one
    /// has taken over.
    #[must_use]
    pub fn specs(&mut self, now: Instant) -> Vec<PeerSpec> {
        self.expire(now);
        if self.held.is_empty() {
            return self.wanted.values().cloned().collect();
        }
        let mut taken: RangeSet = self
            .wanted
            .values()
            .flat_map(|spec| &spec.allowed_ips)
            .collect();
        let held: Vec<_> = self
            .held
            .values()
            .map(|(spec, _)| {
                let mut set: RangeSet = spec.allowed_ips.iter().collect();
                set.subtract(&taken);
                taken.union(&set);
                PeerSpec {
                    allowed_ips: set.prefixes(),
                    ..spec.clone()
                }
            })
            .collect();
        self.wanted.values().cloned().chain(held).collect()
    }

    /// Who is held, and may be asked after.
    #[must_use]
    pub fn held(&self) -> BTreeSet<PublicKey> {
        self.held.keys().copied().collect()
    }

    /// When the next one is given up.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.held.values().map(|&(_, until)| until).min()
    }

    fn expire(&mut self, now: Instant) {
        self.held.retain(|_, (_, until)| now < *until);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(byte: u8, nets: &[&str]) -> PeerSpec {
        PeerSpec {
            allowed_ips: nets.iter().map(|text| text.parse().unwrap()).collect(),
            ..PeerSpec::new([byte; 32].into())
        }
    }

    fn at(secs: u64) -> Instant {
        Instant::from_secs(secs)
    }

    #[test]
    fn who_comes_back_in_time_never_went() {
        let mut peers = HoldDown::new(Duration::from_secs(10));
        let both = [spec(1, &["10.0.1.0/24"]), spec(2, &["10.0.2.0/24"])];
        peers.update(at(0), both.clone());
        peers.update(at(5), both[..1].to_vec());
        assert_eq!(peers.specs(at(14)), both);
        assert_eq!(peers.next_expiry(), Some(at(15)));
        peers.update(at(14), both.clone());
        assert_eq!(peers.specs(at(100)), both);
        assert_eq!(peers.held().len(), 0);
    }

    #[test]
    fn who_does_not_goes() {
        let mut peers = HoldDown::new(Duration::from_secs(10));
        peers.update(at(0), [spec(1, &[]), spec(2, &[])]);
        peers.update(at(5), [spec(1, &[])]);
        // Told again that it is gone: that does not make the time longer.
        peers.update(at(9), [spec(1, &[])]);
        assert_eq!(peers.specs(at(14)).len(), 2);
        assert_eq!(peers.specs(at(15)), [spec(1, &[])]);
        peers.update(at(20), []);
        assert!(peers.confirm(&[1; 32].into()));
        assert!(!peers.confirm(&[1; 32].into()));
        assert_eq!(peers.specs(at(20)), []);
    }

    #[test]
    fn a_living_peer_takes_over_what_a_held_one_had() {
        let mut peers = HoldDown::new(Duration::from_secs(10));
        peers.update(at(0), [spec(1, &["10.0.0.0/23"])]);
        peers.update(at(1), [spec(2, &["10.0.1.0/24"])]);
        assert_eq!(
            peers.specs(at(2)),
            [spec(2, &["10.0.1.0/24"]), spec(1, &["10.0.0.0/24"])]
        );
    }
}
