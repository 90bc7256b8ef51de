//! Two `ringspan up` in two namespaces, from start to the last trace of them. Needs root: the
//! harness reports what cannot run here. (They live beside the binary, and not in `tests/`,
//! because Cargo tells only the tests of its own package where a binary is.)

use std::error::Error;
use std::fs::{self, File};
use std::io::Read as _;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use ringspan_tests::child::Process;
use ringspan_tests::harness::{Suite, TestResult};
use ringspan_tests::netns::{Namespace, Veth};
use ringspan_tests::privilege::Need;
use ringspan_tests::traffic::ping::{Options, ping};
use ringspan_tests::traffic::tcp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ringspan");

const UDP: &[Need] = &[Need::Namespaces, Need::Tun];
const XDP: &[Need] = &[Need::Namespaces, Need::Tun, Need::Bpf, Need::AfXdp];

/// For what takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

const KEYS: [(&str, &str); 2] = [
    (
        "oAPCyyeZLD7BL2OmZCTdC30Z+BTXsA5kFerPJy91uks=",
        "AE2F3/THEd2urASR7bTf1oiFb7ZGQuXST5F5RQmM7Fg=",
    ),
    (
        "4PDNcKYdzfJHxU9DTuvDCIkrvTscwSZIddKPIEkmTVM=",
        "JuF9mI163eKrMTyZZs7DO+AEO71F3djv84b780gslxU=",
    ),
];
const PRESHARED: &str = "7J0gmzsELa4knJqrl0rMILLocf2k/1dCtUVgn7QB5Ac=";

fn main() -> ExitCode {
    Suite::new()
        .serial()
        .test("a_tunnel_over_udp_from_toml_and_conf", UDP, || {
            tunnel("udp")
        })
        .test("a_tunnel_over_xdp_from_toml_and_conf", XDP, || {
            tunnel("xdp")
        })
        .test(
            "xdp_receives_and_udp_sends",
            XDP,
            xdp_receives_and_udp_sends,
        )
        .test("an_endpoint_is_looked_up", UDP, an_endpoint_is_looked_up)
        .test(
            "a_tunnel_whose_interface_is_removed_ends",
            UDP,
            a_removed_interface,
        )
        .test("a_name_is_taken_once", UDP, a_name_is_taken_once)
        .test(
            "a_killed_tunnel_is_succeeded",
            XDP,
            a_killed_tunnel_is_succeeded,
        )
        .test(
            "a_strangers_route_is_left_alone",
            UDP,
            a_strangers_route_is_left_alone,
        )
        .test("table_off_sets_no_routes", UDP, table_off_sets_no_routes)
        .main()
}

