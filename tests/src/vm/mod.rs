//! A virtual machine that runs a command as root under a stock Debian kernel: for the kernel's own
//! WireGuard as a peer, and for network cards that the host lacks. The work is done by
//! `tests/vm/kernel-vm`; its head tells what it needs and what the command sees.

mod guest;
mod room;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::child::Process;
use crate::netns::{Namespace, NetError};

pub use guest::{Guest, ROLE, TCP_PORT, UDP_PORT};
pub use room::Room;

/// The Debian suite of the newer kernel that tests run on, beside that of the host's own suite.
pub const NEWER_KERNEL: &str = "trixie-backports";

/// The script, in the source tree that this crate was built from.
#[must_use]
pub fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vm/kernel-vm")
}

/// The model of a machine's network cards.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Card {
    /// virtio: native XDP, AF_XDP in copy mode.
    #[default]
    Virtio,
    /// virtio with what zero copy asks of it (Linux 7.3).
    VirtioZeroCopy,
    /// An Intel card with zero copy (qemu 8).
    Igb,
    /// An Intel card without native XDP.
    E1000e,
}

/// A machine to be started.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The Debian suite its kernel comes from; `None` is the host's own.
    pub kernel_suite: Option<&'static str>,
    /// The Debian suite that qemu comes from; `None` is the host's own.
    pub qemu_suite: Option<&'static str>,
    /// Virtual CPUs.
    pub cpus: u32,
    /// The model of all cards.
    pub card: Card,
    /// One card for each: the name of its TAP in the namespace of the machine, and its queues.
    pub taps: Vec<(String, u32)>,
    /// After this time the machine is ended.
    pub limit: Duration,
}

impl Default for Machine {
    /// One CPU, no card, the host suite's kernel, 5 minutes.
    fn default() -> Self {
        Self {
            kernel_suite: None,
            qemu_suite: None,
            cpus: 1,
            card: Card::Virtio,
            taps: Vec::new(),
            limit: Duration::from_secs(300),
        }
    }
}

impl Machine {
    /// The default machine with the kernel of [`NEWER_KERNEL`].
    #[must_use]
    pub fn newer() -> Self {
        Self {
            kernel_suite: Some(NEWER_KERNEL),
            ..Self::default()
        }
    }

    /// Why this machine cannot be started without downloading anything; `None` when it can.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        if std::env::var_os("KERNEL_VM").is_some() {
            return Some("this is the test VM already".into());
        }
        let answer = Command::new(script())
            .arg("ready")
            .args(self.packages())
            .stdin(Stdio::null())
            .output();
        match answer {
            Ok(output) if output.status.success() => None,
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr);
                Some(format!("needs the test VM: {}", text.trim()))
            }
            Err(error) => Some(format!(
                "needs the test VM: {}: {error}",
                script().display()
            )),
        }
    }

    /// The command that downloads and prepares what [`missing`](Self::missing) misses.
    #[must_use]
    pub fn setup(&self) -> Command {
        let mut command = Command::new(script());
        command
            .arg("setup")
            .args(self.packages())
            .stdin(Stdio::null());
        command
    }

    /// Starts the machine, its TAPs in `namespace`, to run `program` with `arguments`. The TAPs
    /// appear, down, when the machine starts ([`Namespace::wait_for_link`]) and go with it.
    ///
    /// # Errors
    /// When the script cannot be started. What goes wrong later is the process's exit status:
    /// 124 past the limit, 125 when the machine failed.
    pub fn start(
        &self,
        namespace: &Namespace,
        program: &Path,
        arguments: &[&str],
        streams: impl FnOnce(&mut Command),
    ) -> Result<Process, NetError> {
        namespace.spawn(script(), |command| {
            command.arg("run").args(self.packages());
            command.args(["--cpus", &self.cpus.to_string()]);
            command.args(["--time", &self.limit.as_secs().to_string()]);
            command.args(["--nic", self.card.name()]);
            for (name, queues) in &self.taps {
                command.arg("--tap").arg(match queues {
                    0 | 1 => name.clone(),
                    _ => format!("{name}:{queues}"),
                });
            }
            command.arg("--").arg(program).args(arguments);
            command.stdin(Stdio::null());
            streams(command);
        })
    }

    fn packages(&self) -> Vec<OsString> {
        let mut options = Vec::new();
        for (name, suite) in [
            ("--suite", self.kernel_suite),
            ("--qemu-suite", self.qemu_suite),
        ] {
            if let Some(suite) = suite {
                options.extend([name.into(), suite.into()]);
            }
        }
        options
    }
}

impl Card {
    /// The name that `kernel-vm --nic` knows it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Virtio => "virtio",
            Self::VirtioZeroCopy => "virtio-zc",
            Self::Igb => "igb",
            Self::E1000e => "e1000e",
        }
    }
}
