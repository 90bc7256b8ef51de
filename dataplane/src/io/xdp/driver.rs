//! Opening the driver: program on the interface, a socket on every queue.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use super::busy_poll::BusyPoll;
use super::error::XdpError;
use super::features::Features;
use super::interface::{Interface, Queues};
use super::metadata::TxChecksum;
use super::path::PathTable;
use super::program::{AttachError, AttachedMode, Mode, XdpProgram};
use super::queue::{LEAST_RING, XdpQueue};
use super::socket::{ZeroCopy, refuses_mode};
use super::tx::PAYLOAD_OFFSET;
use super::umem::{CHUNK_SIZE, MOST_RUN};

/// The most entries a ring may have here: 128 MiB of frames.
const MOST_RING: u32 = 32768;

/// The most frames besides: an inner queue's to receive into and to copy into.
const MOST_SPARE: u32 = 2 * MOST_RING;

/// The most headers before a datagram that is received: Ethernet, two VLAN tags, IPv4 with all its
/// options, UDP.
pub(super) const MOST_RECEIVED_HEADERS: usize = 14 + 8 + 60 + 8;

/// The largest UDP payload, in bytes, that fits into one chunk with all headers that may stand
/// before it, the kernel keeping 256 bytes of each chunk to itself. Larger ones take frames of
/// several chunks (multi-buffer, Linux 6.6).
pub const LARGEST_IN_ONE_CHUNK: u16 = CHUNK_SIZE as u16 - 256 - MOST_RECEIVED_HEADERS as u16;

/// The largest UDP payload, in bytes: what an IPv6 packet of 65535 bytes holds.
pub const LARGEST_DATAGRAM: u16 = u16::MAX - 40 - 8;
// A run of as many chunks as a packet may have parts in the kernel holds it.
const _: () = assert!(PAYLOAD_OFFSET + LARGEST_DATAGRAM as usize <= MOST_RUN * CHUNK_SIZE);

/// Bytes of the smaller of the outer headers that count against a link's MTU.
const IPV4_AND_UDP: u32 = 20 + 8;

/// How to open the driver. All rings are counted in entries, powers of two from 64 to 32768.
#[derive(Clone, Debug)]
pub struct XdpConfig {
    /// How to attach the program, if it is not attached yet.
    pub attach: Mode,
    /// Whether the card is to read and write our frames itself.
    pub zero_copy: ZeroCopy,
    /// Let the driver sleep, and wake it when there is work, instead of having it look for work
    /// all the time. Right unless a CPU core is spent on the driver alone.
    pub need_wakeup: bool,
    /// Have the card's NAPI run in our system calls; none: in interrupts. Where the kernel refuses
    /// it, the driver goes on without and says so in [`info`](crate::engine::port::Pollable::info).
    pub busy_poll: Option<BusyPoll>,
    /// Who computes the UDP checksums of what is sent.
    pub tx_checksum: TxChecksum,
    /// Put the frames on huge pages where the system has some.
    pub huge_pages: bool,
    /// Entries of the RX ring.
    pub rx_ring: u32,
    /// Frames of 4096 bytes to receive into, and entries of the fill ring. Twice the RX ring, so
    /// that a card can hold a ring's worth while another waits for us.
    pub rx_frames: u32,
    /// Frames besides, for an inner queue that is to share the memory
    /// ([`VethDriver`](super::VethDriver)): [`VethConfig::frames`](super::VethConfig::frames).
    pub spare_frames: u32,
    /// Entries of the TX and completion rings, and frames to send from.
    pub tx_ring: u32,
    /// The largest UDP payload that will be sent or received, in bytes, at most
    /// [`LARGEST_DATAGRAM`]: inner MTU + 32. Paths that cannot carry it are not taken, because the
    /// UDP socket can fragment and AF_XDP cannot. Above [`LARGEST_IN_ONE_CHUNK`] the sockets are
    /// bound for frames of several chunks, and the interface's MTU must be large enough.
    pub largest_datagram: u16,
    /// How to send; none for sockets that only receive. Those have no TX ring: in copy mode
    /// `poll()` on a socket that has one does the sending, and fights over it with whoever sends.
    pub transmit: Option<Transmit>,
    /// How long to try to bind a queue that is in use: the kernel frees a queue some 50 ms after
    /// its last socket was closed. At least 100 ms make sense.
    pub bind_patience: Duration,
    /// How long to wait for the link to come back after attaching and binding: real cards reset
    /// for either.
    pub link_patience: Duration,
}

