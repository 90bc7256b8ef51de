//! Where things are, and how commands are run.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// Where the build leaves its files: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// Runs `command` with the terminal as it is; an exit status other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .map_err(|error| format!("{}: {error}", program(command)))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{} ended with {status}: {command:?}", program(command)).into())
    }
}

/// Runs `command` and returns what it wrote on standard output, without the last newline.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .map_err(|error| format!("{}: {error}", program(command)))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{} ended with {}: {complaint}",
            program(command),
            output.status
        )
        .into());
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

/// One field of `rustc -vV`.
pub(crate) fn rustc_field(rustc: &Path, field: &str) -> Result<String> {
    let version = output(Command::new(rustc).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))
        .map(str::to_owned)
        .ok_or_else(|| format!("rustc -vV names no {field}").into())
}

/// Builds a program of this workspace as it is released; returns where it is.
pub(crate) fn released(package: &str, binary: &str) -> Result<PathBuf> {
    run(Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--release"])
        .args(["--package", package, "--bin", binary])
        .current_dir(root()))?;
    Ok(target().join("release").join(binary))
}

fn program(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
