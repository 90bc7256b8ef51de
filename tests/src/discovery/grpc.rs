//! As much of gRPC over HTTP/2 as five methods need.

use std::future::poll_fn;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use prost::Message;

use super::state::Failure;

/// Bytes of a request at most.
const MAX_REQUEST_LEN: usize = 64 * 1024;
/// Flag and length before each message.
const PREFIX_LEN: usize = 5;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How a call ends, other than well.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Status {
    InvalidArgument(&'static str),
    ResourceExhausted(&'static str),
    Aborted(&'static str),
    Unimplemented,
}

impl Status {
    const fn code(self) -> u16 {
        match self {
            Self::InvalidArgument(_) => 3,
            Self::ResourceExhausted(_) => 8,
            Self::Aborted(_) => 10,
            Self::Unimplemented => 12,
        }
    }

    const fn message(self) -> &'static str {
        match self {
            Self::InvalidArgument(words)
            | Self::ResourceExhausted(words)
            | Self::Aborted(words) => words,
            Self::Unimplemented => "no such method",
        }
    }

    fn headers(self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_STATUS, self.code().into());
        headers.insert("grpc-message", HeaderValue::from_static(self.message()));
        headers
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::InvalidArgument(words) => Self::InvalidArgument(words),
            Failure::ResourceExhausted(words) => Self::ResourceExhausted(words),
        }
    }
}

/// Reads the one message of a request.
pub(super) async fn read<M: Message + Default>(body: &mut RecvStream) -> Result<M, Status> {
    let mut bytes = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data.map_err(|_| Status::InvalidArgument("broken off"))?;
        // Refused where the connection is gone, which the next read will tell.
        let _ = body.flow_control().release_capacity(data.len());
        bytes.extend_from_slice(&data);
        if bytes.len() > MAX_REQUEST_LEN {
            return Err(Status::ResourceExhausted("request too long"));
        }
    }
    if bytes.len() < PREFIX_LEN || bytes.get_u8() != 0 {
        return Err(Status::InvalidArgument("not one uncompressed message"));
    }
    let length = bytes.get_u32();
    if usize::try_from(length) != Ok(bytes.len()) {
        return Err(Status::InvalidArgument("not one whole message"));
    }
    M::decode(bytes).map_err(|_| Status::InvalidArgument("not the method's message"))
}

/// How long the client will wait (`grpc-timeout`: digits and a unit).
pub(super) fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.chars().last()?;
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count.saturating_mul(3600)),
        'M' => Duration::from_secs(count.saturating_mul(60)),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Begins an answer of messages.
pub(super) fn begin(respond: &mut SendResponse<Bytes>) -> Result<SendStream<Bytes>, h2::Error> {
    respond.send_response(response(HeaderMap::new()), false)
}

/// Sends one encoded message, as fast as the client takes it.
pub(super) async fn send(stream: &mut SendStream<Bytes>, message: &[u8]) -> Result<(), h2::Error> {
    let mut bytes = BytesMut::with_capacity(PREFIX_LEN + message.len());
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.extend_from_slice(message);
    let mut left = bytes.freeze();
    while !left.is_empty() {
        stream.reserve_capacity(left.len());
        let Some(room) = poll_fn(|context| stream.poll_capacity(context)).await else {
            return Err(h2::Reason::CANCEL.into());
        };
        let some = left.split_to(room?.min(left.len()));
        stream.send_data(some, false)?;
    }
    Ok(())
}

/// Ends an answer well, or not.
pub(super) fn end(stream: &mut SendStream<Bytes>, status: Option<Status>) -> Result<(), h2::Error> {
    let ok = || HeaderMap::from_iter([(GRPC_STATUS, 0_u16.into())]);
    let trailers = status.map_or_else(ok, Status::headers);
    stream.send_trailers(trailers)
}

/// Answers with nothing but a failure.
pub(super) fn fail(respond: &mut SendResponse<Bytes>, status: Status) -> Result<(), h2::Error> {
    respond.send_response(response(status.headers()), true)?;
    Ok(())
}

fn response(headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    let kind = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}
