//! Finding a compiler whose `core` can be built for the eBPF target, and making a linker.
//!
//! Rust ships no precompiled `core` for `bpfel-unknown-none`. A stable compiler builds it with
//! `-Zbuild-std`, unlocked by `RUSTC_BOOTSTRAP=1`, from sources of exactly its own release. The
//! linker, bpf-linker, needs LLVM: the one that rustc itself brings along is enough.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Result, workspace};

/// The bpf-linker that is installed, and that the manifest names.
pub(super) const LINKER_VERSION: &str = "0.13.0";

/// A compiler with the sources of its own `core`.
pub(super) struct Toolchain {
    /// Its release: `1.95.0`.
    pub(super) release: String,
    rustc: PathBuf,
    library: PathBuf,
    /// Whether cargo has to be told where the sources are.
    outside_sysroot: bool,
}

impl Toolchain {
    /// The `rustc` in PATH if its `rust-src` component is installed or `rust_src` is given, else
    /// the distribution's pair (Debian: `rustc-web` and `rust-web-src`).
    pub(super) fn find(rust_src: Option<&Path>) -> Result<Self> {
        let in_path = Path::new("rustc");
        if let Some(library) = rust_src {
            if !library.join("core/src/lib.rs").exists() {
                return Err(format!("{} holds no core/src/lib.rs", library.display()).into());
            }
            return Ok(Self {
                release: workspace::rustc_field(in_path, "release")?,
                rustc: in_path.to_path_buf(),
                library: library.canonicalize()?,
                outside_sysroot: true,
            });
        }
        for rustc in [in_path, Path::new("/usr/bin/rustc")] {
            let Ok(sysroot) = sysroot(rustc) else {
                continue;
            };
            let library = sysroot.join("lib/rustlib/src/rust/library");
            if library.join("core/src/lib.rs").exists() {
                return Ok(Self {
                    release: workspace::rustc_field(rustc, "release")?,
                    rustc: rustc.to_path_buf(),
                    library: library.canonicalize()?,
                    outside_sysroot: false,
                });
            }
        }
        Err(
            "no compiler with the sources of its core library: run `rustup component add \
             rust-src`, or install Debian's rustc-web and rust-web-src, or give --rust-src DIR"
                .into(),
        )
    }

    /// The command that builds the program into `target`.
    pub(super) fn cargo_build(&self, linker: &Path, target: &Path) -> Command {
        let root = workspace::root();
        let mut flags = vec![
            // Kernel 5.1 and later: 32-bit instructions, all jumps.
            "-Ctarget-cpu=v3".to_owned(),
            "-Cdebuginfo=0".to_owned(),
            format!("-Clinker={}", linker.display()),
        ];
        // Paths end up in panic messages and names: the same bytes wherever it is built.
        for (path, name) in [
            (Some(root), "/ringspan"),
            (Some(self.library.clone()), "/rust"),
            (cargo_home(), "/cargo"),
        ] {
            if let Some(path) = path {
                flags.push(format!("--remap-path-prefix={}={name}", path.display()));
            }
        }
        let mut command = Command::new(env!("CARGO"));
        command
            .args(["build", "--release", "--locked", "-Zbuild-std=core"])
            .args(["--target", "bpfel-unknown-none"])
            .arg("--target-dir")
            .arg(target)
            .current_dir(workspace::root().join("ebpf"))
            .env("RUSTC", &self.rustc)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        if self.outside_sysroot {
            // Meant for cargo's own tests, so it may change with any release of cargo; a source
            // that the sysroot holds needs no such word.
            command.env("__CARGO_TESTS_ONLY_SRC_ROOT", &self.library);
        }
        command
    }
}

/// The bpf-linker in the target directory; built there first if need be, by cargo, against
/// the LLVM of the `rustc` in PATH.
pub(super) fn linker() -> Result<PathBuf> {
    let rustc = Path::new("rustc");
    let release = workspace::rustc_field(rustc, "release")?;
    let tools = workspace::target()
        .join("tools")
        .join(format!("bpf-linker-{LINKER_VERSION}-rustc-{release}"));
    let linker = tools.join("bin/bpf-linker");
    if linker.exists() {
        return Ok(linker);
    }
    let llvm = workspace::rustc_field(rustc, "LLVM version")?;
    let major = llvm.split('.').next().unwrap_or(&llvm);
    let libraries = sysroot(rustc)?.join("lib");

    // The layout in which bpf-linker's build looks for LLVM, made of a link to rustc's library.
    let prefix = tools.join("llvm");
    std::fs::create_dir_all(prefix.join("lib"))?;
    let library = rustc_llvm(&libraries)?;
    for name in ["libLLVM.so".to_owned(), format!("libLLVM-{major}.so")] {
        let link = prefix.join("lib").join(name);
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&library, link)?;
    }
    println!("installing bpf-linker {LINKER_VERSION} against LLVM {llvm} (once)");
    let mut command = Command::new(env!("CARGO"));
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{major}"))
        .arg("--root")
        .arg(&tools)
        .arg("--target-dir")
        .arg(tools.join("build"))
        .env("LLVM_PREFIX", &prefix)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("-Clink-arg=-Wl,-rpath,{}", libraries.display()),
        )
        .env("LD_LIBRARY_PATH", &libraries)
        .env_remove("RUSTFLAGS");
    workspace::run(&mut command)?;
    std::fs::remove_dir_all(tools.join("build"))?;
    Ok(linker)
}

/// The shared LLVM that rustc is linked with.
fn rustc_llvm(libraries: &Path) -> Result<PathBuf> {
    for entry in std::fs::read_dir(libraries)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("libLLVM.so") {
            return Ok(path);
        }
    }
    Err(format!(
        "no libLLVM.so in {}: this rustc brings no shared LLVM; take rustup's, or give --linker",
        libraries.display()
    )
    .into())
}

fn sysroot(rustc: &Path) -> Result<PathBuf> {
    workspace::output(Command::new(rustc).args(["--print", "sysroot"])).map(PathBuf::from)
}

fn cargo_home() -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Some(home.into()),
        None => Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")),
    }
}
