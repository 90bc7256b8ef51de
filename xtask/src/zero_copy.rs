//! AF_XDP's modes for real: a `ringspan` node in a virtual machine, on network cards that this
//! host does not have, with a peer on the host.
//!
//! What a card's driver advertises is no promise; only what bind() answers is. So each case says
//! what the node has to end up with, and ping and TCP through the tunnel prove that it works.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use ipnet::IpNet;
use ringspan::control::PeerSpec;
use ringspan::{Dataplane, Inner, Outer};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::peers::{DeviceConfig, KeyPair, PeerConfig, preshared_key, setconf};
use ringspan_tests::privilege::{self, Need};
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::tcp;
use ringspan_tests::vm::{Card, Guest, Machine, NEWER_KERNEL, TCP_PORT};
use serde_json::Value;

use crate::{Result, workspace};

/// Options of `cargo xtask zero-copy`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these cases
    cases: Vec<String>,
    /// Name the cases and what each must end up with
    #[arg(long)]
    list: bool,
}

/// A card under a kernel, and what the node has to make of it.
struct Case {
    name: &'static str,
    why: &'static str,
    kernel_suite: Option<&'static str>,
    qemu_suite: Option<&'static str>,
    card: Card,
    /// What the mode of every receiving queue has to contain.
    mode: &'static str,
    /// Take the link down and up while the tunnel runs.
    reset: bool,
}

/// Linux 7.3: the first whose virtio driver does zero copy under qemu.
const NEW_KERNEL: Option<&str> = Some(NEWER_KERNEL);
/// qemu 10: igb came with 8.
const NEW_QEMU: Option<&str> = Some("bookworm-backports");
/// Of card and of machine: spare queues would begin to receive when XDP is attached.
const QUEUES: u32 = 2;

const CASES: &[Case] = &[
    Case {
        name: "virtio-zc",
        why: "virtio with buffers that its driver may map",
        kernel_suite: NEW_KERNEL,
        qemu_suite: None,
        card: Card::VirtioZeroCopy,
        mode: "zero copy",
        reset: false,
    },
    Case {
        name: "virtio",
        why: "plain virtio advertises zero copy and refuses it: EINVAL",
        kernel_suite: NEW_KERNEL,
        qemu_suite: None,
        card: Card::Virtio,
        mode: "copy",
        reset: false,
    },
    Case {
        name: "linux-6.1",
        why: "a kernel whose virtio driver has no zero copy: EOPNOTSUPP",
        kernel_suite: None,
        qemu_suite: None,
        card: Card::VirtioZeroCopy,
        mode: "copy",
        reset: false,
    },
    Case {
        name: "e1000e",
        why: "a driver without native XDP: generic mode",
        kernel_suite: NEW_KERNEL,
        qemu_suite: None,
        card: Card::E1000e,
        mode: "generic",
        reset: false,
    },
    Case {
        name: "igb",
        why: "zero copy, large chunks, and a link that goes away and comes back",
        kernel_suite: NEW_KERNEL,
        qemu_suite: NEW_QEMU,
        card: Card::Igb,
        mode: "zero copy",
        reset: true,
    },
];

const PORT: u16 = 51820;
const HOST: Node = Node {
    outer: "192.0.2.1/24",
    inner: "10.10.0.1/24",
};
const GUEST: Node = Node {
    outer: "192.0.2.2/24",
    inner: "10.10.0.2/24",
};

struct Node {
    outer: &'static str,
    inner: &'static str,
}

/// What the node in the guest says of itself, and what came of the traffic.
struct Outcome {
    queues: usize,
    modes: String,
    notes: Vec<String>,
    traffic: String,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    for name in &args.cases {
        if !CASES.iter().any(|case| case.name == name) {
            return Err(format!("no case {name}: see cargo xtask zero-copy --list").into());
        }
    }
    if args.list {
        for case in CASES {
            println!("{:12}{:11}{}", case.name, case.mode, case.why);
        }
        return Ok(());
    }
    let needs = [Need::Namespaces, Need::Tun];
    if let Some(reason) = privilege::missing(&needs) {
        return Err(format!("zero-copy {reason}").into());
    }
    let program = build()?;
    let mut table = Table::new();
    table
        .load_preset(presets::NOTHING)
        .set_header(["CASE", "VERDICT", "QUEUES", "MODE", "TRAFFIC"]);
    let mut failed = Vec::new();
    for case in CASES {
        if !args.cases.is_empty() && !args.cases.iter().any(|name| name == case.name) {
            continue;
        }
        println!("{}: {}", case.name, case.why);
        let began = Instant::now();
        match case.run(&program) {
            Ok(outcome) => {
                for note in &outcome.notes {
                    println!("  note: {note}");
                }
                let queues = outcome.queues.to_string();
                table.add_row([case.name, "ok", &queues, &outcome.modes, &outcome.traffic]);
                println!("  ok after {:.0} s", began.elapsed().as_secs_f64());
            }
            Err(error) => {
                println!(
                    "  FAILED after {:.0} s: {error}",
                    began.elapsed().as_secs_f64()
                );
                table.add_row([case.name, "FAILED"]);
                failed.push(case.name);
            }
        }
    }
    println!("\n{table}");
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")).into())
    }
}

