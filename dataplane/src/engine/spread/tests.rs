//! Order under a scheduler that means harm.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::engine::port::Datagram;
use crate::engine::testing::{Node, Sealed, connect, endpoint, packet};
use crate::time::Instant;
use crate::wire::Ecn;

const NOW: Instant = Instant::from_secs(1000);
const HUB: &str = "192.0.2.9:51820";
const SPOKES: usize = 3;

/// A hub that several workers serve, and spokes with a tunnel to it each.
struct Hub {
    entrance: Entrance,
    queue: Helper,
    /// The first one receives and delivers.
    workers: Vec<Node>,
    spokes: Vec<Node>,
    /// What was sent, in the order in which it came in.
    expected: Vec<Vec<u8>>,
}

impl Hub {
    fn new(workers: usize) -> Self {
        let first = Node::new();
        let spokes = (0..SPOKES)
            .map(|id| {
                let spoke = Node::new();
                let (own, address) = (format!("10.0.{id}.0/24"), address(id));
                let of_hub = first.peer(id as u8 + 1, &[&own], &address);
                let of_spoke = spoke.peer(99, &["10.1.0.0/16"], HUB);
                let seed = id as u8 + 1;
                connect(seed, NOW, (&spoke, &of_spoke), (&first, &of_hub));
                spoke
            })
            .collect();
        let mut nodes = vec![first];
        for _ in 1..workers {
            nodes.push(Node::on(Arc::clone(&nodes[0].mesh)));
        }
        let queue = Helper::new(workers);
        Self {
            entrance: Entrance::new(&queue, || {}),
            queue,
            workers: nodes,
            spokes,
            expected: Vec::new(),
        }
    }

    /// Packets from a spoke, each told from all others.
    fn sealed(&mut self, spoke: usize, count: usize) -> Vec<Sealed> {
        let (source, from) = (format!("10.0.{spoke}.1"), self.expected.len());
        let packets: Vec<_> = (from..from + count)
            .map(|number| {
                let mut packet = packet(&source, "10.1.0.1", 0, 32 + number % 60);
                packet[24..32].copy_from_slice(&(number as u64).to_be_bytes());
                packet
            })
            .collect();
        let sealed = self.spokes[spoke].seal(NOW, &packets);
        self.expected.extend(packets);
        sealed
    }

    /// The entrance receives datagrams of a spoke; how many found no parcel.
    fn receive(&mut self, spoke: usize, datagrams: &[Sealed]) -> usize {
        let mut payloads: Vec<_> = datagrams.iter().map(|d| d.payload.clone()).collect();
        let batch: Vec<_> = payloads
            .iter_mut()
            .map(|payload| Datagram {
                payload,
                from: endpoint(&address(spoke)),
                ecn: Ecn::NotEct,
            })
            .collect();
        let Node {
            worker, control, ..
        } = &mut self.workers[0];
        let before = worker.counters().totals().spread_dropped;
        worker.spread(&mut self.entrance, &batch, control);
        (worker.counters().totals().spread_dropped - before) as usize
    }

    /// Delivers what is next in order, if it is there.
    fn deliver(&mut self) -> bool {
        let Node { worker, inner, .. } = &mut self.workers[0];
        worker.deliver_spread(NOW, &mut self.entrance, inner)
    }

    fn open(&mut self, worker: usize, task: &mut Task) {
        self.workers[worker]
            .worker
            .open_parcel(NOW, task.parcel().unwrap());
    }

    fn delivered(&mut self) -> Vec<Vec<u8>> {
        self.workers[0].received()
    }
}

fn address(spoke: usize) -> String {
    format!("192.0.2.{}:51820", spoke + 1)
}

