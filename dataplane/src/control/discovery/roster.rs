//! Who is a member of the cluster, by what the discovery service says and the encryption vouches
//! for.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::cipher::{ClusterCipher, NONCE_LEN, OpenError};
use super::messages::StoredAffiliate;
use super::{MAX_AFFILIATES, MAX_ENDPOINTS, MAX_ID_LEN};
use crate::control::kubespan::Affiliate;
use crate::time::Instant;

/// Earlier versions of a member's data that are known again when they come back.
const SUPERSEDED: usize = 16;

/// Why the service's word about a member is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No id, or one too long to be one.
    #[error("its id has {length} bytes, and ids have 1 to {MAX_ID_LEN}")]
    BadId {
        /// Bytes of the id.
        length: usize,
    },
    /// Not what a member of this cluster has written.
    #[error(transparent)]
    Data(#[from] OpenError),
    /// One member's data under another's id.
    #[error("its data are those of node `{node_id}`")]
    NodeIdMismatch {
        /// Whose data they are.
        node_id: String,
    },
    /// Data that the member has replaced since.
    #[error("its data are older than those already known")]
    Replayed,
    /// More members than a cluster can have.
    #[error("the cluster already has {MAX_AFFILIATES} members, which is all that it can have")]
    ClusterFull,
}

/// What has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Change {
    /// A member is new, or tells something new, or is back. Its valid endpoints are with it.
    Member(Box<Affiliate>),
    /// A member is missing where all members should be. It may have left, or the service may have
    /// lost its memory: its peer should be kept for a while.
    Vanished {
        /// The member.
        node_id: String,
    },
    /// A member has left: it was deleted, and a listing later on confirmed it.
    Removed {
        /// The member.
        node_id: String,
    },
    /// The word about one member was not taken; what is known of it stays.
    Refused {
        /// The id that it came under: not verified.
        affiliate_id: String,
        /// Why.
        reason: Refusal,
    },
}

type Nonce = [u8; NONCE_LEN];

#[derive(Debug)]
struct Known {
    affiliate: Affiliate,
    /// The stored form, to tell that nothing is new without decrypting.
    data: Vec<u8>,
    endpoints: Vec<Vec<u8>>,
    /// The nonces of earlier data: a member encrypts each change once, so a nonce that comes back
    /// after another one is a replay.
    superseded: VecDeque<Nonce>,
    present: bool,
}

/// The members, kept right under whatever the service says.
///
/// Nothing that cannot be verified replaces what was. A member goes only where it was deleted and
/// a complete listing confirms it: the service deletes living ones when a few of their endpoints
/// expire.
#[derive(Debug)]
pub struct Roster {
    cipher: ClusterCipher,
    own_id: String,
    known: BTreeMap<String, Known>,
    /// How long a deleted member has to come back.
    grace: Duration,
    /// Who is said to be deleted, and when that will be believed if it is still so.
    in_doubt: BTreeMap<String, Instant>,
    own_missing: bool,
}

impl Roster {
    /// No members. The node's own entry, under `own_id`, is not one. A member that is deleted has
    /// `grace` to come back.
    #[must_use]
    pub const fn new(cipher: ClusterCipher, own_id: String, grace: Duration) -> Self {
        Self {
            cipher,
            own_id,
            known: BTreeMap::new(),
            grace,
            in_doubt: BTreeMap::new(),
            own_missing: false,
        }
    }

