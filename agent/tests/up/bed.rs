//! Two namespaces with a configuration each, and the processes in them.

use std::error::Error;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use ringspan_tests::child::Process;
use ringspan_tests::netns::{Namespace, Veth};
use rustix::process::{Pid, Signal, kill_process};

const BINARY: &str = env!("CARGO_BIN_EXE_ringspan");

/// For what takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

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

/// Two namespaces joined by a veth, and a directory with a configuration for each.
pub(crate) struct Bed {
    pub(crate) namespaces: [Namespace; 2],
    pub(crate) scratch: PathBuf,
}

impl Bed {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Socket paths have at most 107 bytes, which the build's directory may exceed.
        let scratch =
            std::env::temp_dir().join(format!("ringspan-up-{}-{count}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let bed = Self {
            namespaces: [Namespace::new("node0")?, Namespace::new("node1")?],
            scratch,
        };
        let [a, b] = &bed.namespaces;
        Veth::default().join(a, "veth0", b, "veth1")?;
        a.add_address("veth0", "10.9.0.1/24".parse::<ipnet::IpNet>()?)?;
        b.add_address("veth1", "10.9.0.2/24".parse::<ipnet::IpNet>()?)?;
        // Something behind the tunnel that only a route to an allowed IP leads to.
        b.add_address("lo", "10.78.1.1/32".parse::<ipnet::IpNet>()?)?;
        bed.configure()?;
        Ok(bed)
    }

    fn configure(&self) -> std::io::Result<()> {
        let [(private0, public0), (private1, public1)] = KEYS;
        self.file(
            "node0.toml",
            &format!(
                "[interface]\nprivate_key = \"{private0}\"\nlisten_port = 51820\n\
                 addresses = [\"10.77.0.1/24\", \"fd77::1/64\"]\n\
                 [outer]\ninterface = \"veth0\"\n\
                 [[peer]]\nlabel = \"node-1\"\npublic_key = \"{public1}\"\n\
                 preshared_key = \"{PRESHARED}\"\nendpoints = [\"10.9.0.2:51820\"]\n\
                 allowed_ips = [\"10.77.0.2/32\", \"fd77::2/128\", \"10.78.1.0/24\"]\n"
            ),
        )?;
        self.file(
            "node1.conf",
            &format!(
                "[Interface]\nPrivateKey = {private1}\nListenPort = 51820\n\
                 Address = 10.77.0.2/24, fd77::2/64\n\
                 [Peer] # node-0\nPublicKey = {public0}\nPresharedKey = {PRESHARED}\n\
                 AllowedIPs = 10.77.0.1/32, fd77::1/128\n"
            ),
        )
    }

    fn file(&self, name: &str, text: &str) -> std::io::Result<()> {
        let path = self.scratch.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
    }

    pub(crate) fn up(&self, at: usize, outer: &str) -> Result<Node, Box<dyn Error>> {
        let file = ["node0.toml", "node1.conf"][at];
        let card = format!("veth{at}");
        self.start(at, file, &["--outer", outer, "--interface", &card])
    }

    pub(crate) fn start(
        &self,
        at: usize,
        file: &str,
        more: &[&str],
    ) -> Result<Node, Box<dyn Error>> {
        let log = self.scratch.join(format!("{file}-{}.log", more.len()));
        let stderr = File::create(&log)?;
        let process = self.namespaces[at].spawn(BINARY, |command| {
            command
                .args(["up", "--config"])
                .arg(self.scratch.join(file))
                .arg("--run-dir")
                .arg(&self.scratch)
                .args(more)
                .env_remove("RINGSPAN_LOG")
                .stderr(stderr);
        })?;
        let socket = self.socket(at);
        Ok(Node {
            process,
            socket,
            log,
        })
    }

    pub(crate) fn socket(&self, at: usize) -> PathBuf {
        self.scratch.join(format!("node{at}.sock"))
    }

    pub(crate) fn status(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY)
            .arg("status")
            .args(arguments)
            .arg("--run-dir")
            .arg(&self.scratch)
            .output()
            .expect("the binary runs")
    }

    /// Neither interface nor XDP program nor status socket is left.
    pub(crate) fn assert_clean(&self) {
        self.assert_no_devices();
        for at in [0, 1] {
            assert!(!self.socket(at).exists(), "a status socket was left behind");
        }
    }

    pub(crate) fn assert_no_devices(&self) {
        for (at, namespace) in self.namespaces.iter().enumerate() {
            let tunnel = format!("node{at}");
            assert!(
                namespace.index(&tunnel).is_err(),
                "{tunnel} was left behind"
            );
            let program = namespace.xdp_program(&format!("veth{at}"));
            assert!(
                matches!(program, Ok(None)),
                "XDP was left behind: {program:?}"
            );
        }
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

/// A running `ringspan up`.
pub(crate) struct Node {
    pub(crate) process: Process,
    socket: PathBuf,
    log: PathBuf,
}

impl Node {
    /// The status answers only when everything is set up.
    pub(crate) fn wait_until_up(&mut self, namespace: &Namespace) -> Result<(), Box<dyn Error>> {
        let run_dir = self.socket.parent().unwrap_or(Path::new("/"));
        let name = self.socket.file_stem().and_then(|name| name.to_str());
        let name = name.ok_or("no name")?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("{name} ended with {status}:\n{}", self.log()).into());
            }
            let is_socket = |file: fs::Metadata| file.file_type().is_socket();
            if fs::metadata(&self.socket).is_ok_and(is_socket) {
                let status = Command::new(BINARY)
                    .args(["status", name, "--run-dir"])
                    .arg(run_dir)
                    .output()?;
                if status.status.success() {
                    namespace.index(name)?;
                    return Ok(());
                }
            }
            if Instant::now() > end {
                return Err(format!("{name} does not come up:\n{}", self.log()).into());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus, Box<dyn Error>> {
        let pid = i32::try_from(self.process.id())?;
        kill_process(Pid::from_raw(pid).ok_or("no process")?, signal)?;
        Ok(self.process.wait(PATIENCE)?)
    }

    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }
}
