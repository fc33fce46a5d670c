//! port-forward: connections into a pod. kubectl speaks SPDY through a WebSocket, older clients SPDY itself, and others
//! two channels of a WebSocket for each port. Each connection is a stream of the agent's, and what went wrong with one is
//! told on its error stream, in upstream's words.

use std::{collections::HashMap, time::Duration};

use axum::{
    extract::{Request, ws},
    response::Response,
};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use gantry_proto::node::v1::{self as pb, stream_frame::Kind, stream_request};
use http::header;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};
use tokio_util::io::{CopyToBytes, SinkWriter, StreamReader};

use super::{
    Params, PodStreams, host_of, name_of,
    socket::{self, Codec},
    spdy, uid_of,
};
use crate::{
    model::{ApiError, Reason},
    nodes::Nodes,
};

const PROTOCOL: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const CHANNELS: [(&str, Codec); 3] =
    [("", Codec::Raw), ("v4.channel.k8s.io", Codec::Raw), ("v4.base64.channel.k8s.io", Codec::Base64)];
/// How long one stream of a connection may wait for the other.
const PAIRING: Duration = Duration::from_secs(30);
/// Chunks that wait in each direction.
const BUFFER: usize = 16;

/// The pod that is forwarded to. Cheap to clone.
#[derive(Clone)]
struct Target {
    nodes: Nodes,
    node: String,
    pod: String,
    uid: String,
}

pub(super) async fn serve(
    streams: &PodStreams,
    pod: &Pod,
    params: &Params,
    mut request: Request,
) -> Result<Response, ApiError> {
    let node = host_of(&streams.objects, pod)?;
    let target = Target {
        nodes: streams.nodes.clone(),
        node: node.to_owned(),
        pod: name_of(pod).to_owned(),
        uid: uid_of(pod),
    };
    if !socket::is_socket(request.headers()) {
        let (response, _) = socket::spdy(request.headers(), &[PROTOCOL])?;
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            if let Ok(connection) = upgrade.await {
                let (reader, writer) = tokio::io::split(TokioIo::new(connection));
                connections(target, reader, writer).await;
            }
        });
        return Ok(response);
    }
    let offered = socket::listed(request.headers(), header::SEC_WEBSOCKET_PROTOCOL);
    if offered.iter().any(|name| name.starts_with("SPDY/3.1+")) {
        let (upgrade, ()) = socket::accept(request, &[(TUNNEL, ())]).await?;
        return Ok(upgrade.on_upgrade(move |socket| tunnel(target, socket)));
    }
    let ports = ports(params)?;
    let (upgrade, codec) = socket::accept(request, &CHANNELS).await?;
    Ok(upgrade.on_upgrade(move |socket| channels(target, ports, codec, socket)))
}

