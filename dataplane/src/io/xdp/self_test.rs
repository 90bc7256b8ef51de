//! Tries a TX ring before traffic depends on it. A bind that succeeded says what the driver means
//! to do, not that a frame ever leaves: cards exist whose ring fills after a reset, and then
//! everything that is sent is lost.
//!
//! Each sending queue gets one frame, of 60 bytes, from the interface's own address to that same
//! address, with an EtherType that is free for local use. Nobody takes it: a switch does not send a
//! frame back to where it came from, and a host at the other end of a cable is not addressed. That
//! it comes back by the completion ring is the test; it does not show that it reached anybody,
//! which only a peer could.

use std::thread;
use std::time::{Duration, Instant};

use super::interface::Interface;
use super::queue::XdpQueue;

/// EtherType "local experimental 1" (IEEE 802).
const ETHERTYPE: [u8; 2] = [0x88, 0xb5];
/// The shortest Ethernet frame, without its check sequence.
const FRAME: usize = 60;
/// For whoever captures it.
const NAME: &[u8] = b"ringspan: start-up test of a TX ring";
/// Pause between two looks at the completion rings.
const PAUSE: Duration = Duration::from_millis(1);

/// What the test of the sending queues found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SendTest {
    /// Every ring has sent its frame.
    Works,
    /// This queue's ring took the frame and did not give it back in this time.
    Silent {
        /// The first such queue.
        queue: u32,
        /// How long was waited.
        waited: Duration,
    },
    /// This queue takes no frame: the kernel refuses to send.
    Refused {
        /// The first such queue.
        queue: u32,
    },
    /// Nothing can be said, for this reason: the interface has no link, say.
    Unknown(String),
}

/// Sends a frame by every one of `queues` (of `interface`) that sends, and waits for all of them to
/// come back, at most for `patience`.
pub fn test_sending(
    interface: &Interface,
    queues: &mut [XdpQueue],
    patience: Duration,
) -> SendTest {
    let no_link = || SendTest::Unknown(format!("{} has no link", interface.name()));
    // Without a link drivers keep frames, and rightly.
    if !interface.has_link() {
        return no_link();
    }
    let frame = frame(interface.mac());
    for queue in &mut *queues {
        let number = queue.queue();
        if let Some(tx) = queue.sender()
            && !tx.send_frame(&frame)
        {
            return if interface.has_link() {
                SendTest::Refused { queue: number }
            } else {
                no_link()
            };
        }
    }
    let began = Instant::now();
    loop {
        let silent = queues.iter_mut().find_map(|queue| {
            let number = queue.queue();
            let tx = queue.sender()?;
            (!tx.has_all_frames()).then_some(number)
        });
        let Some(queue) = silent else {
            return SendTest::Works;
        };
        if began.elapsed() >= patience {
            return if interface.has_link() {
                SendTest::Silent {
                    queue,
                    waited: patience,
                }
            } else {
                no_link()
            };
        }
        thread::sleep(PAUSE);
    }
}

fn frame(mac: [u8; 6]) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let parts = mac.iter().chain(&mac).chain(&ETHERTYPE).chain(NAME);
    for (to, from) in frame.iter_mut().zip(parts) {
        *to = *from;
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frame_is_for_nobody_else() {
        let frame = frame([2, 3, 4, 5, 6, 7]);
        assert_eq!(frame[..6], frame[6..12]);
        assert_eq!(frame[..6], [2, 3, 4, 5, 6, 7]);
        assert_eq!(frame[12..14], [0x88, 0xb5]);
        assert!(frame[14..].starts_with(NAME));
    }
}
