//! The API's proxies: a connection from the node to a pod's address or to a port of the node, or a conversation with the
//! agent itself, which answers what tools read from a kubelet. Never dials an address that is not of this node: the
//! scheduler names a pod or the node, not an address.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::Router;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use nix::errno::Errno;
use tokio::{io::DuplexStream, net::TcpStream};

use super::refusal;
use crate::model::StreamRefusal;

/// As long as upstream's proxies try.
const CONNECT: Duration = Duration::from_secs(30);
/// Between the agent's answers and the stream.
const BUFFER: usize = 32 << 10;

/// Connects, or says why not in the words of upstream's dialler.
pub(super) async fn connect(ip: IpAddr, port: u16) -> Result<TcpStream, StreamRefusal> {
    let address = SocketAddr::from((ip, port));
    let unreachable = |why: String| refusal(503, format!("dial tcp {address}: {why}"));
    match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            // What a proxy carries is mostly small: no waiting for more.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
        Ok(Err(error)) => Err(unreachable(format!("connect: {}", words(&error)))),
        Err(_) => Err(unreachable("i/o timeout".to_owned())),
    }
}

/// The kernel's error as the C library and Go call it, in lower case.
fn words(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.to_string() };
    let text = Errno::from_raw(code).desc();
    text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1)).collect()
}

/// One connection to the agent's own answers; it ends with the other end of the pair.
pub(super) fn answer(router: Router) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(BUFFER);
    tokio::spawn(async move {
        let service = TowerToHyperService::new(router);
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(theirs), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "a conversation by way of the API's proxy ended");
        }
    });
    ours
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_reached_is_told_as_upstream_does() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = connect(IpAddr::from([127, 0, 0, 1]), port).await;
        assert!(reached.is_ok());
        drop((reached, listener));
        let refused = connect(IpAddr::from([127, 0, 0, 1]), port).await.unwrap_err();
        assert_eq!(
            (refused.code, refused.message),
            (503, format!("dial tcp 127.0.0.1:{port}: connect: connection refused"))
        );
    }

    #[tokio::test]
    async fn the_agent_answers_over_the_stream() {
        let mut stream = answer(Router::new().route("/healthz", get(|| async { "ok" })));
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK") && text.ends_with("ok"), "{text}");
    }
}
