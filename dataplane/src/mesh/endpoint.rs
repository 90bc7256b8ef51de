//! Where a peer is reached.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A peer's address and the way to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint {
    /// The peer's outer address and port.
    pub remote: SocketAddr,
    /// The local address that the peer last wrote to (the sticky source address), if known.
    pub local: Option<IpAddr>,
    /// The interface it last came in on; 0 where unknown.
    pub interface: u32,
}

impl From<SocketAddr> for Endpoint {
    /// An endpoint from configuration: the kernel chooses source and interface.
    fn from(remote: SocketAddr) -> Self {
        Self {
            remote,
            local: None,
            interface: 0,
        }
    }
}

/// What an endpoint is read over.
pub(crate) const NOWHERE: Endpoint = Endpoint {
    remote: SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0)),
    local: None,
    interface: 0,
};

/// The place of an endpoint that workers look at for every batch and hardly ever change.
///
/// A sequence lock of one cache line: reading takes no locked instruction and no second access to
/// memory. A reader that meets a writer waits for it, which takes as long as seven stores.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct EndpointCell {
    words: [AtomicU64; 6],
    /// Odd while the words change.
    version: AtomicU64,
    writer: Mutex<()>,
}

const _: () = assert!(size_of::<EndpointCell>() == 64, "one cache line");

impl EndpointCell {
    /// The endpoint, if there is one.
    #[inline]
    pub(super) fn load(&self) -> Option<Endpoint> {
        let mut endpoint = NOWHERE;
        self.load_into(&mut endpoint).then_some(endpoint)
    }

    /// Writes the endpoint, if there is one, where it is to stay; tells whether there is. To be
    /// copied at once it would have to wait until its many small fields are in memory.
    #[inline]
    pub(super) fn load_into(&self, endpoint: &mut Endpoint) -> bool {
        unpack(self.read(), endpoint)
    }

    /// Replaces the endpoint; returns whether that was news.
    #[inline]
    pub(super) fn store(&self, endpoint: &Endpoint) -> bool {
        let words = pack(endpoint);
        let changes = self
            .read()
            .iter()
            .zip(words)
            .fold(0, |all, (a, b)| all | (a ^ b));
        changes != 0 && self.write(|_| Some(words))
    }

    /// Replaces the endpoint, if there is one, by what `change` makes of it, with no other change
    /// in between.
    pub(super) fn update(&self, change: impl FnOnce(Endpoint) -> Endpoint) {
        self.write(|words| {
            let mut endpoint = NOWHERE;
            unpack(words, &mut endpoint).then(|| pack(&change(endpoint)))
        });
    }

    #[inline]
    fn read(&self) -> [u64; 6] {
        let version = self.version.load(Acquire);
        let words = self.peek();
        // The words before the version: one that is still the same says that they are whole.
        fence(Acquire);
        if version.is_multiple_of(2) && self.version.load(Relaxed) == version {
            return words;
        }
        let _writer = self.lock();
        self.peek()
    }

    #[inline]
    fn peek(&self) -> [u64; 6] {
        self.words.each_ref().map(|word| word.load(Relaxed))
    }

