//! In steady state nothing is allocated: counted, over whole tunnels with many peers.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use ringspan::crypto::{KeyPair, PrivateKey};
use ringspan::engine::port::{Datagram, Ecn, Packet};
use ringspan::engine::tunnel::Action;
use ringspan::engine::{PeerConfig, Tunnel};
use ringspan::time::{Instant, Now};

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is being torn down is none that a test measures.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: every call is the system allocator's, with the same arguments; counting touches nothing
// of what is allocated, and allocates nothing itself (the cell is initialised at compile time).
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(block, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocations(run: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    run();
    ALLOCATIONS.get() - before
}

/// More peers than `arc-swap` has fast slots a thread.
const SPOKES: u8 = 20;
const BATCH: usize = 100;
const HUB: &str = "192.0.2.1:51820";

fn private_key(id: u8) -> PrivateKey {
    PrivateKey::from([id + 1; 32])
}

fn address(id: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, id + 1], 51820))
}

/// A hub (id 0) and the spokes 1 to [`SPOKES`]; a first packet each way has made the sessions.
fn connected() -> (Tunnel, Vec<Tunnel>, Now) {
    let now = Now {
        monotonic: Instant::from_secs(1000),
        unix: Duration::from_secs(1_700_000_000),
    };
    let mut hub = Tunnel::new(&private_key(0), 1420).unwrap();
    let mut spokes = Vec::new();
    for id in 1..=SPOKES {
        let mut spoke = Tunnel::new(&private_key(id), 1420).unwrap();
        let key = *KeyPair::new(&private_key(id)).unwrap().public();
        let own = format!("10.0.{id}.0/24").parse().unwrap();
        hub.add_peer(key, PeerConfig::default(), Some(address(id)), [own])
            .unwrap();
        let all = "10.0.0.0/24".parse().unwrap();
        let hub_key = *hub.public_key();
        spoke
            .add_peer(
                hub_key,
                PeerConfig::default(),
                Some(HUB.parse().unwrap()),
                [all],
            )
            .unwrap();
        spokes.push(spoke);
    }
    for (spoke, id) in spokes.iter_mut().zip(1..) {
        let (mut to_hub, mut to_spoke) = (Vec::new(), Vec::new());
        spoke.encapsulate(now, &mut packet(id, 0, 64), &mut |action| {
            if let Action::Send { datagram, .. } = action {
                to_hub.push(datagram.to_vec());
            }
        });
        while !(to_hub.is_empty() && to_spoke.is_empty()) {
            for mut datagram in to_hub.drain(..) {
                hub.decapsulate(now, &mut datagram, address(id), &mut |action| {
                    if let Action::Send { datagram, .. } = action {
                        to_spoke.push(datagram.to_vec());
                    }
                });
            }
            for mut datagram in to_spoke.drain(..) {
                spoke.decapsulate(now, &mut datagram, HUB.parse().unwrap(), &mut |action| {
                    if let Action::Send { datagram, .. } = action {
                        to_hub.push(datagram.to_vec());
                    }
                });
            }
        }
    }
    (hub, spokes, now)
}

/// A packet of `len` bytes from the network of node `from` to that of node `to`.
fn packet(from: u8, to: u8, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[..4].copy_from_slice(&[0x45, 0, (len >> 8) as u8, len as u8]);
    packet[12..20].copy_from_slice(&[10, 0, from, 1, 10, 0, to, 1]);
    packet
}

#[test]
fn sealing_allocates_nothing() {
    let (mut hub, _, now) = connected();
    let mut packets: Vec<Vec<u8>> = (0..BATCH)
        .map(|n| packet(0, 1 + n as u8 % SPOKES, 64 + n * 13))
        .collect();
    let mut batch: Vec<Packet<'_>> = packets.iter_mut().map(|data| Packet { data }).collect();
    let mut sent = 0;
    let mut seal = || {
        hub.seal(now, &mut batch, &mut |action| {
            sent += usize::from(matches!(action, Action::Send { .. }));
        });
    };
    // The buffer grows once.
    seal();
    let allocations = allocations(|| (0..100).for_each(|_| seal()));
    assert_eq!(sent, 101 * BATCH);
    assert_eq!(
        allocations, 0,
        "in 100 batches of {BATCH} packets to {SPOKES} peers"
    );
}

#[test]
fn opening_allocates_nothing() {
    let (mut hub, mut spokes, now) = connected();
    let mut rounds: Vec<Vec<(SocketAddr, Vec<u8>)>> = Vec::new();
    for _ in 0..101 {
        let mut datagrams = Vec::new();
        for n in 0..BATCH {
            let id = 1 + n as u8 % SPOKES;
            let spoke = &mut spokes[usize::from(id) - 1];
            spoke.encapsulate(now, &mut packet(id, 0, 64 + n * 13), &mut |action| {
                if let Action::Send { datagram, .. } = action {
                    datagrams.push((address(id), datagram.to_vec()));
                }
            });
        }
        rounds.push(datagrams);
    }
    let mut batches: Vec<Vec<Datagram<'_>>> = rounds
        .iter_mut()
        .map(|round| {
            round
                .iter_mut()
                .map(|(from, payload)| Datagram {
                    payload,
                    from: (*from).into(),
                    ecn: Ecn::NotEct,
                })
                .collect()
        })
        .collect();
    let mut delivered = 0;
    let mut open = |batch: &mut [Datagram<'_>]| {
        hub.open(now, batch, &mut |action| {
            delivered += usize::from(matches!(action, Action::Deliver { .. }));
        });
    };
    let (first, rest) = batches.split_first_mut().unwrap();
    open(first);
    let allocations = allocations(|| rest.iter_mut().for_each(|batch| open(batch)));
    assert_eq!(delivered, 101 * BATCH);
    assert_eq!(
        allocations, 0,
        "in 100 batches of {BATCH} datagrams from {SPOKES} peers"
    );
}

#[test]
fn the_counting_itself_works() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}
