//! Who sends beside AF_XDP, and why: from what was wished, what the sockets turned out to be, and
//! what their test at start found.

use super::wishes::XdpSend;
use crate::io::xdp::SendTest;

/// The drivers to use, with the reason in words where there is something to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Choice {
    /// Whether AF_XDP sends; else the UDP socket does.
    pub(super) xdp_sends: bool,
    pub(super) reason: Reason,
}

/// Why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Reason {
    /// It was asked for, and nothing speaks against it.
    Asked,
    /// The best there is.
    Best(String),
    /// Something is missing, or does not work.
    Lacking(String),
}

/// Whether the answer of `test_sending` matters: it puts a frame on the wire.
pub(super) fn wants_test(wish: XdpSend, zero_copy: bool) -> bool {
    match wish {
        XdpSend::Auto => zero_copy,
        XdpSend::Both => true,
        XdpSend::ReceiveOnly => false,
    }
}

/// Chooses; `interface` is for the words, `zero_copy` is whether all sockets have it.
pub(super) fn choose(wish: XdpSend, interface: &str, zero_copy: bool, test: &SendTest) -> Choice {
    let choice = |xdp_sends, reason| Choice { xdp_sends, reason };
    match (wish, test) {
        (XdpSend::ReceiveOnly, _) => choice(false, Reason::Asked),
        // Copied, each frame costs the kernel more than a whole run of datagrams that the UDP
        // socket sends as one. And a socket without a TX ring is cheaper to wait for.
        (XdpSend::Auto, _) if !zero_copy => choice(
            false,
            Reason::Lacking(format!(
                "AF_XDP on {interface} has no zero copy: it receives, the UDP socket sends"
            )),
        ),
        (XdpSend::Auto, SendTest::Silent { queue, waited }) => choice(
            false,
            Reason::Lacking(format!(
                "AF_XDP on {interface} has zero copy, but queue {queue} had not sent a test frame \
                 after {waited:?}: AF_XDP receives, the UDP socket sends"
            )),
        ),
        (XdpSend::Auto, SendTest::Refused { queue }) => choice(
            false,
            Reason::Lacking(format!(
                "AF_XDP on {interface} has zero copy, but queue {queue} takes no test frame: \
                 AF_XDP receives, the UDP socket sends"
            )),
        ),
        (XdpSend::Auto, SendTest::Works) => choice(
            true,
            Reason::Best(format!(
                "AF_XDP on {interface} has zero copy and has sent a test frame by every queue: it \
                 receives and sends"
            )),
        ),
        (XdpSend::Auto, SendTest::Unknown(why)) => choice(
            true,
            Reason::Best(format!(
                "AF_XDP on {interface} has zero copy: it receives and sends, untested, since {why}"
            )),
        ),
        (XdpSend::Both, SendTest::Silent { queue, waited }) => choice(
            true,
            Reason::Lacking(format!(
                "queue {queue} of {interface} had not sent a test frame after {waited:?}: what \
                 AF_XDP sends, as was asked for, may be lost; let the UDP socket send instead"
            )),
        ),
        (XdpSend::Both, SendTest::Refused { queue }) => choice(
            true,
            Reason::Lacking(format!(
                "queue {queue} of {interface} takes no test frame: what AF_XDP sends, as was asked \
                 for, may be lost; let the UDP socket send instead"
            )),
        ),
        (XdpSend::Both, SendTest::Works | SendTest::Unknown(_)) => choice(true, Reason::Asked),
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    /// Every step down, and every reason that is told.
    #[test]
    fn each_finding_leads_to_a_pair_and_a_reason() {
        let silent = SendTest::Silent {
            queue: 3,
            waited: Duration::from_millis(100),
        };
        let unknown = SendTest::Unknown("eth7 has no link".into());
        let works = SendTest::Works;
        let refused = SendTest::Refused { queue: 5 };
        for (wish, zero_copy, test, xdp_sends, words) in [
            (
                XdpSend::Auto,
                true,
                &works,
                true,
                &["eth7", "zero copy", "every queue"][..],
            ),
            (
                XdpSend::Auto,
                true,
                &unknown,
                true,
                &["zero copy", "untested", "no link"],
            ),
            (
                XdpSend::Auto,
                true,
                &silent,
                false,
                &["queue 3", "100ms", "UDP socket sends"],
            ),
            (
                XdpSend::Auto,
                true,
                &refused,
                false,
                &["queue 5", "no test frame", "UDP socket sends"],
            ),
            (
                XdpSend::Both,
                true,
                &refused,
                true,
                &["queue 5", "may be lost"],
            ),
            (
                XdpSend::Auto,
                false,
                &works,
                false,
                &["no zero copy", "UDP socket sends"],
            ),
            (
                XdpSend::Auto,
                false,
                &unknown,
                false,
                &["no zero copy", "UDP socket sends"],
            ),
            (XdpSend::Both, false, &works, true, &[]),
            (XdpSend::Both, true, &unknown, true, &[]),
            (
                XdpSend::Both,
                true,
                &silent,
                true,
                &["queue 3", "may be lost"],
            ),
            (XdpSend::ReceiveOnly, true, &unknown, false, &[]),
        ] {
            let choice = choose(wish, "eth7", zero_copy, test);
            assert_eq!(choice.xdp_sends, xdp_sends, "{wish:?} {zero_copy} {test:?}");
            let text = match choice.reason {
                Reason::Asked => String::new(),
                Reason::Best(text) => {
                    assert!(xdp_sends && wish == XdpSend::Auto, "{text}");
                    text
                }
                Reason::Lacking(text) => text,
            };
            assert_eq!(text.is_empty(), words.is_empty(), "{text}");
            for word in words {
                assert!(text.contains(word), "{text}");
            }
        }
    }

    /// No frame is sent whose fate would change nothing.
    #[test]
    fn only_rings_that_may_be_used_are_tested() {
        assert!(wants_test(XdpSend::Auto, true) && wants_test(XdpSend::Both, false));
        assert!(!wants_test(XdpSend::Auto, false) && !wants_test(XdpSend::ReceiveOnly, true));
    }
}
