//! Who takes part, where it comes from, and how it is started.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::ValueEnum;
use ringspan_tests::child::Process;
use ringspan_tests::netns::{Namespace, unique_name};
use ringspan_tests::peers::{Device, DeviceConfig};
use ringspan_tests::privilege;

use super::Case;
use super::bed::{CABLE, Link};
use super::measure::Measure;
use crate::{Result, workspace};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Contender {
    /// Ours, datagrams over the kernel's UDP socket
    RingspanUdp,
    /// The same, looking for packets for a while before it sleeps
    RingspanUdpSpin,
    /// Ours, datagrams over AF_XDP both ways
    RingspanXdp,
    /// Ours, AF_XDP in and UDP out
    RingspanXdpUdp,
    /// Another build of ours, over UDP
    BeforeUdp,
    /// Another build of ours, over AF_XDP both ways
    BeforeXdp,
    /// Another build of ours, AF_XDP in and UDP out
    BeforeXdpUdp,
    /// The Debian package of this machine
    WireguardGo,
    /// The Debian package of the suite sid: with the offloads of 2023 and later
    WireguardGoSid,
    /// boringtun-cli, built by cargo
    Boringtun,
    /// gotatun-cli, built by cargo
    Gotatun,
    /// A tunnel without a cipher over our drivers: what there is to reach
    Reference,
}

/// A contender that is there.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    contender: Contender,
    program: PathBuf,
    version: String,
}

/// A running daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) interface: String,
    pub(crate) pid: u32,
    _running: Running,
}

#[derive(Debug)]
#[expect(dead_code, reason = "held for their drop: it ends the process")]
enum Running {
    Configured(Device),
    FromFile(Process),
}

impl Contender {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::RingspanUdp => "ringspan-udp",
            Self::RingspanUdpSpin => "ringspan-udp-spin",
            Self::RingspanXdp => "ringspan-xdp",
            Self::RingspanXdpUdp => "ringspan-xdp-udp",
            Self::BeforeUdp => "before-udp",
            Self::BeforeXdp => "before-xdp",
            Self::BeforeXdpUdp => "before-xdp-udp",
            Self::WireguardGo => "wireguard-go",
            Self::WireguardGoSid => "wireguard-go-sid",
            Self::Boringtun => "boringtun",
            Self::Gotatun => "gotatun",
            Self::Reference => "reference",
        }
    }

    pub(crate) const fn is_before(self) -> bool {
        matches!(self, Self::BeforeUdp | Self::BeforeXdp | Self::BeforeXdpUdp)
    }

    const fn is_ours(self) -> bool {
        self.is_before()
            || matches!(
                self,
                Self::RingspanUdp
                    | Self::RingspanUdpSpin
                    | Self::RingspanXdp
                    | Self::RingspanXdpUdp
            )
    }

    /// Finds or builds it; `before` is the binary of the `before-…` contenders.
    pub(crate) fn install(self, before: Option<&Path>) -> Result<Installed> {
        let (program, version) = match self {
            Self::RingspanUdp | Self::RingspanXdp | Self::RingspanXdpUdp => {
                (workspace::released("ringspan-agent", "ringspan")?, None)
            }
            Self::RingspanUdpSpin => {
                let program = workspace::released("ringspan-agent", "ringspan")?;
                let help = workspace::output(Command::new(&program).args(["up", "--help"]))?;
                if !help.contains("--spin") {
                    return Err("this build has no --spin".into());
                }
                (program, None)
            }
            Self::BeforeUdp | Self::BeforeXdp | Self::BeforeXdpUdp => {
                let program = before.ok_or("give the binary with --before")?;
                (fs::canonicalize(program)?, None)
            }
            Self::WireguardGo => (
                privilege::program("wireguard-go")
                    .ok_or("not installed: apt-get install wireguard-go")?,
                Some(package_version("wireguard-go")),
            ),
            Self::WireguardGoSid => from_suite("sid", "wireguard-go")?,
            Self::Boringtun => (by_cargo("boringtun-cli", "boringtun-cli")?, None),
            Self::Gotatun => (by_cargo("gotatun-cli", "gotatun")?, None),
            Self::Reference => (workspace::released("ringspan-bench", "reference")?, None),
        };
        let version = match version {
            Some(version) => version,
            None => workspace::output(Command::new(&program).arg("--version"))?,
        };
        Ok(Installed {
            contender: self,
            program,
            version: version.lines().next().unwrap_or_default().to_owned(),
        })
    }
}

