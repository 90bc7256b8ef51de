//! The main job with nothing prepared by hand: a mesh of nodes in network namespaces, real
//! traffic between all pairs, what came of it.

mod load;
mod mesh;
mod report;

use std::time::Duration;

use clap::ValueEnum;
use ringspan_tests::privilege::{self, Need};

use self::load::Load;
use self::mesh::Mesh;
use crate::Result;
use crate::interrupt::Interrupt;

/// Options of `cargo xtask demo`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many nodes the mesh has, 2 to 16
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=16))]
    nodes: u8,
    /// Who carries the encrypted datagrams
    #[arg(long, value_enum, default_value_t = OuterDriver::Xdp)]
    outer: OuterDriver,
    /// How long traffic flows, in seconds: two thirds TCP, one third UDP
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
    let load = Load::new(mesh, interrupt)?;
    println!("waking every pair: handshakes, then round trips");
    let idle = load.round_trips()?;
    let total = Duration::from_secs(args.seconds.into());
    let udp_time = total / 3;
    let tcp = load.tcp(total - udp_time)?;
    let udp = load.udp(udp_time)?;
    if interrupt.came() {
        return Ok(());
    }
    report::nodes(mesh);
    report::pairs(mesh, &idle, &tcp, &udp);
    load::judge(&tcp, &udp)?;
    mesh.check_drivers(args.outer)
}
