//! Everything that has to hold before a change goes in, one step after the other. Every step is
//! a command that a person can run; it is printed.

use std::process::Command;
use std::time::{Duration, Instant};

use ringspan_tests::privilege::{self, Need};
use ringspan_tests::vm::Machine;
use rustix::process::geteuid;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::{Result, fuzz, instructions, workspace, zero_copy};

/// Options of `cargo xtask ci`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only these steps
    #[arg(long, value_name = "STEP")]
    only: Vec<String>,
    /// List the steps
    #[arg(long)]
    list: bool,
    /// How long each fuzz target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    fuzz_seconds: u32,
}

struct Step {
    name: &'static str,
    what: &'static str,
    run: fn(&Args) -> Result<()>,
}

/// Cheap ones first: they fail first.
const STEPS: &[Step] = &[
    Step {
        name: "format",
        what: "cargo fmt --check, in each of the three workspaces",
        run: |_| {
            for manifest in ["Cargo.toml", "ebpf/Cargo.toml", "fuzz/Cargo.toml"] {
                run(cargo(&[
                    "fmt",
                    "--all",
                    "--check",
                    "--manifest-path",
                    manifest,
                ]))?;
            }
            Ok(())
        },
    },
    Step {
        name: "clippy",
        what: "clippy over the whole workspace, warnings denied",
        run: |_| {
            run(cargo(&[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-Dwarnings",
            ]))
        },
    },
    Step {
        name: "dependencies",
        what: "no locked dependency is one that deny.toml bans",
        run: |_| run(cargo(&["xtask", "dependencies"])),
    },
    Step {
        name: "vm",
        what: "prepare the virtual machines of the tests",
        run: |_| prepare_vm(),
    },
    Step {
        name: "test",
        what: "all tests, as the README gives the command",
        run: |_| run(cargo(&["test", "--locked", "--workspace"])),
    },
    Step {
        name: "cluster",
        what: "the simulated cluster with 1,000 nodes, optimized",
        run: |_| {
            let mut command = cargo(&[
                "test",
                "--locked",
                "--config",
                "profile.dev.package.ringspan.opt-level=3",
                "--package",
                "ringspan",
                "--features",
                "discovery",
                "--lib",
                "--",
                "--nocapture",
                "control::cluster::a_large_cluster",
            ]);
            command.env("RINGSPAN_CLUSTER_NODES", "1000");
            run(command)
        },
    },
    Step {
        name: "unprivileged",
        what: "the tests that need privileges, without any: they must be ignored, not fail",
        run: |_| unprivileged(),
    },
    Step {
        name: "miri",
        what: "the AEAD's contract, schedule and portable back end under Miri",
        run: |_| miri(),
    },
    Step {
        name: "build-ebpf",
        what: "the committed XDP program is the one that its sources give",
        run: |_| run(cargo(&["xtask", "build-ebpf", "--check"])),
    },
    Step {
        name: "docs",
        what: "documentation, warnings denied",
        run: |_| {
            let mut command = cargo(&["doc", "--locked", "--workspace", "--no-deps"]);
            command.env("RUSTDOCFLAGS", "-Dwarnings");
            run(command)
        },
    },
    Step {
        name: "instructions",
        what: "the hot path takes no more instructions than it did",
        run: |_| match instructions::missing() {
            None => run(cargo(&["xtask", "instructions"])),
            // Told, not silent: .ci/run installs it.
            Some(reason) => {
                println!("skipped: {reason}");
                Ok(())
            }
        },
    },
    Step {
        name: "demo",
        what: "the demo, over each driver",
        run: |_| {
            for outer in ["xdp", "udp"] {
                run(cargo(&[
                    "xtask",
                    "demo",
                    "--seconds",
                    "3",
                    "--outer",
                    outer,
                ]))?;
            }
            Ok(())
        },
    },
    Step {
        name: "zero-copy",
        what: "AF_XDP's modes on a virtual machine's network cards",
        run: |_| zero_copy(),
    },
    Step {
        name: "fuzz",
        what: "each fuzz target, for some seconds",
        run: |args| fuzz::run_all(args.fuzz_seconds),
    },
];