impl Installed {
    pub(crate) const fn name(&self) -> &'static str {
        self.contender.name()
    }

    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Which of `measures` it takes part in. Spinning is about round trips, and the reference about
    /// streams between two ends.
    pub(crate) fn takes(&self, case: Case, measures: &[Measure]) -> impl Iterator<Item = Measure> {
        let contender = self.contender;
        measures
            .iter()
            .copied()
            .filter(move |measure| match contender {
                Contender::RingspanUdpSpin => {
                    case.link == Link::Default
                        && case.peers == 1
                        && matches!(measure, Measure::Rtt | Measure::RttLoad)
                }
                Contender::Reference => {
                    case.peers == 1 && matches!(measure, Measure::Tcp1 | Measure::Tcp4)
                }
                _ => true,
            })
    }

    /// One that is never started.
    #[cfg(test)]
    pub(crate) const fn for_plans(contender: Contender) -> Self {
        Self {
            contender,
            program: PathBuf::new(),
            version: String::new(),
        }
    }

    /// Starts it in `space`. Its interface has no address yet.
    pub(crate) fn start(&self, space: &Namespace, config: &DeviceConfig) -> Result<Daemon> {
        let name = unique_name("cmp");
        let logs = workspace::target().join("bench/log");
        fs::create_dir_all(&logs)?;
        let log_file = logs.join(format!("{}-{}.log", self.name(), space.label()));
        let log = File::create(&log_file)?;
        let errors = log.try_clone()?;
        let from_file = self.contender.is_ours();
        if from_file || self.contender == Contender::Reference {
            let file = from_file
                .then(|| write_config(&name, &self.toml(config)))
                .transpose()?;
            let mut process = space.spawn(&self.program, |command| {
                match &file {
                    Some(file) => {
                        command.arg("up").arg("--config").arg(file);
                        command.arg("--run-dir").arg(run_directory());
                    }
                    None => without_cipher(command, &name, config),
                }
                if self.contender == Contender::RingspanUdpSpin {
                    command.arg("--spin");
                }
                command.stdout(log).stderr(errors);
            })?;
            if let Some(file) = file {
                process = process.leaving(file);
            }
            space
                .wait_for_link(&name, Duration::from_secs(10))
                .map_err(|error| format!("{error}; its words: {}", log_file.display()))?;
            return Ok(Daemon {
                interface: name,
                pid: process.id(),
                _running: Running::FromFile(process),
            });
        }
        let process = space.spawn(&self.program, |command| {
            if matches!(self.contender, Contender::Boringtun | Contender::Gotatun) {
                command.arg("--disable-drop-privileges");
            }
            command.args(["--foreground", &name]);
            command.env("LOG_LEVEL", "error");
            command.stdout(log).stderr(errors);
        })?;
        let pid = process.id();
        let device = Device::configure(name.clone(), process, config)
            .map_err(|error| format!("{error}; its words: {}", log_file.display()))?;
        Ok(Daemon {
            interface: name,
            pid,
            _running: Running::Configured(device),
        })
    }

    fn toml(&self, config: &DeviceConfig) -> String {
        let (driver, send) = match self.contender {
            Contender::RingspanXdp | Contender::BeforeXdp => ("xdp", "xdp"),
            Contender::RingspanXdpUdp | Contender::BeforeXdpUdp => ("xdp", "udp"),
            _ => ("udp", "udp"),
        };
        let mut text = format!(
            "[interface]\nprivate_key = \"{}\"\nlisten_port = {}\nmtu = 1420\ntable = \"off\"\n\
             [outer]\ndriver = \"{driver}\"\n",
            STANDARD.encode(config.private_key.as_bytes()),
            config.listen_port
        );
        if driver == "xdp" {
            text += &format!("interface = \"{CABLE}\"\nsend = \"{send}\"\n");
        }
        for peer in &config.peers {
            text += &format!("[[peer]]\npublic_key = \"{}\"\n", peer.public_key);
            if let Some(endpoint) = peer.endpoint {
                text += &format!("endpoints = [\"{endpoint}\"]\n");
            }
            let prefixes: Vec<_> = peer
                .allowed_ips
                .iter()
                .map(|prefix| format!("\"{prefix}\""))
                .collect();
            text += &format!("allowed_ips = [{}]\n", prefixes.join(", "));
        }
        text
    }
}

/// Configurations and status sockets, while daemons run.
fn run_directory() -> PathBuf {
    workspace::target().join("bench/run")
}

/// A file with a key in it: for its owner alone.
fn write_config(name: &str, text: &str) -> Result<PathBuf> {
    fs::create_dir_all(run_directory())?;
    let path = run_directory().join(format!("{name}.toml"));
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}

/// The reference knows one other end, and no keys.
fn without_cipher(command: &mut Command, name: &str, config: &DeviceConfig) {
    command.args(["--interface", name]);
    command.args(["--listen-port", &config.listen_port.to_string()]);
    if let Some(endpoint) = config.peers.iter().find_map(|peer| peer.endpoint) {
        command.args(["--peer", &endpoint.to_string()]);
    }
}

/// Installs `package` below the build directory, once, as its own project releases it: with link
/// time optimization, which a plain `cargo install` loses.
fn by_cargo(package: &str, binary: &str) -> Result<PathBuf> {
    let root = workspace::target().join("peers");
    let program = root.join("bin").join(binary);
    if !program.exists() {
        eprintln!("building {package}, once");
        workspace::run(
            Command::new(env!("CARGO"))
                .args(["install", "--quiet", "--locked", package, "--root"])
                .arg(&root)
                .env("CARGO_PROFILE_RELEASE_LTO", "true")
                .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
        )?;
    }
    Ok(program)
}

/// Unpacks a Debian package of another suite below the build directory, once.
fn from_suite(suite: &str, package: &str) -> Result<(PathBuf, Option<String>)> {
    let root = workspace::target()
        .join("peers")
        .join(format!("{package}-{suite}"));
    let program = root.join("usr/bin").join(package);
    let version = root.join("version");
    if !program.exists() || !version.exists() {
        let script = workspace::root().join("xtask/suite-deb");
        let unpacked = workspace::output(Command::new(script).args([suite, package]).arg(&root))?;
        fs::write(&version, unpacked)?;
    }
    let version = fs::read_to_string(version)?;
    Ok((program, Some(format!("Debian {version}"))))
}

fn package_version(package: &str) -> String {
    workspace::output(Command::new("dpkg-query").args(["-W", "-f", "Debian ${Version}", package]))
        .unwrap_or_else(|_| "of unknown version".into())
}
