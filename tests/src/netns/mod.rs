//! Test networks: network namespaces joined by veth pairs and bridges.
//!
//! A [`Namespace`] has no name in `/run/netns`: a descriptor and a thread inside hold it, so that
//! it vanishes with its owner (links, addresses, children and all) however the owner ends: by
//! drop, by a panic, by a signal.

mod ethtool;
mod netlink;
mod route;
mod sysfs;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use self::netlink::RouteSocket;
pub use self::route::{Route, Rule};
use crate::child::{self, Process};

/// What could not be done to a test network.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing}: {source}")]
pub struct NetError {
    doing: String,
    source: io::Error,
}

trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NetError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, NetError> {
        self.map_err(|error| NetError {
            doing: doing(),
            source: error.into(),
        })
    }
}

/// Gets the handles of all children that were started so far, to add its own.
type Job = Box<dyn FnOnce(&mut Vec<OwnedFd>) + Send>;

/// A network namespace with its loopback up.
#[derive(Debug)]
pub struct Namespace {
    label: String,
    fd: OwnedFd,
    route: Mutex<RouteSocket>,
    /// Work for the keeper: the thread inside that children are started from, because a child is
    /// told to end when the thread that started it does.
    keeper: Sender<Job>,
}

impl Namespace {
    /// A new, empty namespace; `label` is for messages.
    ///
    /// # Errors
    /// Without `CAP_SYS_ADMIN` (see [`Need::Namespaces`](crate::privilege::Need::Namespaces)).
    pub fn new(label: impl Into<String>) -> Result<Self, NetError> {
        let label = label.into();
        let (keeper, jobs) = channel::<Job>();
        let (ready, made) = channel();
        thread::Builder::new()
            .name(format!("netns {label}"))
            .spawn(move || {
                let inside = enter_new();
                let failed = inside.is_err();
                if ready.send(inside).is_err() || failed {
                    return;
                }
                let mut children = Vec::new();
                for job in jobs {
                    job(&mut children);
                }
                // The end of this thread tells them too, but only those that had got as far as to
                // ask for it.
                for child in &children {
                    let _ = pidfd_send_signal(child, Signal::TERM);
                }
            })
            .doing(|| format!("start a thread for namespace {label}"))?;
        let (fd, route) = made
            .recv()
            .map_err(io::Error::other)
            .and_then(|inside| inside)
            .doing(|| format!("make network namespace {label}"))?;
        let namespace = Self {
            label,
            fd,
            route: Mutex::new(route),
            keeper,
        };
        namespace.up("lo")?;
        Ok(namespace)
    }

