//! nftables through the `nft` program: a transaction of text at a time
//! (docs/decisions/0115).

use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Why nftables did not do as told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NftError {
    /// There is no such program.
    #[error(
        "the program nft is not on PATH nor in /usr/sbin or /sbin: install the package nftables"
    )]
    Missing,
    /// It cannot be run.
    #[error("{} cannot be run: {source}", program.display())]
    Run {
        /// Where it lies.
        program: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// It ran and failed.
    #[error("nft refuses to {doing}: {said}")]
    Refused {
        /// What it was to do.
        doing: String,
        /// What it says.
        said: String,
    },
}

/// The program, found once.
#[derive(Clone, Debug)]
pub struct Nft {
    program: PathBuf,
}

impl Nft {
    /// Looks for it on `PATH`, and in the system directories that an ordinary `PATH` lacks.
    ///
    /// # Errors
    /// [`NftError::Missing`].
    pub fn find() -> Result<Self, NftError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
            .map(|folder| folder.join("nft"))
            .find(|file| file.is_file())
            .map(|program| Self { program })
            .ok_or(NftError::Missing)
    }

    /// Has it carry `transaction` out, whole or not at all, in the calling thread's network
    /// namespace. `doing` is for the error: "install table x".
    ///
    /// # Errors
    /// [`NftError`]; then nothing has changed.
    pub fn apply(&self, doing: &str, transaction: &str) -> Result<(), NftError> {
        let output = self.run(&["-f", "-"], transaction)?;
        if output.status.success() {
            return Ok(());
        }
        Err(refused(doing, &output))
    }

    /// The definition of a table, without the elements of its sets; `None` when there is no such
    /// table.
    ///
    /// # Errors
    /// [`NftError`].
    pub fn table(&self, family: &str, name: &str) -> Result<Option<String>, NftError> {
        let arguments = ["--terse", "--stateless", "list", "table", family, name];
        let output = self.run(&arguments, "")?;
        if output.status.success() {
            return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
        }
        if String::from_utf8_lossy(&output.stderr).contains("No such file or directory") {
            return Ok(None);
        }
        Err(refused(&format!("list table {family} {name}"), &output))
    }

    fn run(&self, arguments: &[&str], input: &str) -> Result<Output, NftError> {
        let error = |source| NftError::Run {
            program: self.program.clone(),
            source,
        };
        let mut child = Command::new(&self.program)
            .args(arguments)
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to a terminal's whole process group: it must not end the clean-up.
            .process_group(0)
            .spawn()
            .map_err(error)?;
        // It reads all of its input before it says anything. When it ends before that, its exit
        // status says more than the broken pipe.
        if let Some(mut stdin) = child.stdin.take() {
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().map_err(error)
    }
}

fn refused(doing: &str, output: &Output) -> NftError {
    let said = String::from_utf8_lossy(&output.stderr);
    // Its first line has the reason; what follows quotes the input.
    let said = said.lines().find(|line| !line.trim().is_empty());
    let mut said = said.unwrap_or("it does not say why").trim().to_owned();
    if said.contains("Operation not permitted") {
        said.push_str(": it needs root or CAP_NET_ADMIN");
    } else if said.contains("not supported") {
        said.push_str(": the kernel needs nftables (CONFIG_NF_TABLES, module nf_tables)");
    }
    NftError::Refused {
        doing: doing.to_owned(),
        said,
    }
}
