//! Does one thing a given number of times, to have its instructions counted: `cargo xtask
//! instructions` runs it under callgrind with two numbers, so that the difference is the thing and
//! not what it took to get there.
//!
//! Nothing here depends on time, on chance or on addresses.

use core::hint::black_box;
use std::net::IpAddr;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use ringspan::crypto::backend::by_name;
use ringspan::mesh::AllowedIps;
use ringspan::noise::ReplayWindow;
use ringspan::wire::{Ip, Message};
use ringspan_bench::addresses::{inside, prefixes};
use ringspan_bench::hubs::{BATCH, Hubs, packets};

/// Does one thing again and again, 64 packets or addresses at a time
#[derive(Parser)]
#[command(name = "instructions", version)]
struct Args {
    /// What
    what: What,
    /// Parameter: the length of packets in bytes, or the number of prefixes
    size: usize,
    /// How many batches of 64
    batches: usize,
    /// The AEAD's back end, as RINGSPAN_CRYPTO names it
    #[arg(long, default_value = "portable")]
    back_end: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// Packets through the whole engine, outwards
    Seal,
    /// The same, and inwards
    SealAndOpen,
    /// Look-ups in a table of IPv4 prefixes
    LookupV4,
    /// Look-ups in a table of IPv6 prefixes
    LookupV6,
    /// An outer message's and an inner packet's headers
    Parse,
    /// Counters through the replay window, every eighth pair out of order
    Replay,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    match args.what {
        What::Seal | What::SealAndOpen => {
            let mut hubs = Hubs::new(by_name(&args.back_end)?, 1);
            hubs.set_len(args.size);
            for _ in 0..args.batches {
                hubs.seal();
                if matches!(args.what, What::SealAndOpen) {
                    hubs.open();
                }
            }
            if matches!(args.what, What::SealAndOpen) && hubs.delivered() != args.batches * BATCH {
                return Err("not everything was delivered".into());
            }
        }
        What::LookupV4 => lookups(args, false)?,
        What::LookupV6 => lookups(args, true)?,
        What::Parse => parse(args)?,
        What::Replay => replay(args)?,
    }
    Ok(())
}

fn lookups(args: &Args, v6: bool) -> Result<(), &'static str> {
    let prefixes = prefixes(args.size, v6);
    let addresses: Vec<IpAddr> = inside(&prefixes, 16 * BATCH);
    let mut table = AllowedIps::default();
    for net in &prefixes {
        table.insert(net, 1_u64);
    }
    let mut found = 0;
    for batch in addresses.chunks(BATCH).cycle().take(args.batches) {
        let mut owners = [None; BATCH];
        table.lookup_many(black_box(batch), &mut owners);
        found += owners.iter().flatten().copied().sum::<u64>();
    }
    let all = found == (args.batches * BATCH) as u64;
    all.then_some(()).ok_or("an address was not found")
}

fn parse(args: &Args) -> Result<(), &'static str> {
    // Transport data: type 4, a receiver index, a counter, and room for a tag.
    let mut datagram = vec![0; args.size + 32];
    datagram[0] = 4;
    let packets = packets(args.size);
    let mut parsed = 0;
    for _ in 0..args.batches {
        for packet in &packets {
            let message = Message::parse(black_box(&datagram));
            let ip = Ip::parse(black_box(packet));
            parsed += usize::from(matches!(message, Ok(Message::Data(_))) && ip.is_ok());
        }
    }
    let all = parsed == args.batches * BATCH;
    all.then_some(()).ok_or("a header was not understood")
}

fn replay(args: &Args) -> Result<(), &'static str> {
    let mut window = ReplayWindow::default();
    let mut accepted = 0;
    for counter in 0..(args.batches * BATCH) as u64 {
        let swap = u64::from(counter % 16 < 2);
        accepted += usize::from(window.accept(black_box(counter ^ swap)));
    }
    let all = accepted == args.batches * BATCH;
    all.then_some(()).ok_or("a counter was refused")
}
