//! Two sockets on one port.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering::Relaxed};

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};

use super::self_test::{self, Verdict};
use super::{MAX_DATAGRAM, UdpRx, UdpSender, UdpTx, gro, options};

/// How the port is bound.
#[derive(Clone, Debug)]
pub struct UdpConfig {
    /// The UDP port; 0 lets the kernel choose one that is free for both families.
    pub port: u16,
    /// The firewall mark of everything sent (`SO_MARK`); 0 for none. Needs `CAP_NET_ADMIN`.
    pub fwmark: u32,
    /// Whether to send runs of equal datagrams as one message, where the kernel can.
    pub gso: bool,
    /// Whether to let the kernel coalesce what it receives, where it can.
    pub gro: bool,
    /// The size of each socket's receive and send buffer in bytes. Without `CAP_NET_ADMIN` the
    /// system's `net.core.rmem_max` and `wmem_max` cap it.
    pub buffer_bytes: usize,
    /// The longest datagram received, in bytes, at least 2048 and at most [`MAX_DATAGRAM`]; longer
    /// ones are counted and dropped.
    pub max_datagram: usize,
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            port: 0,
            fwmark: 0,
            gso: true,
            gro: true,
            buffer_bytes: 7 << 20,
            max_datagram: MAX_DATAGRAM,
        }
    }
}

/// Why the port could not be bound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// Somebody else has the port.
    #[error(
        "port {port} is taken: another program or a WireGuard interface of the kernel listens \
         on it; stop that or choose another listen port"
    )]
    PortTaken {
        /// The port asked for.
        port: u16,
    },
    /// We may not have the port.
    #[error(
        "port {port} is not permitted: ports below net.ipv4.ip_unprivileged_port_start (1024) \
         need CAP_NET_BIND_SERVICE; run as root or choose a higher listen port"
    )]
    PortDenied {
        /// The port asked for.
        port: u16,
    },
    /// We may not mark packets.
    #[error("firewall mark {mark:#x} is not permitted: it needs CAP_NET_ADMIN; run as root")]
    MarkDenied {
        /// The mark asked for.
        mark: u32,
    },
    /// The kernel refuses something else.
    #[error("port {port}: {step}: {source}")]
    Socket {
        /// The port asked for.
        port: u16,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A bound port: an IPv4 and an IPv6 socket. Cheap to clone; the sockets close with the last
/// clone and the last driver made from it.
#[derive(Clone, Debug)]
pub struct UdpPort {
    pub(super) sockets: Arc<Sockets>,
}

/// What all users of a port share.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) v4: OwnedFd,
    /// `None` where the system has no IPv6.
    pub(super) v6: Option<OwnedFd>,
    port: AtomicU16,
    fwmark: AtomicU32,
    buffer_bytes: usize,
    pub(super) max_datagram: usize,
    pub(super) gro: bool,
    gso: AtomicBool,
}

impl UdpPort {
    /// Binds both families and tries the offloads asked for.
    ///
    /// # Errors
    /// When the port is taken or not permitted, or a socket cannot be had. A missing IPv6 and
    /// offloads that do not work are logged, not errors.
    pub fn bind(config: &UdpConfig) -> Result<Self, BindError> {
        let (v4, v6, port) = bind_families(config.port)?;
        let mut sockets = Sockets {
            v4,
            v6,
            port: AtomicU16::new(port),
            fwmark: AtomicU32::new(config.fwmark),
            buffer_bytes: config.buffer_bytes,
            max_datagram: config.max_datagram.clamp(2048, MAX_DATAGRAM),
            gro: false,
            gso: AtomicBool::new(false),
        };
        for (fd, family) in sockets.families() {
            sockets.set_up(fd, family)?;
        }
        let segmentation = self_test::segmentation();
        sockets.gso = AtomicBool::new(usable("UDP_SEGMENT", config.gso, &segmentation));
        sockets.gro = match segmentation {
            // The test of coalescing sends segments; without them nothing can be said.
            Verdict::Broken(reason) if config.gro => {
                tracing::warn!("UDP_GRO stays off, it cannot be tested: {reason}");
                false
            }
            _ => usable("UDP_GRO", config.gro, &self_test::coalescing()),
        } && sockets.enable_gro();
        Ok(Self {
            sockets: Arc::new(sockets),
        })
    }

