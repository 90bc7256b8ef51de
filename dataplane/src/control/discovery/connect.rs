//! TCP connections to a discovery service, with a firewall mark.
//!
//! The service tells which prefixes lie behind which peer. Were it reached through the tunnel
//! where it lies behind one itself, a peer that is down would take the news of it along.

use core::time::Duration;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::codegen::http::Uri;
use tonic::codegen::{BoxFuture, Context, Poll, Service};

use crate::io::udp::set_mark;

/// How long an address has before the next one is tried beside it (RFC 8305's delay is 250 ms).
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects to the places of URLs that have host and port.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    /// `SO_MARK`; 0 for none.
    pub(super) mark: u32,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = BoxFuture<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, url: Uri) -> Self::Future {
        let mark = self.mark;
        Box::pin(async move {
            let (Some(host), Some(port)) = (url.host(), url.port_u16()) else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let addresses: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
            first_of(addresses, mark).await.map(TokioIo::new)
        })
    }
}

/// The first connection of those to `addresses`, each of which has a head start over the next.
async fn first_of(addresses: Vec<SocketAddr>, mark: u32) -> io::Result<TcpStream> {
    let mut addresses = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = addresses.next() {
            attempts.spawn(connect(address, mark));
        }
        let more = addresses.len() > 0;
        tokio::select! {
            done = attempts.join_next() => match done {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failure = error,
                Some(Err(_)) => {}
                None => return Err(failure),
            },
            () = sleep(HEAD_START), if more => {}
        }
    }
}

async fn connect(address: SocketAddr, mark: u32) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if mark != 0 {
        set_mark(socket.as_fd(), mark).map_err(|error| {
            io::Error::new(
                error.kind(),
                format!("the firewall mark {mark:#x} cannot be set (it needs CAP_NET_ADMIN)"),
            )
        })?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(future)
    }

    #[test]
    fn an_address_that_refuses_does_not_keep_the_next_from_being_reached() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let good = listener.local_addr().unwrap();
        // Bound and not listening: nobody else is given the port.
        let closed = run(async {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
            let closed = socket.local_addr().unwrap();
            let stream = first_of(vec![closed, good], 0).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), good);
            let refused = first_of(vec![closed], 0).await.unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            closed
        });
        assert_ne!(closed, good);
        let nowhere = run(first_of(Vec::new(), 0)).unwrap_err();
        assert_eq!(nowhere.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_place_is_reached_by_its_url() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut connector = Connector { mark: 0 };
        let stream = run(connector.call(url.parse().unwrap())).unwrap();
        let reached = stream.inner().peer_addr().unwrap();
        assert_eq!(reached, listener.local_addr().unwrap());
    }
}
