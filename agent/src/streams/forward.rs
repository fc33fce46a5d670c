//! `kubectl port-forward`: a TCP connection to the pod's loopback address, made inside its network namespace.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream},
    path::PathBuf,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

use super::{carry::carry, failed};
use crate::{
    control::StreamChannel,
    model::{NetworkStatus, StreamEnd},
};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects and copies until either side has ended both ways.
pub(super) async fn run(network: NetworkStatus, port: u16, channel: StreamChannel) -> StreamEnd {
    // With host networking the pod's namespace is the node's.
    let namespace = network.addresses.is_some().then_some(network.netns);
    let stream = match connect(namespace, port).await {
        Ok(stream) => stream,
        Err(error) => {
            return failed(format!(
                "failed to connect to localhost:{port} inside the pod's namespace: {error}"
            ));
        }
    };
    carry(stream, channel).await
}

/// A socket belongs to the namespace it was made in, so a thread that enters the namespace makes it and ends.
async fn connect(namespace: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let (answer, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("port-forward".into()).spawn(move || {
        let connected = enter(namespace).and_then(|()| connect_here(port));
        // The client may have gone meanwhile.
        let _ = answer.send(connected);
    })?;
    let stream =
        result.await.map_err(|_| io::Error::other("the connecting thread ended without an answer"))??;
    stream.set_nonblocking(true)?;
    TcpStream::from_std(stream)
}

fn enter(namespace: Option<PathBuf>) -> io::Result<()> {
    match namespace {
        Some(path) => Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWNET)?),
        None => Ok(()),
    }
}

fn connect_here(port: u16) -> io::Result<StdStream> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    StdStream::connect_timeout(&v4, CONNECT_TIMEOUT)
        .or_else(|first| StdStream::connect_timeout(&v6, CONNECT_TIMEOUT).map_err(|_| first))
}
