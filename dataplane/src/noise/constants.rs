//! The protocol's constants, under the names of the WireGuard paper (§6.1, §6.4) and of the
//! kernel's `drivers/net/wireguard/messages.h`.

use core::time::Duration;

/// Messages a session may send before its initiator makes the next one.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages after which a session is refused, both ways: 2^64 − 2^13 − 1, as the paper has it (the
/// kernel, which counts 8128 usable bits of its window, allows 63 more).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - REPLAY_WINDOW;
/// Counters the replay window remembers, in bits.
pub const REPLAY_WINDOW: u64 = 8192;
/// Age at which the initiator makes the next session when it sends.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which a session is refused, both ways.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Pause between initiations to one peer.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// The most that is added to [`REKEY_TIMEOUT`] so that two ends do not stay in step.
pub const REKEY_TIMEOUT_JITTER_MAX: Duration = Duration::from_millis(333);
/// How long initiations are tried.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How many times [`REKEY_TIMEOUT`] fits into [`REKEY_ATTEMPT_TIME`]. When more retries than this
/// were made, no further one is (so the kernel, and so this: 20 initiations in all).
pub const MAX_HANDSHAKE_ATTEMPTS: u32 = 18;
/// Silence after received data before an empty packet answers it.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Age without a new session at which all key material of a peer is wiped.
pub const ZERO_KEYS_AFTER: Duration = Duration::from_secs(3 * REJECT_AFTER_TIME.as_secs());
/// Age at which an initiator that only receives makes the next session, lest the current one
/// expire while the peer sends.
pub const KEEP_FRESH_AFTER: Duration = Duration::from_secs(
    REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs(),
);
/// Initiations that one peer may make a second.
pub const INITIATIONS_PER_SECOND: u32 = 50;
/// Packets that wait for a handshake, a peer.
pub const MAX_STAGED_PACKETS: usize = 128;
/// Lifetime of a cookie, and of the secret that makes it.
pub const COOKIE_SECRET_MAX_AGE: Duration = Duration::from_secs(120);
/// Grace that a cookie's holder takes off its age for the latency of the answer.
pub const COOKIE_SECRET_LATENCY: Duration = Duration::from_secs(5);
/// TOS octet of handshake messages: DSCP AF41, not ECN-capable.
pub const HANDSHAKE_TOS: u8 = 0x88;
/// How long a node counts as under load after its queue was last seen filled.
pub const UNDER_LOAD_FOR: Duration = Duration::from_secs(1);
/// Peers of one node at most.
pub const MAX_PEERS: usize = 1 << 20;
/// Multiple to which plaintext is padded, in bytes.
pub const PADDING_MULTIPLE: usize = 16;

const _: () = {
    assert!(KEEP_FRESH_AFTER.as_secs() == 165);
    assert!(ZERO_KEYS_AFTER.as_secs() == 540);
    assert!(REJECT_AFTER_MESSAGES == 0xffff_ffff_ffff_dfff);
};
