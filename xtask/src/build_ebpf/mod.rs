//! `build-ebpf`: builds the XDP program, and keeps the committed object honest.
//!
//! The object and its manifest lie beside the loader that embeds them, so that users of the crate
//! need no eBPF toolchain. `--check` proves that they are current: the manifest's hash of the
//! sources must be that of today's sources, its hashes of the object's sections must be those of
//! the object; and where a compiler with the matching source of `core` is to be had, the program
//! is built again and the loadable sections compared (not the file: names in its symbol table
//! differ between compiler versions that generate the same code).

mod manifest;
mod object;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, workspace};
use manifest::Manifest;
use toolchain::Toolchain;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prove that the committed object is current; change nothing
    #[arg(long)]
    check: bool,
    /// With --check: fail instead of making do with the hashes where the program cannot be built
    #[arg(long, requires = "check")]
    require_rebuild: bool,
    /// The `library` folder of the Rust sources that belong to the `rustc` in PATH
    #[arg(long, value_name = "DIR")]
    rust_src: Option<PathBuf>,
    /// A bpf-linker to use instead of building one into the target directory
    #[arg(long, value_name = "FILE")]
    linker: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.check {
        check(args)
    } else {
        refresh(args)
    }
}

/// The committed object and its manifest.
fn committed() -> (PathBuf, PathBuf) {
    let folder = workspace::root().join("dataplane/src/io/xdp/program");
    (
        folder.join("ringspan-xdp.o"),
        folder.join("ringspan-xdp.json"),
    )
}

fn refresh(args: &Args) -> Result<()> {
    let toolchain = Toolchain::find(args.rust_src.as_deref())?;
    let built = build(&toolchain, args.linker.as_deref())?;
    let (object, manifest) = committed();
    let bytes = std::fs::read(&built)?;
    Manifest::of(&bytes, &toolchain)?.write(&manifest)?;
    std::fs::write(&object, &bytes)?;
    println!(
        "{}: {} bytes, by rustc {}",
        object.display(),
        bytes.len(),
        toolchain.release
    );
    Ok(())
}

fn check(args: &Args) -> Result<()> {
    let (object, manifest) = committed();
    let manifest = Manifest::read(&manifest)?;
    let bytes = std::fs::read(&object).map_err(|e| format!("{}: {e}", object.display()))?;
    if manifest.sources != manifest::hash_of_sources()? {
        return Err(
            "the XDP program's sources have changed since the committed object was \
                    built: run `cargo xtask build-ebpf` and commit what it writes"
                .into(),
        );
    }
    if manifest.sections != object::sections(&bytes)? {
        return Err(format!(
            "{} is not the object that its manifest describes: run `cargo xtask build-ebpf`",
            object.display()
        )
        .into());
    }
    println!("committed object: made from today's sources, as its manifest says");

    let toolchain = match Toolchain::find(args.rust_src.as_deref()) {
        Ok(toolchain) => toolchain,
        Err(error) if args.require_rebuild => return Err(error),
        Err(error) => {
            println!("not rebuilt: {error}");
            return Ok(());
        }
    };
    let built = build(&toolchain, args.linker.as_deref())?;
    let rebuilt = object::sections(&std::fs::read(&built)?)?;
    if rebuilt == manifest.sections {
        println!("rebuilt by rustc {}: the same code", toolchain.release);
        return Ok(());
    }
    let differing = object::differences(&manifest.sections, &rebuilt).join(", ");
    if toolchain.release == manifest.rustc {
        return Err(format!(
            "rebuilt by the same rustc {}, the object differs in {differing}: it was not built \
             from these sources",
            toolchain.release
        )
        .into());
    }
    println!(
        "rebuilt by rustc {} instead of {}, the object differs in {differing}; both must pass \
         the program's tests",
        toolchain.release, manifest.rustc
    );
    test(&object)?;
    test(&built)
}

/// Builds the program; returns where the object is.
fn build(toolchain: &Toolchain, linker: Option<&Path>) -> Result<PathBuf> {
    let linker = match linker {
        Some(linker) => linker.to_path_buf(),
        None => toolchain::linker()?,
    };
    let target = workspace::target().join("ebpf");
    workspace::run(&mut toolchain.cargo_build(&linker, &target))?;
    Ok(target.join("bpfel-unknown-none/release/ringspan-xdp"))
}

/// Runs the program's tests (BPF_PROG_RUN, attaching) on `object`; needs root.
fn test(object: &Path) -> Result<()> {
    let mut command = Command::new(env!("CARGO"));
    command
        .args([
            "test",
            "--package",
            "ringspan-tests",
            "--test",
            "xdp_program",
        ])
        .env("RINGSPAN_XDP_OBJECT", object)
        .current_dir(workspace::root());
    workspace::run(&mut command)
}
