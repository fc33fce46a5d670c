//! exec and attach over WebSocket: the channel protocol of kubectl (`v5.channel.k8s.io`, and `v4` without the
//! close of single channels). Every message begins with the number of its channel.

use axum::{
    extract::{FromRequestParts, Request, WebSocketUpgrade, ws},
    response::Response,
};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
use k8s_openapi::api::core::v1::Pod;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{Params, PodStreams, container, node_of, uid_of};
use crate::{
    model::{ApiError, Reason},
    streams::NodeStream,
};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the rest of the message names a channel that is closed.
const CLOSE: u8 = 255;

/// The largest message of a client: kubectl sends 32 KiB at a time.
const MAX_MESSAGE: usize = 1 << 20;

pub(super) async fn serve(
    streams: &PodStreams,
    pod: &Pod,
    params: &Params,
    request: Request,
    attach: bool,
) -> Result<Response, ApiError> {
    let exec = options(pod, params, attach)?;
    let Some(node) = node_of(pod) else {
        let message = format!("pod {} does not have a host assigned", super::name_of(pod));
        return Err(ApiError::new(Reason::BadRequest, message));
    };
    container::runs(pod, &exec.container)?;
    let upgrade = upgrade(request).await?;
    let (stdout, stderr) = (exec.stdout, exec.stderr);
    // Before the upgrade: what the agent refuses is an answer that the client can read.
    let stream = streams.open(node, pb::stream_request::Kind::Exec(exec)).await?;
    Ok(upgrade.on_upgrade(move |socket| run(socket, stream, stdout, stderr)))
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

async fn upgrade(request: Request) -> Result<WebSocketUpgrade, ApiError> {
    let (mut parts, _) = request.into_parts();
    let refused = |message: String| ApiError::new(Reason::BadRequest, message);
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await.map_err(|_| {
        refused("a WebSocket upgrade is needed (kubectl 1.30 or later); SPDY is not served".to_owned())
    })?;
    let upgrade = upgrade.protocols([V5, V4]).max_message_size(MAX_MESSAGE);
    if upgrade.selected_protocol().is_none() {
        return Err(refused(format!("the WebSocket must offer the subprotocol {V5} or {V4}")));
    }
    Ok(upgrade)
}

async fn run(socket: ws::WebSocket, stream: NodeStream, stdout: bool, stderr: bool) {
    let NodeStream { mut from_agent, to_agent } = stream;
    let (mut to_client, from_client) = socket.split();
    // An empty message on the lowest channel that the client reads says that the stream stands, as upstream.
    let first = if stdout {
        STDOUT
    } else if stderr {
        STDERR
    } else {
        ERROR
    };
    if first != ERROR && write(&mut to_client, first, b"").await.is_err() {
        return;
    }
    // Cancel-safe: whichever ends first ends the stream; nothing is taken up again. The agent notices by its
    // end being dropped.
    tokio::select! {
        () = to_socket(&mut to_client, &mut from_agent, stderr) => {}
        () = from_socket(from_client, &to_agent) => {}
    }
}

/// What the process writes, then how it ended.
async fn to_socket(
    socket: &mut SplitSink<ws::WebSocket, ws::Message>,
    frames: &mut mpsc::Receiver<pb::StreamFrame>,
    stderr: bool,
) {
    let end = loop {
        let written = match frames.recv().await.and_then(|f| f.kind) {
            Some(Kind::Stdout(bytes)) => write(socket, STDOUT, &bytes).await,
            // A client that did not ask for it has no such channel (nor has a terminal).
            Some(Kind::Stderr(bytes)) if stderr => write(socket, STDERR, &bytes).await,
            Some(Kind::End(end)) => break end,
            Some(_) => Ok(()),
            None => break pb::StreamEnd { exit_code: None, error: "the node's connection broke".to_owned() },
        };
        if written.is_err() {
            return;
        }
    };
    // The client may have gone: then nobody waits for this.
    let _ = write(socket, ERROR, status(&end).to_string().as_bytes()).await;
    let _ = socket
        .send(ws::Message::Close(Some(ws::CloseFrame { code: ws::close_code::NORMAL, reason: "".into() })))
        .await;
}

async fn write(
    socket: &mut SplitSink<ws::WebSocket, ws::Message>,
    channel: u8,
    payload: &[u8],
) -> Result<(), axum::Error> {
    let mut message = BytesMut::with_capacity(1 + payload.len());
    message.put_u8(channel);
    message.put_slice(payload);
    socket.send(ws::Message::Binary(message.freeze())).await
}

/// What the client sends; ends when it has gone.
async fn from_socket(mut socket: SplitStream<ws::WebSocket>, agent: &mpsc::Sender<pb::StreamFrame>) {
    while let Some(Ok(message)) = socket.next().await {
        let payload = match message {
            ws::Message::Binary(bytes) => bytes,
            ws::Message::Text(text) => text.into(),
            ws::Message::Close(_) => return,
            ws::Message::Ping(_) | ws::Message::Pong(_) => continue,
        };
        if let Some(kind) = incoming(&payload)
            && agent.send(pb::StreamFrame { kind: Some(kind) }).await.is_err()
        {
            // The process has ended; its last words are on the way. The client closes when it has read them.
            std::future::pending::<()>().await;
        }
    }
}

/// The size that kubectl sends with each change of the terminal.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u32,
    height: u32,
}

/// One message of the client; `None` for what means nothing.
pub(super) fn incoming(message: &Bytes) -> Option<Kind> {
    let channel = *message.first()?;
    let payload = message.slice(1..);
    match channel {
        STDIN if payload.is_empty() => None,
        STDIN => Some(Kind::Stdin(payload)),
        RESIZE => {
            let Size { width, height } = serde_json::from_slice(&payload).ok()?;
            Some(Kind::Resize(pb::TerminalSize { width, height }))
        }
        CLOSE if *payload == [STDIN] => Some(Kind::StdinClosed(true)),
        _ => None,
    }
}

/// The `Status` on the error channel.
pub(super) fn status(end: &pb::StreamEnd) -> Value {
    match (end.exit_code, end.error.as_str()) {
        (Some(0), "") | (None, "") => json!({"metadata": {}, "status": "Success"}),
        (Some(code), "") => json!({
            "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        (_, error) => json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("Internal error occurred: {error}"),
        }),
    }
}
