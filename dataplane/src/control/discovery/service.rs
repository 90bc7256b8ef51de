//! A connection to a discovery service, and its five methods.

use core::net::IpAddr;
use core::time::Duration;

use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use super::client::Config;
use super::connect::Connector;
use super::messages::{
    AffiliateDeleteRequest, AffiliateUpdateRequest, ClusterRequest, EmptyResponse, HelloRequest,
    HelloResponse, ListResponse, SERVICE, StoredAffiliate, WatchResponse,
};
use super::payload::ip_of;
use super::route::{RedirectError, ServerUrl};
use super::{MAX_AFFILIATES, MAX_DATA_LEN, MAX_ENDPOINT_LEN, MAX_ENDPOINTS, MAX_ID_LEN};
use crate::control::kubespan::ClusterId;

/// Bytes of the longest answer: a full cluster, with some room for its framing. The usual limit of
/// 4 MiB is less.
const MAX_ANSWER_LEN: usize = {
    let endpoints = MAX_ENDPOINTS * (MAX_ENDPOINT_LEN + 2);
    MAX_AFFILIATES * (MAX_ID_LEN + MAX_DATA_LEN + endpoints + 16)
};
/// Characters of a service's own words that are repeated.
const MAX_WORDS: usize = 200;

/// Why the discovery service was of no use.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No connection.
    #[error("cannot connect to the discovery service at {url}: {reason}")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("the discovery service has not answered {method} within {timeout:?}")]
    Timeout {
        /// What was asked.
        method: &'static str,
        /// How long it had.
        timeout: Duration,
    },
    /// It has refused, or the connection has broken.
    #[error("the discovery service has ended {method}: {code:?}: {message}")]
    Refused {
        /// What was asked.
        method: &'static str,
        /// The gRPC status.
        code: Code,
        /// The service's own words, cut and without the cluster's id.
        message: String,
    },
    /// The owner wants another connection: this host has lost the address of this one, say.
    #[error("this host has moved: the discovery service is connected to anew")]
    Moved,
    /// It sends its clients elsewhere: no failure.
    #[error("the discovery service redirects to {url}")]
    Redirected {
        /// Where.
        url: String,
    },
    /// It sends its clients nowhere.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
}

/// A connection for one cluster.
#[derive(Clone)]
pub(super) struct Service {
    channel: Channel,
    cluster: ClusterId,
}

impl Service {
    /// Connects. The system's root certificates are read anew each time.
    pub(super) async fn connect(url: &ServerUrl, config: &Config) -> Result<Self, CallError> {
        let timings = &config.timings;
        let failed = |error: tonic::transport::Error| CallError::Connect {
            url: url.to_string(),
            reason: whole_chain(&error),
        };
        let mut endpoint = Endpoint::from_shared(url.to_string())
            .map_err(failed)?
            .connect_timeout(timings.call)
            .http2_keep_alive_interval(timings.keepalive())
            .keep_alive_timeout(Duration::from_secs(20));
        if url.tls() {
            let tls = ClientTlsConfig::new().with_native_roots();
            endpoint = endpoint.tls_config(tls).map_err(failed)?;
        }
        let connecting = tokio::time::timeout(
            timings.call,
            endpoint.connect_with_connector(Connector { mark: config.mark }),
        );
        let Ok(channel) = connecting.await else {
            let timeout = timings.call;
            let method = "the connection";
            return Err(CallError::Timeout { method, timeout });
        };
        let channel = channel.map_err(failed)?;
        let cluster = config.cluster_id.clone();
        Ok(Self { channel, cluster })
    }

    pub(super) async fn hello(
        &mut self,
        version: &str,
        timeout: Duration,
    ) -> Result<HelloResponse, CallError> {
        let request = HelloRequest {
            cluster_id: self.cluster_id(),
            client_version: version.into(),
        };
        self.unary("Hello", request, timeout).await
    }

    pub(super) async fn update(
        &mut self,
        affiliate_id: &str,
        data: Option<Vec<u8>>,
        endpoints: Vec<Vec<u8>>,
        ttl: Duration,
        timeout: Duration,
    ) -> Result<(), CallError> {
        let request = AffiliateUpdateRequest {
            cluster_id: self.cluster_id(),
            affiliate_id: affiliate_id.into(),
            affiliate_data: data,
            affiliate_endpoints: endpoints,
            ttl: Some(ttl.into()),
        };
        let EmptyResponse {} = self.unary("AffiliateUpdate", request, timeout).await?;
        Ok(())
    }

