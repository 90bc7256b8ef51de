//! What is measured.

use core::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use ringspan::control::{PeerSpec, SpecChange};
use ringspan::engine::port::OuterRx;
use ringspan::io::memory::Network;
use ringspan::mesh::{Mesh, Peer};
use ringspan_bench::options::Options;
use ringspan_bench::report::Row;
use ringspan_bench::turns::take_turns;

use crate::bed::{Node, PEERS, exchange, packet, peers, prefix, public_key};

type Case = fn(&Options) -> Vec<Row>;

pub(crate) const ALL: [(&str, Case); 6] = [
    ("apply/1000x64", apply),
    ("one prefix/64000", |options| one_prefix(options, 64)),
    ("one prefix/1000000", |options| one_prefix(options, 1000)),
    ("replace a peer", replace),
    ("look-up", look_up),
    ("traffic", traffic),
];

/// Updates a second while look-ups or traffic are measured.
const RATE: u32 = 10_000;

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// All peers of a node that has none, in one call.
fn apply(options: &Options) -> Vec<Row> {
    let wanted = peers(64);
    let mut samples = take_turns(options.rounds, 1, |_| {
        let node = Node::new(&Network::new(), 1);
        let began = Instant::now();
        let applied = node.plane.control().apply(&wanted).expect("it runs");
        let time = began.elapsed();
        assert_eq!(applied.added, PEERS);
        micros(time) / 1000.0
    });
    let samples = samples.pop().unwrap_or_default();
    vec![Row::new("apply/1000x64", "ringspan", "time", "ms", samples)]
}

/// One prefix more, or one less, for one of [`PEERS`] peers.
fn one_prefix(options: &Options, each: usize) -> Vec<Row> {
    let node = Node::new(&Network::new(), 1);
    let control = node.plane.control();
    let mut wanted = peers(each);
    control.apply(&wanted).expect("it runs");
    let (total, spare) = (each * PEERS, prefix(each * PEERS));
    let case = format!("one prefix/{total}");
    let mut turn = 0;
    let mut samples = take_turns(options.rounds * 100, 1, |_| {
        let at = turn / 2 * 7919 % PEERS;
        let change = if turn.is_multiple_of(2) {
            SpecChange::Allow {
                peer: wanted[at].public_key,
                prefix: spare,
            }
        } else {
            SpecChange::Disallow {
                peer: wanted[at].public_key,
                prefix: spare,
            }
        };
        turn += 1;
        let began = Instant::now();
        let applied = control.update(&[change]).expect("it runs");
        let time = began.elapsed();
        assert_eq!(applied.changed, 1);
        micros(time)
    });
    let mut rows = vec![Row::new(
        &case,
        "update",
        "time",
        "us",
        samples.pop().unwrap_or_default(),
    )];
    // The same by telling the whole set, which looks at every prefix.
    let mut turn = 0_u32;
    let mut samples = take_turns((options.rounds / 4).max(2), 1, |_| {
        let own = &mut wanted[0].allowed_ips;
        if turn.is_multiple_of(2) {
            own.push(spare);
        } else {
            own.pop();
        }
        turn += 1;
        let began = Instant::now();
        let applied = control.apply(&wanted).expect("it runs");
        let time = began.elapsed();
        assert_eq!(applied.changed + applied.unchanged, PEERS);
        micros(time)
    });
    let whole = samples.pop().unwrap_or_default();
    rows.push(Row::new(&case, "apply of all", "time", "us", whole));
    rows
}

/// One of [`PEERS`] peers goes and another one comes in its place: the call, and until a worker
/// has seen it: until the first datagram for the new one, which a packet has called for, is there.
fn replace(options: &Options) -> Vec<Row> {
    let network = Network::new();
    let node = Node::new(&network, 1);
    let control = node.plane.control();
    control.apply(&peers(64)).expect("it runs");
    let place = SocketAddr::from(([192, 0, 2, 9], 51820));
    let mut end = network.attach(place, 64).expect("an address");
    let inner = packet(1, [192, 168, 9, 1]);
    let spec = |number: u32| PeerSpec {
        endpoints: vec![place],
        allowed_ips: vec!["192.168.9.0/24".parse().expect("a prefix")],
        ..PeerSpec::new(public_key(number))
    };
    let mut number = 2_000_000;
    control
        .update(&[SpecChange::Set(spec(number))])
        .expect("it runs");
    let (mut calls, mut seen) = (Vec::new(), Vec::new());
    for round in 0..=options.rounds * 10 {
        let old = public_key(number);
        number += 1;
        let changes = [SpecChange::Remove(old), SpecChange::Set(spec(number))];
        while end.rx.recv_batch(&mut |_| {}).expect("a driver") > 0 {}
        let began = Instant::now();
        let applied = control.update(&changes).expect("it runs");
        let call = began.elapsed();
        assert_eq!((applied.added, applied.removed), (1, 1));
        // What an earlier packet calls for is for the old peer, and that has gone.
        while end.rx.recv_batch(&mut |_| {}).expect("a driver") == 0 {
            // Where it is full, enough is on its way.
            let _ = node.host.send(&inner);
            assert!(began.elapsed() < Duration::from_secs(20), "nobody sees it");
        }
        if round > 0 {
            calls.push(micros(call));
            seen.push(micros(began.elapsed()));
        }
    }
    vec![
        Row::new("replace a peer/1000x64", "update", "time", "us", calls),
        Row::new(
            "replace a peer/1000x64",
            "update",
            "first initiation",
            "us",
            seen,
        ),
    ]
}

