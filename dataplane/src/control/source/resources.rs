//! `KubeSpanPeerSpec` resources as `talosctl get kubespanpeerspecs -o yaml` and `-o json` print
//! them.

use super::super::documents::{Documents, Node, SyntaxError, ValueError};
use super::super::kubespan::PERSISTENT_KEEPALIVE;
use super::super::spec::PeerSpec;
use crate::crypto::PresharedKey;

const TYPE: &str = "KubeSpanPeerSpecs.kubespan.talos.dev";

/// Why a text is no set of peer specs.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResourceError {
    /// Neither YAML nor JSON.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A field is missing or wrong.
    #[error("document {document}: {source}")]
    Value {
        /// Which document of the stream, from 1.
        document: usize,
        /// What is wrong.
        source: ValueError,
    },
    /// There is nothing in it.
    #[error(
        "it is empty, as after a failed command; for no peers, write `[]`, or remove the file from its directory"
    )]
    Empty,
}

/// The peers that a stream of resources describes, all with the same preshared key (Talos uses the
/// cluster's secret) and KubeSpan's keepalive. Resources of other types and those being torn down
/// are left out, unknown fields ignored.
///
/// # Errors
/// [`ResourceError`]: a stream is used whole or not at all, as it may have been cut off.
pub fn peer_specs(
    text: &str,
    preshared_key: Option<&PresharedKey>,
) -> Result<Vec<PeerSpec>, ResourceError> {
    let documents = Documents::parse(text)?;
    if documents.is_empty() {
        return Err(ResourceError::Empty);
    }
    let mut specs = Vec::new();
    for (document, root) in (1..).zip(documents.iter()) {
        let wrong = |source| ResourceError::Value { document, source };
        // A list is not talosctl's form, but what scripts make of it.
        let resources = match root.items() {
            Ok(items) => items,
            Err(_) => vec![root],
        };
        for resource in &resources {
            specs.extend(peer_spec(resource, preshared_key).map_err(wrong)?);
        }
    }
    Ok(specs)
}

