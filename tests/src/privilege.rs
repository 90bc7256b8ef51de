//! What a test needs of the machine, and what is missing here.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::vm::Machine;

/// Something that a test cannot do without.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Need {
    /// Network namespaces with links in them: `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`.
    Namespaces,
    /// TUN devices: `/dev/net/tun`.
    Tun,
    /// Loading and attaching XDP programs: `CAP_BPF`, `CAP_PERFMON` and `CAP_NET_ADMIN`, or
    /// `CAP_SYS_ADMIN`.
    Bpf,
    /// AF_XDP sockets: a kernel with `CONFIG_XDP_SOCKETS`, and `CAP_NET_RAW`.
    AfXdp,
    /// This version of Linux or a later one.
    Linux(u32, u32),
    /// A version of Linux before this one.
    LinuxBefore(u32, u32),
    /// Huge pages of 2 MiB whose number may be changed.
    HugePages,
    /// A program on `PATH` (or in `/usr/sbin`, `/sbin`), by its name.
    Program(&'static str),
    /// A kernel without WireGuard: where it has it, `wg-quick` takes no other.
    NoKernelWireGuard,
    /// A virtual machine with the kernel of the host's Debian; see [`vm`](crate::vm).
    Vm,
    /// A virtual machine with the kernel of [`vm::NEWER_KERNEL`](crate::vm::NEWER_KERNEL).
    NewerVm,
}

impl Need {
    /// Why the need is not met here; `None` when it is.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Namespaces => capability(Capability::SysAdmin)
                .or_else(|| capability(Capability::NetAdmin))
                .map(|name| format!("needs {name} for network namespaces: run as root")),
            Self::Tun => capability(Capability::NetAdmin)
                .map(|name| format!("needs {name} for TUN devices: run as root"))
                .or_else(tun_device),
            Self::Bpf => match capability(Capability::SysAdmin) {
                None => None,
                Some(_) => capability(Capability::Bpf)
                    .or_else(|| capability(Capability::PerfMon))
                    .or_else(|| capability(Capability::NetAdmin))
                    .map(|name| format!("needs {name} to load XDP programs: run as root")),
            },
            Self::AfXdp => af_xdp(),
            Self::Linux(major, minor) => {
                (linux() < (major, minor)).then(|| format!("needs Linux {major}.{minor} or later"))
            }
            Self::LinuxBefore(major, minor) => {
                (linux() >= (major, minor)).then(|| format!("needs a Linux before {major}.{minor}"))
            }
            Self::HugePages => huge_pages(),
            Self::Program(name) => program(name).is_none().then(|| {
                format!(
                    "needs the program {name}: apt-get install {}",
                    package(name)
                )
            }),
            Self::NoKernelWireGuard => kernel_wireguard(),
            Self::Vm => Machine::default().missing(),
            Self::NewerVm => Machine::newer().missing(),
        }
    }
}

/// The first of `needs` that is not met here, as a reason to skip a test.
#[must_use]
pub fn missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| need.missing())
}

/// Where `name` lies: on `PATH`, or in the system directories that an ordinary user's `PATH` lacks.
#[must_use]
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// The Debian package of a program.
fn package(program: &str) -> &str {
    match program {
        "wg" | "wg-quick" => "wireguard-tools",
        "nft" => "nftables",
        other => other,
    }
}

/// Built in, loaded, or there to be loaded when an interface of its kind is asked for.
fn kernel_wireguard() -> Option<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let modules = format!(
        "/lib/modules/{}/kernel/drivers/net/wireguard",
        release.trim()
    );
    ["/sys/module/wireguard", &modules]
        .into_iter()
        .find(|path| Path::new(path).exists())
        .map(|path| {
            format!("needs a kernel without WireGuard, which wg-quick would take: {path} is there")
        })
}

#[derive(Clone, Copy)]
enum Capability {
    NetAdmin = 12,
    SysAdmin = 21,
    PerfMon = 38,
    Bpf = 39,
}

/// The capability's name when this process lacks it.
fn capability(wanted: Capability) -> Option<&'static str> {
    let effective = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0);
    let name = match wanted {
        Capability::NetAdmin => "CAP_NET_ADMIN",
        Capability::SysAdmin => "CAP_SYS_ADMIN",
        Capability::PerfMon => "CAP_PERFMON",
        Capability::Bpf => "CAP_BPF",
    };
    (effective & (1 << wanted as u32) == 0).then_some(name)
}

fn tun_device() -> Option<String> {
    let path = Path::new("/dev/net/tun");
    fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .err()
        .map(|error| format!("needs {}: {error}", path.display()))
}

/// The kernel's version; 0.0 where it does not tell.
fn linux() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split('.').map_while(|number| number.parse().ok());
    let mut next = || numbers.next().unwrap_or(0);
    (next(), next())
}

fn huge_pages() -> Option<String> {
    let path = Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .err()
        .map(|error| format!("needs to change {}: {error}", path.display()))
}

fn af_xdp() -> Option<String> {
    let opened: Result<OwnedFd, Errno> = socket(AddressFamily::XDP, SocketType::RAW, None);
    match opened {
        Ok(_) => None,
        Err(Errno::PERM) => Some("needs CAP_NET_RAW for AF_XDP: run as root".into()),
        Err(error) => Some(format!("needs AF_XDP (CONFIG_XDP_SOCKETS): {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_by_name_and_its_absence_is_told() {
        assert!(program("sh").is_some());
        let reason = Need::Program("no-such-program").missing();
        assert!(reason.is_some_and(|r| r.contains("no-such-program")));
        assert_eq!(missing(&[Need::Program("sh")]), None);
    }
}
