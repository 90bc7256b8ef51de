//! The protocol's constants, under the names of the WireGuard paper (§6.1, §6.4) and of the
//! kernel's `drivers/net/wireguard/messages.h`.

use core::time::Duration;

/// Messages a session may send before its initiator makes the next one.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages after which a session is refused, both ways: the window's width below 2^64.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - REPLAY_WINDOW - 1;
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
/// Retries within [`REKEY_ATTEMPT_TIME`].
pub const MAX_HANDSHAKE_ATTEMPTS: u32 = 18;
/// Silence after received data before an empty packet answers it.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Initiations that one peer may make a second.
pub const INITIATIONS_PER_SECOND: u32 = 50;
/// Packets that wait for a handshake, a peer.
pub const MAX_STAGED_PACKETS: usize = 128;
/// Lifetime of a cookie, and of the secret that makes it.
pub const COOKIE_SECRET_MAX_AGE: Duration = Duration::from_secs(120);
/// Grace that a cookie's holder takes off its age for the latency of the answer.
pub const COOKIE_SECRET_LATENCY: Duration = Duration::from_secs(5);
/// Multiple to which plaintext is padded, in bytes.
pub const PADDING_MULTIPLE: usize = 16;