/// What the scheduler lets happen next.
#[derive(Clone, Debug)]
enum Step {
    /// So many datagrams of a spoke come in, and again a few that came before.
    Receive {
        spoke: usize,
        count: usize,
        again: usize,
    },
    /// A worker takes a parcel and opens it, now or when it is given back.
    Take { worker: usize, opens: bool },
    /// A worker finishes the newest or the oldest parcel that it holds.
    Finish { worker: usize, newest: bool },
    /// The entrance looks for what has come home.
    Deliver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..SPOKES, 1usize..300, 0usize..5)
            .prop_map(|(spoke, count, again)| Step::Receive { spoke, count, again }),
        4 => (0usize..4, any::<bool>()).prop_map(|(worker, opens)| Step::Take { worker, opens }),
        4 => (0usize..4, any::<bool>()).prop_map(|(worker, newest)| Step::Finish { worker, newest }),
        2 => Just(Step::Deliver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Workers take parcels, hold several, finish them in any order: what is delivered is what came
    /// in, in that order, each packet once.
    #[test]
    fn order_survives_any_schedule(
        workers in 1usize..5,
        steps in proptest::collection::vec(step(), 0..80),
    ) {
        let mut hub = Hub::new(workers);
        let mut hands: Vec<VecDeque<(Task, bool)>> = (0..workers).map(|_| VecDeque::new()).collect();
        let mut replays = 0;
        for step in steps {
            match step {
                // More room than a batch can need: nothing may be dropped here.
                Step::Receive { spoke, count, again } if hub.entrance.room() >= 2 => {
                    let mut sealed = hub.sealed(spoke, count);
                    let repeated: Vec<_> = sealed.iter().take(again).cloned().collect();
                    replays += repeated.len() as u64;
                    sealed.extend(repeated);
                    prop_assert_eq!(hub.receive(spoke, &sealed), 0);
                }
                Step::Take { worker, opens } => {
                    let worker = worker % workers;
                    if let Some(mut task) = hub.queue.next() {
                        if opens {
                            hub.open(worker, &mut task);
                        }
                        hands[worker].push_back((task, opens));
                    }
                }
                Step::Finish { worker, newest } => {
                    let worker = worker % workers;
                    let hand = &mut hands[worker];
                    let task = if newest { hand.pop_back() } else { hand.pop_front() };
                    if let Some((mut task, opened)) = task && !opened {
                        hub.open(worker, &mut task);
                    }
                }
                Step::Deliver => {
                    hub.deliver();
                }
                Step::Receive { .. } => {}
            }
            // At every moment: a prefix of what came in.
            let so_far = &hub.workers[0].inner.0;
            prop_assert!(hub.expected.starts_with(so_far));
        }
        for (worker, hand) in hands.into_iter().enumerate() {
            for (mut task, opened) in hand {
                if !opened {
                    hub.open(worker, &mut task);
                }
            }
        }
        while hub.entrance.is_busy() {
            if let Some(mut task) = hub.queue.next() {
                hub.open(0, &mut task);
            }
            hub.deliver();
        }
        prop_assert!(hub.delivered() == hub.expected);
        let mut totals = crate::engine::Totals::default();
        for worker in &hub.workers {
            totals += worker.totals();
        }
        prop_assert_eq!(totals.delivered, hub.expected.len() as u64);
        prop_assert_eq!(totals.replayed, replays);
        prop_assert_eq!(totals.spread, totals.delivered + replays);
        prop_assert_eq!(totals.forged + totals.unknown_index + totals.spread_dropped, 0);
    }
}

#[test]
fn what_finds_no_parcel_is_dropped_and_counted() {
    let mut hub = Hub::new(1);
    let room = hub.entrance.room();
    let mut lost = 0;
    for _ in 0..room + 2 {
        let sealed = hub.sealed(0, 256);
        lost += hub.receive(0, &sealed);
    }
    assert_eq!((lost, hub.entrance.room()), (2 * 256, 0));
    while hub.entrance.is_busy() {
        let mut task = hub.queue.next().unwrap();
        hub.open(0, &mut task);
        drop(task);
        assert!(hub.deliver());
    }
    let kept = hub.expected.len() - lost;
    assert!(hub.delivered() == hub.expected[..kept]);
    assert_eq!(hub.entrance.room(), room, "parcels are used again");
    let sealed = hub.sealed(0, 1);
    assert_eq!(hub.receive(0, &sealed), 0);
}

/// A worker that ends while it holds a parcel loses that parcel's packets, not the tunnel.
#[test]
fn a_worker_that_fails_holds_nobody_up() {
    let mut hub = Hub::new(2);
    for spoke in [0, 1] {
        let sealed = hub.sealed(spoke, 10);
        hub.receive(spoke, &sealed);
    }
    drop(hub.queue.next());
    let mut task = hub.queue.next().unwrap();
    hub.open(1, &mut task);
    drop(task);
    while hub.deliver() {}
    assert!(!hub.entrance.is_busy());
    assert!(hub.delivered() == hub.expected[10..]);
}

/// Sessions that control removes while a parcel is under way are still those it was opened with.
#[test]
fn a_peer_removed_meanwhile_gets_no_other_ones_packets() {
    let mut hub = Hub::new(1);
    let sealed = hub.sealed(0, 5);
    hub.receive(0, &sealed);
    let mut task = hub.queue.next().unwrap();
    hub.open(0, &mut task);
    drop(task);
    // Its prefix now belongs to another peer.
    hub.workers[0].peer(77, &["10.0.0.0/24"], "192.0.2.77:51820");
    hub.deliver();
    assert!(hub.delivered().is_empty());
    assert_eq!(hub.workers[0].totals().wrong_source, 5);
}

/// The same with threads: parcels are opened by whoever comes first.
#[test]
fn threads_keep_the_order() {
    const BATCHES: usize = 300;
    let mut hub = Hub::new(3);
    let helpers = hub.workers.split_off(1);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for node in &helpers {
            let (queue, stop) = (hub.queue.clone(), &stop);
            let worker = &node.worker;
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    match queue.next() {
                        Some(mut task) => worker.open_parcel(NOW, task.parcel().unwrap()),
                        None => thread::yield_now(),
                    }
                }
            });
        }
        let mut sent = 0;
        while sent < BATCHES || hub.entrance.is_busy() {
            if sent < BATCHES && hub.entrance.room() > 0 {
                let sealed = hub.sealed(sent % SPOKES, 100);
                assert_eq!(hub.receive(sent % SPOKES, &sealed), 0);
                sent += 1;
            }
            if !hub.deliver() {
                thread::yield_now();
            }
        }
        stop.store(true, Relaxed);
    });
    assert!(hub.delivered() == hub.expected);
    let elsewhere: u64 = helpers.iter().map(|node| node.totals().spread).sum();
    assert_eq!(elsewhere, 0, "counted where they came in");
}