/// How the sending halves send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The local UDP port. Whoever shares it may change it: the next batch leaves from there.
    pub source_port: Arc<AtomicU16>,
    /// Where the resolver publishes the paths.
    pub paths: Arc<PathTable>,
    /// Whether IPv4 datagrams carry a UDP checksum; IPv6 ones always do. Without one, a receiver
    /// on a kernel socket cannot coalesce them (UDP_GRO), and some translators drop them.
    pub ipv4_checksum: bool,
}

impl Transmit {
    /// From `source_port` over `paths`, with checksums.
    #[must_use]
    pub fn new(source_port: u16, paths: Arc<PathTable>) -> Self {
        Self {
            source_port: Arc::new(AtomicU16::new(source_port)),
            paths,
            ipv4_checksum: true,
        }
    }
}

impl Default for XdpConfig {
    /// The best mode that can be had, need-wakeup, 2048 entries a ring, for an inner MTU of 1420,
    /// receiving only.
    fn default() -> Self {
        Self {
            attach: Mode::Auto,
            zero_copy: ZeroCopy::Auto,
            need_wakeup: true,
            busy_poll: None,
            tx_checksum: TxChecksum::Auto,
            huge_pages: true,
            rx_ring: 2048,
            rx_frames: 4096,
            spare_frames: 0,
            tx_ring: 2048,
            largest_datagram: 1420 + 32,
            transmit: None,
            bind_patience: Duration::from_millis(500),
            link_patience: Duration::from_secs(5),
        }
    }
}

/// The AF_XDP driver of an interface.
#[derive(Debug)]
pub enum XdpDriver {}

impl XdpDriver {
    /// Attaches `program` to the interface `name` (unless it is attached there already), binds a
    /// socket to every receive queue, steers the queues into them, and waits for the link.
    ///
    /// Every queue must be served: frames of a queue without a socket take the kernel's way. The
    /// program stays on the interface until the last of the sockets is closed, also when
    /// `program` is dropped before.
    ///
    /// # Errors
    /// See [`XdpError`]. Nothing is left behind, except that the program stays attached when it
    /// was so before.
    pub fn open(
        name: &str,
        program: &mut XdpProgram,
        config: &XdpConfig,
    ) -> Result<Vec<XdpQueue>, XdpError> {
        config.check()?;
        let interface = Interface::by_name(name)?;
        config.check_link(&interface)?;
        let had_link = interface.has_link();
        let was_attached = program.attached().is_some();
        let attached = match program.attached() {
            Some(_) if program.interface() != Some(name) => {
                let elsewhere = program.interface().unwrap_or_default().to_owned();
                return Err(AttachError::Attached(elsewhere).into());
            }
            Some(mode) => mode,
            None => program.attach(interface.index(), config.attach)?,
        };
        let result = Self::open_queues(&interface, program, attached, config);
        if result.is_err() && !was_attached {
            program.detach();
        }
        let queues = result?;
        // An interface that was down or unplugged before is not waited for.
        if had_link && !interface.wait_for_link(config.link_patience) {
            tracing::warn!(
                interface = name,
                waited = ?config.link_patience,
                "the link did not come back after AF_XDP was set up"
            );
        }
        Ok(queues)
    }

