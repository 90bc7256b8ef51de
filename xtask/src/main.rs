//! The chores of the project, each one command: `cargo xtask --help`.
//!
//! One file a subcommand. Each has a `clap::Args` struct named `Args` and a
//! `run(Args) -> Result<()>`; adding one takes a `mod` line, a variant of [`Command`] and an arm
//! in [`main`].

#![allow(
    clippy::print_stdout,
    reason = "a command-line program answers on standard output"
)]

mod build_ebpf;
mod ci;
mod compare;
mod demo;
mod dependencies;
mod fuzz;
mod instructions;
mod interrupt;
mod workspace;
mod zero_copy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ringspan_tests::{child, vm};

/// Whatever went wrong, in words for the person who typed the command.
type Error = Box<dyn std::error::Error + Send + Sync>;
type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build the XDP program and refresh the committed object, or check that it is current
    BuildEbpf(build_ebpf::Args),
    /// Everything that has to hold before a change goes in
    Ci(ci::Args),
    /// Measure ringspan beside other user-space implementations, interleaved, in one run
    Compare(compare::Args),
    /// Build a mesh of nodes in network namespaces and move traffic between all of them
    Demo(demo::Args),
    /// Check locked dependencies against the bans and minimum versions of deny.toml
    Dependencies,
    /// Run the fuzz targets
    Fuzz(fuzz::Args),
    /// Count the hot path's instructions under callgrind, and hold them against the baseline
    Instructions(instructions::Args),
    /// Prove AF_XDP's modes on the network cards of a virtual machine
    ZeroCopy(zero_copy::Args),
}

fn main() -> ExitCode {
    // This program may be its own child: the agent in a virtual machine.
    if let Some(code) = child::dispatch(&[vm::ROLE]) {
        return code;
    }
    let outcome = match Cli::parse().command {
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Ci(args) => ci::run_steps(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Dependencies => dependencies::check(),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Instructions(args) => instructions::run(&args),
        Command::ZeroCopy(args) => zero_copy::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
