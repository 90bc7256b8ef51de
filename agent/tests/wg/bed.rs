//! Two namespaces, and interfaces in them that `wg` configures.

use std::error::Error;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use ringspan_tests::child::Process;
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege;
use rustix::process::{Pid, Signal, kill_process};

const BINARY: &str = env!("CARGO_BIN_EXE_ringspan");

/// For what takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) const KEYS: [(&str, &str); 2] = [
    (
        "oAPCyyeZLD7BL2OmZCTdC30Z+BTXsA5kFerPJy91uks=",
        "AE2F3/THEd2urASR7bTf1oiFb7ZGQuXST5F5RQmM7Fg=",
    ),
    (
        "4PDNcKYdzfJHxU9DTuvDCIkrvTscwSZIddKPIEkmTVM=",
        "JuF9mI163eKrMTyZZs7DO+AEO71F3djv84b780gslxU=",
    ),
];
pub(crate) const PRESHARED: &str = "7J0gmzsELa4knJqrl0rMILLocf2k/1dCtUVgn7QB5Ac=";

pub(crate) type Answer<T> = Result<T, Box<dyn Error>>;

/// The socket of an interface.
pub(crate) fn socket(name: &str) -> PathBuf {
    Path::new("/var/run/wireguard").join(format!("{name}.sock"))
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Two namespaces joined by a veth, and a directory for files.
pub(crate) struct Bed {
    pub(crate) namespaces: [Namespace; 2],
    scratch: PathBuf,
    /// Interfaces of processes in the background, which end with them.
    background: Mutex<Vec<(usize, String)>>,
}

impl Bed {
    pub(crate) fn new() -> Answer<Self> {
        let scratch = std::env::temp_dir().join(ringspan_tests::netns::unique_name("ringspan-wg"));
        fs::create_dir_all(&scratch)?;
        fs::set_permissions(&scratch, fs::Permissions::from_mode(0o700))?;
        let bed = Self {
            namespaces: [Namespace::new("node0")?, Namespace::new("node1")?],
            scratch,
            background: Mutex::default(),
        };
        let [a, b] = &bed.namespaces;
        Veth::default().join(a, "veth0", b, "veth1")?;
        for (namespace, link, host) in [(a, "veth0", 1), (b, "veth1", 2)] {
            namespace.add_address(link, format!("10.9.0.{host}/24").parse::<ipnet::IpNet>()?)?;
            namespace.add_address(link, format!("fd09::{host}/64").parse::<ipnet::IpNet>()?)?;
        }
        b.add_address("lo", "10.78.1.1/32".parse::<ipnet::IpNet>()?)?;
        Ok(bed)
    }

    /// A file that nobody else reads; its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> Answer<String> {
        let path = self.scratch.join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(path.to_str().ok_or("no text")?.to_owned())
    }

    /// A file for wg-quick at either end; the first one's peer has `behind` behind it.
    pub(crate) fn quick_files(&self, names: &[String; 2], behind: &str) -> Answer<[String; 2]> {
        let [(private0, public0), (private1, public1)] = KEYS;
        let first = format!(
            "[Interface]\nPrivateKey = {private0}\nListenPort = 51820\n\
             Address = 10.77.0.1/24, fd77::1/64\n\
             [Peer]\nPublicKey = {public1}\nPresharedKey = {PRESHARED}\n\
             Endpoint = 10.9.0.2:51820\nAllowedIPs = {behind}\n"
        );
        let second = format!(
            "[Interface]\nPrivateKey = {private1}\nListenPort = 51820\n\
             Address = 10.77.0.2/24, fd77::2/64\n\
             [Peer]\nPublicKey = {public0}\nPresharedKey = {PRESHARED}\n\
             AllowedIPs = 10.77.0.1/32, fd77::1/128\n"
        );
        Ok([
            self.file(&format!("{}.conf", names[0]), &first)?,
            self.file(&format!("{}.conf", names[1]), &second)?,
        ])
    }

    /// `wg` in a namespace; what it prints.
    pub(crate) fn wg(&self, at: usize, arguments: &[&str]) -> Answer<String> {
        let output = self.try_wg(at, arguments)?;
        if !output.status.success() {
            return Err(format!("wg {arguments:?}: {}", text(&output.stderr)).into());
        }
        Ok(text(&output.stdout))
    }

    pub(crate) fn try_wg(&self, at: usize, arguments: &[&str]) -> Answer<Output> {
        self.run(at, "wg", arguments, &[])
    }

    pub(crate) fn wg_quick(&self, at: usize, action: &str, file: &str) -> Answer<()> {
        if action == "up" {
            self.note(at, Path::new(file).file_stem().and_then(|n| n.to_str()));
        }
        let environment = [
            ("WG_QUICK_USERSPACE_IMPLEMENTATION", BINARY),
            ("RINGSPAN_OUTER", "udp"),
        ];
        let output = self.run(at, "wg-quick", &[action, file], &environment)?;
        if !output.status.success() {
            return Err(format!("wg-quick {action}: {}", text(&output.stderr)).into());
        }
        Ok(())
    }

    fn run(
        &self,
        at: usize,
        program: &'static str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Answer<Output> {
        let program = privilege::program(program).ok_or(program)?;
        Ok(self.namespaces[at].run(|| {
            Command::new(program)
                .args(arguments)
                .env_remove("WG_COLOR_MODE")
                .env_remove("LOG_LEVEL")
                .envs(environment.iter().copied())
                .output()
        })?)
    }

    /// `ringspan NAME`, which goes into the background.
    pub(crate) fn background(
        &self,
        at: usize,
        name: &str,
        environment: &[(&str, &str)],
    ) -> Answer<Output> {
        self.note(at, Some(name));
        Ok(self.namespaces[at].run(|| {
            Command::new(BINARY)
                .arg(name)
                .env_remove("LOG_LEVEL")
                .env_remove("WG_PROCESS_FOREGROUND")
                .envs(environment.iter().copied())
                .output()
        })?)
    }

    fn note(&self, at: usize, name: Option<&str>) {
        if let (Some(name), Ok(mut noted)) = (name, self.background.lock()) {
            noted.push((at, name.to_owned()));
        }
    }

    /// Two nodes that know each other, at 10.77.0.1 and 10.77.0.2.
    pub(crate) fn pair(&self, names: &[String; 2], driver: &str) -> Answer<Vec<Node>> {
        let mut nodes = Vec::new();
        for (at, name) in names.iter().enumerate() {
            nodes.push(self.foreground(at, name, driver)?);
            let (own, other) = (KEYS[at].0, KEYS[1 - at].1);
            let own = self.file(&format!("key{at}"), own)?;
            let prefix = format!("10.77.0.{}/32", 2 - at);
            let endpoint = format!("10.9.0.{}:51820", 2 - at);
            self.wg(
                at,
                &[
                    "set",
                    name,
                    "private-key",
                    &own,
                    "listen-port",
                    "51820",
                    "peer",
                    other,
                    "allowed-ips",
                    &prefix,
                    "endpoint",
                    &endpoint,
                ],
            )?;
            let address: ipnet::IpNet = format!("10.77.0.{}/24", at + 1).parse()?;
            self.namespaces[at].add_address(name, address)?;
            self.namespaces[at].up(name)?;
        }
        Ok(nodes)
    }

    /// `ringspan -f NAME`, once `wg` sees it.
    pub(crate) fn foreground(&self, at: usize, name: &str, driver: &str) -> Answer<Node> {
        self.foreground_at(at, name, driver, "debug")
    }

    /// The same, with a level of logging.
    pub(crate) fn foreground_at(
        &self,
        at: usize,
        name: &str,
        driver: &str,
        level: &str,
    ) -> Answer<Node> {
        let log = self.scratch.join(format!("{name}.log"));
        let stderr = File::create(&log)?;
        let outer = match driver {
            "xdp" => format!("xdp:veth{at}"),
            other => other.to_owned(),
        };
        let process = self.namespaces[at]
            .spawn(BINARY, |command| {
                command
                    .args(["-f", name])
                    .env("RINGSPAN_OUTER", outer)
                    .env("LOG_LEVEL", level)
                    .stderr(stderr);
            })?
            .leaving(socket(name));
        let mut node = Node { process, log };
        let end = Instant::now() + PATIENCE;
        while !self.try_wg(at, &["show", name])?.status.success() {
            if let Some(status) = node.process.try_wait()? {
                return Err(format!("{name} ended with {status}:\n{}", node.log()).into());
            }
            if Instant::now() > end {
                return Err(format!("{name} does not come up:\n{}", node.log()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(node)
    }

    pub(crate) fn status(&self, name: &str) -> Answer<String> {
        let output = Command::new(BINARY)
            .args(["status", name, "-o", "json"])
            .output()?;
        if !output.status.success() {
            return Err(text(&output.stderr).into());
        }
        Ok(text(&output.stdout))
    }

    /// Until the process of the interface has taken its socket away.
    pub(crate) fn wait_for_end(&self, name: &str) -> Result<(), Box<dyn Error>> {
        let end = Instant::now() + PATIENCE;
        while socket(name).exists() {
            if Instant::now() > end {
                return Err(format!("{name} does not end").into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        if let Ok(noted) = self.background.lock() {
            for (at, name) in noted.iter() {
                // An error means that it has ended, as it should.
                let _ = self.namespaces[*at].remove(name);
            }
        }
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// A running `ringspan -f`.
pub(crate) struct Node {
    process: Process,
    log: PathBuf,
}

impl Node {
    pub(crate) fn end(&mut self, signal: Signal) -> Answer<ExitStatus> {
        let pid = i32::try_from(self.process.id())?;
        kill_process(Pid::from_raw(pid).ok_or("no process")?, signal)?;
        self.wait()
    }

    /// Until it has ended by itself.
    pub(crate) fn wait(&mut self) -> Answer<ExitStatus> {
        Ok(self.process.wait(PATIENCE)?)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}