/// Traffic, status, clean end: node 0 has a TOML file and gets SIGTERM, node 1 a wg-quick file
/// and SIGINT.
fn tunnel(outer: &str) -> TestResult {
    let bed = Bed::new()?;
    let mut nodes = [bed.up(0, outer)?, bed.up(1, outer)?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }

    for to in ["10.77.0.2", "fd77::2", "10.78.1.1"] {
        let to: IpAddr = to.parse()?;
        let pings = bed.namespaces[0].run(|| ping(to, Options::default()))?;
        assert!(pings.all_answered(), "{to}: {pings:?}");
    }
    let server = bed.namespaces[1].run(|| tcp::Server::start("10.77.0.2".parse().unwrap()))?;
    let moved = bed.namespaces[0]
        .run(|| tcp::transfer(server.address(), 1 << 20, 1 << 20, PATIENCE, |_| true))?;
    assert_eq!(moved.uploaded + moved.downloaded, 2 << 20);

    let status = bed.status(&["node0", "-o", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout)?;
    let status = &status[0];
    assert_eq!(status["public_key"], KEYS[0].1);
    assert_eq!(status["listen_port"], 51820);
    let rx: Vec<_> = status["drivers"]
        .as_array()
        .ok_or("no drivers")?
        .iter()
        .filter(|driver| driver["port"] == "outer rx")
        .map(|driver| driver["driver"].as_str().unwrap_or_default())
        .collect();
    assert!(rx.contains(&outer), "{outer} does not receive: {rx:?}");
    let peer = &status["peers"][0];
    assert_eq!(peer["label"], "node-1");
    assert_eq!(peer["state"], "up");
    assert_eq!(peer["endpoint"], "10.9.0.2:51820");
    assert_eq!(peer["preshared_key"], true);
    assert!(peer["last_handshake_s"].is_u64(), "{peer}");
    for bytes in ["receive_bytes", "transmit_bytes"] {
        assert!(peer[bytes].as_u64() > Some(1 << 20), "{bytes}: {peer}");
    }
    let table = bed.status(&[]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    for part in [
        "node0",
        "node1",
        "node-0",
        "node-1",
        "outer rx",
        "10.9.0.2:51820",
    ] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
    assert!(
        !table.contains(KEYS[0].0) && !table.contains(PRESHARED),
        "a secret is shown"
    );

    for (node, signal) in nodes.iter_mut().zip([Signal::TERM, Signal::INT]) {
        let ended = node.end(signal)?;
        assert_eq!(ended.code(), Some(0), "{signal:?}: {}", node.log());
        assert!(!node.log().contains(KEYS[0].0), "a secret was logged");
    }
    bed.assert_clean();
    Ok(())
}

fn xdp_receives_and_udp_sends() -> TestResult {
    let bed = Bed::new()?;
    let path = bed.scratch.join("node0.toml");
    let text = fs::read_to_string(&path)?
        .replace("[outer]\n", "[outer]\nsend = \"udp\"\nmode = \"copy\"\n");
    fs::write(&path, text)?;
    let mut nodes = [bed.up(0, "xdp")?, bed.up(1, "udp")?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }
    let pings = bed.namespaces[0].run(|| ping("10.77.0.2".parse().unwrap(), Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");

    let status: Value = serde_json::from_slice(&bed.status(&["node0", "-o", "json"]).stdout)?;
    let drivers = status[0]["drivers"].as_array().ok_or("no drivers")?;
    let of = |port: &str| {
        let mine = drivers.iter().filter(|driver| driver["port"] == port);
        mine.map(|driver| driver["driver"].as_str().unwrap_or_default())
            .collect::<Vec<_>>()
    };
    assert!(of("outer rx").contains(&"xdp"), "{drivers:?}");
    assert_eq!(of("outer tx"), ["udp"], "{drivers:?}");
    for node in &mut nodes {
        assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    }
    bed.assert_clean();
    Ok(())
}

/// A link-local endpoint takes the way of host names: its interface is one.
fn an_endpoint_is_looked_up() -> TestResult {
    let bed = Bed::new()?;
    // Both ends: the kernel's own link-local addresses wait for duplicate address detection.
    for (at, address) in ["fe80::1/64", "fe80::2/64"].into_iter().enumerate() {
        let address: ipnet::IpNet = address.parse()?;
        bed.namespaces[at].add_address(&format!("veth{at}"), address)?;
    }
    let path = bed.scratch.join("node0.toml");
    let text = fs::read_to_string(&path)?.replace("10.9.0.2:51820", "[fe80::2%veth0]:51820");
    fs::write(&path, text)?;
    let mut nodes = [bed.up(0, "udp")?, bed.up(1, "udp")?];
    for (at, node) in nodes.iter_mut().enumerate() {
        node.wait_until_up(&bed.namespaces[at])?;
    }
    // Looked up in the background: until then the peer has no endpoint.
    let end = Instant::now() + PATIENCE;
    let endpoint = loop {
        let status: Value = serde_json::from_slice(&bed.status(&["node0", "-o", "json"]).stdout)?;
        match status[0]["peers"][0]["endpoint"].as_str() {
            Some(endpoint) => break endpoint.to_owned(),
            None if Instant::now() > end => return Err("no endpoint was found".into()),
            None => thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(endpoint.starts_with("[fe80::2%"), "{endpoint}");
    let pings = bed.namespaces[0].run(|| ping("10.77.0.2".parse().unwrap(), Options::default()))?;
    assert!(pings.all_answered(), "{pings:?}");
    for node in &mut nodes {
        assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    }
    bed.assert_clean();
    Ok(())
}

/// `ip link delete` is how `wg-quick down` ends a user-space WireGuard.
fn a_removed_interface() -> TestResult {
    let bed = Bed::new()?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    bed.namespaces[0].remove("node0")?;
    assert_eq!(
        node.process.wait(PATIENCE)?.code(),
        Some(0),
        "{}",
        node.log()
    );
    assert!(
        node.log().contains("interface was removed"),
        "{}",
        node.log()
    );
    bed.assert_clean();
    Ok(())
}

fn a_name_is_taken_once() -> TestResult {
    let bed = Bed::new()?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    // In the same namespace the interface is in the way, in another one the status socket.
    for (at, code, reason) in [
        (0, 3, "interface node0 exists already"),
        (1, 1, "tunnel node0 is running already"),
    ] {
        let mut second = bed.start(
            at,
            "node0.toml",
            &["--outer", "udp", "--interface", ["veth0", "veth1"][at]],
        )?;
        assert_eq!(
            second.process.wait(PATIENCE)?.code(),
            Some(code),
            "{}",
            second.log()
        );
        assert!(second.log().contains(reason), "{}", second.log());
    }
    assert!(
        bed.socket(0).exists(),
        "the second took the first one's socket away"
    );
    assert_eq!(node.end(Signal::TERM)?.code(), Some(0));
    bed.assert_clean();
    Ok(())
}

fn a_killed_tunnel_is_succeeded() -> TestResult {
    let bed = Bed::new()?;
    let mut node = bed.up(0, "xdp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    node.end(Signal::KILL)?;
    assert!(bed.socket(0).exists(), "nobody could have removed it");
    bed.assert_no_devices();
    let ghost = bed.status(&["node0"]);
    assert_eq!(ghost.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ghost.stderr).contains("not running"));

    let mut next = bed.up(0, "xdp")?;
    next.wait_until_up(&bed.namespaces[0])?;
    assert_eq!(next.end(Signal::HUP)?.code(), Some(0), "{}", next.log());
    bed.assert_clean();
    Ok(())
}

fn a_strangers_route_is_left_alone() -> TestResult {
    let behind: ipnet::IpNet = "10.78.1.0/24".parse()?;
    let bed = Bed::new()?;
    bed.namespaces[0].add_route(behind, "veth0", None)?;
    let mut node = bed.up(0, "udp")?;
    assert_eq!(node.process.wait(PATIENCE)?.code(), Some(1));
    assert!(
        node.log()
            .contains("a route to 10.78.1.0/24 exists already"),
        "{}",
        node.log()
    );
    bed.assert_clean();
    // It is still there: to set it again is refused.
    assert!(bed.namespaces[0].add_route(behind, "veth0", None).is_err());
    Ok(())
}

fn table_off_sets_no_routes() -> TestResult {
    let behind: ipnet::IpNet = "10.78.1.0/24".parse()?;
    let bed = Bed::new()?;
    let path = bed.scratch.join("node0.toml");
    let text =
        fs::read_to_string(&path)?.replace("[interface]\n", "[interface]\ntable = \"off\"\n");
    fs::write(&path, text)?;
    let mut node = bed.up(0, "udp")?;
    node.wait_until_up(&bed.namespaces[0])?;
    // The prefix is free for somebody else's route.
    bed.namespaces[0].add_route(behind, "veth0", None)?;
    assert_eq!(node.end(Signal::TERM)?.code(), Some(0), "{}", node.log());
    bed.assert_clean();
    Ok(())
}

/// Two namespaces joined by a veth, and a directory with a configuration for each.
struct Bed {
    namespaces: [Namespace; 2],
    scratch: PathBuf,
}

impl Bed {
    fn new() -> Result<Self, Box<dyn Error>> {
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

    fn up(&self, at: usize, outer: &str) -> Result<Node, Box<dyn Error>> {
        let file = ["node0.toml", "node1.conf"][at];
        let card = format!("veth{at}");
        self.start(at, file, &["--outer", outer, "--interface", &card])
    }

    fn start(&self, at: usize, file: &str, more: &[&str]) -> Result<Node, Box<dyn Error>> {
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

    fn socket(&self, at: usize) -> PathBuf {
        self.scratch.join(format!("node{at}.sock"))
    }

    fn status(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY)
            .arg("status")
            .args(arguments)
            .arg("--run-dir")
            .arg(&self.scratch)
            .output()
            .expect("the binary runs")
    }

    /// Neither interface nor XDP program nor status socket is left.
    fn assert_clean(&self) {
        self.assert_no_devices();
        for at in [0, 1] {
            assert!(!self.socket(at).exists(), "a status socket was left behind");
        }
    }

    fn assert_no_devices(&self) {
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
struct Node {
    process: Process,
    socket: PathBuf,
    log: PathBuf,
}

impl Node {
    /// The status answers only when everything is set up.
    fn wait_until_up(&mut self, namespace: &Namespace) -> Result<(), Box<dyn Error>> {
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

    fn end(&mut self, signal: Signal) -> Result<ExitStatus, Box<dyn Error>> {
        let pid = i32::try_from(self.process.id())?;
        kill_process(Pid::from_raw(pid).ok_or("no process")?, signal)?;
        Ok(self.process.wait(PATIENCE)?)
    }

    fn log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut file) = File::open(&self.log) {
            let _ = file.read_to_string(&mut text);
        }
        text
    }
}