    /// The label it was made with.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// A path that names this namespace while this process lives: for `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            self.fd.as_raw_fd()
        ))
    }

    /// Runs `work` on a thread of its own inside. Threads and sockets made by it stay inside. A
    /// panic goes on in the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                self.enter();
                work()
            });
            match worker.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Moves the calling thread inside, for good.
    ///
    /// # Panics
    /// When the kernel refuses, which it cannot for a namespace that this process made.
    pub fn enter(&self) {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|error| panic!("cannot enter namespace {}: {error}", self.label));
    }

    /// Starts `program` inside. It is asked to end when the handle or the namespace is dropped,
    /// and when this process ends in any way. `configure` adds arguments and streams.
    ///
    /// # Errors
    /// When the process cannot be started. (That `program` does not exist shows in its exit.)
    pub fn spawn(
        &self,
        program: impl Into<PathBuf>,
        configure: impl FnOnce(&mut Command),
    ) -> Result<Process, NetError> {
        let program = program.into();
        let mut command = child::dying_with_parent(&program)
            .doing(|| format!("prepare {}", program.display()))?;
        configure(&mut command);
        self.start(command, &program.display().to_string())
    }

    /// Starts this binary inside again, in `role`; otherwise as [`spawn`](Self::spawn).
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn spawn_role(
        &self,
        role: &child::Role,
        arguments: &[&str],
        configure: impl FnOnce(&mut Command),
    ) -> Result<Process, NetError> {
        let mut command = role
            .command(arguments)
            .doing(|| format!("prepare {}", role.name))?;
        configure(&mut command);
        self.start(command, role.name)
    }

    fn start(&self, mut command: Command, name: &str) -> Result<Process, NetError> {
        let (done, started) = channel();
        let job: Job = Box::new(move |children| {
            let spawned = command.spawn();
            children.extend(spawned.as_ref().ok().and_then(handle_of));
            // A caller that is gone wants no child either.
            if let Err(lost) = done.send(spawned)
                && let Ok(mut child) = lost.0
            {
                let _ = child.kill();
                let _ = child.wait();
            }
        });
        self.keeper
            .send(job)
            .map_err(|_| io::Error::other("its thread has ended"))
            .and_then(|()| started.recv().map_err(io::Error::other))
            .and_then(|child| child)
            .map(|child| Process::new(child, name.to_owned()))
            .doing(|| format!("start {name} in namespace {}", self.label))
    }

    /// Makes a bridge and brings it up.
    ///
    /// # Errors
    /// When the kernel refuses: name taken or longer than 15 bytes.
    pub fn add_bridge(&self, name: &str) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("make bridge {name}"),
        )?;
        self.up(name)
    }

    /// Puts `link` under `bridge`, and up.
    ///
    /// # Errors
    /// When one of the two does not exist.
    pub fn attach(&self, link: &str, bridge: &str) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(link)?;
        message.attributes = vec![LinkAttribute::Controller(self.index(bridge)?)];
        self.change(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("attach {link} to {bridge}")
        })?;
        self.up(link)
    }

    /// Brings `link` up.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn up(&self, link: &str) -> Result<(), NetError> {
        self.set_up(link, true)
    }

    /// Takes `link` down.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn down(&self, link: &str) -> Result<(), NetError> {
        self.set_up(link, false)
    }

    fn set_up(&self, link: &str, up: bool) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(link)?;
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.change(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("set {link} {}", if up { "up" } else { "down" })
        })
    }

    /// Sets the MTU of `link`, in bytes.
    ///
    /// # Errors
    /// When the link does not exist or cannot have it.
    pub fn set_mtu(&self, link: &str, mtu: u32) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(link)?;
        message.attributes = vec![LinkAttribute::Mtu(mtu)];
        self.change(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("set the MTU of {link} to {mtu}")
        })
    }

    /// Moves `link` into `other`, where it is down and without addresses.
    ///
    /// # Errors
    /// When it does not exist, or its name is taken there.
    pub fn move_link(&self, link: &str, other: &Self) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(link)?;
        message.attributes = vec![LinkAttribute::NetNsFd(other.fd.as_raw_fd())];
        self.change(RouteNetlinkMessage::SetLink(message), 0, || {
            format!("move {link} to {}", other.label)
        })
    }

    /// Removes `link`, and a veth's other end with it.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn remove(&self, link: &str) -> Result<(), NetError> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(link)?;
        self.change(RouteNetlinkMessage::DelLink(message), 0, || {
            format!("remove {link}")
        })
    }

    /// Gives `link` an address, usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// When the link does not exist or has the address.
    pub fn add_address(&self, link: &str, address: impl Into<IpNet>) -> Result<(), NetError> {
        let address = address.into();
        let message = RouteNetlinkMessage::NewAddress(self.address_message(link, address)?);
        self.change(message, NLM_F_CREATE | NLM_F_EXCL, || {
            format!("give {link} the address {address}")
        })
    }

    /// Takes an address from `link`.
    ///
    /// # Errors
    /// When the link does not exist or does not have the address.
    pub fn remove_address(&self, link: &str, address: impl Into<IpNet>) -> Result<(), NetError> {
        let address = address.into();
        let message = RouteNetlinkMessage::DelAddress(self.address_message(link, address)?);
        self.change(message, 0, || format!("take {address} from {link}"))
    }

    fn address_message(&self, link: &str, address: IpNet) -> Result<AddressMessage, NetError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.addr());
        message.header.prefix_len = address.prefix_len();
        message.header.flags = AddressHeaderFlags::Nodad;
        message.header.scope = AddressScope::Universe;
        message.header.index = self.index(link)?;
        message.attributes = vec![
            AddressAttribute::Local(address.addr()),
            AddressAttribute::Address(address.addr()),
        ];
        Ok(message)
    }

    /// Switches offloads of `link`, by the kernel's names for them: `tx-tcp-segmentation`,
    /// `tx-udp-segmentation`, `tx-generic-segmentation`, `rx-gro`, `tx-checksum-ip-generic`, …
    ///
    /// # Errors
    /// When the link does not exist or a name is unknown.
    pub fn set_offloads(&self, link: &str, offloads: &[(&str, bool)]) -> Result<(), NetError> {
        self.run(|| ethtool::set_features(link, offloads))
            .doing(|| format!("switch {offloads:?} of {link}"))
    }

    /// Writes a value below `/proc/sys/net/`, for instance `ipv4/ip_forward`.
    ///
    /// # Errors
    /// When there is no such setting or it does not take the value.
    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<(), NetError> {
        let path = PathBuf::from("/proc/sys/net").join(name);
        self.run(|| fs::write(&path, value))
            .doing(|| format!("write {value} to {}", path.display()))
    }

    /// Writes an attribute of `link` that has its place in sysfs: `gro_flush_timeout`, say.
    ///
    /// # Errors
    /// When the link or the attribute does not exist, or does not take the value.
    pub fn set_link_attribute(
        &self,
        link: &str,
        attribute: &str,
        value: &str,
    ) -> Result<(), NetError> {
        self.run(|| sysfs::write(link, attribute, value))
            .doing(|| format!("set {attribute} of {link} to {value}"))
    }

    /// The index of `link`.
    ///
    /// # Errors
    /// When there is no such link here.
    pub fn index(&self, link: &str) -> Result<u32, NetError> {
        self.links()?
            .into_iter()
            .find(|message| name(message) == Some(link))
            .map(|message| message.header.index)
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .doing(|| format!("find the link {link} in namespace {}", self.label))
    }

    /// Waits for somebody else (a program that makes a TUN, a virtual machine its TAP) to make
    /// `link`.
    ///
    /// # Errors
    /// When it is not there within `limit`.
    pub fn wait_for_link(&self, link: &str, limit: Duration) -> Result<(), NetError> {
        let end = Instant::now() + limit;
        loop {
            match self.index(link) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// The id of the XDP program that runs on `link`, in whatever mode.
    ///
    /// # Errors
    /// When there is no such link here.
    pub fn xdp_program(&self, link: &str) -> Result<Option<u32>, NetError> {
        let links = self.links()?;
        let link = links
            .iter()
            .find(|message| name(message) == Some(link))
            .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
            .doing(|| format!("find the link {link} in namespace {}", self.label))?;
        let attributes = link
            .attributes
            .iter()
            .filter_map(|attribute| match attribute {
                LinkAttribute::Xdp(xdp) => Some(xdp),
                _ => None,
            });
        Ok(attributes.flatten().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) => Some(*id),
            _ => None,
        }))
    }

    fn links(&self) -> Result<Vec<LinkMessage>, NetError> {
        let found = self
            .socket()
            .dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))
            .doing(|| format!("list the links of namespace {}", self.label))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    fn change(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        doing: impl FnOnce() -> String,
    ) -> Result<(), NetError> {
        self.socket()
            .change(message, flags)
            .doing(|| format!("{} in namespace {}", doing(), self.label))
    }

    fn socket(&self) -> std::sync::MutexGuard<'_, RouteSocket> {
        // A panic between request and answer is the test's own end.
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A veth pair to be made.
#[derive(Clone, Copy, Debug)]
pub struct Veth {
    /// Transmit and receive queues of each end.
    pub queues: u32,
    /// MTU of both ends, in bytes.
    pub mtu: u32,
}

