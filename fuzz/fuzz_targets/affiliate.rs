//! What a member of a cluster tells, decrypted: it is read and can be written again, or refused;
//! and the roster of members takes it under its own id alone.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ringspan::control::discovery::messages::StoredAffiliate;
use ringspan::control::discovery::payload::{decode_affiliate, encode_affiliate};
use ringspan::control::discovery::{Change, ClusterCipher, MAX_ID_LEN, Roster};
use ringspan::control::kubespan::KubeSpan;
use ringspan::crypto::SeededRandom;

fn cipher() -> ClusterCipher {
    ClusterCipher::new(&[1; 32].into()).expect("a cipher")
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut affiliate) = decode_affiliate(bytes) else {
        return;
    };
    if affiliate.kubespan.public_key.is_empty() {
        // Not a peer: nothing of its part in KubeSpan is told on.
        affiliate.kubespan = KubeSpan::default();
    }
    let again = decode_affiliate(&encode_affiliate(&affiliate)).expect("what was written");
    assert_eq!(again, affiliate);

    // Too long for the service, or for an id.
    let Ok(data) = cipher().seal_affiliate(&affiliate, &mut SeededRandom::new(1)) else {
        return;
    };
    if affiliate.node_id.len() > MAX_ID_LEN {
        return;
    }
    let mut roster = Roster::new(cipher(), String::new(), Duration::ZERO);
    let mut stored = StoredAffiliate {
        id: format!("{}x", affiliate.node_id),
        data,
        endpoints: vec![bytes.to_vec()],
    };
    let changes = roster.snapshot(&[stored.clone()]);
    assert!(
        matches!(changes[..], [Change::Refused { .. }]),
        "{changes:?}"
    );
    stored.id.pop();
    assert_eq!(
        roster.updated(&[stored]),
        [Change::Member(Box::new(affiliate))]
    );
});
