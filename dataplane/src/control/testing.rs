//! What tests of control share.

use core::cell::{Cell, RefCell};
use core::net::SocketAddr;
use core::time::Duration;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::registry::{self, ConfigChange, Plane, Rejection, Turn};
use crate::crypto::{PrivateKey, PublicKey, SeededRandom};
use crate::engine::handshakes::{Handshakes, Output, PeerConfig};
use crate::mesh::{Mesh, Peer};
use crate::runtime::control_thread::Stopped;
use crate::time::{Instant, Now};

/// A directory of its own for one test, removed at the end.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "ringspan-{}-{}",
            std::process::id(),
            NUMBER.fetch_add(1, Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What a registry acts on, without threads: real handshakes and tables, for tests.
pub(crate) struct TestPlane {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) handshakes: RefCell<Handshakes>,
    /// What the handshakes were told to send.
    pub(crate) sent: RefCell<Vec<(SocketAddr, Vec<u8>)>>,
    pub(crate) now: Cell<Now>,
}

impl TestPlane {
    /// The node with this private key. All randomness comes from it.
    pub(crate) fn new(private_key: &PrivateKey, seed: u64) -> Self {
        let mesh = Arc::new(Mesh::default());
        let random = Box::new(SeededRandom::new(seed));
        let handshakes = Handshakes::new(private_key, Arc::clone(&mesh), random).unwrap();
        Self {
            mesh,
            handshakes: RefCell::new(handshakes),
            sent: RefCell::default(),
            now: Cell::new(Now {
                monotonic: Instant::from_secs(1000),
                unix: Duration::from_secs(1_700_000_000),
            }),
        }
    }

    /// Has the handshakes do something; what they send is in [`TestPlane::sent`].
    pub(crate) fn with<R>(
        &self,
        work: impl FnOnce(&mut Handshakes, Now, &mut dyn FnMut(Output<'_>)) -> R,
    ) -> R {
        let mut post = |output: Output<'_>| {
            if let Output::Send { to, datagram, .. } = output {
                let mut sent = self.sent.borrow_mut();
                sent.push((to.remote, datagram.to_vec()));
            }
        };
        work(&mut self.handshakes.borrow_mut(), self.now.get(), &mut post)
    }
}

impl Plane for TestPlane {
    fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    fn introduce(
        &self,
        new: Vec<(Arc<Peer>, PeerConfig)>,
        changes: Vec<ConfigChange>,
    ) -> Result<Vec<Rejection>, Stopped> {
        Ok(self.with(|handshakes, _, _| registry::introduce(handshakes, new, changes)))
    }

    fn conclude(&self, removed: Vec<PublicKey>, renew: Vec<PublicKey>) -> Result<(), Stopped> {
        self.with(|handshakes, now, out| {
            registry::conclude(handshakes, now, out, &removed, &renew);
        });
        Ok(())
    }

    fn turn(&self, turns: Vec<Turn>) -> Result<(), Stopped> {
        self.with(|handshakes, now, out| registry::turn(handshakes, now, out, turns));
        Ok(())
    }

    fn are_initiating(&self, peers: Vec<PublicKey>) -> Result<Vec<bool>, Stopped> {
        let handshakes = self.handshakes.borrow();
        Ok(peers
            .iter()
            .map(|key| handshakes.is_initiating(key))
            .collect())
    }

    fn wake(&self) {}
}
