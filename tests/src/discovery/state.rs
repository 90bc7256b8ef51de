//! What the service remembers. Pure: `now` is a parameter, counted from any fixed moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringspan::control::discovery::messages::{
    AffiliateUpdateRequest, StoredAffiliate, WatchResponse,
};
use ringspan::control::discovery::{
    MAX_AFFILIATES, MAX_DATA_LEN, MAX_ENDPOINT_LEN, MAX_ENDPOINTS, MAX_ID_LEN,
};
use tokio::sync::mpsc;

/// The longest life that a client can ask for.
const MAX_TTL: Duration = Duration::from_secs(30 * 60);
/// Changes that a watcher may leave unread.
const WATCH_QUEUE: usize = 32;

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// It breaks a limit on its form.
    #[error("{0}")]
    InvalidArgument(&'static str),
    /// It breaks a limit on amounts.
    #[error("{0}")]
    ResourceExhausted(&'static str),
}

/// One member.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Affiliate {
    data: Vec<u8>,
    expires: Duration,
    /// In the order in which they came, each with its own end.
    endpoints: Vec<(Vec<u8>, Duration)>,
}

/// What a collection has done to a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collected {
    /// Nothing.
    Unchanged,
    /// Some endpoints have expired.
    EndpointsExpired,
    /// It has expired.
    Expired,
}

impl Affiliate {
    /// New data; whether that is a change, which data always are.
    pub fn update_data(&mut self, data: Vec<u8>, expires: Duration) -> bool {
        self.data = data;
        self.expires = self.expires.max(expires);
        true
    }

    /// More endpoints; whether one of them is new.
    ///
    /// # Errors
    /// There would be too many. Those before are kept.
    pub fn merge_endpoints(
        &mut self,
        endpoints: Vec<Vec<u8>>,
        expires: Duration,
    ) -> Result<bool, Failure> {
        let mut merged = self.endpoints.clone();
        for endpoint in endpoints {
            match merged.iter_mut().find(|(known, _)| *known == endpoint) {
                Some((_, until)) => *until = expires.max(*until),
                None => merged.push((endpoint, expires)),
            }
        }
        if merged.len() > MAX_ENDPOINTS {
            return Err(Failure::ResourceExhausted("too many endpoints"));
        }
        let changed = merged.len() > self.endpoints.len();
        self.endpoints = merged;
        self.expires = self.expires.max(expires);
        Ok(changed)
    }

    /// Drops what has expired.
    pub fn collect(&mut self, now: Duration) -> Collected {
        if self.expires < now {
            return Collected::Expired;
        }
        let before = self.endpoints.len();
        self.endpoints.retain(|(_, expires)| *expires >= now);
        if self.endpoints.len() < before {
            Collected::EndpointsExpired
        } else {
            Collected::Unchanged
        }
    }

    /// Its endpoints.
    pub fn endpoints(&self) -> impl Iterator<Item = &[u8]> {
        self.endpoints
            .iter()
            .map(|(endpoint, _)| endpoint.as_slice())
    }

    fn stored(&self, id: &str) -> StoredAffiliate {
        StoredAffiliate {
            id: id.into(),
            data: self.data.clone(),
            endpoints: self.endpoints().map(<[u8]>::to_vec).collect(),
        }
    }
}

/// One watcher's end of its queue.
#[derive(Debug)]
struct Watcher {
    queue: mpsc::Sender<WatchResponse>,
    overflown: Arc<AtomicBool>,
}

/// The other end.
#[derive(Debug)]
pub(super) struct Changes {
    pub(super) queue: mpsc::Receiver<WatchResponse>,
    /// It has not kept up: it is to be cut off.
    pub(super) overflown: Arc<AtomicBool>,
}

#[derive(Debug, Default)]
struct Cluster {
    affiliates: BTreeMap<String, Affiliate>,
    watchers: Vec<Watcher>,
}

impl Cluster {
    fn notify(&mut self, affiliate: StoredAffiliate, deleted: bool) {
        let change = WatchResponse {
            affiliates: vec![affiliate],
            deleted,
        };
        self.watchers.retain(|watcher| {
            let sent = watcher.queue.try_send(change.clone());
            if let Err(mpsc::error::TrySendError::Full(_)) = sent {
                watcher.overflown.store(true, Ordering::Release);
            }
            sent.is_ok()
        });
    }