    /// The cluster's cipher.
    #[must_use]
    pub const fn cipher(&self) -> &ClusterCipher {
        &self.cipher
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = &Affiliate> {
        let present = self.known.values().filter(|known| known.present);
        present.map(|known| &known.affiliate)
    }

    /// Takes what a watch begins with: everything that the service knows.
    pub fn snapshot(&mut self, stored: &[StoredAffiliate]) -> Vec<Change> {
        self.in_doubt.clear();
        let listed: BTreeSet<&str> = stored.iter().map(|one| one.id.as_str()).collect();
        self.own_missing = !listed.contains(self.own_id.as_str());
        // Room first: those that are gone make it for those that are new.
        let mut changes = Vec::new();
        for (node_id, known) in &mut self.known {
            if known.present && !listed.contains(node_id.as_str()) {
                known.present = false;
                let node_id = node_id.clone();
                changes.push(Change::Vanished { node_id });
            }
        }
        changes.extend(self.updated(stored));
        changes
    }

    /// Takes members that are new or have changed.
    pub fn updated(&mut self, stored: &[StoredAffiliate]) -> Vec<Change> {
        stored.iter().filter_map(|one| self.observe(one)).collect()
    }

    /// The service says at `now` that members are gone: that is doubted.
    pub fn deleted(&mut self, now: Instant, stored: &[StoredAffiliate]) {
        for StoredAffiliate { id, .. } in stored {
            if *id == self.own_id {
                self.own_missing = true;
            } else if self.known.get(id).is_some_and(|known| known.present) {
                let believed = now + self.grace;
                self.in_doubt.entry(id.clone()).or_insert(believed);
            }
        }
    }

    /// When a listing is to be asked for, to confirm somebody's departure.
    #[must_use]
    pub fn ask_at(&self) -> Option<Instant> {
        self.in_doubt.values().min().copied()
    }

    /// Whether the service has lost this node's own entry, since this was last asked.
    pub const fn take_own_missing(&mut self) -> bool {
        core::mem::replace(&mut self.own_missing, false)
    }

    /// Takes a complete listing, asked for at `asked` and after everything else was taken: whoever
    /// has not come back in time and is not in it has left.
    pub fn listed(&mut self, asked: Instant, stored: &[StoredAffiliate]) -> Vec<Change> {
        let listed: BTreeSet<&str> = stored.iter().map(|one| one.id.as_str()).collect();
        let mut changes = Vec::new();
        let still_in_doubt =
            |id: &String, believed: &Instant| asked < *believed && !listed.contains(id.as_str());
        let (in_doubt, judged) = core::mem::take(&mut self.in_doubt)
            .into_iter()
            .partition(|(id, believed)| still_in_doubt(id, believed));
        self.in_doubt = in_doubt;
        let judged: BTreeMap<String, Instant> = judged;
        for node_id in judged.into_keys() {
            if listed.contains(node_id.as_str()) {
                continue;
            }
            if let Some(known) = self.known.get_mut(&node_id) {
                known.present = false;
                changes.push(Change::Removed { node_id });
            }
        }
        changes.extend(self.updated(stored));
        changes
    }

    /// Takes one member's entry; `None` where it says nothing new.
    fn observe(&mut self, stored: &StoredAffiliate) -> Option<Change> {
        if stored.id == self.own_id {
            return None;
        }
        self.in_doubt.remove(&stored.id);
        match self.try_observe(stored) {
            Ok(affiliate) => affiliate.map(|affiliate| Change::Member(Box::new(affiliate))),
            Err(reason) => Some(Change::Refused {
                affiliate_id: stored.id.chars().take(MAX_ID_LEN).collect(),
                reason,
            }),
        }
    }

    fn try_observe(&mut self, stored: &StoredAffiliate) -> Result<Option<Affiliate>, Refusal> {
        let length = stored.id.len();
        if length == 0 || length > MAX_ID_LEN {
            return Err(Refusal::BadId { length });
        }
        let Some(known) = self.known.get_mut(&stored.id) else {
            return self.add(stored);
        };
        let same_data = stored.data == known.data || stored.data.is_empty();
        let same = same_data && stored.endpoints == known.endpoints;
        // Endpoints that others have found do not bring a member back.
        let not_back = !known.present && stored.data.is_empty();
        if (known.present && same) || not_back {
            return Ok(None);
        }
        if !same_data {
            let affiliate = open(&self.cipher, stored)?;
            let nonce = |data: &[u8]| data.first_chunk::<NONCE_LEN>().copied();
            if nonce(&stored.data).is_some_and(|nonce| known.superseded.contains(&nonce)) {
                return Err(Refusal::Replayed);
            }
            known.superseded.extend(nonce(&known.data));
            if known.superseded.len() > SUPERSEDED {
                known.superseded.pop_front();
            }
            known.affiliate = affiliate;
            known.data.clone_from(&stored.data);
        }
        known.present = true;
        known.endpoints.clone_from(&stored.endpoints);
        known.affiliate.kubespan.endpoints = open_endpoints(&self.cipher, stored);
        Ok(Some(known.affiliate.clone()))
    }

    fn add(&mut self, stored: &StoredAffiliate) -> Result<Option<Affiliate>, Refusal> {
        if stored.data.is_empty() {
            // Others have found endpoints of it; it has said nothing itself.
            return Ok(None);
        }
        let mut affiliate = open(&self.cipher, stored)?;
        if self.known.len() >= MAX_AFFILIATES {
            let absent = self.known.iter().find(|(_, known)| !known.present);
            let absent = absent.map(|(id, _)| id.clone());
            self.known.remove(&absent.ok_or(Refusal::ClusterFull)?);
        }
        affiliate.kubespan.endpoints = open_endpoints(&self.cipher, stored);
        let known = Known {
            affiliate: affiliate.clone(),
            data: stored.data.clone(),
            endpoints: stored.endpoints.clone(),
            superseded: VecDeque::new(),
            present: true,
        };
        self.known.insert(stored.id.clone(), known);
        Ok(Some(affiliate))
    }
}

fn open(cipher: &ClusterCipher, stored: &StoredAffiliate) -> Result<Affiliate, Refusal> {
    let affiliate = cipher.open_affiliate(&stored.data)?;
    if affiliate.node_id != stored.id {
        return Err(Refusal::NodeIdMismatch {
            node_id: affiliate.node_id,
        });
    }
    Ok(affiliate)
}

/// Those that are valid, in their order, each once: whoever knows the cluster's id can add others.
fn open_endpoints(cipher: &ClusterCipher, stored: &StoredAffiliate) -> Vec<core::net::SocketAddr> {
    let mut endpoints = Vec::new();
    for blob in &stored.endpoints {
        match cipher.open_endpoint(blob) {
            Ok(endpoint) if !endpoints.contains(&endpoint) => endpoints.push(endpoint),
            Ok(_) => {}
            Err(error) => tracing::debug!(node = stored.id, %error, "endpoint dropped"),
        }
        if endpoints.len() == MAX_ENDPOINTS {
            break;
        }
    }
    endpoints
}

#[cfg(test)]
mod tests;
