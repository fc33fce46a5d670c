//! What exec and attach tell the agent and the client, whatever protocol carries it: input in pieces, the size of a
//! terminal, and how the command ended.

use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

/// What goes to the agent at a time: a client's message may be larger than a frame.
const CHUNK: usize = 64 << 10;

/// The end of a stream that the agent did not tell the end of.
pub(super) fn lost() -> pb::StreamEnd {
    pb::StreamEnd { exit_code: None, error: "the node's connection broke".to_owned() }
}

/// `false` when the process has ended.
pub(super) async fn deliver(kind: Option<Kind>, agent: &mpsc::Sender<pb::StreamFrame>) -> bool {
    let send = async |kind| agent.send(pb::StreamFrame { kind: Some(kind) }).await.is_ok();
    match kind {
        Some(Kind::Stdin(mut bytes)) => {
            while !bytes.is_empty() {
                let chunk = bytes.split_to(bytes.len().min(CHUNK));
                if !send(Kind::Stdin(chunk)).await {
                    return false;
                }
            }
            true
        }
        Some(kind) => send(kind).await,
        None => true,
    }
}

/// The size of a terminal, the last of those in a message; names in any case, as Go reads them.
pub(super) fn resize(payload: &[u8]) -> Option<Kind> {
    let sizes = serde_json::Deserializer::from_slice(payload).into_iter::<Map<String, Value>>();
    let size = sizes.map_while(Result::ok).last()?;
    let field = |name: &str| {
        let value = size.iter().rfind(|(key, _)| key.eq_ignore_ascii_case(name))?.1;
        value.as_u64().and_then(|number| u32::try_from(number).ok())
    };
    Some(Kind::Resize(pb::TerminalSize { width: field("width")?, height: field("height")? }))
}

/// What the error channel tells of the end; `None` for nothing.
pub(super) fn error_channel_text(end: &pb::StreamEnd, as_status: bool) -> Option<String> {
    let status = status(end);
    if as_status {
        return Some(status.to_string());
    }
    status["message"].as_str().map(str::to_owned)
}

/// The `Status` of an end.
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