    fn notify_deleted(&mut self, id: &str) {
        let gone = StoredAffiliate {
            id: id.into(),
            ..StoredAffiliate::default()
        };
        self.notify(gone, true);
    }
}

/// All clusters.
#[derive(Debug, Default)]
pub struct State {
    clusters: BTreeMap<String, Cluster>,
}

impl State {
    /// `AffiliateUpdate`.
    ///
    /// # Errors
    /// [`Failure`]; nothing has changed then.
    pub fn update(
        &mut self,
        now: Duration,
        request: AffiliateUpdateRequest,
    ) -> Result<(), Failure> {
        check_id(&request.cluster_id)?;
        check_id(&request.affiliate_id)?;
        let data = request.affiliate_data.unwrap_or_default();
        if data.len() > MAX_DATA_LEN {
            return Err(Failure::InvalidArgument("affiliate data too long"));
        }
        let endpoints = request.affiliate_endpoints;
        if endpoints.iter().any(|blob| blob.len() > MAX_ENDPOINT_LEN) {
            return Err(Failure::InvalidArgument("affiliate endpoint too long"));
        }
        let ttl = request.ttl.and_then(|ttl| ttl.span());
        let ttl = ttl.ok_or(Failure::InvalidArgument("no TTL"))?;
        if ttl > MAX_TTL {
            return Err(Failure::InvalidArgument("TTL too long"));
        }
        let cluster = self.clusters.entry(request.cluster_id).or_default();
        let id = request.affiliate_id;
        let known = cluster.affiliates.get(&id);
        if known.is_none() && cluster.affiliates.len() >= MAX_AFFILIATES {
            return Err(Failure::ResourceExhausted("too many affiliates"));
        }
        let mut affiliate = known.cloned().unwrap_or_default();
        let mut changed = affiliate.merge_endpoints(endpoints, now + ttl)?;
        if !data.is_empty() {
            changed |= affiliate.update_data(data, now + ttl);
        }
        let stored = affiliate.stored(&id);
        cluster.affiliates.insert(id, affiliate);
        if changed {
            cluster.notify(stored, false);
        }
        Ok(())
    }

    /// `AffiliateDelete`.
    pub fn delete(&mut self, cluster_id: &str, affiliate_id: &str) {
        if let Some(cluster) = self.clusters.get_mut(cluster_id)
            && cluster.affiliates.remove(affiliate_id).is_some()
        {
            cluster.notify_deleted(affiliate_id);
        }
    }

    /// `List`.
    #[must_use]
    pub fn list(&self, cluster_id: &str) -> Vec<StoredAffiliate> {
        let Some(cluster) = self.clusters.get(cluster_id) else {
            return Vec::new();
        };
        let affiliates = cluster.affiliates.iter();
        affiliates
            .map(|(id, affiliate)| affiliate.stored(id))
            .collect()
    }

    /// `Watch`: everything, and the changes from then on.
    pub(super) fn watch(&mut self, cluster_id: &str) -> (WatchResponse, Changes) {
        let snapshot = WatchResponse {
            affiliates: self.list(cluster_id),
            deleted: false,
        };
        let (sender, queue) = mpsc::channel(WATCH_QUEUE);
        let overflown = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            queue: sender,
            overflown: Arc::clone(&overflown),
        };
        let cluster = self.clusters.entry(cluster_id.into()).or_default();
        cluster.watchers.push(watcher);
        (snapshot, Changes { queue, overflown })
    }

    /// Drops what has expired, and tells the watchers: of a member of which endpoints alone have
    /// expired, that it is deleted, as the real service does.
    pub fn collect(&mut self, now: Duration) {
        for cluster in self.clusters.values_mut() {
            let mut told = Vec::new();
            cluster.affiliates.retain(|id, affiliate| {
                let collected = affiliate.collect(now);
                if collected != Collected::Unchanged {
                    told.push(id.clone());
                }
                collected != Collected::Expired
            });
            for id in told {
                cluster.notify_deleted(&id);
            }
        }
    }
}