impl Default for Veth {
    /// One queue, 1500 bytes.
    fn default() -> Self {
        Self {
            queues: 1,
            mtu: 1500,
        }
    }
}

impl Veth {
    /// Joins two namespaces: `a_link` in `a`, `b_link` in `b`, both up.
    ///
    /// # Errors
    /// When a name is taken or longer than 15 bytes.
    pub fn join(
        self,
        a: &Namespace,
        a_link: &str,
        b: &Namespace,
        b_link: &str,
    ) -> Result<(), NetError> {
        let mut peer = LinkMessage::default();
        peer.attributes = self.attributes(b_link);
        peer.attributes
            .push(LinkAttribute::NetNsFd(b.fd.as_raw_fd()));
        let mut message = LinkMessage::default();
        message.attributes = self.attributes(a_link);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        a.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
            || format!("make the veth pair {a_link} and {b_link}"),
        )?;
        a.up(a_link)?;
        b.up(b_link)
    }

    fn attributes(self, name: &str) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
        ]
    }
}

/// A link name that no other test on this machine uses now: `prefix` and up to nine characters.
/// For what is named machine-wide, as the UAPI sockets of WireGuard devices are.
#[must_use]
pub fn unique_name(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    format!(
        "{prefix}{:x}x{:x}",
        std::process::id() & 0xff_ffff,
        NEXT.fetch_add(1, Relaxed) & 0xff
    )
}

/// Moves the calling thread into a new namespace.
fn enter_new() -> io::Result<(OwnedFd, RouteSocket)> {
    // What makes the function unsound, and deprecated, is CLONE_FILES alone.
    #[expect(deprecated)]
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    let namespace = fs::File::open("/proc/thread-self/ns/net")?;
    Ok((namespace.into(), RouteSocket::open()?))
}

/// What still means `child`, and nothing else, once it is gone.
fn handle_of(child: &Child) -> Option<OwnedFd> {
    pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok()
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.as_str()),
            _ => None,
        })
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
