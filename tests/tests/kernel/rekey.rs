//! Sessions that age.

use std::time::Duration;

use ringspan::crypto::PublicKey;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::Namespace;
use ringspan_tests::peers::{KeyPair, PeerConfig};

use crate::bed::{
    Bed, Driver, Fallible, Kind, OUTER, PATIENCE, PORT, Peer, bridge, inner, network, number,
    outer, wait_for,
};
use crate::turned::{INITIATION, Turned};

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// We have begun: a packet sent at 119 s goes by the session that there is, one sent at 120 s
/// makes a new one, time and again, and the other end goes over to it.
pub(crate) fn we_renew_at_120_seconds(kind: Kind) -> TestResult {
    let mut ends = Ends::new(kind, true)?;
    ends.us.echo()?;
    for round in 1..=3 {
        let before = ends.us.log.index;
        ends.us.turn(seconds(119));
        ends.us.echo()?;
        ends.expect_sessions(round, "at 119 s")?;
        ends.us.turn(seconds(1));
        ends.us.echo()?;
        ends.us
            .until("a new session", |log| log.ready == round + 1)?;
        ends.us.echo()?;
        ends.expect_sessions(round + 1, "at 120 s")?;
        if ends.us.log.index == before {
            return Err("the peer goes on in the old session".into());
        }
    }
    Ok(())
}

/// We have begun and only receive: what comes at 165 s makes us renew, what came before did not.
pub(crate) fn we_keep_fresh_at_165_seconds(kind: Kind) -> TestResult {
    let mut ends = Ends::new(kind, true)?;
    ends.us.echo()?;
    // The echo is acknowledged after 10 s; from then on nothing of ours is due.
    ends.us.turn(seconds(11));
    ends.us.tick();
    ends.us.turn(seconds(153));
    ends.hear()?;
    ends.expect_sessions(1, "at 164 s")?;
    ends.us.turn(seconds(1));
    ends.hear()?;
    // Control looks at all peers once a second.
    ends.us.turn(seconds(1));
    ends.us.until("a new session", |log| log.ready == 2)?;
    ends.us.echo()?;
    ends.expect_sessions(2, "at 165 s")
}

/// At 180 s the session is dead, in both directions: what comes is refused, what goes waits for a
/// new one.
pub(crate) fn it_ends_at_180_seconds(kind: Kind) -> TestResult {
    let mut ends = Ends::new(kind, true)?;
    ends.us.echo()?;
    // This waits in the socket while the session ends.
    ends.speak();
    ends.us.turn(seconds(180));
    let before = ends.us.log.sent.len();
    ends.us.echo()?;
    let sent = &ends.us.log.sent;
    if sent.get(before) != Some(&INITIATION) {
        return Err(format!("something was sent before an initiation: {sent:?}").into());
    }
    if ends.us.expired() == 0 {
        return Err("what came in the dead session was not refused".into());
    }
    ends.expect_sessions(2, "after 180 s")
}

/// They have begun: we never renew by age, but make a session of our own at 180 s.
pub(crate) fn a_responder_does_not_renew(kind: Kind) -> TestResult {
    let mut ends = Ends::new(kind, false)?;
    // Theirs begins, and waits for an answer.
    ends.speak();
    ends.us
        .until("their first packet", |log| !log.delivered.is_empty())?;
    ends.us.echo()?;
    for step in [121, 58] {
        ends.us.turn(seconds(step));
        ends.us.echo()?;
        ends.expect_initiations(0, "by the responder, before 180 s")?;
    }
    ends.us.turn(seconds(1));
    ends.us.echo()?;
    ends.expect_sessions(1, "at 180 s")
}

