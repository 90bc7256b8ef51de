//! The XDP program: loading it, telling it what is ours, and putting it on an interface.
//!
//! The program itself is in `ebpf/`; its object is committed beside this file and embedded, so
//! that no eBPF toolchain is needed. It hands datagrams to our ports and addresses to the AF_XDP
//! socket of the queue they came in on and passes everything else (docs/xdp-program.md).

mod error;
mod link;
mod occupant;
mod privilege;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use ringspan_xdp_common::{Verdict, maps};
use rustix::io::Errno;

pub use error::{AttachError, LoadError, Occupant, UpdateError};

/// The committed object.
static OBJECT: &[u8] = include_bytes_aligned!("program/ringspan-xdp.o");

/// How the program is to be attached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mode {
    /// Native, or generic where the driver cannot.
    #[default]
    Auto,
    /// Run by the driver, before the kernel makes a packet of the frame.
    Native,
    /// Run by the kernel's network stack; works on any interface, at the price of a copy.
    Generic,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "any",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// How the program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AttachedMode {
    /// Run by the driver.
    Native,
    /// Run by the kernel's network stack.
    Generic,
}

impl fmt::Display for AttachedMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// Which destination addresses are ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalAddresses<'a> {
    /// All: right for an interface that receives nothing to be routed or bridged on.
    Any,
    /// These; at most [`maps::MAX_ADDRESSES`].
    Only(&'a [IpAddr]),
}

/// The loaded program, for one interface. Dropping it detaches and unloads it.
///
/// It stays on the interface until the driver's sockets there are closed, whichever is dropped
/// first: a card in zero-copy mode lets go of them more gracefully while the program is there.
pub struct XdpProgram {
    program: ProgramFd,
    name: &'static str,
    // Kept for test runs; owns the program's other half.
    ebpf: Ebpf,
    ports: Array<MapData, u64>,
    port_words: BTreeMap<u32, u64>,
    addresses: HashMap<MapData, [u8; 16], u8>,
    address_keys: BTreeSet<[u8; 16]>,
    settings: Array<MapData, u32>,
    sockets: XskMap<MapData>,
    counters: PerCpuArray<MapData, u64>,
    attached: Option<Attached>,
}

struct Attached {
    interface: String,
    mode: AttachedMode,
    // Detaches when it is closed: the sockets of the interface hold it too.
    link: Arc<OwnedFd>,
}

