//! The `ringspan` binary: runs one tunnel, from a configuration file, as a member of a KubeSpan mesh
//! or for `wg` to configure; shows what runs, makes keys. Whatever a program that links the library could want is in the library.

mod cli;
mod config;
mod device;
mod failure;
#[cfg(feature = "discovery")]
mod join;
mod keys;
mod logging;
mod net;
mod privilege;
mod resolve;
mod signals;
mod socket_watch;
mod status;
mod up;

use std::io;
use std::process::ExitCode;

use clap::Parser as _;

use cli::{Cli, Command};
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (cli.command, &cli.device.interface) {
        (Some(command), _) => run(command),
        (None, Some(name)) => return device::main(name, &cli.device),
        // Clap has shown its help instead.
        (None, None) => Ok(()),
    };
    match outcome {
        Err(failure) if !failure.is_broken_pipe() => {
            eprintln!("error: {failure}");
            failure.code()
        }
        _ => ExitCode::SUCCESS,
    }
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Up(options) => up::run(&options)?,
        #[cfg(feature = "discovery")]
        Command::Join(options) => join::run(&options)?,
        Command::Get(options) => status::get(&options, io::stdout().lock())?,
        Command::Status(options) => status::print(&options, io::stdout().lock())?,
        Command::Genkey => keys::generate(io::stdout().lock())?,
        Command::Genpsk => keys::generate_preshared(io::stdout().lock())?,
        Command::Pubkey => keys::derive(io::stdin().lock(), io::stdout().lock())?,
    }
    Ok(())
}
