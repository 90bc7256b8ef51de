//! Creating the interface.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use libc::{TUN_F_CSUM, TUN_F_TSO_ECN, TUN_F_TSO4, TUN_F_TSO6, TUN_F_USO4, TUN_F_USO6};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::coalesce::Kinds;
use super::request::{Request, set_int, set_number};
use super::{TunRx, TunTx, super_size, vnet};
use crate::engine::port::DriverInfo;

/// The longest interface name, in bytes.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// How the interface is created.
#[derive(Clone, Debug)]
pub struct TunConfig {
    /// Its name, at most 15 bytes. `%d` in it becomes the lowest free number.
    pub name: String,
    /// Its MTU in bytes, 68 to 65535; IPv6 needs at least 1280.
    pub mtu: u32,
    /// How many queues it has: at least 1, each for one worker.
    pub queues: usize,
    /// How many packets wait in the interface for a slow reader (`txqueuelen`); `None` for the
    /// kernel's default, 500.
    pub queue_length: Option<u32>,
    /// Whether to move super-packets of up to 64 KiB, TCP and UDP (the latter since Linux 6.2),
    /// where the kernel can.
    pub offload: bool,
}

impl TunConfig {
    /// One queue, MTU 1420: room for both outer headers on Ethernet.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            mtu: 1420,
            queues: 1,
            queue_length: None,
            offload: true,
        }
    }
}

/// Why the interface could not be created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name is none that an interface can have.
    #[error(
        "{name:?} is no interface name: use 1 to 15 bytes without '/', ':' and white space, \
         and neither \".\" nor \"..\""
    )]
    Name {
        /// The name asked for.
        name: String,
    },
    /// The MTU is out of range.
    #[error("MTU {mtu} of interface {interface} is out of range: choose 68 to 65535 bytes")]
    Mtu {
        /// The interface.
        interface: String,
        /// The MTU asked for.
        mtu: u32,
    },
    /// The system has no TUN driver, or a container hides it.
    #[error(
        "interface {interface}: no TUN driver at /dev/net/tun ({source}): run `modprobe tun`, \
         or hand the device to the container"
    )]
    NoDriver {
        /// The interface asked for.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// We may not create interfaces.
    #[error("interface {interface} is not permitted: it needs CAP_NET_ADMIN; run as root")]
    Denied {
        /// The interface asked for.
        interface: String,
    },
    /// There is an interface of that name.
    #[error(
        "interface {interface} exists already and is in use or of another kind: choose another \
         name or remove it"
    )]
    Taken {
        /// The interface asked for.
        interface: String,
    },
    /// The kernel refuses something else.
    #[error("interface {interface}: {step}: {source}")]
    Kernel {
        /// The interface asked for.
        interface: String,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A TUN interface of ours, up. It vanishes when this and all its [`TunRx`] and [`TunTx`] are
/// gone.
#[derive(Debug)]
pub struct Tun {
    name: String,
    index: u32,
    queues: Vec<Arc<OwnedFd>>,
    offloads: Kinds,
    /// For ioctls about the interface: a socket belongs to a network namespace for good, the
    /// calling thread may not.
    socket: Arc<OwnedFd>,
}

impl Tun {
    /// Creates the interface in the calling thread's network namespace, sets its MTU and brings
    /// it up.
    ///
    /// # Errors
    /// As [`OpenError`] lists them; each names the interface.
    pub fn open(config: &TunConfig) -> Result<Self, OpenError> {
        if !valid_name(&config.name) {
            let name = config.name.clone();
            return Err(OpenError::Name { name });
        }
        let failed = |step| explain(&config.name, step);
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
            .map_err(|error| failed("control socket")(error.into()))?;
        let queues = config.queues.max(1);
        let multi = queues > 1;
        let (first, name) = attach(&config.name, multi)?;
        let mut tun = Self {
            name,
            index: 0,
            queues: vec![Arc::new(first)],
            offloads: Kinds::NONE,
            socket: Arc::new(socket),
        };
        tun.offloads = tun.enable_offloads(config.offload);
        for _ in 1..queues {
            let (queue, _) = attach(&tun.name, multi)?;
            tun.queues.push(Arc::new(queue));
        }
        let index = tun.ask(libc::SIOCGIFINDEX as _).map_err(failed("index"))?;
        tun.index = index.int().cast_unsigned();
        tun.set_mtu(config.mtu)?;
        if tun.offloads != Kinds::NONE
            && let Err(error) = super_size::set(tun.index, super_size::fitting(config.mtu))
        {
            let interface = &tun.name;
            tracing::warn!("interface {interface}: super-packets keep their length: {error}");
        }
        if let Some(length) = config.queue_length {
            let length = i32::try_from(length).unwrap_or(i32::MAX);
            Request::new(&tun.name)
                .with_int(length)
                .submit(tun.socket.as_fd(), libc::SIOCSIFTXQLEN as _)
                .map_err(failed("queue length"))?;
        }
        tun.bring_up().map_err(failed("bring up"))?;
        Ok(tun)
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The interface's index.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// How many queues there are.
    #[must_use]
    pub const fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The interface's MTU in bytes as it is now: administrators change it under way.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn mtu(&self) -> io::Result<u32> {
        mtu(&self.socket, &self.name)
    }

    /// Changes the MTU.
    ///
    /// # Errors
    /// When it is out of range or the interface is gone.
    pub fn set_mtu(&self, mtu: u32) -> Result<(), OpenError> {
        let out_of_range = || OpenError::Mtu {
            interface: self.name.clone(),
            mtu,
        };
        let value = i32::try_from(mtu).map_err(|_| out_of_range())?;
        Request::new(&self.name)
            .with_int(value)
            .submit(self.socket.as_fd(), libc::SIOCSIFMTU as _)
            .map_err(|source| match source.kind() {
                io::ErrorKind::InvalidInput => out_of_range(),
                _ => explain(&self.name, "MTU")(source),
            })
    }

    /// The receiving port of a queue; `None` where there is no such queue. Two receivers of one
    /// queue share its traffic, and lose its order.
    #[must_use]
    pub fn rx(&self, queue: usize) -> Option<TunRx> {
        let fd = Arc::clone(self.queues.get(queue)?);
        Some(TunRx::new(fd, self.describe(queue)))
    }

    /// The sending port of a queue; `None` where there is no such queue.
    #[must_use]
    pub fn tx(&self, queue: usize) -> Option<TunTx> {
        let fd = Arc::clone(self.queues.get(queue)?);
        let socket = Arc::clone(&self.socket);
        Some(TunTx::new(fd, socket, self.describe(queue), self.offloads))
    }

    /// For statuses; the queue only where there are several.
    fn describe(&self, queue: usize) -> DriverInfo {
        DriverInfo {
            driver: "tun",
            mode: self.offloads.mode().to_owned(),
            interface: self.name.clone(),
            queue: u32::try_from(queue).ok().filter(|_| self.queues.len() > 1),
        }
    }

    /// Tells the kernel which super-packets we take; returns those it gives.
    fn enable_offloads(&self, wanted: bool) -> Kinds {
        let tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
        let attempts = [
            (tcp | TUN_F_USO4 | TUN_F_USO6, Kinds::ALL),
            (tcp, Kinds::TCP),
            (0, Kinds::NONE),
        ];
        let Some(queue) = self.queues.first() else {
            return Kinds::NONE;
        };
        for (flags, kinds) in attempts.into_iter().skip(if wanted { 0 } else { 2 }) {
            match set_number(queue.as_fd(), libc::TUNSETOFFLOAD, flags.into()) {
                Ok(()) => return kinds,
                Err(error) => {
                    let (interface, mode) = (&self.name, kinds.mode());
                    tracing::warn!("interface {interface}: no {mode} from this kernel: {error}");
                }
            }
        }
        Kinds::NONE
    }

    fn ask(&self, code: libc::Ioctl) -> io::Result<Request> {
        let mut request = Request::new(&self.name);
        request.submit(self.socket.as_fd(), code)?;
        Ok(request)
    }

    fn bring_up(&self) -> io::Result<()> {
        let flags = self.ask(libc::SIOCGIFFLAGS as _)?.flags();
        Request::new(&self.name)
            .with_flags(flags | libc::IFF_UP as i16)
            .submit(self.socket.as_fd(), libc::SIOCSIFFLAGS as _)
    }
}

/// The MTU of an interface in the network namespace of `socket`, in bytes.
pub(super) fn mtu(socket: &OwnedFd, interface: &str) -> io::Result<u32> {
    let mut request = Request::new(interface);
    request.submit(socket.as_fd(), libc::SIOCGIFMTU as _)?;
    Ok(request.int().cast_unsigned())
}

/// Creates the interface, or attaches another queue to it; returns its name.
fn attach(name: &str, multi: bool) -> Result<(OwnedFd, String), OpenError> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty()).map_err(|error| {
        use rustix::io::Errno;
        match error {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => OpenError::NoDriver {
                interface: name.to_owned(),
                source: error.into(),
            },
            _ => explain(name, "open /dev/net/tun")(error.into()),
        }
    })?;
    let multi = if multi { libc::IFF_MULTI_QUEUE } else { 0 };
    let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi;
    let mut request = Request::new(name).with_flags(kind as i16);
    request
        .submit(fd.as_fd(), libc::TUNSETIFF)
        .map_err(explain(name, "create"))?;
    // The default, but a persistent interface may have been given another.
    set_int(fd.as_fd(), libc::TUNSETVNETHDRSZ, vnet::HEADER as i32)
        .map_err(explain(name, "packet header"))?;
    Ok((fd, request.name()))
}

