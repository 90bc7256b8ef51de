//! A site of hosts on a bridge, a cloud beyond a router, a discovery service, and `ringspan join` on
//! each host.

use std::error::Error;
use std::fs::{self, File};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ringspan_tests::child::Process;
use ringspan_tests::discovery::{DiscoveryServer, Options};
use ringspan_tests::netns::{Namespace, Veth};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_ringspan");

/// For what takes seconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const CLUSTER: &str = "8XuV9TZHW08DOk3bVxQjH9ih_TBKjnh-j44tsCLSBzo=";
/// In base64 of 32 bytes that are text, so that it can be looked for as both.
pub(crate) const SECRET: &str = "QSBzZWNyZXQsIGp1c3QgMzIgYnl0ZXMgb2YgdGV4dC4=";

/// The site is 10.9.0.0/24, the cloud 198.51.100.0/24; the router has the last address of each.
pub(crate) struct Bed {
    pub(crate) router: Namespace,
    pub(crate) server: DiscoveryServer,
    pub(crate) scratch: PathBuf,
}

impl Bed {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Socket paths have at most 107 bytes, which the build's directory may exceed.
        let scratch =
            std::env::temp_dir().join(format!("ringspan-join-{}-{count}", std::process::id()));
        fs::create_dir_all(&scratch)?;
        let router = Namespace::new("router")?;
        router.set_sysctl("ipv4/ip_forward", "1")?;
        for (bridge, address) in [("site", "10.9.0.254/24"), ("cloud", "198.51.100.254/24")] {
            router.add_bridge(bridge)?;
            router.add_address(bridge, address.parse::<IpNet>()?)?;
        }
        let options = Options {
            listen: "10.9.0.254:3000".parse()?,
            ..Options::default()
        };
        let server = router.run(|| DiscoveryServer::start(options))?;
        let bed = Self {
            router,
            server,
            scratch,
        };
        fs::write(bed.config(), machine_config(&bed.server.url()))?;
        Ok(bed)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.scratch.join("worker.yaml")
    }

    /// A host on `bridge`.
    pub(crate) fn host(
        &self,
        name: &str,
        bridge: &str,
        address: &str,
    ) -> Result<Host, Box<dyn Error>> {
        let namespace = Namespace::new(name)?;
        let port = format!("to-{name}");
        Veth::default().join(&namespace, "eth0", &self.router, &port)?;
        self.router.attach(&port, bridge)?;
        let host = Host {
            namespace,
            name: name.to_owned(),
            scratch: self.scratch.join(name),
        };
        fs::create_dir_all(&host.scratch)?;
        host.take_address(address)?;
        Ok(host)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.scratch);
    }
}

fn machine_config(url: &str) -> String {
    format!(
        "version: v1alpha1\nmachine:\n  type: worker\n  token: unknown keys are ignored\n  \
         network:\n    kubespan:\n      enabled: true\n      mtu: 1400\n      filters:\n        \
         endpoints: [\"0.0.0.0/0\"]\ncluster:\n  id: {CLUSTER}\n  secret: {SECRET}\n---\n\
         apiVersion: v1alpha1\nkind: DiscoveryServiceConfig\nname: ours\nendpoint: {url}\n"
    )
}

/// A host, with or without a member on it.
pub(crate) struct Host {
    pub(crate) namespace: Namespace,
    pub(crate) name: String,
    pub(crate) scratch: PathBuf,
}

impl Host {
    /// Gets an address and the default route over its network's router.
    pub(crate) fn take_address(&self, address: &str) -> Result<(), Box<dyn Error>> {
        let address: IpNet = address.parse()?;
        self.namespace.add_address("eth0", address)?;
        let router = address.hosts().last().ok_or("no router")?;
        let everything: IpNet = "0.0.0.0/0".parse()?;
        self.namespace.add_route(everything, "eth0", Some(router))?;
        Ok(())
    }

    pub(crate) fn state_dir(&self) -> PathBuf {
        self.scratch.join("state")
    }

    pub(crate) fn join(&self, config: &Path, more: &[&str]) -> Result<Member, Box<dyn Error>> {
        let log = self.scratch.join("log");
        let stderr = File::options().create(true).append(true).open(&log)?;
        let process = self.namespace.spawn(BINARY, |command| {
            command
                .args(["join", "--machineconfig"])
                .arg(config)
                .arg("--state-dir")
                .arg(self.state_dir())
                .arg("--run-dir")
                .arg(&self.scratch)
                .args(["--hostname", &self.name])
                .args(more)
                .env("RINGSPAN_LOG", "trace")
                .stderr(stderr);
        })?;
        Ok(Member {
            process,
            scratch: self.scratch.clone(),
            log,
        })
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.scratch.join("log")).unwrap_or_default()
    }
}

/// A running `ringspan join`.
pub(crate) struct Member {
    pub(crate) process: Process,
    scratch: PathBuf,
    log: PathBuf,
}

impl Member {
    pub(crate) fn get(&self, arguments: &[&str]) -> Output {
        Command::new(BINARY)
            .arg("get")
            .args(arguments)
            .arg("--run-dir")
            .arg(&self.scratch)
            .output()
            .expect("the binary runs")
    }

    /// The resources, each with `metadata` and `spec`.
    pub(crate) fn resources(&self, kind: &str) -> Vec<Value> {
        let output = self.get(&[kind, "-o", "json"]);
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        values.filter_map(Result::ok).collect()
    }

    pub(crate) fn mesh_address(&self) -> Result<IpAddr, Box<dyn Error>> {
        let identity = self.resources("identity");
        let address = identity
            .first()
            .and_then(|one| one["spec"]["address"].as_str());
        Ok(address.ok_or("no address")?.parse::<IpNet>()?.addr())
    }

    /// The labels of peers that are up.
    pub(crate) fn up(&self) -> Vec<String> {
        let statuses = self.resources("peerstatuses");
        let up = statuses.iter().filter(|one| one["spec"]["state"] == "up");
        let mut labels: Vec<_> = up
            .filter_map(|one| one["spec"]["label"].as_str().map(str::to_owned))
            .collect();
        labels.sort();
        labels
    }

    /// Waits for something that must happen while this member runs.
    pub(crate) fn until(
        &mut self,
        what: &str,
        mut happened: impl FnMut(&Self) -> bool,
    ) -> Result<(), Box<dyn Error>> {
        let end = Instant::now() + PATIENCE;
        while !happened(self) {
            if let Some(status) = self.process.try_wait()? {
                return Err(format!("it ended with {status}:\n{}", self.tail()).into());
            }
            if Instant::now() > end {
                return Err(format!("{what} has not happened:\n{}", self.tail()).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    pub(crate) fn end(&mut self, signal: Signal) -> Result<ExitStatus, Box<dyn Error>> {
        let pid = i32::try_from(self.process.id())?;
        kill_process(Pid::from_raw(pid).ok_or("no process")?, signal)?;
        Ok(self.process.wait(PATIENCE)?)
    }

    /// The log without its finest lines.
    pub(crate) fn tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let coarse = |line: &&str| !line.contains("TRACE") && !line.contains("DEBUG");
        let lines: Vec<&str> = log.lines().filter(coarse).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}
