//! One X25519 agreement: ringspan's (AWS-LC behind it) beside x25519-dalek and ring, in turns.
//!
//! `cargo bench -p ringspan-bench --bench x25519`
#![allow(clippy::print_stdout, reason = "a bench prints its table")]

use std::hint::black_box;
use std::time::Instant;

use ringspan::crypto::{KeyPair, PrivateKey, PublicKey};

/// Agreements of a timed stretch.
const STRETCH: u32 = 50;
const ROUNDS: usize = 101;

type Contender<'a> = (&'static str, Box<dyn FnMut() + 'a>);

fn main() {
    let (ours, theirs) = ([7; 32], [9; 32]);
    let peer = x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(theirs));
    let public = PublicKey::from(*peer.as_bytes());
    let pair = KeyPair::new(&PrivateKey::from(ours)).unwrap();
    let secret = x25519_dalek::StaticSecret::from(ours);
    let random = ring::rand::SystemRandom::new();

    let mut contenders: [Contender<'_>; 4] = [
        (
            "ringspan (AWS-LC)",
            Box::new(|| drop(black_box(pair.agree(black_box(&public))))),
        ),
        (
            "x25519-dalek",
            Box::new(|| drop(black_box(secret.diffie_hellman(black_box(&peer))))),
        ),
        (
            // Ring makes keys for one use only: its figure contains making one.
            "ring, new key each",
            Box::new(|| {
                let key = ring::agreement::EphemeralPrivateKey::generate(
                    &ring::agreement::X25519,
                    &random,
                )
                .unwrap();
                let peer = ring::agreement::UnparsedPublicKey::new(
                    &ring::agreement::X25519,
                    black_box(peer.as_bytes()),
                );
                black_box(ring::agreement::agree_ephemeral(key, &peer, |out| out[0]).unwrap());
            }),
        ),
        (
            "ringspan, key pair from private key",
            Box::new(|| drop(black_box(KeyPair::new(&PrivateKey::from(black_box(ours)))))),
        ),
    ];
    let mut samples = [const { Vec::new() }; 4];
    for round in 0..=ROUNDS {
        for ((_, run), samples) in contenders.iter_mut().zip(&mut samples) {
            let begin = Instant::now();
            for _ in 0..STRETCH {
                run();
            }
            if round > 0 {
                samples.push(begin.elapsed().as_nanos() as f64 / f64::from(STRETCH));
            }
        }
    }
    println!("{:<36} {:>10} {:>10}", "", "median ns", "min ns");
    for ((name, _), mut samples) in contenders.into_iter().zip(samples) {
        samples.sort_by(f64::total_cmp);
        println!(
            "{name:<36} {:>10.0} {:>10.0}",
            samples[ROUNDS / 2],
            samples[0]
        );
    }
}