/// They have begun and go on sending: at 120 s of real time they renew, and nothing is lost. All
/// of them at once, for it takes its time.
pub(crate) fn they_renew_at_120_seconds() -> TestResult {
    let pairs = [
        (Kind::Kernel, Driver::Udp),
        (Kind::NewerKernel, Driver::Xdp),
        (Kind::WireguardGo, Driver::Udp),
        (Kind::Boringtun, Driver::Xdp),
    ];
    let mut beds = Vec::new();
    for (kind, driver) in pairs {
        let bed = Bed::strangers(kind, driver)?;
        bed.tell_us(None)?;
        bed.tell_them(Some(outer(bed.number, 1, 4)), None)?;
        bed.peer.reaches()?;
        beds.push(bed);
    }
    // Whoever has renewed goes on: the new session has to carry what the old one did.
    wait_for("all of them renew", seconds(150) + PATIENCE, || {
        let mut renewed = 0;
        for bed in &beds {
            let _ = bed.peer.knock(4);
            renewed += usize::from(bed.us.counter("initiations_accepted") >= 2);
        }
        Ok(renewed == beds.len())
    })
    .map_err(|error| format!("{error}: {:?}", told(&beds)))?;
    for bed in &beds {
        bed.peer.reaches()?;
        bed.us.reaches()?;
        for wrong in [
            "expired",
            "unknown_index",
            "replayed",
            "forged",
            "initiations_sent",
        ] {
            if bed.us.counter(wrong) > 0 {
                return Err(format!("{wrong}: {:?}", told(&beds)).into());
            }
        }
    }
    Ok(())
}

fn told(beds: &[Bed]) -> Vec<impl std::fmt::Debug> {
    beds.iter()
        .map(|bed| (bed.peer.kind, bed.us.counted()))
        .collect()
}

struct Ends {
    us: Turned,
    peer: Peer,
    _space: Namespace,
}

impl Ends {
    /// Two ends, of which one knows the other's endpoint.
    fn new(kind: Kind, we_begin: bool) -> Fallible<Self> {
        let number = number();
        let peer = Peer::start(kind, number)?;
        let space = Namespace::new("us")?;
        bridge(&space, OUTER, peer.room.guest())?;
        let addresses = [outer(number, 1, 4), outer(number, 2, 4)];
        space.add_address(OUTER, network(addresses[0]))?;
        peer.add_outer(&addresses[1..])?;
        let keys = KeyPair::generate();
        peer.configure(theirs(keys.public, number, !we_begin))?;
        let endpoint = we_begin.then_some(addresses[1]);
        Ok(Self {
            us: Turned::new(&space, number, &keys.private, &peer, endpoint)?,
            peer,
            _space: space,
        })
    }

    /// Has the other end send a packet; nobody answers it.
    fn speak(&self) {
        let _ = self.peer.knock(4);
    }

    /// Has the other end send a packet, and receives it.
    fn hear(&mut self) -> Fallible<()> {
        self.us.log.delivered.clear();
        self.speak();
        self.us
            .until("a packet of theirs", |log| !log.delivered.is_empty())
    }

    /// Whether as many sessions were made by us, with as many initiations.
    fn expect_sessions(&self, count: usize, when: &str) -> TestResult {
        if self.us.log.ready != count {
            let ready = self.us.log.ready;
            return Err(format!("{ready} sessions {when}, not {count}").into());
        }
        self.expect_initiations(count, when)
    }

    fn expect_initiations(&self, count: usize, when: &str) -> TestResult {
        let sent = &self.us.log.sent;
        let initiations = sent.iter().filter(|kind| **kind == INITIATION).count();
        if initiations != count {
            return Err(format!("{initiations} initiations {when}, not {count}: {sent:?}").into());
        }
        Ok(())
    }
}

/// We, as their peer.
fn theirs(key: PublicKey, number: u8, known: bool) -> PeerConfig {
    PeerConfig {
        public_key: key,
        preshared_key: None,
        endpoint: known.then(|| (outer(number, 1, 4), PORT).into()),
        allowed_ips: vec![inner(number, 1, 4).into()],
        persistent_keepalive: None,
    }
}