/// Downloads what the machines of all cases are made of.
pub(crate) fn prepare() -> Result<()> {
    for case in CASES {
        if case.machine().missing().is_some() {
            workspace::run(&mut case.machine().setup())?;
        }
    }
    Ok(())
}

/// The node's program. It is not the optimized build: an emulated machine is slow either way.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "ringspan-agent",
        ])
        .current_dir(workspace::root());
    workspace::run(&mut command)?;
    Ok(workspace::target().join("debug/ringspan"))
}

impl Case {
    fn machine(&self) -> Machine {
        Machine {
            kernel_suite: self.kernel_suite,
            qemu_suite: self.qemu_suite,
            cpus: QUEUES,
            card: self.card,
            limit: Duration::from_secs(240),
            ..Machine::default()
        }
    }

    fn run(&self, program: &Path) -> Result<Outcome> {
        let machine = self.machine();
        if machine.missing().is_some() {
            workspace::run(&mut machine.setup())?;
        }
        let guest = Guest::start(machine, QUEUES)?;
        println!("  the machine runs");
        let host = Namespace::new("host")?;
        Veth::default().join(&host, "up", guest.namespace(), "host")?;
        guest.namespace().attach("host", Guest::BRIDGE)?;
        host.add_address("up", net(HOST.outer)?)?;

        let keys = [KeyPair::generate(), KeyPair::generate()];
        let secret = preshared_key();
        let plane = host.run(|| {
            Dataplane::builder(keys[0].private.clone())
                .listen_port(PORT)
                .outer(Outer::udp())
                .inner(Inner::tun("tunnel"))
                .start()
        })?;
        let mut spec = PeerSpec::new(keys[1].public);
        spec.preshared_key = Some(secret.clone());
        spec.endpoints = vec![endpoint(&GUEST)?];
        spec.allowed_ips = vec![net(GUEST.inner)?.addr().into()];
        let _ = plane.control().apply(&[spec])?;
        host.add_address("tunnel", net(HOST.inner)?)?;
        host.up("tunnel")?;

        let config = setconf(&DeviceConfig {
            private_key: keys[1].private.clone(),
            listen_port: PORT,
            peers: vec![PeerConfig {
                public_key: keys[0].public,
                preshared_key: Some(secret),
                endpoint: Some(endpoint(&HOST)?),
                allowed_ips: vec![net(HOST.inner)?.addr().into()],
                persistent_keepalive: None,
            }],
        });
        start_node(&guest, program, &config)?;
        let status = wait_for_status(&guest, program)?;
        let mut outcome = self.judge(&status)?;

        println!(
            "  the node runs: {} queues, {}",
            outcome.queues, outcome.modes
        );

        outcome.traffic = traffic(&host)?;
        if self.reset {
            println!("  traffic flows; resetting the link");
            let card = Guest::CARD;
            guest.shell(&format!(
                "ip link set {card} down; sleep 1; ip link set {card} up"
            ))?;
            traffic(&host).map_err(|error| format!("after the link's reset: {error}"))?;
            self.judge(&wait_for_status(&guest, program)?)
                .map_err(|error| format!("after the link's reset: {error}"))?;
            outcome.traffic += ", again after a link reset";
        }
        plane.shutdown()?;
        stop_node(&guest)?;
        Ok(outcome)
    }