    /// The port bound.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.sockets.port()
    }

    /// Whether there is an IPv6 socket.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.sockets.v6.is_some()
    }

    /// A receiver over both families. Two of them share the traffic, and lose its order.
    #[must_use]
    pub fn rx(&self) -> UdpRx {
        UdpRx::new(Arc::clone(&self.sockets))
    }

    /// A transmitter: one for each worker.
    #[must_use]
    pub fn tx(&self) -> UdpTx {
        UdpTx::new(Arc::clone(&self.sockets))
    }

    /// A sender of single datagrams, for the control thread.
    #[must_use]
    pub fn sender(&self) -> UdpSender {
        UdpSender::new(Arc::clone(&self.sockets))
    }

    /// Changes the firewall mark of everything sent from now on; 0 for none.
    ///
    /// # Errors
    /// Without `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, mark: u32) -> Result<(), BindError> {
        for fd in self.sockets.all() {
            self.sockets.set_mark(fd, mark)?;
        }
        self.sockets.fwmark.store(mark, Relaxed);
        Ok(())
    }

    /// The firewall mark; 0 for none.
    #[must_use]
    pub fn fwmark(&self) -> u32 {
        self.sockets.fwmark.load(Relaxed)
    }

    /// Moves to another port (0 has the kernel choose) with everything made from this one:
    /// descriptors keep their numbers and get new sockets. What waits in the old sockets is lost,
    /// as in the kernel.
    ///
    /// Whoever waits for the descriptors in an epoll set must register them again: the kernel
    /// forgets the old sockets.
    ///
    /// # Errors
    /// As [`bind`](Self::bind), with nothing changed.
    pub fn rebind(&self, port: u16) -> Result<(), BindError> {
        if port != 0 && port == self.port() {
            return Ok(());
        }
        let (v4, v6, port) = bind_families(port)?;
        let sockets = &self.sockets;
        // Nothing is replaced before everything is ready.
        let pairs = [
            Some((Family::V4, &sockets.v4, v4)),
            sockets
                .v6
                .as_ref()
                .zip(v6)
                .map(|(old, new)| (Family::V6, old, new)),
        ];
        for (family, _, new) in pairs.iter().flatten() {
            sockets.set_up(new.as_fd(), *family)?;
            if sockets.gro {
                gro::enable(new.as_fd()).map_err(sockets.failed("UDP_GRO"))?;
            }
        }
        for (_, old, new) in pairs.into_iter().flatten() {
            replace(old, &new).map_err(sockets.failed("replacing a socket"))?;
        }
        sockets.port.store(port, Relaxed);
        Ok(())
    }
}

impl Sockets {
    /// The socket for the family of `to`.
    pub(super) fn towards(&self, to: &SocketAddr) -> Option<BorrowedFd<'_>> {
        match to {
            SocketAddr::V4(_) => Some(self.v4.as_fd()),
            SocketAddr::V6(_) => self.v6.as_ref().map(AsFd::as_fd),
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        core::iter::once(&self.v4).chain(&self.v6).map(AsFd::as_fd)
    }

    fn families(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Family)> {
        let v6 = self.v6.as_ref().map(|fd| (fd.as_fd(), Family::V6));
        core::iter::once((self.v4.as_fd(), Family::V4)).chain(v6)
    }

    pub(super) fn port(&self) -> u16 {
        self.port.load(Relaxed)
    }

    pub(super) fn gso(&self) -> bool {
        self.gso.load(Relaxed)
    }

    /// Sends singly from now on, on every worker.
    pub(super) fn stop_gso(&self, reason: &io::Error) {
        if self.gso.swap(false, Relaxed) {
            tracing::warn!("UDP_SEGMENT is off from now on: {reason}");
        }
    }

    /// Whether the kernel has been told to coalesce, on every socket.
    fn enable_gro(&self) -> bool {
        for fd in self.all() {
            if let Err(error) = gro::enable(fd) {
                tracing::warn!("UDP_GRO stays off: {error}");
                return false;
            }
        }
        true
    }

    fn set_up(&self, fd: BorrowedFd<'_>, family: Family) -> Result<(), BindError> {
        let mark = self.fwmark.load(Relaxed);
        if mark != 0 {
            self.set_mark(fd, mark)?;
        }
        let receive = (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
        let send = (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
        for (force, polite) in [receive, send] {
            options::set_buffer(fd, force, polite, self.buffer_bytes)
                .map_err(self.failed("buffer sizes"))?;
        }
        for (level, name, value) in family.options() {
            options::set(fd, level, name, value).map_err(self.failed("socket options"))?;
        }
        Ok(())
    }

    fn set_mark(&self, fd: BorrowedFd<'_>, mark: u32) -> Result<(), BindError> {
        options::set_mark(fd, mark).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => BindError::MarkDenied { mark },
            _ => self.failed("firewall mark")(source),
        })
    }

    fn failed(&self, step: &'static str) -> impl Fn(io::Error) -> BindError {
        let port = self.port.load(Relaxed);
        move |source| BindError::Socket { port, step, source }
    }
}

