use proptest::prelude::*;

use super::*;
use crate::control::testing::TestPlane;
use crate::crypto::{KeyPair, PrivateKey};

const OTHER: usize = 1;

fn private(byte: u8) -> PrivateKey {
    PrivateKey::from([byte; 32])
}

fn key(byte: u8) -> PublicKey {
    *KeyPair::new(&private(byte)).unwrap().public()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn spec(byte: u8, prefixes: &[&str]) -> PeerSpec {
    PeerSpec {
        allowed_ips: prefixes.iter().map(|text| net(text)).collect(),
        persistent_keepalive: NonZeroU16::new(25),
        endpoints: vec![([192, 0, 2, byte], 51820).into()],
        ..PeerSpec::new(key(byte))
    }
}

/// A node without threads.
struct Bed {
    plane: TestPlane,
    registry: Registry,
}

impl Bed {
    fn new() -> Self {
        Self {
            plane: TestPlane::new(&private(100), 1),
            registry: Registry::default(),
        }
    }

    fn replace(&mut self, source: usize, specs: &[PeerSpec]) -> Applied {
        let now = self.plane.now.get().monotonic;
        self.registry
            .replace(&self.plane, &key(100), now, source, specs)
            .unwrap()
    }

    fn update(&mut self, source: usize, changes: &[SpecChange]) -> Applied {
        let now = self.plane.now.get().monotonic;
        self.registry
            .update(&self.plane, &key(100), now, source, changes)
            .unwrap()
    }

    /// Whether the changes are judged without looking at any other peer.
    fn is_cheap(&mut self, change: SpecChange) -> bool {
        let before = self.registry.peers.len();
        let applied = self.update(API, &[change]);
        before > 4 && applied.added + applied.changed + applied.removed + applied.unchanged <= 1
    }

    /// What runs, and what workers see.
    fn state(&self) -> (Vec<PeerSpec>, BTreeMap<IpNet, PublicKey>) {
        let running = self.registry.peers.values();
        let table = self.plane.mesh.table();
        let owners = table.allowed_ips.iter();
        (
            running.map(|running| running.spec.clone()).collect(),
            owners
                .map(|(prefix, owner)| (prefix, *owner.public_key()))
                .collect(),
        )
    }

    fn wanted(&self, source: usize) -> Vec<PeerSpec> {
        let wanted = self.registry.wanted.get(&source);
        wanted.map_or_else(Vec::new, |wanted| wanted.iter().cloned().collect())
    }
}

#[test]
fn single_changes_leave_others_alone() {
    let mut bed = Bed::new();
    let all: Vec<_> = (1..10)
        .map(|n| spec(n, &[&format!("10.0.{n}.0/24")]))
        .collect();
    assert_eq!(bed.replace(API, &all).added, 9);
    let allow = |n, text: &str| SpecChange::Allow {
        peer: key(n),
        prefix: net(text),
    };
    let disallow = |n, text: &str| SpecChange::Disallow {
        peer: key(n),
        prefix: net(text),
    };
    assert!(bed.is_cheap(allow(1, "10.1.0.9/24")));
    assert_eq!(
        bed.registry.peers[&key(1)].spec.allowed_ips,
        [net("10.0.1.0/24"), net("10.1.0.0/24")]
    );
    assert!(bed.is_cheap(disallow(1, "10.1.0.0/24")));
    assert!(bed.is_cheap(disallow(1, "10.1.0.0/24")), "twice is once");
    assert!(bed.is_cheap(SpecChange::Remove(key(2))));
    assert!(bed.is_cheap(SpecChange::Remove(key(2))));
    assert!(bed.is_cheap(SpecChange::Set(spec(2, &["10.0.2.0/24"]))));
    // A prefix moves in one step, without anybody else being looked at.
    let applied = bed.update(API, &[allow(3, "10.0.4.0/24"), disallow(4, "10.0.4.0/24")]);
    assert_eq!((applied.changed, applied.unchanged), (2, 0));
    let owner = |bed: &Bed, text: &str| {
        let table = bed.plane.mesh.table();
        table
            .allowed_ips
            .owner(&net(text))
            .map(|peer| *peer.public_key())
    };
    assert_eq!(owner(&bed, "10.0.4.0/24"), Some(key(3)));
    // Whose prefix it is decides the order of the set: all are judged.
    let applied = bed.update(API, &[allow(9, "10.0.1.0/24")]);
    assert_eq!(applied.unchanged, 8);
    assert!(matches!(
        applied.rejected[..],
        [(peer, RejectReason::PrefixTaken { .. })] if peer == key(9)
    ));
    assert_eq!(owner(&bed, "10.0.1.0/24"), Some(key(1)));
    // The first one gives it up: now the other has it, although only the first was mentioned.
    bed.update(API, &[disallow(1, "10.0.1.0/24")]);
    assert_eq!(owner(&bed, "10.0.1.0/24"), Some(key(9)));
    let stranger = bed.update(API, &[allow(50, "10.9.0.0/24")]);
    assert_eq!(
        stranger.rejected,
        [(key(50), RejectReason::NotWanted(key(50)))]
    );
}

/// Setting a keepalive sends a packet: a change of prefixes must not.
#[test]
fn new_prefixes_send_no_keepalive() {
    let mut bed = Bed::new();
    bed.replace(API, &[spec(1, &[])]);
    let tick = |bed: &Bed| {
        bed.plane
            .with(|handshakes, now, out| handshakes.tick(now, out))
    };
    tick(&bed);
    assert_eq!(bed.plane.sent.take().len(), 1, "the first handshake");
    bed.replace(API, &[spec(1, &["10.0.0.0/24"])]);
    bed.update(API, &[SpecChange::Set(spec(1, &["10.0.1.0/24"]))]);
    tick(&bed);
    assert_eq!(bed.plane.sent.take().len(), 0);
}

#[test]
fn several_sources_change_one_peer() {
    let mut bed = Bed::new();
    bed.replace(OTHER, &[spec(1, &["10.0.1.0/24"]), spec(2, &[])]);
    bed.update(API, &[SpecChange::Set(spec(1, &["10.0.9.0/24"]))]);
    let prefixes = |bed: &Bed| bed.registry.peers[&key(1)].spec.allowed_ips.clone();
    assert_eq!(prefixes(&bed), [net("10.0.1.0/24"), net("10.0.9.0/24")]);
    let both = SpecChange::Allow {
        peer: key(1),
        prefix: net("10.0.1.0/24"),
    };
    bed.update(API, &[both]);
    bed.update(OTHER, &[SpecChange::Remove(key(1))]);
    assert_eq!(prefixes(&bed), [net("10.0.1.0/24"), net("10.0.9.0/24")]);
    bed.update(API, &[SpecChange::Remove(key(1))]);
    assert_eq!(bed.registry.peers.len(), 1);
}

fn prefix() -> impl Strategy<Value = IpNet> {
    (0..6_u8, 0..3_u8).prop_map(|(n, len)| IpNet::new([10, 0, 0, n << 5].into(), 25 + len).unwrap())
}

/// Few peers and few prefixes: conflicts everywhere. Key 100 is the node's own.
fn change() -> impl Strategy<Value = SpecChange> {
    let peer = || prop_oneof![6 => 1..6_u8, 1 => Just(100)];
    prop_oneof![
        3 => (peer(), prop::collection::vec(prefix(), 0..4), any::<bool>()).prop_map(
            |(n, allowed_ips, silent)| SpecChange::Set(PeerSpec {
                allowed_ips,
                persistent_keepalive: NonZeroU16::new(if silent { 0 } else { 25 }),
                ..spec(n, &[])
            })
        ),
        1 => peer().prop_map(|n| SpecChange::Remove(key(n))),
        3 => (peer(), prefix()).prop_map(|(n, prefix)| SpecChange::Allow { peer: key(n), prefix }),
        3 => (peer(), prefix()).prop_map(|(n, prefix)| SpecChange::Disallow { peer: key(n), prefix }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Update(usize, Vec<SpecChange>),
    /// Also with peers that are listed twice.
    Replace(usize, Vec<PeerSpec>),
}

fn step() -> impl Strategy<Value = Step> {
    let source = || prop_oneof![4 => Just(API), 1 => Just(OTHER)];
    let listed =
        (1..6_u8, prop::collection::vec(prefix(), 0..3)).prop_map(|(n, allowed_ips)| PeerSpec {
            allowed_ips,
            ..spec(n, &[])
        });
    prop_oneof![
        9 => (source(), prop::collection::vec(change(), 1..4))
            .prop_map(|(source, changes)| Step::Update(source, changes)),
        1 => (source(), prop::collection::vec(listed, 0..5))
            .prop_map(|(source, specs)| Step::Replace(source, specs)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400.max(ProptestConfig::default().cases), ..ProptestConfig::default() })]

    /// Whether a set is told by its changes or whole: the same runs, workers see the same, and
    /// everything that is seen belongs together.
    #[test]
    fn changes_lead_where_whole_sets_lead(steps in prop::collection::vec(step(), 1..25)) {
        let (mut by_changes, mut whole) = (Bed::new(), Bed::new());
        for step in steps {
            let source = match &step {
                Step::Update(source, changes) => {
                    by_changes.update(*source, changes);
                    *source
                }
                Step::Replace(source, specs) => {
                    by_changes.replace(*source, specs);
                    *source
                }
            };
            let wanted = by_changes.wanted(source);
            whole.replace(source, &wanted);
            let (specs, table) = by_changes.state();
            prop_assert_eq!((&specs, &table), (&whole.state().0, &whole.state().1));
            for (prefix, owner) in &table {
                let own = specs.iter().find(|spec| spec.public_key == *owner);
                prop_assert!(own.is_some_and(|spec| spec.allowed_ips.contains(prefix)));
            }
            let listed: usize = specs.iter().map(|spec| spec.allowed_ips.len()).sum();
            prop_assert_eq!(listed, table.len(), "each prefix has one owner, who knows");
        }
    }

    /// [`SpecChange::between`] leads from one set to the other.
    #[test]
    fn the_difference_of_two_sets_leads_from_one_to_the_other(
        old in prop::collection::btree_map(1..8_u8, 0..3_u8, 0..6),
        new in prop::collection::btree_map(1..8_u8, 0..3_u8, 0..6),
    ) {
        let specs = |set: BTreeMap<u8, u8>| -> Vec<PeerSpec> {
            let named = |(n, net): (u8, u8)| spec(n, &[&format!("10.{n}.{net}.0/24")]);
            set.into_iter().map(named).collect()
        };
        let (old, new) = (specs(old), specs(new));
        let changes = SpecChange::between(&old, &new);
        let (mut by_changes, mut whole) = (Bed::new(), Bed::new());
        by_changes.replace(API, &old);
        let applied = by_changes.update(API, &changes);
        prop_assert_eq!(
            applied.added + applied.changed + applied.removed,
            changes.len(),
            "no change is idle"
        );
        whole.replace(API, &new);
        prop_assert_eq!(by_changes.state(), whole.state());
        prop_assert_eq!(SpecChange::between(&new, &new), []);
    }
}

#[test]
fn a_refused_peer_stays_known_as_refused_while_others_change() {
    let mut bed = Bed::new();
    let applied = bed.replace(API, &[spec(1, &["10.0.1.0/24"]), spec(100, &[])]);
    let refused = vec![(key(100), RejectReason::OwnKey(key(100)))];
    assert_eq!(applied.rejected, refused);
    let allow = SpecChange::Allow {
        peer: key(1),
        prefix: net("10.0.2.0/24"),
    };
    assert_eq!(bed.update(API, &[allow]).rejected, []);
    assert_eq!(bed.registry.rejections(), refused);
    assert_eq!(bed.update(API, &[]).rejected, []);
    assert_eq!(bed.registry.rejections(), refused);
    bed.update(API, &[SpecChange::Remove(key(100))]);
    assert_eq!(bed.registry.rejections(), []);
}