/// `?ports=80&ports=90`, which only the channels need: the others tell with each stream.
fn ports(params: &Params) -> Result<Vec<u16>, ApiError> {
    let bad = |message: String| ApiError::new(Reason::BadRequest, message);
    let texts: Vec<&str> = params.all("ports").flat_map(|text| text.split(',')).collect();
    if texts.is_empty() {
        return Err(bad("query parameter \"port\" is required".to_owned()));
    }
    let port = |text: &str| match text.parse() {
        Ok(0) => Err(bad(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(bad(format!("unable to parse {text:?} as a port"))),
    };
    texts.into_iter().map(port).collect()
}

/// SPDY in the binary messages of a WebSocket.
async fn tunnel(target: Target, socket: ws::WebSocket) {
    let (to, from) = socket.split();
    let bytes = from.filter_map(|message| {
        std::future::ready(match message {
            Ok(ws::Message::Binary(bytes)) => Some(Ok(bytes)),
            Ok(_) => None,
            Err(error) => Some(Err(std::io::Error::other(error))),
        })
    });
    let messages = to
        .sink_map_err(std::io::Error::other)
        .with(|bytes: Bytes| std::future::ready(std::io::Result::Ok(ws::Message::Binary(bytes))));
    connections(target, StreamReader::new(bytes), SinkWriter::new(CopyToBytes::new(messages))).await;
}

/// One connection of the client: of its streams, each two of a request are one forwarded connection.
async fn connections(
    target: Target,
    reader: impl AsyncRead + Unpin + Send,
    writer: impl AsyncWrite + Unpin + Send,
) {
    let (mut streams, driver) = spdy::serve(reader, writer);
    let pairing = async {
        let (mut halves, mut running): (HashMap<String, Half>, _) = (HashMap::new(), JoinSet::new());
        while let Some(stream) = streams.recv().await {
            while running.try_join_next().is_some() {}
            halves.retain(|_, half| half.since.elapsed() < PAIRING);
            let Some((request, port, is_error)) = described(&stream) else {
                stream.output.refuse().await;
                continue;
            };
            match halves.remove(&request) {
                Some(half) if half.is_error != is_error => {
                    let (data, error) = if is_error { (half.stream, stream) } else { (stream, half.stream) };
                    running.spawn(pair(target.clone(), port, data, error));
                }
                // The same half twice: the second is not wanted.
                Some(half) => {
                    stream.output.refuse().await;
                    halves.insert(request, half);
                }
                None => drop(halves.insert(request, Half { stream, is_error, since: Instant::now() })),
            }
        }
    };
    // Cancel-safe: when the client is gone everything of it ends.
    tokio::join!(driver, pairing);
}

struct Half {
    stream: spdy::Stream,
    is_error: bool,
    since: Instant,
}

/// Which request a stream belongs to, its port, and whether it is the one for errors.
fn described(stream: &spdy::Stream) -> Option<(String, u16, bool)> {
    let port = stream.header("port")?.parse().ok().filter(|port| *port > 0)?;
    let is_error = match stream.header("streamtype")? {
        "error" => true,
        "data" => false,
        _ => return None,
    };
    let request = match stream.header("requestid").filter(|id| !id.is_empty()) {
        Some(id) => id.to_owned(),
        // Old clients open the error stream first, and the other next.
        None if is_error => stream.id.to_string(),
        None => stream.id.saturating_sub(2).to_string(),
    };
    Some((request, port, is_error))
}

async fn pair(target: Target, port: u16, data: spdy::Stream, error: spdy::Stream) {
    let spdy::Stream { mut input, gone, output, .. } = data;
    let write = |bytes| output.write(bytes);
    // Cancel-safe: who is gone needs no answer.
    let ended = tokio::select! {
        ended = target.carry(port, &mut input, write) => ended,
        () = gone.cancelled() => Ok(()),
    };
    if let Err(why) = ended {
        error.output.write(why.into()).await;
    }
    output.close().await;
    error.output.close().await;
}

impl Target {
    /// One connection into the pod, from its first byte to its end; why it failed, if it did.
    async fn carry<W: Future<Output = bool> + Send>(
        &self,
        port: u16,
        input: &mut mpsc::Receiver<Bytes>,
        write: impl Fn(Bytes) -> W + Send,
    ) -> Result<(), String> {
        let failed = |why: &dyn std::fmt::Display| {
            format!("error forwarding port {port} to pod {}, uid {}: {why}", self.pod, self.uid)
        };
        let ask = pb::PortForward { pod_uid: self.uid.clone(), port: port.into() };
        let opened = self.nodes.open_stream(&self.node, stream_request::Kind::PortForward(ask)).await;
        let mut stream = opened.map_err(|error| failed(&error))?;
        let to_agent = stream.to_agent;
        let up = async {
            while let Some(bytes) = input.recv().await {
                if send(&to_agent, Kind::Stdin(bytes)).await.is_err() {
                    break;
                }
            }
            // Half a close: the answer may still be coming. The agent may have ended.
            let _ = send(&to_agent, Kind::StdinClosed(true)).await;
            std::future::pending::<()>().await;
        };
        let down = async {
            loop {
                match stream.from_agent.recv().await.map(|frame| frame.kind) {
                    Some(Some(Kind::Stdout(bytes))) => {
                        if !write(bytes).await {
                            return Ok(());
                        }
                    }
                    Some(Some(Kind::End(end))) if end.error.is_empty() => return Ok(()),
                    Some(Some(Kind::End(end))) => return Err(failed(&end.error)),
                    Some(_) => {}
                    None => return Err(failed(&"the node's connection broke")),
                }
            }
        };
        // Cancel-safe: the connection is over with the agent's word.
        tokio::select! {
            () = up => Ok(()),
            ended = down => ended,
        }
    }
}

async fn send(
    agent: &mpsc::Sender<pb::StreamFrame>,
    kind: Kind,
) -> Result<(), mpsc::error::SendError<pb::StreamFrame>> {
    agent.send(pb::StreamFrame { kind: Some(kind) }).await
}

/// Two channels for each port: its bytes, and what went wrong. The first message of each tells the port.
async fn channels(target: Target, ports: Vec<u16>, codec: Codec, socket: ws::WebSocket) {
    let (mut to_client, mut from_client) = socket.split();
    let (messages, mut outgoing) = mpsc::channel::<ws::Message>(BUFFER);
    let (mut inputs, mut running) = (Vec::new(), JoinSet::new());
    // The upper half of the channels' numbers stays free.
    for (data, port) in (0..u8::MAX / 2).map(|index| index * 2).zip(ports) {
        let (input, from_socket) = mpsc::channel(BUFFER);
        inputs.push(input);
        running.spawn(channel(target.clone(), port, from_socket, (codec, data), messages.clone()));
    }
    drop(messages);
    let reading = async {
        while let Some(Ok(message)) = from_client.next().await {
            if let Some((channel, bytes)) = codec.parts(message)
                && channel % 2 == 0
                && let Some(input) = inputs.get(usize::from(channel / 2))
            {
                // A connection that has ended takes no more.
                let _ = input.send(bytes).await;
            }
        }
    };
    let writing = async {
        while let Some(message) = outgoing.recv().await {
            if to_client.send(message).await.is_err() {
                return;
            }
        }
        let _ = to_client.send(ws::Message::Close(None)).await;
    };
    // Cancel-safe: the end of the client, or of the last connection, ends all.
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
}

async fn channel(
    target: Target,
    port: u16,
    mut input: mpsc::Receiver<Bytes>,
    (codec, data): (Codec, u8),
    messages: mpsc::Sender<ws::Message>,
) {
    let write = |channel: u8, bytes: Bytes| {
        let messages = messages.clone();
        async move { messages.send(codec.message(channel, &bytes)).await.is_ok() }
    };
    let first = Bytes::copy_from_slice(&port.to_le_bytes());
    if !write(data, first.clone()).await || !write(data + 1, first).await {
        return;
    }
    if let Err(why) = target.carry(port, &mut input, |bytes| write(data, bytes)).await {
        write(data + 1, why.into()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_channels_are_in_the_query() {
        let read =
            |query: &str| ports(&Params::of(&format!("/x?{query}").parse().unwrap())).map_err(|e| e.message);
        assert_eq!(read("ports=80&ports=90"), Ok(vec![80, 90]));
        assert_eq!(read("ports=80,90"), Ok(vec![80, 90]));
        assert_eq!(read("").unwrap_err(), "query parameter \"port\" is required");
        for wrong in ["ports=0", "ports=70000", "ports=web", "ports="] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
