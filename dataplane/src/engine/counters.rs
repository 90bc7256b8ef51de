//! What a worker counts: every way that a datagram or a packet can take has a name.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Totals of one worker since it started: written by it alone once a batch, read by
        /// whoever wants to know.
        #[derive(Debug, Default)]
        pub struct WorkerCounters {
            $($name: AtomicU64,)*
        }

        /// The sum of what one or several workers have counted.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl WorkerCounters {
            /// The values at this moment. They are read one after the other: those of a batch
            /// that is under way may be in part.
            #[must_use]
            pub fn totals(&self) -> Totals {
                Totals { $($name: self.$name.load(Relaxed),)* }
            }

            /// Adds what a batch brought. For the worker alone: nothing is lost because nobody
            /// else writes.
            pub(super) fn add(&self, batch: &Totals) {
                $(if batch.$name != 0 {
                    self.$name.store(self.$name.load(Relaxed).wrapping_add(batch.$name), Relaxed);
                })*
            }
        }

        impl Totals {
            /// Names and values, for metrics.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }

        impl core::ops::AddAssign for Totals {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// Datagrams received, of any kind.
    datagrams,
    /// Inner packets that came out of the tunnel and were delivered.
    delivered,
    /// Empty packets received.
    keepalives,
    /// Handshake messages passed on to control.
    handshakes,
    /// Handshake messages dropped because the way to control was full.
    handshakes_dropped,
    /// Datagrams of an unknown message type.
    unknown_type,
    /// Datagrams too short, or of a length that their type cannot have.
    wrong_length,
    /// Transport data for a receiver index that stands for no session.
    unknown_index,
    /// Transport data for a session that is too old.
    expired,
    /// Transport data with a counter that no session may reach.
    counter_exhausted,
    /// Transport data whose tag was wrong.
    forged,
    /// Authentic transport data that was seen before, or is too old to know.
    replayed,
    /// Sessions that this end has answered and whose first packet came.
    confirmed,
    /// Authentic contents that are no IP packet, or are cut.
    malformed_inner,
    /// Authentic packets whose source address is not the peer's.
    wrong_source,
    /// Packets that the inner driver did not take.
    inner_dropped,
    /// Transport data that was handed to another worker, or to itself in turn, to be opened.
    spread,
    /// Datagrams that found all parcels for other workers under way.
    spread_dropped,
    /// Packets to be sent.
    packets,
    /// Packets sealed and given to the outer driver.
    sealed,
    /// Packets to be sent that are no IP packets.
    malformed,
    /// Packets whose destination is no peer's.
    no_peer,
    /// Packets to a peer whose endpoint is not known.
    no_endpoint,
    /// Packets that no datagram can hold.
    oversized,
    /// This node's own datagrams that the host routed back into the tunnel.
    looped,
    /// ICMP errors delivered to inner senders.
    errors_delivered,
    /// Packets that had to wait for a handshake.
    staged,
    /// Packets dropped because too many waited.
    staged_dropped,
    /// Packets that waited in vain.
    staged_expired,
    /// Datagrams that the outer driver did not take.
    outer_dropped,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_and_workers_add_up() {
        let counters = WorkerCounters::default();
        for _ in 0..3 {
            counters.add(&Totals {
                datagrams: 4,
                forged: 1,
                ..Totals::default()
            });
        }
        let mut sum = counters.totals();
        sum += counters.totals();
        let named: Vec<_> = sum.named().filter(|(_, value)| *value != 0).collect();
        assert_eq!(named, [("datagrams", 24), ("forged", 6)]);
    }
}
