//! Which endpoint of a peer is tried, and when the next one is.

use core::net::SocketAddr;

use crate::control::PeerState;
use crate::control::status::ENDPOINT_CONNECTION_TIMEOUT;
use crate::time::Instant;

/// How many endpoints of a peer are tried at once when the first one did not answer: so many
/// datagrams in place of one, every five seconds.
pub const RACE: usize = 8;

/// One peer's endpoint choice. Pure: whoever owns it tells it what is seen, and does what it says.
///
/// A choice has [`ENDPOINT_CONNECTION_TIMEOUT`] to lead to a handshake, then the next endpoint of
/// the list has its turn, and after the last the first again. A peer that is up keeps the endpoint
/// it has, listed or not, until handshakes with it go unanswered for as long.
///
/// The first choice is tried alone. Once it has failed, each turn is a race of [`RACE`] endpoints:
/// the one chosen, and its [`rivals`](Rotation::rivals), those after it in the list. Wherever the
/// peer answers, that is the choice then.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rotation {
    chosen: Option<(SocketAddr, Instant)>,
    /// Since when handshakes have been tried without an answer.
    trying: Option<Instant>,
    /// How many endpoints after the chosen one are tried with it.
    racing: usize,
}

/// What is seen of a peer.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Where it may be reached, best first.
    pub endpoints: &'a [SocketAddr],
    /// Where packets for it go now.
    pub active: Option<SocketAddr>,
    /// When its last handshake ended.
    pub last_handshake: Option<Instant>,
    /// A session with it is wanted at all times (persistent keepalive), not only for traffic.
    pub standing: bool,
    /// A handshake with it is being tried now.
    pub initiating: bool,
}

impl Rotation {
    /// The endpoint chosen last.
    #[must_use]
    pub fn last_used(&self) -> Option<SocketAddr> {
        self.chosen.map(|(endpoint, _)| endpoint)
    }

    /// When it was chosen.
    #[must_use]
    pub fn last_change(&self) -> Option<Instant> {
        self.chosen.map(|(_, at)| at)
    }

    /// Whether the peer can be reached, by KubeSpan's rule.
    #[must_use]
    pub fn state(&self, now: Instant, last_handshake: Option<Instant>) -> PeerState {
        PeerState::assess(
            self.last_change().map(|at| now.since(at)),
            last_handshake.map(|at| now.since(at)),
        )
    }

    /// The endpoint that comes after the one chosen last: the first one where that is not in the
    /// list; `None` where there is nothing else to try.
    #[must_use]
    pub fn next(&self, endpoints: &[SocketAddr], active: Option<SocketAddr>) -> Option<SocketAddr> {
        let first = endpoints.first().copied();
        let Some(last) = self.last_used() else {
            return first;
        };
        if endpoints == [last] && active == Some(last) {
            return None;
        }
        // Those in the race have had their turn, unless all are in it.
        let tried = self.racing + 1;
        let step = if tried < endpoints.len() { tried } else { 1 };
        let place = endpoints.iter().position(|&endpoint| endpoint == last);
        let next = place.map_or(0, |place| (place + step) % endpoints.len().max(1));
        endpoints.get(next).copied()
    }

    /// The endpoints of the list that are tried at once with the one chosen last: those after it,
    /// and after the last the first again.
    #[must_use]
    pub fn rivals(&self, endpoints: &[SocketAddr]) -> Vec<SocketAddr> {
        let chosen = self.last_used();
        let place = endpoints.iter().position(|&one| Some(one) == chosen);
        let (before, after) = match place {
            Some(place) => endpoints.split_at(place),
            None => (endpoints, &[][..]),
        };
        let rest = after.iter().skip(1).chain(before).copied();
        rest.filter(|&one| Some(one) != chosen)
            .take(self.racing)
            .collect()
    }

    /// Chooses `endpoint`.
    pub fn choose(&mut self, now: Instant, endpoint: SocketAddr) {
        self.chosen = Some((endpoint, now));
        self.racing = 0;
    }

    /// Forgets how long handshakes have been tried: nobody looks any more.
    pub fn rest(&mut self) {
        self.trying = None;
    }