fn explain(interface: &str, step: &'static str) -> impl Fn(io::Error) -> OpenError {
    move |source| {
        let interface = interface.to_owned();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::Denied { interface },
            // EINVAL on creation: an interface of another kind has the name.
            Some(libc::EBUSY | libc::EEXIST) => OpenError::Taken { interface },
            Some(libc::EINVAL) if step == "create" => OpenError::Taken { interface },
            _ => OpenError::Kernel {
                interface,
                step,
                source,
            },
        }
    }
}

/// The kernel's rule (`dev_valid_name`).
fn valid_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && !matches!(name, "." | "..")
        && !name
            .bytes()
            .any(|byte| matches!(byte, 0 | b'/' | b':') || byte.is_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_names_are_refused_before_the_kernel_sees_them() {
        for name in ["", "a-name-too-long-", "a/b", "a b", "a:b", ".", ".."] {
            let error = Tun::open(&TunConfig::new(name)).unwrap_err();
            assert!(matches!(&error, OpenError::Name { name: bad } if bad == name));
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        assert!(valid_name("fifteen-bytes-x"));
        assert!(valid_name("wg%d"));
    }

    #[test]
    fn errors_name_the_interface_and_the_way_out() {
        let explained = |step, code| {
            let error = explain("kubespan", step)(io::Error::from_raw_os_error(code));
            error.to_string()
        };
        assert!(explained("create", libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(explained("create", libc::EBUSY).contains("interface kubespan exists already"));
        assert!(explained("create", libc::EINVAL).contains("interface kubespan exists already"));
        let other = explained("bring up", libc::EINVAL);
        assert!(
            other.starts_with("interface kubespan: bring up: "),
            "{other}"
        );
    }
}