impl XdpProgram {
    /// Loads the embedded program, to steer UDP datagrams to any of `ports` at any address.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(ports: &[u16]) -> Result<Self, LoadError> {
        Self::load_object(OBJECT, ports)
    }

    /// Loads another build of the program; otherwise as [`load`](Self::load).
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_object(object: &[u8], ports: &[u16]) -> Result<Self, LoadError> {
        let mut loaded = Self::load_program(object, maps::PROGRAM)?;
        loaded.set_ports(ports)?;
        Ok(loaded)
    }

    /// Loads the embedded program of an inner interface with hardware address `mac`: to steer
    /// unicast packets to other than local addresses. What [`set_addresses`](Self::set_addresses)
    /// names is the kernel's.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_inner(mac: [u8; 6]) -> Result<Self, LoadError> {
        Self::load_inner_object(OBJECT, mac)
    }

    /// Loads another build of that program.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load_inner_object(object: &[u8], mac: [u8; 6]) -> Result<Self, LoadError> {
        let mut loaded = Self::load_program(object, maps::INNER_PROGRAM)?;
        for (key, value) in maps::SETTING_MAC.into_iter().zip(maps::mac_settings(mac)) {
            loaded
                .settings
                .set(key, value, 0)
                .map_err(UpdateError::on("settings map"))?;
        }
        Ok(loaded)
    }

    fn load_program(object: &[u8], name: &'static str) -> Result<Self, LoadError> {
        // The object has no type information to be matched with the kernel's.
        let mut ebpf = EbpfLoader::new().btf(None).load(object)?;
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .ok_or(LoadError::Incomplete(name))?
            .try_into()
            .map_err(aya::EbpfError::from)?;
        program.load().map_err(aya::EbpfError::from)?;
        let program = program
            .fd()
            .and_then(|fd| fd.try_clone().map_err(Into::into))
            .map_err(aya::EbpfError::from)?;
        let mut loaded = Self {
            program,
            name,
            ports: map(&mut ebpf, maps::PORTS)?,
            port_words: BTreeMap::new(),
            addresses: map(&mut ebpf, maps::ADDRESSES)?,
            address_keys: BTreeSet::new(),
            settings: map(&mut ebpf, maps::SETTINGS)?,
            sockets: map(&mut ebpf, maps::SOCKETS)?,
            counters: map(&mut ebpf, maps::COUNTERS)?,
            ebpf,
            attached: None,
        };
        loaded.set_addresses(LocalAddresses::Any)?;
        Ok(loaded)
    }

    /// Makes `ports` the UDP destination ports that are ours. Ports that stay are never out of
    /// service.
    ///
    /// # Errors
    /// [`UpdateError::Kernel`]; then some of the change may have been made.
    pub fn set_ports(&mut self, ports: &[u16]) -> Result<(), UpdateError> {
        let mut words = BTreeMap::new();
        for &port in ports {
            *words.entry(maps::port_word(port)).or_default() |= maps::port_bit(port);
        }
        let gone = self
            .port_words
            .keys()
            .filter(|word| !words.contains_key(word));
        let changes: Vec<_> = gone
            .map(|&word| (word, 0))
            .chain(words.iter().map(|(&word, &bits)| (word, bits)))
            .filter(|(word, bits)| self.port_words.get(word) != Some(bits))
            .collect();
        for (word, bits) in changes {
            self.ports
                .set(word, bits, 0)
                .map_err(UpdateError::on("port map"))?;
            self.port_words.insert(word, bits);
        }
        Ok(())
    }

    /// Makes `addresses` the destination addresses that are ours; [`LocalAddresses::Any`] after
    /// loading. Addresses that stay are never out of service.
    ///
    /// # Errors
    /// [`UpdateError::TooManyAddresses`], and nothing has changed; [`UpdateError::Kernel`], and
    /// some of the change may have been made.
    pub fn set_addresses(&mut self, addresses: LocalAddresses<'_>) -> Result<(), UpdateError> {
        let (any, keys) = match addresses {
            LocalAddresses::Any => (1, BTreeSet::new()),
            LocalAddresses::Only(list) => (
                0,
                list.iter()
                    .map(|ip| maps::address_key(ip.to_canonical()))
                    .collect(),
            ),
        };
        if keys.len() > maps::MAX_ADDRESSES as usize {
            return Err(UpdateError::TooManyAddresses {
                count: keys.len(),
                limit: maps::MAX_ADDRESSES,
            });
        }
        // Old ones first if both do not fit at once; otherwise new ones first, then the switch.
        let old: Vec<_> = self.address_keys.difference(&keys).copied().collect();
        let new: Vec<_> = keys.difference(&self.address_keys).copied().collect();
        if self.address_keys.len() + new.len() > maps::MAX_ADDRESSES as usize {
            self.remove_addresses(&old)?;
        }
        for key in new {
            self.addresses
                .insert(key, 0, 0)
                .map_err(UpdateError::on("address map"))?;
            self.address_keys.insert(key);
        }
        self.settings
            .set(maps::SETTING_ANY_ADDRESS, any, 0)
            .map_err(UpdateError::on("settings map"))?;
        self.remove_addresses(&old)
    }

    /// Whether the sockets take frames of several buffers (`XDP_USE_SG`); not, after loading. If not,
    /// a datagram that does not lie in a frame's first buffer whole is left to the kernel; a socket
    /// that does not take several buffers would drop it.
    ///
    /// # Errors
    /// [`UpdateError::Kernel`].
    pub fn set_multi_buffer(&mut self, taken: bool) -> Result<(), UpdateError> {
        self.settings
            .set(maps::SETTING_MULTI_BUFFER, u32::from(taken), 0)
            .map_err(UpdateError::on("settings map"))
    }

    fn remove_addresses(&mut self, keys: &[[u8; 16]]) -> Result<(), UpdateError> {
        for key in keys {
            if self.address_keys.contains(key) {
                self.addresses
                    .remove(key)
                    .map_err(UpdateError::on("address map"))?;
                self.address_keys.remove(key);
            }
        }
        Ok(())
    }

    /// Attaches the program to the interface with index `interface` until it is dropped or
    /// [detached](Self::detach), or the process ends.
    ///
    /// # Errors
    /// See [`AttachError`]. A program that is there already stays.
    pub fn attach(&mut self, interface: u32, mode: Mode) -> Result<AttachedMode, AttachError> {
        if let Some(attached) = &self.attached {
            return Err(AttachError::Attached(attached.interface.clone()));
        }
        let name = interface_name(interface)?;
        let native = || self.attach_as(interface, &name, link::NATIVE, Mode::Native);
        let generic = || self.attach_as(interface, &name, link::GENERIC, Mode::Generic);
        let (mode, link) = match mode {
            Mode::Native => (AttachedMode::Native, native()?),
            Mode::Generic => (AttachedMode::Generic, generic()?),
            Mode::Auto => match native() {
                Ok(link) => (AttachedMode::Native, link),
                Err(AttachError::Refused { source, .. }) => {
                    tracing::warn!(
                        interface = name,
                        reason = %source,
                        "no native XDP on this interface; attaching in generic mode"
                    );
                    (AttachedMode::Generic, generic()?)
                }
                Err(other) => return Err(other),
            },
        };
        self.attached = Some(Attached {
            interface: name,
            mode,
            link: Arc::new(link),
        });
        Ok(mode)
    }

    fn attach_as(
        &self,
        interface: u32,
        name: &str,
        flags: u32,
        mode: Mode,
    ) -> Result<OwnedFd, AttachError> {
        link::create(self.program.as_fd(), interface, flags).map_err(|source| {
            let interface_name = name.to_owned();
            match Errno::from_io_error(&source) {
                // EBUSY: a program in this mode; EEXIST: one in the other mode.
                Some(Errno::BUSY | Errno::EXIST) => AttachError::Occupied {
                    interface: interface_name,
                    occupant: occupant::occupant(interface),
                },
                Some(Errno::PERM) => AttachError::NotPermitted {
                    interface: interface_name,
                    missing: privilege::missing(),
                },
                Some(Errno::NODEV) => AttachError::NoInterface(interface),
                _ => AttachError::Refused {
                    interface: interface_name,
                    mode,
                    source,
                },
            }
        })
    }

    /// Takes the program off its interface, as soon as the last AF_XDP socket there is closed;
    /// does nothing if it is on none. It stays loaded.
    pub fn detach(&mut self) {
        self.attached = None;
    }

    /// How the program is attached, if it is.
    #[must_use]
    pub fn attached(&self) -> Option<AttachedMode> {
        self.attached.as_ref().map(|attached| attached.mode)
    }

    /// The name of the interface that the program is attached to, if it is to one.
    pub(super) fn interface(&self) -> Option<&str> {
        Some(&self.attached.as_ref()?.interface)
    }

    /// The link that keeps the program on its interface, if it is on one.
    pub(super) fn link(&self) -> Option<Arc<OwnedFd>> {
        Some(Arc::clone(&self.attached.as_ref()?.link))
    }

    /// Steers our datagrams of receive queue `queue` into the AF_XDP socket `socket`, which must
    /// be bound to that queue of the interface; frames for a socket that is not are dropped.
    ///
    /// # Errors
    /// [`UpdateError::NoSuchQueue`]; [`UpdateError::Kernel`] if it is not a bound AF_XDP socket.
    pub fn register(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), UpdateError> {
        check_queue(queue)?;
        self.sockets
            .set(queue, socket.as_raw_fd(), 0)
            .map_err(UpdateError::on("socket map"))
    }

    /// Leaves the datagrams of receive queue `queue` to the kernel again. Closing a socket does
    /// the same by itself.
    ///
    /// # Errors
    /// [`UpdateError::NoSuchQueue`]; [`UpdateError::Kernel`].
    pub fn unregister(&mut self, queue: u32) -> Result<(), UpdateError> {
        check_queue(queue)?;
        self.sockets
            .unset(queue)
            .map_err(UpdateError::on("socket map"))
    }

    /// Frames by verdict since loading, all CPUs together: name and count.
    ///
    /// # Errors
    /// [`UpdateError::Kernel`].
    pub fn counters(&self) -> Result<[(&'static str, u64); Verdict::ALL.len()], UpdateError> {
        let mut counters = Verdict::ALL.map(|verdict| (verdict.name(), 0));
        for (counter, verdict) in counters.iter_mut().zip(Verdict::ALL) {
            let per_cpu = self
                .counters
                .get(&verdict.index(), 0)
                .map_err(UpdateError::on("counter map"))?;
            counter.1 = per_cpu.iter().sum();
        }
        Ok(counters)
    }

    /// Runs the program on `frame` without any interface (BPF_PROG_RUN) and returns its action:
    /// 2 is `XDP_PASS`, 4 `XDP_REDIRECT` (`enum xdp_action` in `linux/bpf.h`). The frame counts.
    ///
    /// # Errors
    /// [`UpdateError::Kernel`]; `EINVAL` for a frame shorter than an Ethernet header.
    pub fn test_run(&mut self, frame: &[u8]) -> Result<u32, UpdateError> {
        const WHAT: &str = "test run";
        let program: &Xdp = self
            .ebpf
            .program(self.name)
            .ok_or(aya::programs::ProgramError::NotLoaded)
            .and_then(TryInto::try_into)
            .map_err(UpdateError::on(WHAT))?;
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let result = program.test_run(options).map_err(UpdateError::on(WHAT))?;
        Ok(result.return_value)
    }
}