    pub(super) async fn delete(
        &mut self,
        affiliate_id: &str,
        timeout: Duration,
    ) -> Result<(), CallError> {
        let request = AffiliateDeleteRequest {
            cluster_id: self.cluster_id(),
            affiliate_id: affiliate_id.into(),
        };
        let EmptyResponse {} = self.unary("AffiliateDelete", request, timeout).await?;
        Ok(())
    }

    pub(super) async fn list(
        &mut self,
        timeout: Duration,
    ) -> Result<Vec<StoredAffiliate>, CallError> {
        let request = ClusterRequest {
            cluster_id: self.cluster_id(),
        };
        let answer: ListResponse = self.unary("List", request, timeout).await?;
        Ok(answer.affiliates)
    }

    /// Opens a watch, and waits for its first message: all members.
    pub(super) async fn watch(
        &mut self,
        timeout: Duration,
    ) -> Result<(Vec<StoredAffiliate>, Watch), CallError> {
        let method = "Watch";
        let request = Request::new(ClusterRequest {
            cluster_id: self.cluster_id(),
        });
        let (mut grpc, path) = self.call(method);
        let opening = async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(whole_chain(&error)))?;
            let codec = ProstCodec::<_, WatchResponse>::default();
            let answer = grpc.server_streaming(request, path, codec).await?;
            let mut stream = answer.into_inner();
            let first = stream.message().await?;
            Ok((first, stream))
        };
        let opened = tokio::time::timeout(timeout, opening).await;
        let (first, stream) = opened
            .map_err(|_| CallError::Timeout { method, timeout })?
            .map_err(|status| refused(&self.cluster, method, &status))?;
        let cluster = self.cluster.clone();
        let first = first.ok_or_else(|| ended(method))?;
        Ok((first.affiliates, Watch { stream, cluster }))
    }

    async fn unary<Q, A>(
        &mut self,
        method: &'static str,
        request: Q,
        timeout: Duration,
    ) -> Result<A, CallError>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut request = Request::new(request);
        // The service is told too: it would rather refuse than answer late.
        request.set_timeout(timeout);
        let (mut grpc, path) = self.call(method);
        let calling = async {
            grpc.ready()
                .await
                .map_err(|error| Status::unavailable(whole_chain(&error)))?;
            grpc.unary(request, path, ProstCodec::default()).await
        };
        tokio::time::timeout(timeout, calling)
            .await
            .map_err(|_| CallError::Timeout { method, timeout })?
            .map(Response::into_inner)
            .map_err(|status| refused(&self.cluster, method, &status))
    }

    fn call(&self, method: &'static str) -> (Grpc<Channel>, PathAndQuery) {
        let path = format!("/{SERVICE}/{method}");
        let path = PathAndQuery::try_from(path).unwrap_or_else(|_| PathAndQuery::from_static("/"));
        let grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_LEN);
        (grpc, path)
    }

    fn cluster_id(&self) -> String {
        self.cluster.as_str().to_owned()
    }
}

/// The changes after the first message.
pub(super) struct Watch {
    stream: Streaming<WatchResponse>,
    cluster: ClusterId,
}

impl Watch {
    /// The next change. May be dropped while it waits without losing one.
    pub(super) async fn next(&mut self) -> Result<WatchResponse, CallError> {
        let method = "Watch";
        match self.stream.message().await {
            Ok(Some(change)) => Ok(change),
            Ok(None) => Err(ended(method)),
            Err(status) => Err(refused(&self.cluster, method, &status)),
        }
    }
}

/// The address that the service has seen this node by.
pub(super) fn public_ip(hello: &HelloResponse) -> Option<IpAddr> {
    ip_of(&hello.client_ip)
        .map(|ip| ip.to_canonical())
        .filter(|ip| !ip.is_unspecified())
}

fn ended(method: &'static str) -> CallError {
    CallError::Refused {
        method,
        code: Code::Ok,
        message: "the stream is over".into(),
    }
}

fn refused(cluster: &ClusterId, method: &'static str, status: &Status) -> CallError {
    let words = match status.code() {
        // The transport's own words, of which the status has only the first.
        Code::Unknown | Code::Unavailable => whole_chain(status),
        _ => status.message().to_owned(),
    };
    let message = words
        .replace(cluster.as_str(), "(cluster id)")
        .chars()
        .filter(|char| !char.is_control())
        .take(MAX_WORDS)
        .collect();
    CallError::Refused {
        method,
        code: status.code(),
        message,
    }
}

/// An error and what has caused it.
fn whole_chain(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}
