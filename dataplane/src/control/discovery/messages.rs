//! The messages of the gRPC service `sidero.discovery.server.Cluster`, in Protocol Buffers 3.

/// The service's name: the first part of every method's path.
pub const SERVICE: &str = "sidero.discovery.server.Cluster";

/// Asks the service whether this is the right place.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HelloRequest {
    /// The cluster.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// `vMAJOR.MINOR.PATCH`, for the service's statistics.
    #[prost(string, tag = "2")]
    pub client_version: String,
}

/// What it answers.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct HelloResponse {
    /// Where to go instead.
    #[prost(message, optional, tag = "1")]
    pub redirect: Option<RedirectMessage>,
    /// The address that the service sees the client by: 4 or 16 bytes, or none.
    #[prost(bytes = "vec", tag = "2")]
    pub client_ip: Vec<u8>,
}

/// Where to go instead.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct RedirectMessage {
    /// `host:port`.
    #[prost(string, tag = "1")]
    pub endpoint: String,
}

/// Leaves, renews or completes what is known of a member.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AffiliateUpdateRequest {
    /// The cluster.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The member: itself, or one of which an endpoint was found.
    #[prost(string, tag = "2")]
    pub affiliate_id: String,
    /// Its encrypted data; none leaves what is there.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub affiliate_data: Option<Vec<u8>>,
    /// Encrypted endpoints to add to what is there.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub affiliate_endpoints: Vec<Vec<u8>>,
    /// How long all that lives.
    #[prost(message, optional, tag = "5")]
    pub ttl: Option<DurationMessage>,
}

/// A span of time (`google.protobuf.Duration`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct DurationMessage {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds beside them.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<core::time::Duration> for DurationMessage {
    fn from(duration: core::time::Duration) -> Self {
        Self {
            seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
        }
    }
}

impl DurationMessage {
    /// The span; `None` where it is negative or no span at all.
    #[must_use]
    pub fn span(&self) -> Option<core::time::Duration> {
        let nanos = u32::try_from(self.nanos).ok()?;
        let whole = nanos < 1_000_000_000;
        whole.then_some(core::time::Duration::new(
            u64::try_from(self.seconds).ok()?,
            nanos,
        ))
    }
}

/// The answer where there is nothing to say.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct EmptyResponse {}

/// Takes a member away.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct AffiliateDeleteRequest {
    /// The cluster.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
    /// The member.
    #[prost(string, tag = "2")]
    pub affiliate_id: String,
}

/// Asks for all members: once (`List`), or now and at every change (`Watch`).
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ClusterRequest {
    /// The cluster.
    #[prost(string, tag = "1")]
    pub cluster_id: String,
}

/// One member as the service stores it.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct StoredAffiliate {
    /// The member.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its encrypted data.
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    /// Its encrypted endpoints.
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub endpoints: Vec<Vec<u8>>,
}

/// All members.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct ListResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub affiliates: Vec<StoredAffiliate>,
}

/// All members first, then each that changes.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct WatchResponse {
    /// Who it is about.
    #[prost(message, repeated, tag = "1")]
    pub affiliates: Vec<StoredAffiliate>,
    /// They are gone; only their ids are there.
    #[prost(bool, tag = "2")]
    pub deleted: bool,
}
