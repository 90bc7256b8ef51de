//! Streams of peer specs and machine configurations, YAML or JSON: whatever the text, there is an
//! answer, and it does not depend on more than the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringspan::control::documents::Documents;
use ringspan::control::kubespan::MachineConfig;
use ringspan::control::source::peer_specs;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = core::str::from_utf8(input) else {
        return;
    };
    if let Ok(documents) = Documents::parse(text) {
        for node in documents.iter() {
            let fields = [node.at("spec.endpoints"), node.at("metadata.id")];
            for field in fields {
                let _ = (field.text(), field.items(), field.flag());
            }
        }
        // What is no peer spec in the whole is none in part.
        if let Ok(specs) = peer_specs(text, None) {
            assert_eq!(peer_specs(text, None).as_ref(), Ok(&specs));
            for spec in specs {
                assert!(spec.preshared_key.is_none());
            }
        }
    } else {
        assert!(peer_specs(text, None).is_err());
        assert!(MachineConfig::parse(text).is_err());
    }
    if let Ok(config) = MachineConfig::parse(text) {
        assert!(config.mtu >= 1280);
        assert!(
            config
                .discovery_services
                .iter()
                .all(|service| !service.endpoint.is_empty())
        );
    }
});
