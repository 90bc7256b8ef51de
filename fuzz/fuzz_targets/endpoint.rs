//! An endpoint of the discovery service: whatever the blocks decrypt to, it is an endpoint that
//! would be written so, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringspan::control::discovery::ClusterCipher;
use ringspan::control::discovery::cipher::{endpoint_of, padded};

fuzz_target!(|bytes: &[u8]| {
    let cipher = ClusterCipher::new(&[1; 32].into()).expect("a cipher");
    // As it comes from the service: noise, but for what was made with this very key.
    if let Ok(endpoint) = cipher.open_endpoint(bytes) {
        assert_eq!(cipher.seal_endpoint(endpoint).expect("blocks"), bytes);
    }
    // As it comes out of the decryption.
    if let Ok(endpoint) = endpoint_of(bytes) {
        assert_eq!(padded(endpoint), bytes);
        let blob = cipher.seal_endpoint(endpoint).expect("blocks");
        assert_eq!(cipher.open_endpoint(&blob), Ok(endpoint));
    }
});