    /// Chooses the next endpoint where that is due; tells which. To be called every second or so.
    pub fn advance(&mut self, now: Instant, seen: &Seen<'_>) -> Option<SocketAddr> {
        self.trying = match self.trying {
            _ if !seen.initiating => None,
            None => Some(now),
            since => since,
        };
        // A handshake that the peer began has answered as well. Ours may look unanswered for a
        // moment longer: the control side learns of the confirmation when it looks next.
        let begun = self.trying.max(self.last_change()).max(seen.last_handshake);
        let unanswered = self.trying.is_some()
            && begun.is_some_and(|at| now.since(at) >= ENDPOINT_CONNECTION_TIMEOUT);
        let state = self.state(now, seen.last_handshake);
        if state == PeerState::Up {
            self.settle(seen);
        }
        let due = match state {
            // Talos waits for the 275 seconds to pass: packets tell earlier.
            PeerState::Up => unanswered,
            // A peer that nobody talks to is left in peace.
            PeerState::Down => seen.standing || unanswered,
            PeerState::Unknown => self.chosen.is_none(),
        };
        let next = due.then(|| self.next(seen.endpoints, seen.active))??;
        let lost = state == PeerState::Down;
        self.choose(now, next);
        if lost {
            self.racing = (RACE - 1).min(seen.endpoints.len().saturating_sub(1));
        }
        Some(next)
    }

