//! exec and attach. kubectl speaks the channel protocol over a WebSocket (`v5.channel.k8s.io`, and the older ones without
//! the close of single channels); older executors speak SPDY, with a stream for each channel. The end is told as a
//! `Status`, on a channel of its own.

use axum::{
    extract::{Request, ws},
    response::Response,
};
use bytes::Bytes;
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use super::{
    Params, PodStreams,
    command::{deliver, error_channel_text, lost, resize},
    container, executor, host_of,
    socket::{self, Codec},
    uid_of,
};
use crate::{
    model::{ApiError, Reason},
    streams::NodeStream,
};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the rest of the message names a channel that is closed.
const CLOSE: u8 = 255;

/// One of the channel protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spoken {
    codec: Codec,
    /// Single channels can be closed.
    closes: bool,
    /// The end is a `Status`; else the text of a failure.
    status: bool,
}

const fn spoken(codec: Codec, closes: bool, status: bool) -> Spoken {
    Spoken { codec, closes, status }
}

/// By subprotocol; none is spoken as the first of them.
const PROTOCOLS: [(&str, Spoken); 6] = [
    ("v5.channel.k8s.io", spoken(Codec::Raw, true, true)),
    ("v4.channel.k8s.io", spoken(Codec::Raw, false, true)),
    ("v4.base64.channel.k8s.io", spoken(Codec::Base64, false, true)),
    ("channel.k8s.io", spoken(Codec::Raw, false, false)),
    ("base64.channel.k8s.io", spoken(Codec::Base64, false, false)),
    ("", spoken(Codec::Raw, false, false)),
];

pub(super) async fn serve(
    streams: &PodStreams,
    pod: &Pod,
    params: &Params,
    mut request: Request,
    attach: bool,
) -> Result<Response, ApiError> {
    // The container is looked for before the node, and all else there.
    container::choose(pod, params.get("container"))?;
    let node = host_of(&streams.objects, pod)?;
    let exec = options(pod, params, attach)?;
    container::runs(pod, &exec.container)?;
    let wanted = executor::Wanted::of(&exec);
    // Before the upgrade: what the agent refuses is an answer that the client can read.
    let open = streams.open(node, pb::stream_request::Kind::Exec(exec));
    if !socket::is_socket(request.headers()) {
        let (response, protocol) = socket::spdy(request.headers(), &executor::PROTOCOLS)?;
        let upgrade = hyper::upgrade::on(&mut request);
        let stream = open.await?;
        tokio::spawn(async move {
            if let Ok(connection) = upgrade.await {
                let (reader, writer) = tokio::io::split(TokioIo::new(connection));
                executor::run(reader, writer, stream, wanted, protocol).await;
            }
        });
        return Ok(response);
    }
    let (upgrade, spoken) = socket::accept(request, &PROTOCOLS).await?;
    let stream = open.await?;
    Ok(upgrade.on_upgrade(move |socket| run(socket, stream, wanted, spoken)))
}

/// The parameters, with upstream's refusals.
pub(super) fn options(pod: &Pod, params: &Params, attach: bool) -> Result<pb::Exec, ApiError> {
    let bad = |message: &str| Err(ApiError::new(Reason::BadRequest, message));
    let tty = params.is_set("tty");
    let exec = pb::Exec {
        pod_uid: uid_of(pod),
        container: container::choose(pod, params.get("container"))?,
        command: if attach { Vec::new() } else { params.all("command").map(str::to_owned).collect() },
        stdin: params.is_set("stdin"),
        stdout: params.is_set("stdout"),
        // A terminal has one output.
        stderr: params.is_set("stderr") && !tty,
        tty,
        attach,
    };
    if !attach && exec.command.is_empty() {
        return bad("you must specify at least one command for the container");
    }
    if !(exec.stdin || exec.stdout || exec.stderr) {
        return bad("you must specify at least 1 of stdin, stdout, stderr");
    }
    Ok(exec)
}

async fn run(socket: ws::WebSocket, stream: NodeStream, wanted: executor::Wanted, spoken: Spoken) {
    let NodeStream { mut from_agent, to_agent } = stream;
    let (mut to_client, from_client) = socket.split();
    // An empty message on the lowest channel that the client reads says that the stream stands, as upstream.
    let first = if wanted.stdout {
        STDOUT
    } else if wanted.stderr {
        STDERR
    } else {
        ERROR
    };
    if to_client.send(spoken.codec.message(first, b"")).await.is_err() {
        return;
    }
    // Cancel-safe: whichever ends first ends the stream; nothing is taken up again. The agent notices by its
    // end being dropped.
    tokio::select! {
        () = to_socket(&mut to_client, &mut from_agent, wanted.stderr, spoken) => {}
        () = from_socket(from_client, &to_agent, spoken) => {}
    }
}

/// What the process writes, then how it ended.
async fn to_socket(
    socket: &mut SplitSink<ws::WebSocket, ws::Message>,
    frames: &mut mpsc::Receiver<pb::StreamFrame>,
    stderr: bool,
    spoken: Spoken,
) {
    let end = loop {
        let message = match frames.recv().await.and_then(|f| f.kind) {
            Some(Kind::Stdout(bytes)) => spoken.codec.message(STDOUT, &bytes),
            // A client that did not ask for it has no such channel (nor has a terminal).
            Some(Kind::Stderr(bytes)) if stderr => spoken.codec.message(STDERR, &bytes),
            Some(Kind::End(end)) => break end,
            Some(_) => continue,
            None => break lost(),
        };
        if socket.send(message).await.is_err() {
            return;
        }
    };
    // The client may have gone: then nobody waits for this.
    if let Some(last) = error_channel_text(&end, spoken.status) {
        let _ = socket.send(spoken.codec.message(ERROR, last.as_bytes())).await;
    }
    let _ = socket
        .send(ws::Message::Close(Some(ws::CloseFrame { code: ws::close_code::NORMAL, reason: "".into() })))
        .await;
}

/// What goes to the client, for each of its messages; ends when it has gone.
async fn from_socket(
    mut socket: SplitStream<ws::WebSocket>,
    agent: &mpsc::Sender<pb::StreamFrame>,
    spoken: Spoken,
) {
    while let Some(Ok(message)) = socket.next().await {
        if matches!(message, ws::Message::Close(_)) {
            return;
        }
        let Some((channel, payload)) = spoken.codec.parts(message) else { continue };
        if !deliver(incoming(channel, payload, spoken.closes), agent).await {
            // The process has ended; its last words are on the way. The client closes when it has read them.
            std::future::pending::<()>().await;
        }
    }
}

/// One message of the client; `None` for what means nothing.
pub(super) fn incoming(channel: u8, payload: Bytes, closes: bool) -> Option<Kind> {
    match channel {
        STDIN if payload.is_empty() => None,
        STDIN => Some(Kind::Stdin(payload)),
        RESIZE => resize(&payload),
        CLOSE if closes && *payload == [STDIN] => Some(Kind::StdinClosed(true)),
        _ => None,
    }
}
