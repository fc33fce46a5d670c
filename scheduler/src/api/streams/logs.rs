//! `pods/log`: text in chunks, as it comes, or the messages of a WebSocket.

use axum::{
    body::Body,
    extract::{Request, ws},
    response::Response,
};
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use gantry_proto::node::v1 as pb;
use http::{HeaderValue, StatusCode, header};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};

use super::{
    Params, PodStreams, container, known_node, name_of,
    socket::{self, Codec},
    uid_of,
};
use crate::{
    model::{ApiError, Cause, Reason},
    streams::NodeStream,
};

/// By subprotocol; none is as the first.
const PROTOCOLS: [(&str, Codec); 3] =
    [("", Codec::Raw), ("binary.k8s.io", Codec::Raw), ("base64.binary.k8s.io", Codec::Base64)];

pub(super) async fn serve(
    streams: &PodStreams,
    pod: &Pod,
    params: &Params,
    request: Request,
) -> Result<Response, ApiError> {
    let mut logs = options(name_of(pod), params, Timestamp::now())?;
    logs.container = container::choose(pod, params.get("container"))?;
    logs.pod_uid = uid_of(pod);
    // As upstream: of a pod without a node there is nothing to say.
    let Some(node) = known_node(&streams.objects, pod)? else { return Ok(nothing()) };
    container::has_log(pod, &logs.container, logs.previous)?;
    let open = streams.open(node, pb::stream_request::Kind::Logs(logs));
    if socket::is_socket(request.headers()) {
        let (upgrade, codec) = socket::accept(request, &PROTOCOLS).await?;
        let stream = open.await?;
        return Ok(upgrade.on_upgrade(move |socket| messages(socket, stream, codec)));
    }
    Ok(text(Body::from_stream(chunks(open.await?))))
}

/// The log in messages, after an empty one that says that the stream stands. What the client says means nothing, but for
/// its end.
async fn messages(socket: ws::WebSocket, stream: NodeStream, codec: Codec) {
    let (mut to_client, mut from_client) = socket.split();
    let telling = async {
        let mut chunks = std::pin::pin!(chunks(stream));
        to_client.send(codec.whole(Bytes::new())).await?;
        while let Some(Ok(chunk)) = chunks.next().await {
            to_client.send(codec.whole(chunk)).await?;
        }
        to_client.send(ws::Message::Close(None)).await
    };
    let listening = async { while let Some(Ok(_)) = from_client.next().await {} };
    // Cancel-safe: the stream is dropped with either, by which the agent learns that nobody reads any longer.
    tokio::select! {
        told = telling => drop(told),
        () = listening => {}
    }
}

/// The parameters, with upstream's refusals.
pub(super) fn options(pod: &str, params: &Params, now: Timestamp) -> Result<pb::Logs, ApiError> {
    let mut causes = Vec::new();
    let mut at_least = |field: &'static str, least: i64| -> Result<Option<i64>, ApiError> {
        let value = params.number::<i64>(field)?;
        if let Some(value) = value.filter(|v| *v < least) {
            let rule =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: field.to_owned(),
                message: format!("Invalid value: {value}: {rule}"),
            });
        }
        Ok(value)
    };
    let tail_lines = at_least("tailLines", 0)?;
    let since_seconds = at_least("sinceSeconds", 1)?;
    let limit_bytes = at_least("limitBytes", 1)?;
    let since_time = params.get("sinceTime").filter(|t| !t.is_empty());
    if since_time.is_some() && since_seconds.is_some() {
        causes.push(Cause {
            reason: "FieldValueForbidden",
            field: "[]".to_owned(),
            message: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
        });
    }
    if params.get("stream").is_some() {
        // Outputs are kept together: which of them a line came by is behind a gate of upstream's.
        let (field, message) = ("stream".to_owned(), "Forbidden: may not be specified".to_owned());
        causes.push(Cause { reason: "FieldValueForbidden", field, message });
    }
    let since = since_time.map(|text| {
        text.parse::<Timestamp>().map(Timestamp::as_millisecond).map_err(|_| {
            let layout = "2006-01-02T15:04:05Z07:00";
            let why = format!("parsing time {text:?} as {layout:?}: cannot parse {text:?} as \"2006\"");
            ApiError::new(Reason::BadRequest, why)
        })
    });
    let since = since.transpose()?;
    if !causes.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", pod, causes));
    }
    Ok(pb::Logs {
        follow: params.is_set("follow"),
        previous: params.is_set("previous"),
        timestamps: params.is_set("timestamps"),
        since_ms: since
            .or_else(|| since_seconds.map(|s| now.as_millisecond().saturating_sub(s.saturating_mul(1000)))),
        tail_lines,
        limit_bytes,
        ..pb::Logs::default()
    })
}

/// Why a log ends before its end. The client sees that the body was cut off.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the node's agent went away")]
    Lost,
    #[error("the agent could not read the log: {0}")]
    Failed(String),
}

/// The log's bytes. The stream is held until the body ends or is dropped: that is how the agent learns that
/// nobody reads any longer. Only the agent's word is the end: anything else aborts the body, so that a log that was
/// cut off does not look like a whole one.
fn chunks(stream: NodeStream) -> impl futures::Stream<Item = Result<Bytes, Cut>> {
    futures::stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        loop {
            match stream.from_agent.recv().await.map(|frame| frame.kind) {
                Some(Some(pb::stream_frame::Kind::Stdout(bytes) | pb::stream_frame::Kind::Stderr(bytes))) => {
                    return Some((Ok(bytes), Some(stream)));
                }
                Some(Some(pb::stream_frame::Kind::End(end))) if end.error.is_empty() => return None,
                Some(Some(pb::stream_frame::Kind::End(end))) => {
                    return Some((Err(Cut::Failed(end.error)), None));
                }
                Some(_) => {}
                None => return Some((Err(Cut::Lost), None)),
            }
        }
    })
}

pub(super) fn nothing() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

#[cfg(test)]
mod tests {
    use pb::stream_frame::Kind;
    use tokio::sync::mpsc;

    use super::*;

    async fn read(frames: Vec<Kind>) -> (Vec<u8>, Option<String>) {
        let (to_client, from_agent) = mpsc::channel(8);
        let stream = NodeStream { from_agent, to_agent: mpsc::channel(1).0 };
        for kind in frames {
            to_client.send(pb::StreamFrame { kind: Some(kind) }).await.unwrap();
        }
        drop(to_client);
        let (mut bytes, mut cut) = (Vec::new(), None);
        for chunk in chunks(stream).collect::<Vec<_>>().await {
            match chunk {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(error) => cut = Some(error.to_string()),
            }
        }
        (bytes, cut)
    }

    #[tokio::test]
    async fn a_log_that_is_cut_off_does_not_look_like_a_whole_one() {
        let text = || Kind::Stdout(Bytes::from_static(b"one\n"));
        let end = |error: &str| Kind::End(pb::StreamEnd { error: error.to_owned(), exit_code: None });
        assert_eq!(read(vec![text(), end("")]).await, (b"one\n".to_vec(), None));
        let (bytes, cut) = read(vec![text()]).await;
        assert_eq!((bytes.as_slice(), cut.as_deref()), (&b"one\n"[..], Some("the node's agent went away")));
        let (_, cut) = read(vec![text(), end("no such file")]).await;
        assert_eq!(cut.as_deref(), Some("the agent could not read the log: no such file"));
    }
}
