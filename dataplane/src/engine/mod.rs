//! Floor 5: the batch pipeline. Opens batches of datagrams, seals batches of packets; no
//! system calls, no clock.

pub mod port;
