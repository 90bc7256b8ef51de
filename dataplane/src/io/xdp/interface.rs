//! What a network interface says of itself: index, address, queues, link.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::error::XdpError;

/// `ETHTOOL_GLINK`, `ETHTOOL_GCHANNELS` (`linux/ethtool.h`).
const ETHTOOL_GLINK: u32 = 0x0a;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
/// `SIOCETHTOOL` (`linux/sockios.h`).
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// How often the link is looked at while we wait for it.
const LINK_POLL: Duration = Duration::from_millis(20);
/// A link must be there for this many looks in a row: a card that is about to reset may still
/// claim its link right after the call that resets it.
const LINK_STEADY: u32 = 5;

/// How many receive queues an interface has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Queues {
    /// So many are in use.
    Exactly(u32),
    /// The driver does not tell; it has no more than these.
    AtMost(u32),
}

/// An Ethernet interface of the network namespace that it was looked up in.
#[derive(Debug)]
pub struct Interface {
    name: String,
    index: u32,
    mac: [u8; 6],
    mtu: u32,
    /// Any socket serves: it only gives the ioctls their namespace, also when the calling
    /// thread has moved to another one since.
    control: OwnedFd,
}

impl Interface {
    /// Another handle of the same interface.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            name: self.name.clone(),
            control: self.control.try_clone()?,
            ..*self
        })
    }

    /// Looks up the interface `name` in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`XdpError::UnknownInterface`], [`XdpError::NotEthernet`], [`XdpError::Interface`].
    pub fn by_name(name: &str) -> Result<Self, XdpError> {
        let unknown = |source| XdpError::UnknownInterface {
            name: name.to_owned(),
            source,
        };
        let control = control_socket().map_err(unknown)?;
        let mut request = Request::new(name).map_err(unknown)?;
        request
            .call(&control, libc::SIOCGIFINDEX)
            .map_err(unknown)?;
        let index = request.number().cast_unsigned();

        let failed = |what| {
            move |source| XdpError::Interface {
                name: name.to_owned(),
                what,
                source,
            }
        };
        request
            .call(&control, libc::SIOCGIFHWADDR)
            .map_err(failed("hardware address"))?;
        let (hardware, mac) = request.hardware_address();
        if hardware != libc::ARPHRD_ETHER {
            return Err(XdpError::NotEthernet {
                name: name.to_owned(),
                hardware,
            });
        }
        request
            .call(&control, libc::SIOCGIFMTU)
            .map_err(failed("MTU"))?;
        Ok(Self {
            name: name.to_owned(),
            index,
            mac,
            mtu: request.number().cast_unsigned(),
            control,
        })
    }

    /// Its name when it was looked up.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Its hardware address when it was looked up.
    #[must_use]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Its MTU in bytes (IP packet, without the Ethernet header) when it was looked up.
    #[must_use]
    pub const fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Its MTU at this moment, in bytes.
    ///
    /// # Errors
    /// When the interface is gone.
    pub fn current_mtu(&self) -> io::Result<u32> {
        let mut request = Request::new(&self.name)?;
        request.call(&self.control, libc::SIOCGIFMTU)?;
        Ok(request.number().cast_unsigned())
    }

    /// Its receive queues at this moment. Ask after a program was attached: drivers add queues
    /// then (virtio_net one for each CPU, where the card has spare ones).
    ///
    /// # Errors
    /// [`XdpError::Interface`] where the kernel knows nothing of it any more.
    pub fn queues(&self) -> Result<Queues, XdpError> {
        let failed = |source| XdpError::Interface {
            name: self.name.clone(),
            what: "queues",
            source,
        };
        let mut channels = Channels {
            command: ETHTOOL_GCHANNELS,
            ..Channels::default()
        };
        let mut request = Request::new(&self.name).map_err(failed)?;
        match request.ethtool(&self.control, &mut channels) {
            Ok(()) => Ok(Queues::Exactly(
                channels.combined.saturating_add(channels.rx).max(1),
            )),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Ok(Queues::AtMost(self.queues_in_sysfs()))
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// For drivers without ethtool channels (tun). sysfs shows one network namespace, perhaps
    /// not ours: its answer counts only when it speaks of the same interface.
    fn queues_in_sysfs(&self) -> u32 {
        let folder = std::path::Path::new("/sys/class/net").join(&self.name);
        let same = std::fs::read_to_string(folder.join("ifindex"))
            .is_ok_and(|index| index.trim() == self.index.to_string());
        let Ok(entries) = std::fs::read_dir(folder.join("queues")) else {
            return MOST_QUEUES;
        };
        if !same {
            return MOST_QUEUES;
        }
        let receiving = entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
            .count();
        u32::try_from(receiving)
            .unwrap_or(MOST_QUEUES)
            .clamp(1, MOST_QUEUES)
    }

    /// Whether frames can flow: it is up and has a carrier.
    #[must_use]
    pub fn has_link(&self) -> bool {
        let Ok(mut request) = Request::new(&self.name) else {
            return false;
        };
        if request.call(&self.control, libc::SIOCGIFFLAGS).is_err() {
            return false;
        }
        let wanted = libc::IFF_UP | libc::IFF_RUNNING;
        if request.flags() & wanted != wanted {
            return false;
        }
        // IFF_RUNNING follows the carrier with a delay; ethtool reads it.
        let mut link = EthtoolValue {
            command: ETHTOOL_GLINK,
            data: 0,
        };
        match request.ethtool(&self.control, &mut link) {
            Ok(()) => link.data != 0,
            Err(_) => true,
        }
    }

    /// Waits until the link is there and stays: real cards reset when a program is attached or
    /// a zero-copy socket bound, and lose what is sent meanwhile (igb: 0.5 s, up to 3 s).
    /// False when it is not back after `patience`.
    #[must_use]
    pub fn wait_for_link(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut steady = 0;
        loop {
            steady = if self.has_link() { steady + 1 } else { 0 };
            if steady >= LINK_STEADY {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(LINK_POLL);
        }
    }
}

/// More queues than this are not looked for where the driver does not tell.
const MOST_QUEUES: u32 = 64;

fn control_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a non-negative answer is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    command: u32,
    data: u32,
}

/// A structure that `SIOCETHTOOL` fills.
///
/// # Safety
/// It must begin with the command's number and be at least as long as the structure that the
/// kernel writes for that command.
unsafe trait EthtoolRequest {}
// SAFETY: the layout of the kernel's structure, made for ETHTOOL_GCHANNELS alone.
unsafe impl EthtoolRequest for Channels {}
// SAFETY: the layout of the kernel's structure, made for ETHTOOL_GLINK alone.
unsafe impl EthtoolRequest for EthtoolValue {}

/// `struct ifreq`: the name of an interface and a union of answers.
struct Request(libc::ifreq);

impl Request {
    fn new(name: &str) -> io::Result<Self> {
        // SAFETY: all fields of `ifreq` are integers, arrays and raw pointers: zeroes are valid.
        let mut request: libc::ifreq = unsafe { core::mem::zeroed() };
        let bytes = name.as_bytes();
        // One byte stays for the terminating zero.
        if bytes.is_empty() || bytes.contains(&0) || bytes.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (to, from) in request.ifr_name.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        Ok(Self(request))
    }

    fn call(&mut self, control: &OwnedFd, request: libc::Ioctl) -> io::Result<()> {
        // SAFETY: `self.0` is a whole `ifreq`, which is what every request used here reads and
        // writes; where it carries a pointer (`ethtool`), that is valid during the call.
        if unsafe { libc::ioctl(control.as_raw_fd(), request, &raw mut self.0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    fn ethtool<T: EthtoolRequest>(&mut self, control: &OwnedFd, data: &mut T) -> io::Result<()> {
        self.0.ifr_ifru.ifru_data = (&raw mut *data).cast();
        self.call(control, SIOCETHTOOL)
    }

    /// The answer to `SIOCGIFINDEX` and `SIOCGIFMTU`.
    fn number(&self) -> i32 {
        // SAFETY: every bit pattern of the union is a valid integer.
        unsafe { self.0.ifr_ifru.ifru_ifindex }
    }

    /// The answer to `SIOCGIFFLAGS`.
    fn flags(&self) -> i32 {
        // SAFETY: as for `number`.
        i32::from(unsafe { self.0.ifr_ifru.ifru_flags })
    }

    /// The answer to `SIOCGIFHWADDR`: hardware type and address.
    fn hardware_address(&self) -> (u16, [u8; 6]) {
        // SAFETY: every bit pattern of the union is a valid `sockaddr`.
        let address = unsafe { self.0.ifr_ifru.ifru_hwaddr };
        let [a, b, c, d, e, f, ..] = address.sa_data.map(i8::cast_unsigned);
        (address.sa_family, [a, b, c, d, e, f])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_not_ethernet() {
        let error = Interface::by_name("lo").unwrap_err();
        assert!(matches!(error, XdpError::NotEthernet { hardware: 772, .. }));
    }

    #[test]
    fn bad_names_are_named() {
        for name in ["", "no-such-if0", "a-name-of-more-than-fifteen", "nul\0"] {
            let error = Interface::by_name(name).unwrap_err();
            assert!(matches!(&error, XdpError::UnknownInterface { name: n, .. } if n == name));
            assert!(error.to_string().contains(&format!("{name:?}")));
        }
    }
}