/// Checks the id of a cluster or a member.
pub(super) const fn check_id(id: &str) -> Result<(), Failure> {
    match id.len() {
        1..=MAX_ID_LEN => Ok(()),
        _ => Err(Failure::InvalidArgument("an id has 1 to 256 bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minutes(count: u64) -> Duration {
        Duration::from_secs(60 * count)
    }

    fn request(id: &str, data: &str, endpoints: &[&str], ttl: Duration) -> AffiliateUpdateRequest {
        AffiliateUpdateRequest {
            cluster_id: "c".into(),
            affiliate_id: id.into(),
            affiliate_data: Some(data.into()),
            affiliate_endpoints: endpoints.iter().map(|&one| one.into()).collect(),
            ttl: Some(ttl.into()),
        }
    }

    #[test]
    fn the_vectors_steps() {
        let vectors = include_str!("../../../dataplane/tests/vectors/kubespan.json");
        let vectors: serde_json::Value = serde_json::from_str(vectors).unwrap();
        let steps = vectors["discovery_server_state"]["steps"]
            .as_array()
            .unwrap();
        assert_eq!(steps.len(), 7);
        let mut affiliate = Affiliate::default();
        for step in steps {
            let at = |name: &str| minutes(step[name].as_u64().unwrap());
            let list = |name: &str| -> Option<Vec<Vec<u8>>> {
                let texts = step[name].as_array()?.iter();
                Some(texts.map(|text| text.as_str().unwrap().into()).collect())
            };
            let changed = match step["op"].as_str().unwrap() {
                "update data" => {
                    let data = step["data"].as_str().unwrap();
                    affiliate.update_data(data.into(), at("expires"))
                }
                "merge endpoints" => {
                    let added = list("add").unwrap();
                    affiliate.merge_endpoints(added, at("expires")).unwrap()
                }
                "collect" => {
                    let collected = affiliate.collect(at("at"));
                    let removed = collected == Collected::Expired;
                    assert_eq!(Some(removed), step["removed"].as_bool(), "{step}");
                    collected != Collected::Unchanged
                }
                other => panic!("{other}"),
            };
            assert_eq!(Some(changed), step["changed"].as_bool(), "{step}");
            if let Some(endpoints) = list("endpoints") {
                assert!(affiliate.endpoints().eq(&endpoints), "{step}");
            }
        }
    }

    #[test]
    fn limits() {
        let mut state = State::default();
        let second = Duration::from_secs(1);
        let mut update = |request| state.update(Duration::ZERO, request);
        let long = "x".repeat(257);
        for bad in [
            request("", "d", &[], second),
            request(&long, "d", &[], second),
            request("a", &"d".repeat(2049), &[], second),
            request("a", "d", &["e".repeat(33).as_str()], second),
            request("a", "d", &[], minutes(30) + second),
            AffiliateUpdateRequest {
                ttl: None,
                ..request("a", "d", &[], second)
            },
        ] {
            assert!(matches!(update(bad), Err(Failure::InvalidArgument(_))));
        }
        let many: Vec<_> = (0..65).map(|n| n.to_string()).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(matches!(
            update(request("a", "d", &many, second)),
            Err(Failure::ResourceExhausted(_))
        ));
        for n in 0..MAX_AFFILIATES {
            update(request(&n.to_string(), "d", &many[..64], second)).unwrap();
        }
        assert!(matches!(
            update(request("a", "d", &[], second)),
            Err(Failure::ResourceExhausted(_))
        ));
        update(request("0", "again", &[], second)).unwrap();
    }

    #[test]
    fn watchers_are_told_and_lied_to() {
        let mut state = State::default();
        state
            .update(minutes(0), request("a", "d", &["e1"], minutes(5)))
            .unwrap();
        let (snapshot, mut changes) = state.watch("c");
        assert_eq!(snapshot.affiliates.len(), 1);
        // Renewing the data prolongs its life, not that of an endpoint it has given up.
        state
            .update(minutes(4), request("a", "d", &["e2"], minutes(5)))
            .unwrap();
        let told = changes.queue.try_recv().unwrap();
        assert!(!told.deleted);
        assert_eq!(told.affiliates[0].endpoints.len(), 2);
        // The quirk.
        state.collect(minutes(6));
        assert!(changes.queue.try_recv().unwrap().deleted);
        assert_eq!(state.list("c").len(), 1);
        state.collect(minutes(10));
        assert!(changes.queue.try_recv().unwrap().deleted);
        assert_eq!(state.list("c"), []);
    }

    #[test]
    fn a_watcher_that_does_not_read_is_cut_off() {
        let mut state = State::default();
        let (_, changes) = state.watch("c");
        for n in 0..33 {
            assert!(!changes.overflown.load(Ordering::Acquire));
            let id = n.to_string();
            state
                .update(minutes(0), request(&id, "d", &[], minutes(1)))
                .unwrap();
        }
        assert!(changes.overflown.load(Ordering::Acquire));
    }
}
