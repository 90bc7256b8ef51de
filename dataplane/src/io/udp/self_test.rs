//! Tries segmentation over the loopback interface before traffic depends on it: kernels exist
//! that accept the options and corrupt the data.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::address::RawAddress;
use super::control::Control;
use super::mmsg::{Incoming, Outgoing};
use super::{gro, gso, mmsg};
use crate::mesh::Endpoint;

/// A test's answer.
#[derive(Debug)]
pub(super) enum Verdict {
    /// What was sent arrived as it should.
    Works,
    /// It did not, for this reason.
    Broken(String),
    /// Nothing can be said: loopback is down or filtered. Run-time errors will tell.
    Unknown(String),
}

/// Three datagrams: two of `SEGMENT` bytes and a shorter one.
const SEGMENT: u16 = 100;
const PAYLOAD: usize = 250;

/// How long loopback may take. It delivers before `sendmsg` returns; this is for the worst case
/// of a filter that drops.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Whether `UDP_SEGMENT` works.
pub(super) fn segmentation() -> Verdict {
    let pair = match Pair::new() {
        Ok(pair) => pair,
        Err(error) => return Verdict::Unknown(format!("loopback: {error}")),
    };
    // A plain datagram first: if not even that arrives, segmentation is not to blame.
    match pair.round_trip(None) {
        Ok(true) => {}
        Ok(false) => return Verdict::Unknown("loopback delivers nothing".to_owned()),
        Err(error) => return Verdict::Unknown(format!("loopback: {error}")),
    }
    verdict(pair.round_trip(Some(SEGMENT)))
}

/// Whether `UDP_GRO` works, given that segmentation does.
pub(super) fn coalescing() -> Verdict {
    let pair = match Pair::new() {
        Ok(pair) => pair,
        Err(error) => return Verdict::Unknown(format!("loopback: {error}")),
    };
    if let Err(error) = gro::enable(pair.receiver.as_fd()) {
        return Verdict::Broken(format!("UDP_GRO: {error}"));
    }
    verdict(pair.round_trip(Some(SEGMENT)))
}

fn verdict(outcome: io::Result<bool>) -> Verdict {
    match outcome {
        Ok(true) => Verdict::Works,
        Ok(false) => Verdict::Broken("self-test: datagrams lost or altered".to_owned()),
        Err(error) if gso::refusal(&error) != gso::Refusal::Unrelated => {
            Verdict::Broken(format!("self-test: {error}"))
        }
        Err(error) => Verdict::Unknown(format!("loopback: {error}")),
    }
}

/// Two sockets on loopback that hear only one another.
struct Pair {
    sender: UdpSocket,
    receiver: UdpSocket,
    to: Endpoint,
}

impl Pair {
    fn new() -> io::Result<Self> {
        let sender = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let receiver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        receiver.connect(sender.local_addr()?)?;
        let to = Endpoint::from(receiver.local_addr()?);
        Ok(Self {
            sender,
            receiver,
            to,
        })
    }

    /// Sends the test payload, in segments or whole; whether it arrived in the same shape.
    fn round_trip(&self, segment: Option<u16>) -> io::Result<bool> {
        let mut payload = [0u8; PAYLOAD];
        for (byte, value) in payload.iter_mut().zip(1u8..) {
            *byte = value;
        }
        let message = Outgoing {
            to: &RawAddress::from(self.to.remote),
            control: &Control::outgoing(&self.to, false, 0, segment),
            payload: &payload,
        };
        mmsg::send(self.sender.as_fd(), &[message])?;
        let expected = payload.chunks(segment.map_or(PAYLOAD, usize::from));
        let mut arrived = Vec::new();
        while arrived.iter().map(Vec::len).sum::<usize>() < PAYLOAD && self.receive(&mut arrived)? {
        }
        Ok(expected.eq(arrived))
    }

    /// Waits for one message and appends its datagrams; false when none came.
    fn receive(&self, arrived: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.receiver, PollFlags::IN)];
        if poll(&mut fds, Some(&PATIENCE))? == 0 {
            return Ok(false);
        }
        let mut buffer = [0; 4 * PAYLOAD];
        let mut slots = [Incoming {
            buffer: &mut buffer,
            from: &mut RawAddress::EMPTY.clone(),
            control: &mut Control::EMPTY.clone(),
            len: 0,
            truncated: false,
        }];
        mmsg::receive(self.receiver.as_fd(), &mut slots)?;
        let [slot] = slots;
        let segment = slot.control.parse().segment;
        let payload = slot.buffer.get_mut(..slot.len).unwrap_or_default();
        arrived.extend(gro::split(payload, segment).map(|part| part.to_vec()));
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any kernel from 5.0 on, with loopback up, must pass; elsewhere nothing may be claimed.
    #[test]
    fn passes_or_says_why_it_cannot_tell() {
        for verdict in [segmentation(), coalescing()] {
            assert!(!matches!(verdict, Verdict::Broken(_)), "{verdict:?}");
        }
    }

    #[test]
    fn notices_lost_boundaries() {
        // Without UDP_GRO's ancillary data an aggregate looks like one long datagram.
        let pair = Pair::new().unwrap();
        gro::enable(pair.receiver.as_fd()).unwrap();
        let mut arrived = Vec::new();
        assert!(pair.round_trip(Some(SEGMENT)).unwrap());
        assert!(!pair.receive(&mut arrived).unwrap(), "nothing is left over");
    }
}