fn peer_spec(
    resource: &Node<'_>,
    preshared_key: Option<&PresharedKey>,
) -> Result<Option<PeerSpec>, ValueError> {
    let metadata = resource.field("metadata");
    if !metadata.is_object() {
        return Err(metadata.wrong("the metadata of a resource"));
    }
    // First: where this is missing, what came before may be cut off too.
    let spec = resource.field("spec");
    if !spec.is_object() {
        return Err(spec.wrong("the spec of a resource"));
    }
    let kind = metadata.field("type").text()?;
    let phase = metadata.field("phase").text()?;
    if kind.is_some_and(|kind| kind != TYPE) || phase == Some("tearingDown") {
        return Ok(None);
    }
    // Talos writes them all, the label last: a file cut off at a line's end has no label.
    for name in ["allowedIPs", "endpoints", "label"] {
        if !spec.has(name) {
            let expected = "there, empty or not (is the file complete?)";
            return Err(spec.field(name).wrong(expected));
        }
    }
    Ok(Some(PeerSpec {
        public_key: metadata.field("id").required("a public key in base64")?,
        preshared_key: preshared_key.cloned(),
        endpoints: spec.field("endpoints").list("an endpoint, ADDRESS:PORT")?,
        allowed_ips: spec.field("allowedIPs").list("a network, ADDRESS/LENGTH")?,
        persistent_keepalive: PERSISTENT_KEEPALIVE,
        label: spec.field("label").text()?.unwrap_or_default().to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"node: 172.20.0.2
metadata:
    namespace: kubespan
    type: KubeSpanPeerSpecs.kubespan.talos.dev
    id: PLPNBddmTgHJhtw0vxltq1ZBdPP9RNOEUd5JjJZzBRY=
    version: undefined
    owner: kubespan.PeerSpecController
    phase: running
    created: 2026-01-02T03:04:05Z
    updated: 2026-01-02T03:04:05Z
spec:
    address: fd50:8d60:4238:6302:f857:23ff:fe21:d1e0
    allowedIPs:
        - 10.244.3.0/25
        - 192.168.3.4/32
        - fd50:8d60:4238:6302:f857:23ff:fe21:d1e0/128
    endpoints:
        - 10.0.0.2:51820
        - "[2001:db8::4]:51820"
    label: bar
---
node: 172.20.0.2
metadata:
    type: KubeSpanPeerSpecs.kubespan.talos.dev
    id: Zr5ewpUm2Ywo1c+/59WFKIBjZ3c/nVbIWsT5elbjwCU=
    phase: tearingDown
spec: {}
---
node: 172.20.0.2
metadata:
    type: KubeSpanPeerStatuses.kubespan.talos.dev
    id: Zr5ewpUm2Ywo1c+/59WFKIBjZ3c/nVbIWsT5elbjwCU=
spec:
    state: up
"#;

    #[test]
    fn both_forms_say_the_same() {
        let psk = PresharedKey::from([7; 32]);
        let specs = peer_specs(YAML, Some(&psk)).unwrap();
        assert_eq!(specs.len(), 1);
        let spec = &specs[0];
        assert_eq!(
            spec.public_key.to_string(),
            "PLPNBddmTgHJhtw0vxltq1ZBdPP9RNOEUd5JjJZzBRY="
        );
        assert_eq!(spec.allowed_ips.len(), 3);
        assert_eq!(spec.endpoints[1], "[2001:db8::4]:51820".parse().unwrap());
        assert_eq!(spec.label, "bar");
        assert_eq!(spec.preshared_key, Some(psk.clone()));

        let json = serde_json::json!({
            "node": "172.20.0.2",
            "metadata": {"id": spec.public_key.to_string()},
            "spec": {
                "address": "fd50::1",
                "allowedIPs": spec.allowed_ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "endpoints": ["10.0.0.2:51820", "[2001:db8::4]:51820"],
                "label": "bar",
            },
        });
        let other = json.to_string().replace("PLPN", "QLPN");
        let stream = format!("{json:#}\n{other}\n");
        let read = peer_specs(&stream, Some(&psk)).unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read[..1], specs);
        let array = format!("[{json},{other}]");
        assert_eq!(peer_specs(&array, Some(&psk)).unwrap(), read);
        assert_eq!(peer_specs("[]", None), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (from, to, expected) in [
            (
                "10.0.0.2:51820",
                "10.0.0.2",
                "document 1: spec.endpoints[0]: `10.0.0.2` is not an endpoint",
            ),
            (
                "10.244.3.0/25",
                "10.244.3.0/33",
                "spec.allowedIPs[0]: `10.244.3.0/33` is not a network",
            ),
            (
                "BRY=",
                "BRY",
                "metadata.id: `PLPNBddmTgHJhtw0vxltq1ZBdPP9RNOEUd5JjJZzBRY` is not a public key",
            ),
            (
                "spec:\n    address",
                "sp:\n    address",
                "spec: nothing is not the spec",
            ),
            (
                "metadata:\n    namespace",
                "data:\n    namespace",
                "metadata: nothing is not the metadata",
            ),
            (
                "label: bar",
                "label: [bar]",
                "spec.label: a list is not a text",
            ),
        ] {
            assert!(YAML.contains(from), "{from}");
            let error = peer_specs(&YAML.replacen(from, to, 1), None).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert_eq!(peer_specs(" \n", None), Err(ResourceError::Empty));
    }

    #[test]
    fn half_a_file_is_no_file() {
        let document = &YAML[..YAML.find("---").unwrap()];
        let label = document.find("label:").unwrap();
        for cut in 1..document.len() {
            let read = peer_specs(&document[..cut], None);
            assert_eq!(
                read.is_ok(),
                cut >= label + "label:".len(),
                "{}",
                &document[..cut]
            );
        }
    }
}
