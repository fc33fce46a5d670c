//! `kubectl port-forward`: a TCP connection to the pod's loopback address, made inside its network namespace.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream},
    path::PathBuf,
    time::Duration,
};

use bytes::BytesMut;
use nix::sched::{CloneFlags, setns};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::failed;
use crate::{
    control::StreamChannel,
    model::{NetworkStatus, StreamEnd, StreamInput, StreamOutput},
};

const BUFFER: usize = 32 << 10;
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
    copy(stream, channel).await
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

async fn copy(mut stream: TcpStream, mut channel: StreamChannel) -> StreamEnd {
    let (mut from, mut to) = stream.split();
    let output = channel.output;
    let down = async {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        while from.read_buf(&mut buffer).await? > 0 {
            if output.send(StreamOutput::Stdout(buffer.split().freeze())).await.is_err() {
                break;
            }
            buffer.reserve(BUFFER);
        }
        io::Result::Ok(())
    };
    let up = async {
        let mut open = true;
        while let Some(message) = channel.input.recv().await {
            match message {
                StreamInput::Stdin(bytes) if open => to.write_all(&bytes).await?,
                // Half a close: the answer may still be coming.
                StreamInput::StdinClosed if open => {
                    to.shutdown().await?;
                    open = false;
                }
                StreamInput::Stdin(_) | StreamInput::StdinClosed | StreamInput::Resize { .. } => {}
            }
        }
        io::Result::Ok(())
    };
    // Cancel safety: whichever ends first ends the connection.
    let ended = tokio::select! { result = down => result, result = up => result };
    match ended {
        Ok(()) => StreamEnd::default(),
        Err(error) => failed(error.to_string()),
    }
}
