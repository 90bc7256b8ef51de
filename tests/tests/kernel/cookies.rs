//! Cookies under load, in both directions.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use ringspan::crypto::PublicKey;
use ringspan_tests::harness::TestResult;
use ringspan_tests::netns::Namespace;

use crate::bed::{Bed, Driver, Fallible, Kind, PATIENCE, PORT, bridge, network, outer, wait_for};
use crate::flood::{Flood, Pace};

/// For a queue of 4096 of which 512 are load: ours, and the kernel's.
const PACE: Pace = Pace {
    burst: 2500,
    patience: Duration::from_millis(200),
};

/// Their kernel's queue is full of forged initiations: our initiation is answered by a cookie, the
/// next one bears it and gets through, while the flood goes on.
pub(crate) fn they_are_under_load(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::strangers(kind, driver)?;
    bed.tell_them(None, None)?;
    let victim = SocketAddr::new(outer(bed.number, 2, 4), PORT);
    flooded(&bed, victim, &bed.peer.public_key(), |flood| {
        bed.tell_us(Some(victim.ip()))?;
        wait_for("a cookie is understood", 2 * PATIENCE, || {
            bed.us.knock(4);
            Ok(bed.us.counter("cookies_accepted") > 0)
        })
        .and_then(|()| {
            wait_for("a session under load", 2 * PATIENCE, || {
                bed.us.knock(4);
                Ok(bed.us.counter("responses_accepted") > 0)
            })
        })
        .map_err(|error| format!("{error}; we: {:?}; {flood:?}", bed.us.counted()))?;
        Ok(())
    })?;
    // Every initiation but the last was answered by a cookie, or lost in the crowd.
    let count = |name| bed.us.counter(name);
    if count("initiations_sent") <= count("responses_accepted") {
        return Err(format!("no initiation was refused: {:?}", bed.us.counted()).into());
    }
    bed.us.reaches()?;
    bed.peer.reaches()
}

/// Our queue is full of forged initiations: we answer theirs by a cookie, which they understand,
/// and the next one gets through by it, while the flood goes on.
pub(crate) fn we_are_under_load(kind: Kind, driver: Driver) -> TestResult {
    let bed = Bed::strangers(kind, driver)?;
    bed.tell_us(None)?;
    let victim = SocketAddr::new(outer(bed.number, 1, 4), PORT);
    let key = bed.us.plane.public_key();
    flooded(&bed, victim, &key, |flood| {
        // A busy host may not keep our queue filled all the time: whoever gets in by a gap tries
        // again.
        for _ in 0..10 {
            let accepted = bed.us.counter("initiations_accepted");
            // The attackers' messages bear no cookie, so whatever is let through by one is theirs.
            let proved = bed.us.counter("cookies_proved");
            bed.tell_them(Some(victim.ip()), None)?;
            wait_for("a session under load", 2 * PATIENCE, || {
                bed.peer.knock(4);
                Ok(bed.us.counter("initiations_accepted") > accepted)
            })
            .map_err(|error| format!("{error}; we: {:?}; {flood:?}", bed.us.counted()))?;
            if bed.us.counter("cookies_proved") > proved {
                return Ok(());
            }
        }
        Err(format!(
            "they never took a cookie; {flood:?}; {:?}",
            bed.us.counted()
        )
        .into())
    })?;
    if bed.us.counter("cookies_sent") == 0 {
        return Err(format!("no cookie was sent: {:?}", bed.us.counted()).into());
    }
    bed.us.reaches()?;
    bed.peer.reaches()
}

/// Does `work` while `victim` is under load: from when it asks for cookies until it has once more.
fn flooded(
    bed: &Bed,
    victim: SocketAddr,
    key: &PublicKey,
    work: impl FnOnce(&Flood) -> Fallible<()>,
) -> Fallible<()> {
    let attacker = Namespace::new("attacker")?;
    bridge(&attacker, "evil0", bed.peer.room.guest())?;
    attacker.add_address("evil0", network(outer(bed.number, 66, 4)))?;
    let flood = Flood::default();
    thread::scope(|scope| {
        let flooding = scope.spawn(|| {
            flood
                .run(&attacker, victim, key, PACE)
                .map_err(|error| error.to_string())
        });
        let cookies = || flood.cookies.load(Relaxed);
        let loaded = |what: &str, count: u64| {
            wait_for(what, PATIENCE, || {
                if flooding.is_finished() {
                    return Err("the flood has ended".into());
                }
                Ok(cookies() >= count)
            })
            .map_err(|error| format!("{error}; {flood:?}; we: {:?}", bed.us.counted()))
        };
        let outcome = loaded("load", 1)
            .map_err(Into::into)
            .and_then(|()| work(&flood))
            .and_then(|()| Ok(loaded("load to the end", cookies() + 1)?));
        flood.stop();
        let flooded = flooding.join().map_err(|_| "the flood panicked")?;
        flooded?;
        outcome
    })
}