    /// Returns whether anything changed.
    #[cold]
    fn write(&self, change: impl FnOnce([u64; 6]) -> Option<[u64; 6]>) -> bool {
        let _writer = self.lock();
        let before = self.peek();
        let Some(next) = change(before).filter(|next| *next != before) else {
            return false;
        };
        let version = self.version.load(Relaxed);
        self.version.store(version.wrapping_add(1), Relaxed);
        // The version before the words: who sees one of these sees that, too.
        fence(Release);
        for (word, next) in self.words.iter().zip(next) {
            word.store(next, Relaxed);
        }
        self.version.store(version.wrapping_add(2), Release);
        true
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // Nothing in the locked sections panics.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const NONE: u8 = 0;
const V4: u8 = 4;
const V6: u8 = 6;

/// Remote address, local address, IPv6 flow and scope, interface and port and families.
#[inline]
fn pack(endpoint: &Endpoint) -> [u64; 6] {
    let (remote_family, remote) = halves(endpoint.remote.ip());
    let (local_family, local) = endpoint.local.map_or((NONE, [0; 2]), halves);
    let flow = match endpoint.remote {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(remote) => u64::from(remote.flowinfo()) << 32 | u64::from(remote.scope_id()),
    };
    let last = u64::from(endpoint.interface) << 32
        | u64::from(endpoint.remote.port()) << 16
        | u64::from(u16::from_be_bytes([local_family, remote_family]));
    [remote[0], remote[1], local[0], local[1], flow, last]
}

/// False where there is none.
#[inline]
fn unpack(words: [u64; 6], endpoint: &mut Endpoint) -> bool {
    let [remote_high, remote_low, local_high, local_low, flow, last] = words;
    let [local_family, remote_family] = (last as u16).to_be_bytes();
    let port = (last >> 16) as u16;
    match address(remote_family, [remote_high, remote_low]) {
        None => return false,
        Some(IpAddr::V4(remote)) => {
            endpoint.remote = SocketAddr::V4(SocketAddrV4::new(remote, port));
        }
        Some(IpAddr::V6(remote)) => {
            let (flow, scope) = ((flow >> 32) as u32, flow as u32);
            endpoint.remote = SocketAddr::V6(SocketAddrV6::new(remote, port, flow, scope));
        }
    }
    endpoint.local = address(local_family, [local_high, local_low]);
    endpoint.interface = (last >> 32) as u32;
    true
}

#[inline]
fn halves(address: IpAddr) -> (u8, [u64; 2]) {
    match address {
        IpAddr::V4(address) => (V4, [0, address.to_bits().into()]),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (V6, [(bits >> 64) as u64, bits as u64])
        }
    }
}

#[inline]
fn address(family: u8, [high, low]: [u64; 2]) -> Option<IpAddr> {
    match family {
        V4 => Some(Ipv4Addr::from_bits(low as u32).into()),
        V6 => Some(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use proptest::prelude::*;

    fn endpoints() -> impl Strategy<Value = Endpoint> {
        let remote = prop_oneof![
            any::<([u8; 4], u16)>().prop_map(SocketAddr::from),
            any::<(u128, u16, u32, u32)>().prop_map(|(address, port, flow, scope)| {
                SocketAddrV6::new(Ipv6Addr::from_bits(address), port, flow, scope).into()
            }),
        ];
        (remote, any::<Option<IpAddr>>(), any::<u32>()).prop_map(|(remote, local, interface)| {
            Endpoint {
                remote,
                local,
                interface,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_stored_is_loaded(first in endpoints(), second in endpoints()) {
            let cell = EndpointCell::default();
            prop_assert_eq!(cell.load(), None);
            cell.update(|_| unreachable!("there is none"));
            for endpoint in [first, second] {
                let news = cell.load() != Some(endpoint);
                prop_assert_eq!(cell.store(&endpoint), news);
                prop_assert_eq!(cell.load(), Some(endpoint));
                prop_assert!(!cell.store(&endpoint));
            }
            cell.update(|endpoint| Endpoint::from(endpoint.remote));
            prop_assert_eq!(cell.load(), Some(Endpoint::from(second.remote)));
        }
    }

    #[test]
    fn readers_never_see_two_endpoints_mixed() {
        let cell = EndpointCell::default();
        let endpoint = |n: u16| {
            let address = Ipv6Addr::from([n; 8]);
            Endpoint {
                remote: SocketAddrV6::new(address, n, n.into(), n.into()).into(),
                local: Some(address.into()),
                interface: n.into(),
            }
        };
        cell.store(&endpoint(1));
        thread::scope(|scope| {
            for writer in 0..2 {
                let (cell, endpoint) = (&cell, &endpoint);
                scope.spawn(move || {
                    for n in 0..20_000 {
                        cell.store(&endpoint(n * 2 + writer));
                    }
                });
            }
            for _ in 0..20_000 {
                let seen = cell.load().unwrap();
                assert_eq!(seen, endpoint(seen.interface as u16));
            }
        });
    }
}