/// Calls `update` [`RATE`] times a second until `stop`; returns how often.
fn updates(stop: &AtomicBool, mut update: impl FnMut(u64)) -> u64 {
    let began = Instant::now();
    let mut done: u32 = 0;
    while !stop.load(Relaxed) {
        let due = began + Duration::from_secs(1) / RATE * done;
        while Instant::now() < due {
            thread::yield_now();
        }
        update(done.into());
        done += 1;
    }
    done.into()
}

/// Look-ups in a table of 64,000 prefixes that nobody changes, and that is changed.
fn look_up(options: &Options) -> Vec<Row> {
    const BATCH: usize = 64;
    let mesh = Mesh::default();
    let owners: Vec<_> = (0..PEERS as u32)
        .map(|number| Arc::new(Peer::new(public_key(number))))
        .collect();
    mesh.update(|tables| {
        for number in 0..64 * PEERS {
            tables.allow(&prefix(number), &owners[number / 64]);
        }
    });
    let spare = prefix(64 * PEERS);
    let probe = |turn: usize| {
        let number = turn.wrapping_mul(0x9e37_79b9) % (64 * PEERS);
        Ipv4Addr::from_bits(0x0a00_0000 | (number as u32) << 4 | 3)
    };
    let mut rate = Vec::new();
    let samples = take_turns(options.rounds, 2, |contender| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (mesh, stop, owners) = (&mesh, &stop, &owners);
            let updating = (contender == 1).then(|| {
                scope.spawn(move || {
                    let began = Instant::now();
                    let done = updates(stop, |turn| {
                        mesh.update(|tables| {
                            tables.allow(&spare, &owners[turn as usize % PEERS]);
                        });
                    });
                    done as f64 / began.elapsed().as_secs_f64()
                })
            });
            let began = Instant::now();
            let mut count = 0;
            while began.elapsed() < Duration::from_millis(100) {
                // As workers do: loaded once a batch.
                let table = mesh.table();
                for _ in 0..BATCH {
                    black_box(table.allowed_ips.lookup_v4(probe(count)));
                    count += 1;
                }
            }
            let time = began.elapsed();
            stop.store(true, Relaxed);
            rate.extend(updating.and_then(|updating| updating.join().ok()));
            time.as_nanos() as f64 / count as f64
        })
    });
    let mut rows: Vec<_> = ["no updates", "10,000 updates/s"]
        .into_iter()
        .zip(samples)
        .map(|(contender, samples)| Row::new("look-up/64000", contender, "time", "ns", samples))
        .collect();
    rows.push(Row::new(
        "look-up/64000",
        "10,000 updates/s",
        "updates",
        "1/s",
        rate,
    ));
    rows
}

/// Packets between two peers of which nothing is changed, while others change.
fn traffic(options: &Options) -> Vec<Row> {
    const COUNT: usize = 20_000;
    let network = Network::new();
    let (a, b) = (Node::new(&network, 1), Node::new(&network, 2));
    let mut wanted = peers(64);
    wanted.push(b.spec());
    a.plane.control().apply(&wanted).expect("it runs");
    b.plane.control().apply(&[a.spec()]).expect("it runs");
    let inner = packet(1, [192, 168, 0, 2]);
    assert_eq!(exchange(&a, &b, &inner, 1), 1, "the first packet");
    let (mut lost, mut rates) = ([Vec::new(), Vec::new()], Vec::new());
    let spare = prefix(64 * PEERS);
    let made = AtomicU64::new(0);
    let samples = take_turns(options.rounds, 2, |contender| {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let (stop, made, control, wanted) = (&stop, &made, a.plane.control(), &wanted);
            let updating = (contender == 1).then(|| {
                scope.spawn(move || {
                    let began = Instant::now();
                    let done = updates(stop, |_| {
                        // Goes on where the round before has stopped.
                        let turn = made.fetch_add(1, Relaxed) as usize;
                        let peer = wanted[turn / 2 % PEERS].public_key;
                        let prefix = spare;
                        let change = if turn.is_multiple_of(2) {
                            SpecChange::Allow { peer, prefix }
                        } else {
                            SpecChange::Disallow { peer, prefix }
                        };
                        control.update(&[change]).expect("it runs");
                    });
                    done as f64 / began.elapsed().as_secs_f64()
                })
            });
            let began = Instant::now();
            let arrived = exchange(&a, &b, &inner, COUNT);
            let time = began.elapsed();
            stop.store(true, Relaxed);
            rates.extend(updating.and_then(|updating| updating.join().ok()));
            lost[contender].push((COUNT - arrived) as f64);
            COUNT as f64 / time.as_secs_f64() / 1000.0
        })
    });
    let mut rows = Vec::new();
    let [quiet, busy] = lost;
    for ((contender, samples), lost) in ["no updates", "10,000 updates/s"]
        .into_iter()
        .zip(samples)
        .zip([quiet, busy])
    {
        rows.push(Row::new(
            "traffic/1000x64",
            contender,
            "packets",
            "1000/s",
            samples,
        ));
        rows.push(Row::new(
            "traffic/1000x64",
            contender,
            "lost of 20,000",
            "packets",
            lost,
        ));
    }
    rows.push(Row::new(
        "traffic/1000x64",
        "10,000 updates/s",
        "updates",
        "1/s",
        rates,
    ));
    rows
}
