//! What this machine is called on its networks: its addresses, and its first network card.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::{AddressHeaderFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

use super::netlink::Questions;
use super::view::own_address;
use crate::runtime::rtnetlink::Events;

/// Multicast groups (`enum rtnetlink_groups`): links, and addresses of both families.
const GROUPS: [u32; 3] = [1, 5, 9];

/// An address that other machines can be told of: on a link that is up, of a scope wider than the
/// link, and neither tentative nor deprecated.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// The link that has it.
    pub link: String,
}

/// The machine as others see it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HostState {
    /// By link in the order of their indices, then as the kernel lists them.
    pub addresses: Vec<HostAddress>,
    /// The hardware address of the first physical Ethernet link by name; virtual ones (bridges,
    /// veth, TUN) do not count. A namespace or container may have none.
    pub hardware_address: Option<Vec<u8>>,
}

/// Knows the addresses of a network namespace, and notices when they change.
#[derive(Debug)]
pub struct HostWatch {
    events: Events,
    questions: Questions,
}

impl HostWatch {
    /// In the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            // Events first: what happens during the first listing is then noticed.
            events: Events::open(&GROUPS)?,
            questions: Questions::open()?,
        })
    }

    /// The machine as it is now.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn state(&mut self) -> io::Result<HostState> {
        let links = self.questions.links()?;
        let addresses = self.questions.addresses()?;
        Ok(state(&links, &addresses))
    }

    /// Whether links or addresses have changed since this was last asked; [`AsFd`] is readable
    /// then.
    #[must_use]
    pub fn take_changed(&self) -> bool {
        self.events.drain()
    }
}

impl AsFd for HostWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

fn state(links: &[Message], addresses: &[Message]) -> HostState {
    let mut links: Vec<Link> = links
        .iter()
        .filter_map(|message| match message {
            Message::NewLink(link) => Link::new(link),
            _ => None,
        })
        .collect();
    links.sort_by(|a, b| a.name.cmp(&b.name));
    let hardware_address = links
        .iter()
        .find(|link| link.physical)
        .and_then(|link| link.hardware_address.clone());
    links.sort_by_key(|link| link.index);
    let addresses = links
        .iter()
        .filter(|link| link.up && !link.loopback)
        .flat_map(|link| {
            let usable = addresses.iter().filter_map(|message| match message {
                Message::NewAddress(address) if address.header.index == link.index => {
                    usable(address)
                }
                _ => None,
            });
            usable.map(|address| HostAddress {
                address,
                link: link.name.clone(),
            })
        })
        .collect();
    HostState {
        addresses,
        hardware_address,
    }
}

struct Link {
    index: u32,
    name: String,
    up: bool,
    loopback: bool,
    physical: bool,
    hardware_address: Option<Vec<u8>>,
}

impl Link {
    fn new(message: &LinkMessage) -> Option<Self> {
        let (mut name, mut hardware_address, mut has_kind) = (None, None, false);
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(text) => name = Some(text.clone()),
                LinkAttribute::Address(bytes) => hardware_address = Some(bytes.clone()),
                LinkAttribute::LinkInfo(infos) => {
                    has_kind |= infos.iter().any(|info| matches!(info, LinkInfo::Kind(_)));
                }
                _ => {}
            }
        }
        let header = &message.header;
        Some(Self {
            index: header.index,
            name: name?,
            up: header.flags.contains(LinkFlags::Up),
            loopback: header.flags.contains(LinkFlags::Loopback),
            physical: header.link_layer_type == LinkLayerType::Ether && !has_kind,
            hardware_address,
        })
    }
}

fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let wide = matches!(
        message.header.scope,
        AddressScope::Universe | AddressScope::Site
    );
    let unusable = AddressHeaderFlags::Tentative
        | AddressHeaderFlags::Dadfailed
        | AddressHeaderFlags::Deprecated;
    let address = own_address(message)?;
    let special = address.is_loopback() || address.is_multicast() || address.is_unspecified();
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    (wide && !special && !link_local && !message.header.flags.intersects(unusable))
        .then_some(address)
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::address::AddressAttribute;
    use netlink_packet_route::link::InfoKind;

    use super::*;

    fn link(index: u32, name: &str, kind: Option<InfoKind>, flags: LinkFlags) -> Message {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = flags;
        link.header.link_layer_type = LinkLayerType::Ether;
        link.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, index as u8]),
        ];
        link.attributes
            .extend(kind.map(|kind| LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])));
        Message::NewLink(link)
    }

    fn address(index: u32, text: &str, scope: AddressScope, flags: AddressHeaderFlags) -> Message {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.scope = scope;
        message.header.flags = flags;
        message
            .attributes
            .push(AddressAttribute::Address(text.parse().unwrap()));
        Message::NewAddress(message)
    }

    #[test]
    fn the_first_physical_card_by_name_gives_the_hardware_address() {
        let links = [
            link(1, "lo", None, LinkFlags::Up | LinkFlags::Loopback),
            link(2, "eth1", None, LinkFlags::Up),
            link(3, "eth0", None, LinkFlags::empty()),
            link(4, "br0", Some(InfoKind::Bridge), LinkFlags::Up),
        ];
        // Loopback is no Ethernet in truth; here it shows that names are compared.
        let found = state(&links[1..], &[]).hardware_address;
        assert_eq!(found, Some(vec![2, 0, 0, 0, 0, 3]));
        assert_eq!(state(&links[3..], &[]).hardware_address, None);
    }

    #[test]
    fn what_others_cannot_reach_is_left_out() {
        let (up, none) = (LinkFlags::Up, AddressHeaderFlags::empty());
        let links = [
            link(1, "lo", None, up | LinkFlags::Loopback),
            link(2, "eth0", None, up),
            link(3, "eth1", None, LinkFlags::empty()),
        ];
        let wide = AddressScope::Universe;
        let addresses = [
            address(1, "10.0.0.1", wide, none),
            address(2, "10.0.0.2", wide, none),
            address(2, "169.254.0.2", AddressScope::Link, none),
            address(2, "fe80::2", AddressScope::Link, none),
            address(2, "2001:db8::2", wide, none),
            address(2, "2001:db8::3", wide, AddressHeaderFlags::Tentative),
            address(2, "2001:db8::4", wide, AddressHeaderFlags::Deprecated),
            address(3, "10.0.0.3", wide, none),
        ];
        let found: Vec<String> = state(&links, &addresses)
            .addresses
            .iter()
            .map(|found| format!("{} {}", found.link, found.address))
            .collect();
        assert_eq!(found, ["eth0 10.0.0.2", "eth0 2001:db8::2"]);
    }

    /// Asking needs no privilege.
    #[test]
    fn the_machine_is_asked() {
        let mut watch = HostWatch::open().unwrap();
        let state = watch.state().unwrap();
        assert!(
            state
                .addresses
                .iter()
                .all(|found| !found.address.is_loopback())
        );
    }
}
