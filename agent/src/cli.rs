//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::config::{MAX_SPIN_MICROS, OuterDriver};

const AFTER_HELP: &str = "\
Exit status:
  0  done
  1  it failed while starting, running or stopping
  2  wrong command line
  3  the configuration is wrong; nothing was started
  4  a privilege is missing; nothing was started

Environment:
  RINGSPAN_LOG  log filter, above the configuration: off, error, warn, info, debug, trace,
                or per module, such as info,ringspan::io=debug

Environment of `ringspan INTERFACE`:
  RINGSPAN_OUTER         auto, auto:CARD, xdp:CARD or udp: who carries the datagrams [auto]
  RINGSPAN_MTU           largest inner packet in bytes, 576 to 65455 [1420]
  RINGSPAN_SPIN          microseconds of polling before sleep, 0 to 10000 [0]
  LOG_LEVEL              verbose, debug, error or silent [error]; unset, nothing is logged in the
                         background
  WG_PROCESS_FOREGROUND  1: as --foreground";

/// A WireGuard node that takes its packets straight from the network card.
#[derive(Parser, Debug)]
#[command(name = "ringspan", version, about, after_help = AFTER_HELP)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,

    #[command(flatten)]
    pub(crate) device: Device,
}

/// In place of wireguard-go: an interface that `wg` configures.
#[derive(Args, Debug)]
pub(crate) struct Device {
    /// Make this interface, for wg and wg-quick to configure, and go into the background
    #[arg(value_name = "INTERFACE")]
    pub(crate) interface: Option<String>,

    /// Stay in the foreground
    #[arg(short, long, requires = "interface")]
    pub(crate) foreground: bool,

    /// Tell on standard output when the interface is there: how a parent waits for its child
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) tell_parent: bool,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a tunnel in the foreground until SIGINT or SIGTERM
    Up(Up),
    /// Show running tunnels and their peers
    Status(Status),
    /// Print a new private key
    Genkey,
    /// Print a new preshared key
    Genpsk,
    /// Read a private key from standard input, print its public key
    Pubkey,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ringspan up --config /etc/ringspan/mesh0.toml
  ringspan up --config /etc/wireguard/wg0.conf --outer xdp --interface eth0
  ringspan up --config mesh0.toml --check

Needs CAP_NET_ADMIN; XDP also CAP_BPF, CAP_PERFMON and CAP_NET_RAW. Root has all of them.")]
pub(crate) struct Up {
    /// The tunnel's configuration: wg-quick format if it ends in .conf, else TOML
    #[arg(short, long, value_name = "FILE")]
    pub(crate) config: PathBuf,

    /// Name of the tunnel's interface [default: from the file, else the file's own name]
    #[arg(long, value_name = "IF")]
    pub(crate) name: Option<String>,

    /// Who carries the datagrams, above the file: AF_XDP rings, the kernel's UDP socket, or the
    /// best that works
    #[arg(long, value_name = "DRIVER")]
    pub(crate) outer: Option<OuterDriver>,

    /// The network card for XDP, above the file [default: the one with the default route]
    #[arg(long, value_name = "IF")]
    pub(crate) interface: Option<String>,

    /// Poll before sleeping, for at most so many microseconds (2000 if none are given), above the
    /// file: lone packets pass sooner, at the price of CPU time. How long is polled follows what
    /// pays
    #[arg(long, value_name = "MICROS", num_args = 0..=1, require_equals = true,
          default_missing_value = "2000",
          value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_SPIN_MICROS)))]
    pub(crate) spin: Option<u16>,

    /// Check the configuration, start nothing
    #[arg(long)]
    pub(crate) check: bool,

    #[command(flatten)]
    pub(crate) run_dir: RunDir,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// The tunnel's name [default: all that run]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,

    #[command(flatten)]
    pub(crate) run_dir: RunDir,
}

#[derive(Args, Debug)]
pub(crate) struct RunDir {
    /// Where the status sockets are
    #[arg(long = "run-dir", value_name = "DIR", default_value = "/run/ringspan")]
    pub(crate) path: PathBuf,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    /// Columns for people
    Table,
    /// One JSON document for programs
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
