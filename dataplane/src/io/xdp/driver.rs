//! Opening the driver: program on the interface, a socket on every queue.

use std::sync::Arc;
use std::sync::atomic::AtomicU16;
use std::time::Duration;

use super::error::XdpError;
use super::interface::{Interface, Queues};
use super::path::PathTable;
use super::program::{AttachError, AttachedMode, Mode, XdpProgram};
use super::queue::{LEAST_RING, XdpQueue};
use super::socket::ZeroCopy;
use super::umem::CHUNK_SIZE;

/// The most entries a ring may have here: 128 MiB of frames.
const MOST_RING: u32 = 32768;

/// The largest UDP payload, in bytes, that fits into a frame with all headers that may stand
/// before it: the kernel keeps 256 bytes of each chunk to itself, and the headers are Ethernet, two
/// VLAN tags, IPv4 with all its options, UDP.
pub const LARGEST_DATAGRAM: u16 = CHUNK_SIZE as u16 - 256 - (14 + 8 + 60 + 8);

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
    /// UDP socket can fragment and AF_XDP cannot.
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
        let mut queues = Vec::new();
        for number in 0..count {
            let link = program.link().ok_or(XdpError::NotAttached)?;
            match XdpQueue::open(interface, number, attached, link, config) {
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
                Err(error) => return Err(error),
            }
        }
        Ok(queues)
    }
}

impl XdpConfig {
    fn check(&self) -> Result<(), XdpError> {
        let rings = [
            ("the RX ring's size", self.rx_ring),
            ("the number of receive frames", self.rx_frames),
            ("the TX ring's size", self.tx_ring),
        ];
        check_rings(&rings)?;
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
    fn datagrams_that_no_frame_holds_are_refused() {
        let config = |largest_datagram| XdpConfig {
            largest_datagram,
            ..XdpConfig::default()
        };
        assert!(config(LARGEST_DATAGRAM).check().is_ok());
        let error = config(8920 + 32).check().unwrap_err();
        assert!(matches!(
            error,
            XdpError::LargeDatagrams { largest: 8952, .. }
        ));
    }
}
