//! What members encrypt: the messages of `sidero.discovery.client`, in Protocol Buffers 3.
//!
//! Reading is total and, as in Talos, forgiving: an address of an odd length is dropped, an unknown
//! machine type is [`MachineType::Unknown`], an unknown field is passed over.

use core::net::{IpAddr, SocketAddr};

use prost::Message as _;

use crate::control::kubespan::{Affiliate, ControlPlane, KubeSpan, MachineType, Prefix};

/// Authentic data that are not a message, or one without a node id.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Not Protocol Buffers, or a field of another type.
    #[error("the decrypted affiliate is no message: {0}")]
    Malformed(prost::DecodeError),
    /// Nobody's.
    #[error("the decrypted affiliate has no node id")]
    NoNodeId,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct AffiliateMessage {
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    addresses: Vec<Vec<u8>>,
    #[prost(string, tag = "3")]
    hostname: String,
    #[prost(string, tag = "4")]
    nodename: String,
    #[prost(string, tag = "5")]
    machine_type: String,
    #[prost(string, tag = "6")]
    operating_system: String,
    #[prost(message, optional, tag = "7")]
    kubespan: Option<KubeSpanMessage>,
    #[prost(message, optional, tag = "8")]
    control_plane: Option<ControlPlaneMessage>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct KubeSpanMessage {
    #[prost(string, tag = "1")]
    public_key: String,
    #[prost(bytes = "vec", tag = "2")]
    address: Vec<u8>,
    #[prost(message, repeated, tag = "3")]
    additional_addresses: Vec<PrefixMessage>,
    // The number is an assumption: the next free one. No schema that has the field was at hand.
    #[prost(message, repeated, tag = "4")]
    exclude_advertised_addresses: Vec<PrefixMessage>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct PrefixMessage {
    #[prost(bytes = "vec", tag = "1")]
    ip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    bits: u32,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct EndpointMessage {
    #[prost(bytes = "vec", tag = "1")]
    ip: Vec<u8>,
    #[prost(uint32, tag = "2")]
    port: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
struct ControlPlaneMessage {
    #[prost(uint32, tag = "1")]
    api_server_port: u32,
}

/// The message of what a member tells. Its endpoints are not in it: they travel beside it.
#[must_use]
pub fn encode_affiliate(affiliate: &Affiliate) -> Vec<u8> {
    let kubespan = &affiliate.kubespan;
    let message = AffiliateMessage {
        node_id: affiliate.node_id.clone(),
        addresses: affiliate.addresses.iter().copied().map(ip_bytes).collect(),
        hostname: affiliate.hostname.clone(),
        nodename: affiliate.nodename.clone(),
        machine_type: affiliate.machine_type.to_string(),
        operating_system: affiliate.operating_system.clone(),
        kubespan: (!kubespan.public_key.is_empty()).then(|| KubeSpanMessage {
            public_key: kubespan.public_key.clone(),
            address: kubespan.address.map(ip_bytes).unwrap_or_default(),
            additional_addresses: encode_prefixes(&kubespan.additional_addresses),
            exclude_advertised_addresses: encode_prefixes(&kubespan.exclude_advertised_networks),
        }),
        control_plane: affiliate.control_plane.map(|plane| ControlPlaneMessage {
            api_server_port: plane.api_server_port.into(),
        }),
    };
    message.encode_to_vec()
}

/// What a member tells.
///
/// # Errors
/// [`PayloadError`].
pub fn decode_affiliate(bytes: &[u8]) -> Result<Affiliate, PayloadError> {
    let message = AffiliateMessage::decode(bytes).map_err(PayloadError::Malformed)?;
    if message.node_id.is_empty() {
        return Err(PayloadError::NoNodeId);
    }
    let kubespan = message.kubespan.unwrap_or_default();
    Ok(Affiliate {
        node_id: message.node_id,
        addresses: message
            .addresses
            .iter()
            .filter_map(|ip| ip_of(ip))
            .collect(),
        hostname: message.hostname,
        nodename: message.nodename,
        operating_system: message.operating_system,
        machine_type: message.machine_type.parse().unwrap_or(MachineType::Unknown),
        kubespan: KubeSpan {
            public_key: kubespan.public_key,
            address: ip_of(&kubespan.address),
            additional_addresses: decode_prefixes(&kubespan.additional_addresses),
            exclude_advertised_networks: decode_prefixes(&kubespan.exclude_advertised_addresses),
            endpoints: Vec::new(),
        },
        control_plane: message.control_plane.map(|plane| ControlPlane {
            api_server_port: low_half(plane.api_server_port),
        }),
    })
}

/// The message of an endpoint, in the one way of writing it that all members share.
#[must_use]
pub fn encode_endpoint(endpoint: SocketAddr) -> Vec<u8> {
    let message = EndpointMessage {
        ip: ip_bytes(endpoint.ip()),
        port: endpoint.port().into(),
    };
    message.encode_to_vec()
}

/// The endpoint of a message; `None` where it is no message or has no address.
#[must_use]
pub fn decode_endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let message = EndpointMessage::decode(bytes).ok()?;
    Some(SocketAddr::new(ip_of(&message.ip)?, low_half(message.port)))
}

/// The address of 4 or 16 bytes. Talos's IPv4 addresses in IPv6 stay what they are.
#[must_use]
pub fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// The 4 or 16 bytes of an address.
#[must_use]
pub fn ip_bytes(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn encode_prefixes(prefixes: &[Prefix]) -> Vec<PrefixMessage> {
    let encode = |prefix: &Prefix| PrefixMessage {
        ip: ip_bytes(prefix.address),
        bits: prefix.bits,
    };
    prefixes.iter().map(encode).collect()
}

fn decode_prefixes(messages: &[PrefixMessage]) -> Vec<Prefix> {
    let decode = |message: &PrefixMessage| {
        ip_of(&message.ip).map(|address| Prefix {
            address,
            bits: message.bits,
        })
    };
    messages.iter().filter_map(decode).collect()
}

/// A port: Talos cuts it to 16 bits.
fn low_half(port: u32) -> u16 {
    u16::try_from(port & 0xffff).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefix() -> impl Strategy<Value = Prefix> {
        (any::<IpAddr>(), any::<u32>()).prop_map(|(address, bits)| Prefix { address, bits })
    }

    proptest! {
        #[test]
        fn affiliates_come_back(
            node_id in ".{1,40}",
            addresses: Vec<IpAddr>,
            additional_addresses in proptest::collection::vec(prefix(), 0..5),
            exclude_advertised_networks in proptest::collection::vec(prefix(), 0..5),
            address: Option<IpAddr>,
            api_server_port: Option<u16>,
        ) {
            let affiliate = Affiliate {
                node_id,
                addresses,
                hostname: "a.example".into(),
                nodename: "a".into(),
                operating_system: "Linux".into(),
                machine_type: MachineType::ControlPlane,
                kubespan: KubeSpan {
                    public_key: "a key".into(),
                    address,
                    additional_addresses,
                    exclude_advertised_networks,
                    endpoints: Vec::new(),
                },
                control_plane: api_server_port.map(|api_server_port| ControlPlane { api_server_port }),
            };
            let bytes = encode_affiliate(&affiliate);
            prop_assert_eq!(decode_affiliate(&bytes).unwrap(), affiliate);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            // And what was read can be written.
            if let Ok(affiliate) = decode_affiliate(&bytes) {
                let again = decode_affiliate(&encode_affiliate(&affiliate)).unwrap();
                prop_assert_eq!(again.node_id, affiliate.node_id);
            }
        }
    }

    #[test]
    fn odd_addresses_and_ports_are_passed_over() {
        let message = AffiliateMessage {
            node_id: "n".into(),
            addresses: vec![vec![], vec![1, 2, 3], vec![10, 0, 0, 1], vec![0; 17]],
            machine_type: "toaster".into(),
            control_plane: Some(ControlPlaneMessage {
                api_server_port: 0x1_0050,
            }),
            ..AffiliateMessage::default()
        };
        let affiliate = decode_affiliate(&message.encode_to_vec()).unwrap();
        assert_eq!(affiliate.addresses, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(affiliate.machine_type, MachineType::Unknown);
        assert_eq!(affiliate.control_plane.unwrap().api_server_port, 80);
        assert_eq!(affiliate.kubespan, KubeSpan::default());
        let nobody = AffiliateMessage::default().encode_to_vec();
        assert_eq!(decode_affiliate(&nobody), Err(PayloadError::NoNodeId));
    }
}
