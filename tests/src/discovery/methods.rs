//! Connections, and the five methods.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use prost::Message;
use ringspan::control::discovery::messages::{
    AffiliateDeleteRequest, AffiliateUpdateRequest, ClusterRequest, EmptyResponse, HelloRequest,
    HelloResponse, ListResponse, RedirectMessage, SERVICE,
};
use ringspan::control::discovery::payload::ip_bytes;
use tokio::net::TcpStream;

use super::grpc::{self, Status};
use super::state::check_id;
use super::{Inner, Shared, client_ip};

type Respond = SendResponse<Bytes>;

/// Serves one connection until it ends.
pub(super) async fn connection(stream: TcpStream, from: IpAddr, shared: Arc<Shared>) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        let from = client_ip(request.headers(), from);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // An error is the client's departure.
            let _ = call(request, respond, from, &shared).await;
        });
    }
}

async fn call(
    request: Request<RecvStream>,
    mut respond: Respond,
    from: IpAddr,
    shared: &Shared,
) -> Result<(), h2::Error> {
    if let Err(status) = admit(&request, from, shared).await {
        return grpc::fail(&mut respond, status);
    }
    let (head, mut body) = request.into_parts();
    let path = head.uri.path().strip_prefix('/').unwrap_or_default();
    let method = path.strip_prefix(SERVICE).unwrap_or_default();
    let answer = match method {
        "/Hello" => hello(&mut body, from, shared).await,
        "/AffiliateUpdate" => update(&mut body, shared).await,
        "/AffiliateDelete" => delete(&mut body, shared).await,
        "/List" => list(&mut body, shared).await,
        "/Watch" => return watch(&mut body, &mut respond, shared).await,
        _ => Err(Status::Unimplemented),
    };
    match answer {
        Ok(answer) => {
            let mut stream = grpc::begin(&mut respond)?;
            grpc::send(&mut stream, &answer).await?;
            grpc::end(&mut stream, None)
        }
        Err(status) => grpc::fail(&mut respond, status),
    }
}

/// Waits until the client's address may make another request.
async fn admit<B>(request: &Request<B>, from: IpAddr, shared: &Shared) -> Result<(), Status> {
    let deadline = grpc::deadline(request.headers());
    let wait = {
        let mut inner = shared.lock();
        let now = shared.now(&inner);
        match &mut inner.rate {
            Some(rate) => rate.draw(now, from, deadline),
            None => return Ok(()),
        }
    };
    let wait = wait.ok_or(Status::ResourceExhausted("rate limit exceeded"))?;
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Any method's answer, encoded.
type Answer = Result<Vec<u8>, Status>;

async fn hello(body: &mut RecvStream, from: IpAddr, shared: &Shared) -> Answer {
    let request: HelloRequest = grpc::read(body).await?;
    let mut inner = shared.lock();
    inner.calls.hello += 1;
    check_id(&request.cluster_id)?;
    let redirect = inner.redirect.clone();
    let client_ip = if shared.tell_address {
        ip_bytes(from)
    } else {
        Vec::new()
    };
    let answer = HelloResponse {
        redirect: redirect.map(|endpoint| RedirectMessage { endpoint }),
        client_ip,
    };
    Ok(answer.encode_to_vec())
}

async fn update(body: &mut RecvStream, shared: &Shared) -> Answer {
    let request: AffiliateUpdateRequest = grpc::read(body).await?;
    let mut inner = shared.lock();
    let now = shared.now(&inner);
    let Inner { state, calls, .. } = &mut *inner;
    calls.update += 1;
    state.update(now, request)?;
    Ok(EmptyResponse {}.encode_to_vec())
}

async fn delete(body: &mut RecvStream, shared: &Shared) -> Answer {
    let request: AffiliateDeleteRequest = grpc::read(body).await?;
    let mut inner = shared.lock();
    inner.calls.delete += 1;
    check_id(&request.cluster_id)?;
    check_id(&request.affiliate_id)?;
    inner
        .state
        .delete(&request.cluster_id, &request.affiliate_id);
    Ok(EmptyResponse {}.encode_to_vec())
}

async fn list(body: &mut RecvStream, shared: &Shared) -> Answer {
    let request: ClusterRequest = grpc::read(body).await?;
    let mut inner = shared.lock();
    inner.calls.list += 1;
    check_id(&request.cluster_id)?;
    let affiliates = inner.state.list(&request.cluster_id);
    Ok(ListResponse { affiliates }.encode_to_vec())
}

async fn watch(
    body: &mut RecvStream,
    respond: &mut Respond,
    shared: &Shared,
) -> Result<(), h2::Error> {
    let begun = grpc::read::<ClusterRequest>(body)
        .await
        .and_then(|request| {
            let mut inner = shared.lock();
            inner.calls.watch += 1;
            check_id(&request.cluster_id)?;
            Ok(inner.state.watch(&request.cluster_id))
        });
    let (snapshot, mut changes) = match begun {
        Ok(begun) => begun,
        Err(status) => return grpc::fail(respond, status),
    };
    let mut stream = grpc::begin(respond)?;
    grpc::send(&mut stream, &snapshot.encode_to_vec()).await?;
    loop {
        let change = tokio::select! {
            reset = poll_fn(|context| stream.poll_reset(context)) => {
                return reset.map(|_| ());
            }
            change = changes.queue.recv() => change,
        };
        if changes.overflown.load(Ordering::Acquire) {
            return grpc::end(&mut stream, Some(Status::Aborted("watcher too slow")));
        }
        match change {
            Some(change) => grpc::send(&mut stream, &change.encode_to_vec()).await?,
            None => return grpc::end(&mut stream, None),
        }
    }
}