/// An address family, and what its socket is told.
#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Level, name and value of its socket options.
    fn options(self) -> Vec<(i32, i32, i32)> {
        match self {
            Self::V4 => vec![
                (libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
                (libc::IPPROTO_IP, libc::IP_RECVTOS, 1),
                // As the kernel's WireGuard sends: the outer header may be fragmented on its way.
                (
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_DONT,
                ),
            ],
            Self::V6 => vec![
                (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
                (libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1),
            ],
        }
    }
}

/// Has the descriptor `old` stand for the socket of `new` from now on. The socket that it stood
/// for closes when the last system call on it returns.
fn replace(old: &OwnedFd, new: &OwnedFd) -> io::Result<()> {
    // SAFETY: both descriptors are open and ours for the whole call. `old` is open afterwards
    // too, with the same owner; that it stands for another socket breaks nobody's assumption,
    // because all its users only send, receive and poll.
    let result = unsafe { libc::dup3(new.as_raw_fd(), old.as_raw_fd(), libc::O_CLOEXEC) };
    if result >= 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn bind_families(port: u16) -> Result<(OwnedFd, Option<OwnedFd>, u16), BindError> {
    // A port that the kernel chooses for one family may be taken in the other: try a few.
    let attempts = if port == 0 { 16 } else { 1 };
    let mut last = BindError::PortTaken { port };
    for _ in 0..attempts {
        let v4 = bind_one(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
            .map_err(|source| explain(port, "bind IPv4", source))?;
        let chosen = bound_port(&v4).map_err(|source| explain(port, "getsockname", source))?;
        match bind_one(SocketAddr::from((Ipv6Addr::UNSPECIFIED, chosen))) {
            Ok(v6) => return Ok((v4, Some(v6), chosen)),
            Err(error) if no_ipv6(&error) => {
                tracing::warn!("no IPv6 on this system ({error}): port {chosen} is IPv4 only");
                return Ok((v4, None, chosen));
            }
            Err(error) => last = explain(chosen, "bind IPv6", error),
        }
        if !matches!(last, BindError::PortTaken { .. }) {
            break;
        }
    }
    Err(last)
}

fn bind_one(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.is_ipv6() {
        options::set(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    bind(&fd, &address)?;
    Ok(fd)
}

fn bound_port(fd: &OwnedFd) -> io::Result<u16> {
    let address = SocketAddr::try_from(getsockname(fd)?)?;
    Ok(address.port())
}

fn no_ipv6(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

fn explain(port: u16, step: &'static str, source: io::Error) -> BindError {
    match source.kind() {
        io::ErrorKind::AddrInUse => BindError::PortTaken { port },
        io::ErrorKind::PermissionDenied => BindError::PortDenied { port },
        _ => BindError::Socket { port, step, source },
    }
}

/// Whether an offload is used, after its wish and its test; says why not.
fn usable(offload: &str, wanted: bool, verdict: &Verdict) -> bool {
    match verdict {
        _ if !wanted => false,
        Verdict::Works => true,
        Verdict::Unknown(reason) => {
            tracing::debug!("{offload} could not be tested, run time will tell: {reason}");
            true
        }
        Verdict::Broken(reason) => {
            tracing::warn!("{offload} stays off: {reason}");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_port_and_the_way_out() {
        let explained = |code| explain(51820, "bind IPv4", io::Error::from_raw_os_error(code));
        let taken = explained(libc::EADDRINUSE).to_string();
        assert!(taken.starts_with("port 51820 is taken:"), "{taken}");
        let denied = explained(libc::EACCES).to_string();
        assert!(denied.contains("CAP_NET_BIND_SERVICE"), "{denied}");
        let other = explained(libc::ENOMEM).to_string();
        assert!(other.starts_with("port 51820: bind IPv4: "), "{other}");
    }

    #[test]
    fn a_port_moves_with_its_drivers() {
        use std::net::UdpSocket;

        let port = UdpPort::bind(&UdpConfig::default()).unwrap();
        let (first, drivers) = (port.port(), (port.rx(), port.tx()));
        port.rebind(0).unwrap();
        let second = port.port();
        assert_ne!(first, second);
        // The old port is free, the new one is taken, and a driver made before hears on it.
        let stranger = UdpSocket::bind(("0.0.0.0", first)).unwrap();
        assert!(UdpSocket::bind(("0.0.0.0", second)).is_err());
        stranger.send_to(b"hello", ("127.0.0.1", second)).unwrap();
        let (mut rx, _tx) = drivers;
        let mut heard = Vec::new();
        while heard.is_empty() {
            use crate::engine::port::OuterRx as _;
            rx.recv_batch(&mut |batch| {
                heard.extend(batch.iter().map(|datagram| datagram.payload.to_vec()));
            })
            .unwrap();
        }
        assert_eq!(heard, [b"hello".to_vec()]);

        let error = port.rebind(first).unwrap_err();
        assert!(
            matches!(error, BindError::PortTaken { port } if port == first),
            "{error}"
        );
        assert_eq!(port.port(), second, "a failed move changes nothing");
    }

    #[test]
    fn offloads_follow_wish_and_test() {
        let broken = Verdict::Broken("corrupt".to_owned());
        let unknown = Verdict::Unknown("no loopback".to_owned());
        for (wanted, verdict, expected) in [
            (true, &Verdict::Works, true),
            (false, &Verdict::Works, false),
            (true, &broken, false),
            (true, &unknown, true),
            (false, &unknown, false),
        ] {
            assert_eq!(usable("test", wanted, verdict), expected, "{verdict:?}");
        }
    }
}