pub(crate) fn run_steps(args: &Args) -> Result<()> {
    for name in &args.only {
        if !STEPS.iter().any(|step| step.name == name) {
            return Err(format!("no step {name}: see cargo xtask ci --list").into());
        }
    }
    if args.list {
        for step in STEPS {
            println!("{:14} {}", step.name, step.what);
        }
        return Ok(());
    }
    let chosen: Vec<_> = STEPS
        .iter()
        .filter(|step| args.only.is_empty() || args.only.iter().any(|name| name == step.name))
        .collect();
    let mut results = Vec::new();
    for (at, step) in chosen.iter().enumerate() {
        println!(
            "\n=== [{}/{}] {}: {}",
            at + 1,
            chosen.len(),
            step.name,
            step.what
        );
        let began = Instant::now();
        let outcome = (step.run)(args);
        if let Err(error) = &outcome {
            println!("--- {}: {error}", step.name);
        }
        results.push((step.name, outcome.is_ok(), began.elapsed()));
    }
    summary(&results)
}

fn summary(results: &[(&str, bool, Duration)]) -> Result<()> {
    println!("\n=== summary");
    for (name, ok, elapsed) in results {
        let verdict = if *ok { "ok" } else { "FAILED" };
        println!("{verdict:8}{name:14}{:8.1} s", elapsed.as_secs_f64());
    }
    let failed: Vec<_> = results
        .iter()
        .filter(|(_, ok, _)| !ok)
        .map(|(name, ..)| *name)
        .collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("failed: {}", failed.join(", ")).into())
    }
}

/// Downloads both kernels. A missing machine fails nothing here: the tests that need it are then
/// ignored, with the reason.
fn prepare_vm() -> Result<()> {
    for machine in [Machine::default(), Machine::newer()] {
        if let Err(error) = workspace::run(&mut machine.setup()) {
            let kernel = machine.kernel_suite.unwrap_or("the host's own suite");
            println!(
                "no virtual machine with the kernel of {kernel} here; its tests will be ignored: {error}"
            );
        }
    }
    Ok(())
}

/// Without the machine, or the right to make its network, it is told and left out.
fn zero_copy() -> Result<()> {
    let needs = [Need::Namespaces, Need::Tun];
    if let Some(reason) = privilege::missing(&needs) {
        println!("skipped: {reason}");
        return Ok(());
    }
    if let Err(error) = zero_copy::prepare() {
        println!("skipped: no virtual machine here: {error}");
        return Ok(());
    }
    run(cargo(&["xtask", "zero-copy"]))
}

/// Root with no power over anything but files and its own identity: no process it starts can get
/// a capability back. (Identity, because programs such as tcpdump lay root down.)
fn unprivileged() -> Result<()> {
    let command = cargo(&["test", "--locked", "--package", "ringspan-tests"]);
    if !geteuid().is_root() {
        return run(command);
    }
    std::thread::spawn(move || {
        let kept = CapabilitySet::CHOWN
            | CapabilitySet::DAC_OVERRIDE
            | CapabilitySet::FOWNER
            | CapabilitySet::SETUID
            | CapabilitySet::SETGID;
        // The bounding set is the thread's own; the rest of this process keeps its capabilities.
        for capability in CapabilitySet::all().difference(kept).iter() {
            // What this kernel does not know, it does not grant either.
            let _ = remove_capability_from_bounding_set(capability);
        }
        run(command).map_err(|error| error.to_string())
    })
    .join()
    .map_err(|_| "the thread without capabilities panicked")?
    .map_err(Into::into)
}

/// Miri is a component of nightly toolchains: where the machine has none, this says so, and the
/// guard pages of the tests stand in for it.
fn miri() -> Result<()> {
    let rustup = |arguments: &[&str]| {
        let mut command = Command::new("rustup");
        command
            .args(["run", "nightly", "cargo", "miri"])
            .args(arguments)
            .current_dir(workspace::root());
        command
    };
    let found = rustup(&["--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !found {
        println!(
            "skipped: no Miri here (rustup toolchain install nightly --component miri,rust-src)"
        );
        return Ok(());
    }
    println!("$ cargo +nightly miri test --locked --package ringspan --lib -- crypto::conformance");
    workspace::run(
        rustup(&["test", "--locked", "--package", "ringspan", "--lib", "--"])
            .arg("crypto::conformance")
            // The tests keep failing cases in files.
            .env("MIRIFLAGS", "-Zmiri-disable-isolation"),
    )
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(workspace::root());
    command
}

fn run(mut command: Command) -> Result<()> {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy())
        .collect();
    println!("$ cargo {}", words.join(" "));
    workspace::run(&mut command)
}