    fn open_queues(
        interface: &Interface,
        program: &mut XdpProgram,
        attached: AttachedMode,
        config: &XdpConfig,
    ) -> Result<Vec<XdpQueue>, XdpError> {
        // Only now: attaching may have added queues, and those receive too.
        let (count, certain) = match interface.queues()? {
            Queues::Exactly(count) => (count, true),
            Queues::AtMost(count) => (count, false),
        };
        let multi_buffer = config.multi_buffer();
        program.set_multi_buffer(multi_buffer)?;
        let features = config.features(interface);
        let mut queues = Vec::new();
        for number in 0..count {
            let link = program.link().ok_or(XdpError::NotAttached)?;
            match XdpQueue::open(interface, number, attached, link, features, config) {
                Ok(queue) => {
                    program.register(number, std::os::fd::AsFd::as_fd(&queue))?;
                    queues.push(queue);
                }
                // A queue that is not there.
                Err(XdpError::Bind { source, .. })
                    if !certain && number > 0 && source.raw_os_error() == Some(libc::EINVAL) =>
                {
                    break;
                }
                Err(XdpError::Bind { source, .. })
                    if multi_buffer
                        && config.zero_copy != ZeroCopy::Always
                        && refuses_mode(&source) =>
                {
                    return Err(XdpError::MultiBuffer {
                        interface: interface.name().to_owned(),
                        queue: number,
                        largest: config.largest_datagram,
                        source,
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(queues)
    }
}

impl XdpConfig {
    /// Whether frames of several chunks are needed.
    pub(super) const fn multi_buffer(&self) -> bool {
        self.largest_datagram > LARGEST_IN_ONE_CHUNK
    }

    /// A link on which jumbo datagrams would be fragmented has nothing but small ones for AF_XDP,
    /// which would overtake the others.
    fn check_link(&self, interface: &Interface) -> Result<(), XdpError> {
        let needed = u32::from(self.largest_datagram) + IPV4_AND_UDP;
        if self.multi_buffer() && interface.mtu() < needed {
            return Err(XdpError::SmallLink {
                interface: interface.name().to_owned(),
                mtu: interface.mtu(),
                largest: self.largest_datagram,
            });
        }
        Ok(())
    }

    /// What the driver of `interface` declares, as far as this configuration asks for it; nothing
    /// where the kernel does not tell.
    fn features(&self, interface: &Interface) -> Features {
        if self.transmit.is_none() || self.tx_checksum == TxChecksum::Software {
            return Features::default();
        }
        Features::of(interface.index()).unwrap_or_else(|error| {
            tracing::debug!(
                interface = interface.name(),
                %error,
                "the kernel does not tell what the driver does for AF_XDP"
            );
            Features::default()
        })
    }

    fn check(&self) -> Result<(), XdpError> {
        let rings = [
            ("the RX ring's size", self.rx_ring),
            ("the number of receive frames", self.rx_frames),
            ("the TX ring's size", self.tx_ring),
        ];
        check_rings(&rings)?;
        if self.spare_frames > MOST_SPARE {
            return Err(XdpError::Range {
                what: "the number of spare frames",
                value: self.spare_frames,
                least: 0,
                most: MOST_SPARE,
                unit: "frames",
            });
        }
        if let Some(busy_poll) = self.busy_poll {
            busy_poll.check()?;
        }
        if self.largest_datagram > LARGEST_DATAGRAM {
            return Err(XdpError::LargeDatagrams {
                largest: self.largest_datagram,
                most: LARGEST_DATAGRAM,
            });
        }
        Ok(())
    }
}

/// Refuses a ring that the kernel would not take, by name.
pub(super) fn check_rings(rings: &[(&'static str, u32)]) -> Result<(), XdpError> {
    for &(what, value) in rings {
        if !value.is_power_of_two() || !(LEAST_RING..=MOST_RING).contains(&value) {
            return Err(XdpError::Config {
                what,
                value,
                least: LEAST_RING,
                most: MOST_RING,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_ring_sizes_are_refused_by_name() {
        for value in [0, 32, 3000, 65536] {
            let config = XdpConfig {
                tx_ring: value,
                ..XdpConfig::default()
            };
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains("TX ring") && message.contains(&value.to_string()));
        }
        assert!(XdpConfig::default().check().is_ok());
    }

    #[test]
    fn datagrams_that_no_packet_holds_are_refused() {
        let config = |largest_datagram| XdpConfig {
            largest_datagram,
            ..XdpConfig::default()
        };
        assert!(config(LARGEST_DATAGRAM).check().is_ok());
        let error = config(65500).check().unwrap_err();
        assert!(matches!(
            error,
            XdpError::LargeDatagrams { largest: 65500, .. }
        ));
        for part in ["65500", "65487", "MTU to 65455"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn only_jumbo_datagrams_take_several_chunks() {
        let config = |largest_datagram| XdpConfig {
            largest_datagram,
            ..XdpConfig::default()
        };
        assert!(!XdpConfig::default().multi_buffer());
        assert!(!config(3718 + 32).multi_buffer());
        assert!(config(3719 + 32).multi_buffer());
    }
}