    /// Whether the node ended up with what the case says, on every queue.
    fn judge(&self, status: &Value) -> Result<Outcome> {
        let text = |driver: &Value, name| driver[name].as_str().unwrap_or_default().to_owned();
        let queues: Vec<_> = status["drivers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|driver| driver["port"] == "outer rx" && driver["driver"] == "xdp")
            .collect();
        let mut modes: Vec<_> = queues.iter().map(|driver| text(driver, "mode")).collect();
        let notes = status["notes"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|note| note.as_str().map(str::to_owned))
            .collect::<Vec<_>>();
        // A card without settable queues has one.
        let expected = if self.card == Card::E1000e {
            1
        } else {
            QUEUES as usize
        };
        let fits = |mode: &String| {
            mode.contains(self.mode) && (self.mode == "zero copy" || !mode.contains("zero copy"))
        };
        if queues.len() != expected || !modes.iter().all(fits) {
            return Err(format!(
                "{expected} queues in mode {:?} expected; there are {modes:?}; notes: {notes:?}",
                self.mode
            )
            .into());
        }
        modes.sort();
        modes.dedup();
        Ok(Outcome {
            queues: queues.len(),
            modes: modes.join(" | "),
            notes,
            traffic: String::new(),
        })
    }
}

/// Starts the node in the guest, in the background, from a `wg-quick` file.
fn start_node(guest: &Guest, program: &Path, config: &str) -> Result<()> {
    let config = config.replacen(
        "[Interface]\n",
        &format!("[Interface]\nAddress = {}\n", GUEST.inner),
        1,
    );
    guest.shell(&format!(
        "ip link set {card} up
         ip address add {outer} dev {card}
         cat > /run/tunnel.conf <<'END'
{config}END
         chmod 600 /run/tunnel.conf
         setsid {program} up --config /run/tunnel.conf --outer xdp --interface {card} \
             < /dev/null > /run/ringspan.log 2>&1 &
         echo $! > /run/ringspan.pid",
        card = Guest::CARD,
        outer = GUEST.outer,
        program = program.display(),
    ))?;
    Ok(())
}

/// Ends the node as an operator would; it has to clean up and go.
fn stop_node(guest: &Guest) -> Result<()> {
    guest
        .shell(
            "pid=$(cat /run/ringspan.pid); kill $pid
             for i in $(seq 100); do kill -0 $pid 2>/dev/null || exit 0; sleep 0.1; done
             cat /run/ringspan.log; exit 1",
        )
        .map_err(|error| format!("the node does not stop within 10 s: {error}"))?;
    let left = guest.shell(&format!("ip -details link show {}", Guest::CARD))?;
    if left.contains("prog/xdp") {
        return Err(format!("the node left its XDP program behind: {left}").into());
    }
    Ok(())
}

/// The node's status, once it has one.
fn wait_for_status(guest: &Guest, program: &Path) -> Result<Value> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let answer = guest.shell(&format!(
            "{} status tunnel --output json",
            program.display()
        ));
        let error = match answer {
            Ok(text) => match serde_json::from_str::<Value>(&text) {
                Ok(Value::Array(tunnels)) if tunnels.len() == 1 => {
                    return Ok(tunnels.into_iter().next().unwrap_or_default());
                }
                _ => format!("status answers {text}"),
            },
            Err(error) => error.to_string(),
        };
        let running = guest.shell("kill -0 $(cat /run/ringspan.pid)").is_ok();
        if !running || Instant::now() > end {
            let log = guest.shell("cat /run/ringspan.log").unwrap_or_default();
            return Err(format!("the node does not run: {error}; it says: {log}").into());
        }
        thread::sleep(Duration::from_millis(200));
    }
}

/// Pings and TCP both ways through the tunnel, from the host.
fn traffic(host: &Namespace) -> Result<String> {
    const BYTES: u64 = 2 << 20;
    let address: IpAddr = net(GUEST.inner)?.addr();
    // A card's link may be away for seconds after XDP was attached: the first answer may take long.
    let options = Options {
        count: 1,
        timeout: Duration::from_secs(1),
        ..Options::default()
    };
    let end = Instant::now() + Duration::from_secs(40);
    while !host.run(|| ping(address, options))?.all_answered() {
        if Instant::now() > end {
            return Err("no answer to pings within 40 s".into());
        }
    }
    let mut answered = 0;
    for size in [56, 1372] {
        let options = Options {
            count: 10,
            size,
            timeout: Duration::from_secs(10),
            ..Options::default()
        };
        let pings = host.run(|| ping(address, options))?;
        if !pings.all_answered() {
            return Err(format!("pings of {size} bytes: {pings:?}").into());
        }
        answered += pings.round_trips.len();
    }
    let server = SocketAddr::new(address, TCP_PORT);
    let moved =
        host.run(|| tcp::transfer(server, BYTES, BYTES, Duration::from_secs(30), |_| true))?;
    Ok(format!(
        "{answered} pings, {} MiB of TCP each way",
        moved.downloaded >> 20
    ))
}

fn endpoint(node: &Node) -> Result<SocketAddr> {
    Ok(SocketAddr::new(net(node.outer)?.addr(), PORT))
}

fn net(text: &str) -> Result<IpNet> {
    Ok(text.parse()?)
}
