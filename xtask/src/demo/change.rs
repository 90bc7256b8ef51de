//! One node more, and gone again, while traffic flows between the others.

use std::thread;
use std::time::{Duration, Instant};

use indicatif::ProgressBar;
use ringspan_tests::traffic::ping::{Options, ping};

use super::OuterDriver;
use super::mesh::{Mesh, Node};
use crate::Result;
use crate::interrupt::Interrupt;

/// When nothing comes of it for so long, it has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long an answer may take before the next one is asked for.
const ANSWER: Duration = Duration::from_millis(100);

/// How long it took.
pub(crate) struct Change {
    label: String,
    /// From the start of the node's data plane until the first of the others had answered, and
    /// until all had.
    first: Duration,
    all: Duration,
    /// From the order to stop until none of the others had it as a peer.
    dropped: Duration,
}

/// Adds a node of which the others learn from discovery alone, and removes it. None where it was
/// interrupted.
pub(crate) fn add_and_remove(
    mesh: &Mesh,
    outer: OuterDriver,
    interrupt: &Interrupt,
    bar: &ProgressBar,
) -> Result<Option<Change>> {
    let number = mesh.nodes().len();
    bar.set_message(format!("node-{} joins", number + 1));
    let began = Instant::now();
    let node = mesh.start(number)?;
    let (mut first, mut answered) = (None, 0);
    for other in mesh.nodes() {
        if !reach(&node, other, began, interrupt)? {
            return Ok(None);
        }
        answered += 1;
        first.get_or_insert_with(|| began.elapsed());
        bar.set_message(format!(
            "{} reaches {answered} of {number} nodes",
            node.label
        ));
    }
    let all = began.elapsed();
    node.check_driver(outer)?;

    let key = node.plane.public_key();
    let label = node.label.clone();
    bar.set_message(format!("{label} leaves"));
    let began = Instant::now();
    node.plane.shutdown()?;
    let has_it = |other: &Node| {
        let statuses = other.plane.statuses();
        statuses.iter().any(|peer| peer.public_key == key)
    };
    while mesh.nodes().iter().any(has_it) {
        if interrupt.came() {
            return Ok(None);
        }
        if began.elapsed() > PATIENCE {
            return Err(format!("{label} has left, and is a peer after {PATIENCE:?} still").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(Some(Change {
        label,
        first: first.unwrap_or(all),
        all,
        dropped: began.elapsed(),
    }))
}

/// Pings until there is an answer; false where that was interrupted.
fn reach(node: &Node, other: &Node, began: Instant, interrupt: &Interrupt) -> Result<bool> {
    let once = Options {
        count: 1,
        timeout: ANSWER,
        ..Options::default()
    };
    loop {
        if interrupt.came() {
            return Ok(false);
        }
        // Before the first peer is there the kernel may refuse to send at all.
        let answer = node.space.run(|| ping(other.address, once));
        if answer
            .as_ref()
            .is_ok_and(ringspan_tests::traffic::Pings::all_answered)
        {
            return Ok(true);
        }
        if began.elapsed() > PATIENCE {
            let why = answer
                .err()
                .map_or_else(String::new, |error| format!(": {error}"));
            return Err(format!(
                "{} has joined, and does not reach {} after {PATIENCE:?}{why}",
                node.label, other.label
            )
            .into());
        }
        if answer.is_err() {
            thread::sleep(ANSWER / 10);
        }
    }
}

impl Change {
    /// In words.
    pub(crate) fn print(&self, others: usize) {
        println!(
            "{} was added while traffic flowed: first answer after {:.2} s, from all {others} \
             others after {:.2} s",
            self.label,
            self.first.as_secs_f64(),
            self.all.as_secs_f64()
        );
        println!(
            "{} was removed while traffic flowed: no peer of anybody after {:.2} s (a departure \
             is asked after for 5 s before it is believed)",
            self.label,
            self.dropped.as_secs_f64()
        );
    }
}