    /// A race is over: the winner is the choice.
    fn settle(&mut self, seen: &Seen<'_>) {
        if self.racing > 0
            && let (Some(winner), Some((chosen, _))) = (seen.active, &mut self.chosen)
        {
            if seen.endpoints.contains(&winner) {
                *chosen = winner;
            }
            self.racing = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn endpoint(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn at(secs: u64) -> Instant {
        Instant::from_secs(1000 + secs)
    }

    /// A peer that nothing is heard of.
    fn silent(endpoints: &[SocketAddr]) -> Seen<'_> {
        Seen {
            endpoints,
            active: None,
            last_handshake: None,
            standing: true,
            initiating: true,
        }
    }

    #[test]
    fn the_next_one_has_its_turn_after_fifteen_seconds() {
        let list = [endpoint(1), endpoint(2)];
        let mut rotation = Rotation::default();
        let mut turns = Vec::new();
        for second in 0..46 {
            if let Some(next) = rotation.advance(at(second), &silent(&list)) {
                turns.push((second, next.port()));
            }
        }
        assert_eq!(turns, [(0, 1), (15, 2), (30, 1), (45, 2)]);
    }

    #[test]
    fn a_peer_that_is_up_keeps_its_endpoint_even_if_it_is_listed_no_more() {
        let (before, after) = ([endpoint(1)], [endpoint(2), endpoint(3)]);
        let mut rotation = Rotation::default();
        rotation.advance(at(0), &silent(&before));
        for second in 1..=276 {
            let seen = Seen {
                active: Some(endpoint(1)),
                last_handshake: Some(at(1)),
                initiating: false,
                ..silent(&after)
            };
            let expected = (second == 276).then(|| endpoint(2));
            assert_eq!(rotation.advance(at(second), &seen), expected, "{second}");
        }
    }

    #[test]
    fn unanswered_handshakes_tell_before_the_timer() {
        let list = [endpoint(1), endpoint(2)];
        let mut rotation = Rotation::default();
        rotation.advance(at(0), &silent(&list));
        let seen = |second| Seen {
            active: Some(endpoint(1)),
            last_handshake: Some(at(1)),
            // A renewal that went well in between does not add up.
            initiating: second == 10 || second >= 20,
            ..silent(&list)
        };
        let turn = (1..60).find(|&second| rotation.advance(at(second), &seen(second)).is_some());
        assert_eq!(turn, Some(35));
    }

    /// This node's clock has gone back, say: the peer takes its initiations for replays, and only
    /// those of the peer lead to sessions.
    #[test]
    fn a_handshake_that_the_peer_began_does_not_cost_it_its_endpoint() {
        let list = [endpoint(1), endpoint(2)];
        let mut rotation = Rotation::default();
        rotation.advance(at(0), &silent(&list));
        let seen = |second| Seen {
            active: Some(endpoint(1)),
            last_handshake: Some(at(if second < 115 { 1 } else { 115 })),
            // Seen once more although the peer's handshake is complete.
            initiating: (101..=115).contains(&second),
            ..silent(&list)
        };
        for second in 1..115 {
            assert_eq!(rotation.advance(at(second), &seen(second)), None);
        }
        assert_eq!(rotation.advance(at(116), &seen(115)), None);
        assert_eq!(rotation.advance(at(117), &seen(117)), None);
        let handshake = seen(117).last_handshake;
        assert_eq!(rotation.state(at(117), handshake), PeerState::Up);
    }

    #[test]
    fn a_peer_nobody_talks_to_is_left_in_peace() {
        let list = [endpoint(1), endpoint(2)];
        let mut rotation = Rotation::default();
        let seen = |second: u64| Seen {
            standing: false,
            initiating: second >= 3600,
            ..silent(&list)
        };
        let turns: Vec<u64> = (0..3640)
            .filter(|&second| rotation.advance(at(second), &seen(second)).is_some())
            .collect();
        assert_eq!(
            turns,
            [0, 3615, 3630],
            "each endpoint has its fifteen seconds of tries"
        );
    }

    #[test]
    fn a_peer_that_speaks_first_is_not_moved_while_it_is_up() {
        let list = [endpoint(1)];
        let mut rotation = Rotation::default();
        let roamed = Seen {
            active: Some(endpoint(9)),
            last_handshake: Some(at(0)),
            initiating: false,
            ..silent(&list)
        };
        assert_eq!(rotation.advance(at(10), &roamed), None);
        assert_eq!(rotation.advance(at(275), &roamed), Some(endpoint(1)));
    }

    #[test]
    fn after_the_first_one_has_failed_several_are_tried_at_once() {
        let list: Vec<SocketAddr> = (1..=64).map(endpoint).collect();
        let mut rotation = Rotation::default();
        assert_eq!(rotation.advance(at(0), &silent(&list)), Some(list[0]));
        assert_eq!(rotation.rivals(&list), [], "the first has its turn alone");
        let mut tried: BTreeSet<_> = [list[0]].into();
        for turn in 1..=8 {
            let next = rotation.advance(at(15 * turn), &silent(&list)).unwrap();
            let rivals = rotation.rivals(&list);
            assert_eq!(rivals.len(), RACE - 1);
            assert!(!rivals.contains(&next));
            tried.extend([next].into_iter().chain(rivals));
        }
        assert_eq!(
            tried.len(),
            64,
            "all of them within two minutes and a quarter"
        );
    }

    #[test]
    fn the_winner_of_a_race_is_the_choice() {
        let list: Vec<SocketAddr> = (1..=4).map(endpoint).collect();
        let mut rotation = Rotation::default();
        rotation.advance(at(0), &silent(&list));
        assert_eq!(rotation.advance(at(15), &silent(&list)), Some(list[1]));
        assert_eq!(rotation.rivals(&list), [list[2], list[3], list[0]]);
        let won = Seen {
            active: Some(list[3]),
            last_handshake: Some(at(16)),
            initiating: false,
            ..silent(&list)
        };
        assert_eq!(rotation.advance(at(17), &won), None);
        assert_eq!(rotation.last_used(), Some(list[3]));
        assert_eq!(rotation.last_change(), Some(at(15)));
        assert_eq!(rotation.rivals(&list), []);
        assert_eq!(rotation.state(at(17), won.last_handshake), PeerState::Up);
    }

    proptest! {
        /// However the clock jumps and the list changes: every endpoint of a list has its turn, in
        /// as many turns as there are endpoints.
        #[test]
        fn every_endpoint_has_its_turn(
            earlier in prop::collection::vec((0..6_u16, 0..40_u64), 0..10),
            ports in prop::collection::btree_set(0..6_u16, 1..6),
        ) {
            let mut rotation = Rotation::default();
            let mut second = 0;
            for (port, pause) in earlier {
                second += pause;
                rotation.advance(at(second), &silent(&[endpoint(port), endpoint(5 - port)]));
            }
            let list: Vec<_> = ports.iter().map(|&port| endpoint(port)).collect();
            let mut tried = BTreeSet::new();
            for _ in 0..list.len() {
                second += 15;
                tried.extend(rotation.advance(at(second), &silent(&list)));
            }
            prop_assert_eq!(tried, list.into_iter().collect());
        }

        /// A clock that goes back neither panics nor makes the rotation faster.
        #[test]
        fn no_clock_makes_it_hurry(times in prop::collection::vec(0..100_u64, 1..50)) {
            let list = [endpoint(1), endpoint(2)];
            let mut rotation = Rotation::default();
            rotation.advance(at(0), &silent(&list));
            let mut last = at(0);
            for second in times {
                if rotation.advance(at(second), &silent(&list)).is_some() {
                    prop_assert!(at(second).since(last) >= Duration::from_secs(15));
                    last = at(second);
                }
            }
        }
    }
}
