//! The main job with nothing prepared by hand: a mesh of nodes in network namespaces that find
//! each other through discovery, real traffic between all pairs while a node comes and goes, what
//! came of it.

mod change;
mod load;
mod mesh;
mod report;

use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use ringspan_tests::privilege::{self, Need};

use self::load::Load;
use self::mesh::Mesh;
use crate::Result;
use crate::interrupt::Interrupt;

/// Options of `cargo xtask demo`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many nodes the mesh has, 2 to 16; one more comes and goes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// Who carries the encrypted datagrams
    #[arg(long, value_enum, default_value_t = OuterDriver::Xdp)]
    outer: OuterDriver,
    /// How long traffic flows, in seconds: two thirds TCP, and as long as a node needs to come and
    /// go; one third UDP
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum OuterDriver {
    /// AF_XDP rings behind an XDP program
    Xdp,
    /// The kernel's UDP socket
    Udp,
}

impl OuterDriver {
    /// The name that statuses give it.
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Udp => "udp",
        }
    }

    const fn needs(self) -> &'static [Need] {
        match self {
            Self::Xdp => &[Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp],
            Self::Udp => &[Need::Namespaces, Need::Tun],
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(reason) = privilege::missing(args.outer.needs()) {
        return Err(format!("the demo {reason}").into());
    }
    let interrupt = Interrupt::catch()?;
    println!(
        "building a mesh of {} nodes, each in a network namespace of its own",
        args.nodes
    );
    let mesh = Mesh::build(usize::from(args.nodes), args.outer)?;
    let outcome = exercise(&mesh, args, &interrupt);
    // Whatever came of it, the nodes are shut down in order; the namespaces go with the mesh.
    let stopped = mesh.shutdown();
    if interrupt.came() {
        stopped?;
        println!("interrupted: nodes stopped, namespaces removed");
        return Err("interrupted".into());
    }
    outcome?;
    stopped?;
    println!("\nnodes stopped, namespaces removed");
    Ok(())
}

fn exercise(mesh: &Mesh, args: &Args, interrupt: &Interrupt) -> Result<()> {
    find_each_other(mesh, interrupt)?;
    if interrupt.came() {
        return Ok(());
    }
    let load = Load::new(mesh, interrupt)?;
    println!("round trips of every pair, one after the other");
    let idle = load.round_trips()?;
    let total = Duration::from_secs(args.seconds.into());
    let udp_time = total / 3;
    let (tcp, change) = load.tcp(total - udp_time, |bar| {
        // As text: errors of the demo do not go from thread to thread.
        change::add_and_remove(mesh, args.outer, interrupt, bar).map_err(|error| error.to_string())
    })?;
    let change = change?;
    let udp = load.udp(udp_time)?;
    if interrupt.came() {
        return Ok(());
    }
    report::nodes(mesh);
    report::pairs(mesh, &idle, &tcp, &udp);
    if let Some(change) = change {
        println!();
        change.print(mesh.nodes().len());
    }
    load::judge(&tcp, &udp)?;
    mesh.check_drivers()
}

fn find_each_other(mesh: &Mesh, interrupt: &Interrupt) -> Result<()> {
    let began = Instant::now();
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("connections [{bar:40}] {pos} of {len} {elapsed}")
    {
        bar.set_style(style.progress_chars("=> "));
    }
    let found = mesh.wait_for_all(interrupt, |up, wanted| {
        bar.set_length(wanted as u64);
        bar.set_position(up as u64);
    });
    bar.finish_and_clear();
    found?;
    if !interrupt.came() {
        println!(
            "all nodes have found each other through the discovery service at {} after {:.2} s",
            mesh.discovery(),
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}
