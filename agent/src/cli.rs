//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ringspan::control::kubespan::resource::Kind;

use crate::config::{MAX_BUSY_POLL_MICROS, MAX_SPIN_MICROS, OuterDriver};

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
    /// Join the KubeSpan mesh of a Talos cluster, until SIGINT or SIGTERM
    #[cfg(feature = "discovery")]
    Join(Join),
    /// Show a member of a KubeSpan mesh as talosctl shows a Talos node
    Get(Get),
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

    /// Have workers run the card's NAPI themselves (busy polling, of AF_XDP), for so many
    /// microseconds a poll (20 if none are given), above the file. For idle cores, with --spin; and
    /// with interrupts of the card deferred: see napi_defer_hard_irqs in docs/af-xdp.md
    #[arg(long, value_name = "MICROS", num_args = 0..=1, require_equals = true,
          default_missing_value = "20",
          value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_BUSY_POLL_MICROS)))]
    pub(crate) busy_poll: Option<u16>,

    /// Check the configuration, start nothing
    #[arg(long)]
    pub(crate) check: bool,

    #[command(flatten)]
    pub(crate) run_dir: RunDir,
}

#[cfg(feature = "discovery")]
#[derive(Args, Debug)]
#[command(after_help = "\
The machine configuration is Talos's, of any worker of the cluster: `talosctl -n NODE get
machineconfig v1alpha1 -o jsonpath='{.spec}'`. Of it are used: cluster id and secret, discovery services,
and everything of KubeSpan (MTU, filters, extra endpoints, excluded networks, harvesting, bypass).

The firewall has to let in UDP on the listen port, and out TCP 443 to the discovery service.

Examples:
  ringspan join --machineconfig worker.yaml
  ringspan join --machineconfig worker.yaml --check
  ringspan join --machineconfig worker.yaml --outer xdp --interface eth0 --advertise 10.80.0.0/16

Needs CAP_NET_ADMIN; XDP also CAP_BPF, CAP_PERFMON and CAP_NET_RAW. Root has all of them.")]
pub(crate) struct Join {
    /// The machine configuration of the cluster's workers
    #[arg(short, long, value_name = "FILE")]
    pub(crate) machineconfig: PathBuf,

    /// Where the node's key and id are kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/ringspan")]
    pub(crate) state_dir: PathBuf,

    /// Name of the tunnel's interface
    #[arg(long, value_name = "IF", default_value = ringspan::control::kubespan::LINK_NAME,
          value_parser = crate::config::interface_name)]
    pub(crate) name: String,

    /// The UDP port, which is announced to the others
    #[arg(long, value_name = "PORT", default_value_t = ringspan::control::kubespan::LISTEN_PORT)]
    pub(crate) listen_port: u16,

    /// Who carries the datagrams: AF_XDP rings, the kernel's UDP socket, or the best that works
    #[arg(long, value_name = "DRIVER", default_value = "auto")]
    pub(crate) outer: OuterDriver,

    /// The network card for XDP [default: the one with the default route]
    #[arg(long, value_name = "IF")]
    pub(crate) interface: Option<String>,

    /// The name that the others show [default: the host's]
    #[arg(long, value_name = "NAME")]
    pub(crate) hostname: Option<String>,

    /// A network behind this host that the others are to reach through it; may be repeated
    #[arg(long, value_name = "NETWORK", value_parser = network)]
    pub(crate) advertise: Vec<ipnet::IpNet>,

    /// Find the others without announcing this host; they do not answer it
    #[arg(long)]
    pub(crate) observe: bool,

    /// Route what is for the peers' prefixes into the tunnel, with nftables and a table of its own
    /// (this is the default)
    #[arg(long, overrides_with = "no_routes")]
    pub(crate) routes: bool,

    /// Set the interface's address alone: only mesh addresses are reached
    #[arg(long)]
    pub(crate) no_routes: bool,

    /// Check the machine configuration, start nothing
    #[arg(long)]
    pub(crate) check: bool,

    #[command(flatten)]
    pub(crate) run_dir: RunDir,
}

#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  ringspan get peerstatuses
  ringspan get peerspecs -o yaml > peers.yaml
  ringspan get peerstatuses --watch")]
pub(crate) struct Get {
    /// What to show
    #[arg(value_name = "RESOURCE", value_parser = resource)]
    pub(crate) resource: Kind,

    /// The tunnel's name [default: all members that run]
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,

    /// Only the resource with this id: a peer's public key
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: ResourceOutput,

    /// Go on and print what changes
    #[arg(short, long)]
    pub(crate) watch: bool,

    /// Show the private key in `get identity`; otherwise it says (hidden)
    #[arg(long)]
    pub(crate) show_private_key: bool,

    #[command(flatten)]
    pub(crate) run_dir: RunDir,
}

#[cfg(feature = "discovery")]
fn network(text: &str) -> Result<ipnet::IpNet, String> {
    text.parse()
        .map_err(|_| "write ADDRESS/LENGTH, such as 10.80.0.0/16 or fd00::/64".to_owned())
}

/// The names that talosctl takes, and the short ones.
fn resource(text: &str) -> Result<Kind, String> {
    let lower = text.to_ascii_lowercase();
    let short = lower.strip_suffix(".kubespan.talos.dev").unwrap_or(&lower);
    match short.strip_prefix("kubespan").unwrap_or(short) {
        "identity" | "identities" => Ok(Kind::Identity),
        "peerspec" | "peerspecs" => Ok(Kind::PeerSpec),
        "peerstatus" | "peerstatuses" => Ok(Kind::PeerStatus),
        _ => Err("there are: identity, peerspecs, peerstatuses".to_owned()),
    }
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ResourceOutput {
    /// Columns for people
    Table,
    /// YAML documents
    Yaml,
    /// JSON objects, one after another
    Json,
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
