//! Whether a configuration fits the machine, asked before anything is touched.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use crate::config::{OuterChoice, OuterDriver};
use crate::net;

/// A configuration that is right in itself, but not here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum MachineError {
    #[error("outer interface {name} does not exist; there are: {present}")]
    UnknownInterface { name: String, present: String },
    #[error(
        "the outer driver xdp needs an interface, and there is no default route to tell it: \
         pass --interface; there are: {present}"
    )]
    NoInterface { present: String },
    #[error(
        "interface {name} exists already: another tunnel may be running; stop it, or pick \
         another name with --name"
    )]
    NameTaken { name: String },
    #[error(
        "UDP port {port} is taken: another WireGuard may be running (`ss -lunp 'sport = {port}'` \
         shows who); stop it, or choose another listen port"
    )]
    PortTaken { port: u16 },
    #[error("UDP port {port} cannot be bound: {source}")]
    Port { port: u16, source: io::Error },
    #[error("the interfaces cannot be listed: {0}")]
    Netlink(io::Error),
}

/// Checks the interfaces and the port. Returns the network card for XDP; none: XDP is not wanted,
/// or nothing tells where.
pub(crate) fn check(
    tunnel: &str,
    outer: &OuterChoice,
    listen_port: u16,
) -> Result<Option<String>, MachineError> {
    let names = net::interface_names().map_err(MachineError::Netlink)?;
    let present = || names.join(", ");
    if names.iter().any(|name| name == tunnel) {
        let name = tunnel.to_owned();
        return Err(MachineError::NameTaken { name });
    }
    let card = match (&outer.interface, outer.driver) {
        (Some(name), _) if !names.contains(name) => {
            return Err(MachineError::UnknownInterface {
                name: name.clone(),
                present: present(),
            });
        }
        (_, OuterDriver::Udp) => None,
        (Some(name), _) => Some(name.clone()),
        (None, driver) => {
            let found = net::default_interface().map_err(MachineError::Netlink)?;
            if found.is_none() && driver == OuterDriver::Xdp {
                return Err(MachineError::NoInterface { present: present() });
            }
            found
        }
    };
    port(listen_port)?;
    Ok(card)
}

/// The data plane binds the port itself; asking first gives a taken one a name before a missing
/// privilege hides it.
fn port(port: u16) -> Result<(), MachineError> {
    let anywhere = [
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
    ];
    for address in anywhere {
        match UdpSocket::bind(address) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(MachineError::PortTaken { port });
            }
            // A machine without IPv6.
            Err(error)
                if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {}
            Err(source) => return Err(MachineError::Port { port, source }),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named() {
        let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
        let number = taken.local_addr().unwrap().port();
        let error = port(number).unwrap_err();
        assert!(
            matches!(error, MachineError::PortTaken { port } if port == number),
            "{error}"
        );
        drop(taken);
        port(0).unwrap();
    }
}
