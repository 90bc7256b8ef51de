//! Cookies, load, and what attackers can make grow.

use std::net::IpAddr;
use std::time::Duration;

use ringspan::engine::Refusal;
use ringspan::noise::ratelimit::{HANDSHAKE_RATE, MAX_SOURCES, RateLimiter};
use ringspan::time::Instant;

use crate::node::*;

const LOAD: (usize, usize) = (4096, 4096);

impl Pair {
    fn under_load(&mut self) {
        self.b.handshakes.set_load(LOAD.0, LOAD.1);
    }
}

/// Class 5. The cookie was bound to the source's address and not to its port, so that everybody
/// behind one NAT could use it (gotatun before 0.6.0; boringtun and NepTUN). Here both go into the
/// MAC.
#[test]
fn class_05_cookie_without_the_source_port() {
    let mut pair = Pair::new();
    pair.under_load();
    let initiation = pair.initiation();
    pair.b.open(pair.now, A, &[initiation]);
    let cookie = pair.b.sent();
    assert_eq!(pair.a.open(pair.now, B, &cookie), [Ok(())]);
    pair.pass(Duration::from_secs(6));
    let proved = pair.initiation();
    pair.under_load();
    let elsewhere = ["192.0.2.1:51821", "192.0.2.9:51820"];
    for from in elsewhere {
        let answer = pair.b.open(pair.now, from, std::slice::from_ref(&proved));
        assert_eq!(answer, [Err(Refusal::CookieSent)], "{from}");
    }
    assert_eq!(pair.b.open(pair.now, A, &[proved]), [Ok(())]);
}

/// Class 6. One counter for all handshakes let a single source put everybody under cookies, or a
/// source was under load because it was unknown (gotatun before 0.4.1, firezone PR 9657). Here the
/// node is under load when its queue is, and one busy source meets its own limit long before.
#[test]
fn class_06_one_source_forces_everyone_into_cookie_mode() {
    let mut pair = Pair::new();
    let initiation = pair.initiation();
    pair.pass(Duration::from_secs(6));
    let fresh = pair.initiation();
    let flood = vec![initiation; 10_000];
    pair.b.open_data(pair.now, "203.0.113.66:6", &flood);
    let answers = pair.b.control(pair.now);
    let asked = answers
        .iter()
        .filter(|answer| **answer == Err(Refusal::CookieSent));
    assert!(asked.count() > 9000, "the busy one is asked");
    pair.b.sent();
    pair.pass(Duration::from_secs(1));
    assert_eq!(
        pair.b.open(pair.now, A, &[fresh]),
        [Ok(())],
        "nobody else is"
    );
    assert_eq!(pair.b.sent()[0][0], RESPONSE);
}

/// Class 7. The table of sources grew with every spoofed address (gotatun as read: cleared each
/// second, without bound inside it). Here it has a fixed bound, and beyond it new sources are
/// refused while known ones keep their buckets.
#[test]
fn class_07_table_of_sources_grows_with_spoofed_addresses() {
    let mut limiter = RateLimiter::new(HANDSHAKE_RATE, [1, 2]);
    let now = Instant::from_secs(1);
    for address in 0..200_000_u32 {
        limiter.allow(now, IpAddr::V4(address.into()));
        limiter.allow(now, IpAddr::V6((u128::from(address) << 64).into()));
    }
    assert!(limiter.sources() <= MAX_SOURCES, "{}", limiter.sources());
    // And one IPv6 site has one bucket, not 2^64.
    let mut limiter = RateLimiter::new(HANDSHAKE_RATE, [1, 2]);
    let allowed = (0..1000_u128)
        .filter(|host| limiter.allow(now, IpAddr::V6((0xfd << 120 | host).into())))
        .count();
    assert_eq!((allowed, limiter.sources()), (5, 1));
}

/// Class 8. After a count of handshakes every one was answered by a cookie, proved or not; or none
/// ever was (gotatun 0.1.2; boringtun #39). Here: never without load, under load to whoever has
/// none, and not to whoever shows a good one.
#[test]
fn class_08_cookies_for_everyone_or_for_no_one() {
    let mut pair = Pair::new();
    for _ in 0..100 {
        let initiation = pair.initiation();
        assert_eq!(pair.b.open(pair.now, A, &[initiation]), [Ok(())]);
        assert_eq!(pair.b.sent()[0][0], RESPONSE);
        pair.pass(Duration::from_secs(6));
    }
    pair.under_load();
    let initiation = pair.initiation();
    pair.b.open(pair.now, A, &[initiation]);
    let cookie = pair.b.sent();
    assert_eq!((cookie.len(), cookie[0][0]), (1, COOKIE));
    pair.a.open(pair.now, B, &cookie);
    pair.pass(Duration::from_secs(6));
    pair.under_load();
    let proved = pair.initiation();
    assert_eq!(pair.b.open(pair.now, A, &[proved]), [Ok(())]);
    assert_eq!(pair.b.sent()[0][0], RESPONSE);
}

/// Class 18. A flood of handshakes held the lock that data needed, or its end was forgotten at once
/// so that load came and went with every packet (kernel `e44c78c`, `bfde894`). Here handshakes
/// leave the data path over a bounded queue that data never waits for, and load lasts for a
/// second after the queue was full.
#[test]
fn class_18_handshake_flood_stops_data_or_resets_the_load_flag() {
    let mut pair = Pair::connected();
    pair.pass(Duration::from_secs(6));
    let initiation = pair.initiation();
    let packets: Vec<_> = (0..50).map(a_to_b).collect();
    pair.a.seal(pair.now, &packets);
    let mut wire = Vec::new();
    for data in pair.a.sent() {
        wire.extend(vec![initiation.clone(); 20]);
        wire.push(data);
    }
    pair.b.mail.full = true;
    pair.b.open_data(pair.now, A, &wire);
    assert_eq!(pair.b.received(), packets);
    assert_eq!(pair.b.totals().handshakes_dropped, 1000);

    pair.b.mail.full = false;
    pair.under_load();
    // The time of load is that of the next message; then the queue is empty at once.
    let first = pair.b.open(pair.now, A, std::slice::from_ref(&initiation));
    assert_eq!(first, [Err(Refusal::CookieSent)]);
    pair.b.handshakes.set_load(0, LOAD.1);
    pair.pass(Duration::from_millis(900));
    let during = pair.b.open(pair.now, A, std::slice::from_ref(&initiation));
    assert_eq!(during, [Err(Refusal::CookieSent)]);
    pair.pass(Duration::from_millis(200));
    assert_eq!(pair.b.open(pair.now, A, &[initiation]), [Ok(())]);
}
