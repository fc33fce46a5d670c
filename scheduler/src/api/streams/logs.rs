//! `pods/log`: text in chunks, as it comes.

use axum::{body::Body, response::Response};
use bytes::Bytes;
use gantry_proto::node::v1 as pb;
use http::{HeaderValue, header};
use k8s_openapi::{api::core::v1::Pod, jiff::Timestamp};

use super::{Params, PodStreams, container, name_of, node_of, uid_of};
use crate::{
    model::{ApiError, Cause},
    streams::NodeStream,
};

pub(super) async fn serve(streams: &PodStreams, pod: &Pod, params: &Params) -> Result<Response, ApiError> {
    let mut logs = options(name_of(pod), params, Timestamp::now())?;
    logs.container = container::choose(pod, params.get("container"))?;
    logs.pod_uid = uid_of(pod);
    // As upstream: a pod without a node has an empty log.
    let Some(node) = node_of(pod) else { return Ok(text(Body::empty())) };
    container::has_log(pod, &logs.container, logs.previous)?;
    let stream = streams.open(node, pb::stream_request::Kind::Logs(logs)).await?;
    Ok(text(Body::from_stream(chunks(stream))))
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
            field: String::new(),
            message: "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified".to_owned(),
        });
    }
    let since = since_time.and_then(|text| match text.parse::<Timestamp>() {
        Ok(time) => Some(time.as_millisecond()),
        Err(_) => {
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: "sinceTime".to_owned(),
                message: format!("Invalid value: {text:?}: must be an RFC 3339 time"),
            });
            None
        }
    });
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

/// The log's bytes. The stream is held until the body ends or is dropped: that is how the agent learns that
/// nobody reads any longer.
fn chunks(stream: NodeStream) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::unfold(stream, |mut stream| async {
        loop {
            match stream.from_agent.recv().await?.kind? {
                pb::stream_frame::Kind::Stdout(bytes) | pb::stream_frame::Kind::Stderr(bytes) => {
                    return Some((Ok(bytes), stream));
                }
                pb::stream_frame::Kind::End(_) => return None,
                _ => {}
            }
        }
    })
}

fn text(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}
