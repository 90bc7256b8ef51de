//! Who is on an interface already.

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::error::Occupant;

/// The XDP program on the interface with index `interface`. What cannot be found out is left out:
/// this is for an error message.
pub(super) fn occupant(interface: u32) -> Occupant {
    let id = program_id(interface);
    let name = id.and_then(program_name);
    Occupant { id, name }
}

fn program_name(id: u32) -> Option<String> {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)
        .and_then(|program| program.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
}

/// The program's number by RTM_GETLINK, attribute IFLA_XDP.
fn program_id(interface: u32) -> Option<u32> {
    link(interface)?
        .attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => xdp.into_iter().find_map(|field| match field {
                LinkXdp::ProgId(id)
                | LinkXdp::DrvProgId(id)
                | LinkXdp::SkbProgId(id)
                | LinkXdp::HwProgId(id) => Some(id),
                _ => None,
            }),
            _ => None,
        })
}

fn link(interface: u32) -> Option<LinkMessage> {
    let mut question = LinkMessage::default();
    question.header.index = interface;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, RouteNetlinkMessage::GetLink(question).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);

    let socket = Socket::new(NETLINK_ROUTE).ok()?;
    socket.connect(&SocketAddr::new(0, 0)).ok()?;
    socket.send(&bytes, 0).ok()?;
    let (answer, _) = socket.recv_from_full().ok()?;
    match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .ok()?
        .payload
    {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Some(link),
        _ => None,
    }
}
