//! What is written down about the committed object: from which sources, by which tools, and what
//! its sections hold.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::object;
use super::toolchain::{LINKER_VERSION, Toolchain};
use crate::{Result, workspace};

#[derive(Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Hash over every file that the object is made from.
    pub(super) sources: String,
    /// The release of the compiler.
    pub(super) rustc: String,
    /// The release of bpf-linker.
    pub(super) bpf_linker: String,
    /// Hash of each loadable section, relocations included.
    pub(super) sections: BTreeMap<String, String>,
}

impl Manifest {
    pub(super) fn of(object: &[u8], toolchain: &Toolchain) -> Result<Self> {
        Ok(Self {
            sources: hash_of_sources()?,
            rustc: toolchain.release.clone(),
            bpf_linker: LINKER_VERSION.to_owned(),
            sections: object::sections(object)?,
        })
    }

    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?)
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        std::fs::write(path, text)?;
        Ok(())
    }
}

/// One hash over the name and contents of every file that is compiled into the object.
pub(super) fn hash_of_sources() -> Result<String> {
    let root = workspace::root();
    let mut files = Vec::new();
    for place in ["ebpf/src", "xdp-common/src"] {
        collect(&root.join(place), &mut files)?;
    }
    files.retain(|file| !is_for_tests(file));
    for file in [
        "ebpf/Cargo.toml",
        "ebpf/Cargo.lock",
        "xdp-common/Cargo.toml",
    ] {
        files.push(root.join(file));
    }
    files.sort();

    let mut context = digest::Context::new(&digest::SHA256);
    for file in files {
        let name = file.strip_prefix(&root)?.to_string_lossy().into_owned();
        let contents = std::fs::read(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        for part in [name.as_bytes(), &contents] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
    }
    Ok(hex(context.finish().as_ref()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Files of the shared crate that exist in tests alone.
fn is_for_tests(file: &Path) -> bool {
    file.file_name()
        .is_some_and(|name| name == "tests.rs" || name == "builder.rs")
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
