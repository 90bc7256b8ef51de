//! Rooms of a running machine: namespaces inside the guest, each with a link of its own.

use std::fmt::Write as _;
use std::io;

use super::Guest;

/// The bridge that joins all rooms with the tests' card.
const LAN: &str = "lan";

/// A network namespace in a [`Guest`], its link [`LINK`](Self::LINK) bridged to the tests' card.
/// Tests in different rooms do not see each other, and may run at once.
///
/// A WireGuard device is made in the room, so that its outer datagrams go out there, and then
/// moved to the guest's own namespace, where the servers of the agent answer and
/// [`Guest::ping`] starts from.
#[derive(Debug)]
pub struct Room<'g> {
    guest: &'g Guest,
    name: String,
    port: String,
}

impl Guest {
    /// Bridges the tests' card, once, before the first [`room`](Self::room).
    ///
    /// # Errors
    /// When the guest does not answer.
    pub fn open_rooms(&self) -> io::Result<()> {
        let card = Self::CARD;
        self.shell(&format!(
            "ip link add {LAN} type bridge
             ip link set {LAN} up
             ip link set {card} master {LAN} up"
        ))
        .map(drop)
    }

    /// Makes a room; `number` tells it from others.
    ///
    /// # Errors
    /// When there is one of that number, or the guest does not answer.
    pub fn room(&self, number: u8) -> io::Result<Room<'_>> {
        let room = Room {
            guest: self,
            name: format!("room{number}"),
            port: format!("port{number}"),
        };
        let Room { name, port, .. } = &room;
        let link = Room::LINK;
        self.shell(&format!(
            "ip netns add {name}
             ip -n {name} link set lo up
             ip link add {port} type veth peer name {link} netns {name}
             ip link set {port} master {LAN} up
             ip -n {name} link set dev {link} up"
        ))?;
        Ok(room)
    }
}

impl Room<'_> {
    /// The room's own end of its link.
    pub const LINK: &'static str = "outer0";

    /// The machine.
    #[must_use]
    pub fn guest(&self) -> &Guest {
        self.guest
    }

    /// The other end of its link, in the guest's own namespace.
    #[must_use]
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Runs a script with the guest's `bash`, in the room; what it wrote.
    ///
    /// # Errors
    /// When it fails (the message holds what it wrote) or the guest does not answer.
    pub fn shell(&self, script: &str) -> io::Result<String> {
        self.guest.shell(&format!(
            "ip netns exec {} bash -e <<'END_OF_ROOM'\n{script}\nEND_OF_ROOM",
            self.name
        ))
    }

    /// Moves a device from here to the guest's own namespace.
    ///
    /// # Errors
    /// When there is no such device, or the guest does not answer.
    pub fn move_out(&self, device: &str) -> io::Result<()> {
        self.guest
            .shell(&format!("ip -n {} link set {device} netns 1", self.name))
            .map(drop)
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let Self { name, port, .. } = self;
        let mut script = format!("ip netns pids {name} | xargs -r kill || true\n");
        let _ = write!(script, "ip link del {port}; ip netns del {name}");
        // A machine that has ended keeps nothing.
        let _ = self.guest.shell(&script);
    }
}