/// The loaded program's descriptor.
impl AsFd for XdpProgram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }
}

impl fmt::Debug for XdpProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XdpProgram")
            .field("interface", &self.attached.as_ref().map(|a| &a.interface))
            .field("mode", &self.attached())
            .finish_non_exhaustive()
    }
}

/// Takes the map `name` out of the loaded object.
fn map<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError>
where
    M: TryFrom<Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).ok_or(LoadError::Incomplete(name))?;
    Ok(M::try_from(map).map_err(aya::EbpfError::from)?)
}

fn check_queue(queue: u32) -> Result<(), UpdateError> {
    if queue < maps::MAX_QUEUES {
        Ok(())
    } else {
        Err(UpdateError::NoSuchQueue {
            queue,
            limit: maps::MAX_QUEUES,
        })
    }
}

fn interface_name(index: u32) -> Result<String, AttachError> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let name = socket(AddressFamily::UNIX, SocketType::DGRAM, None)
        .and_then(|socket| netdevice::index_to_name(socket, index));
    match name {
        Ok(name) => Ok(name),
        Err(Errno::NODEV | Errno::NXIO) => Err(AttachError::NoInterface(index)),
        // The name is for messages; attaching goes by the index.
        Err(_) => Ok(format!("interface {index}")),
    }
}
