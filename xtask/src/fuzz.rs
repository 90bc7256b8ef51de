//! Runs the targets of `fuzz/` with libFuzzer on the stable toolchain.
//!
//! The coverage instrumentation that libFuzzer steers by is an LLVM pass that stable rustc takes
//! by ordinary code generation options; only the address sanitizer would need nightly, and the
//! code under these targets is safe Rust with its overflow checks on.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, workspace};

/// Options of `cargo xtask fuzz`
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The targets to run, one after the other; all of them when none is named
    targets: Vec<String>,
    /// How long each target runs; 0 is until it finds something
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks";

pub(crate) fn run(args: &Args) -> Result<()> {
    let known = targets()?;
    for name in &args.targets {
        if !known.contains(name) {
            return Err(format!("no target {name}; there are: {}", known.join(", ")).into());
        }
    }
    let host = workspace::rustc_field(Path::new("rustc"), "host")?;
    build(&host)?;
    let chosen = if args.targets.is_empty() {
        &known
    } else {
        &args.targets
    };
    for name in chosen {
        fuzz(name, &host, args.seconds)?;
    }
    Ok(())
}

pub(crate) fn run_all(seconds: u32) -> Result<()> {
    run(&Args {
        targets: Vec::new(),
        seconds,
    })
}

fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder().join("fuzz_targets"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn build(host: &str) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // Given a target, cargo keeps the flags away from build scripts and procedural macros.
    command
        .args(["build", "--release", "--bins", "--target"])
        .arg(host)
        .arg("--manifest-path")
        .arg(folder().join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target())
        .env("RUSTFLAGS", INSTRUMENTATION);
    workspace::run(&mut command)
}

fn fuzz(name: &str, host: &str, seconds: u32) -> Result<()> {
    let corpus = folder().join("corpus").join(name);
    let artifacts = folder().join("artifacts").join(name);
    std::fs::create_dir_all(&corpus)?;
    std::fs::create_dir_all(&artifacts)?;
    println!("fuzzing {name} for {seconds} s");
    let mut command = Command::new(target().join(host).join("release").join(name));
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg("-max_len=65535")
        .arg("-len_control=10")
        .arg("-print_final_stats=1")
        .arg("-verbosity=0")
        .arg(format!("-artifact_prefix={}/", artifacts.display()))
        .arg(&corpus)
        .arg(seeds(name));
    workspace::run(&mut command)
}

/// The committed seeds; libFuzzer writes what it finds into the first folder only.
fn seeds(name: &str) -> PathBuf {
    folder().join("seeds").join(name)
}

fn folder() -> PathBuf {
    workspace::root().join("fuzz")
}

fn target() -> PathBuf {
    workspace::target().join("fuzz")
}
