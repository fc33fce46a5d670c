//! A connection that is to go on as something else than HTTP: how it is asked for, and what a watch says over a WebSocket.

use axum::extract::{FromRequestParts as _, WebSocketUpgrade, ws};
use bytes::Bytes;
use futures::{SinkExt as _, Stream, StreamExt as _};
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};

use crate::model::{ApiError, Reason};

/// Whether the client wants its connection to speak something else.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let lower = |value: &HeaderValue| value.as_bytes().to_ascii_lowercase();
    headers.get_all(header::CONNECTION).iter().any(|value| lower(value).windows(7).any(|w| w == b"upgrade"))
}

/// What it is to be.
pub(super) fn upgrade_to(headers: &HeaderMap) -> &str {
    headers.get(header::UPGRADE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Whether it is to be a WebSocket.
pub(super) fn is_socket(headers: &HeaderMap) -> bool {
    wants_upgrade(headers) && upgrade_to(headers).eq_ignore_ascii_case("websocket")
}

/// The values of a header whose values are lists.
pub(super) fn listed(headers: &HeaderMap, name: HeaderName) -> Vec<String> {
    let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok().map(str::to_owned));
    let all = texts.collect::<Vec<_>>().join(",");
    all.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// A WebSocket for a stream that is the same in every subprotocol: one that the client names is spoken, of several, as
/// upstream, none.
pub(super) async fn socket(parts: &mut Parts) -> Result<WebSocketUpgrade, ApiError> {
    let bad = |why: String| ApiError::new(Reason::BadRequest, why);
    let offered = listed(&parts.headers, header::SEC_WEBSOCKET_PROTOCOL);
    if offered.len() > 1 {
        return Err(bad(format!("of the subprotocols [{}] one must be asked for", offered.join(" "))));
    }
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &()).await;
    let upgrade = upgrade.map_err(|rejection| bad(rejection.body_text()))?;
    Ok(upgrade.max_message_size(MEANINGLESS).max_frame_size(MEANINGLESS).protocols(offered))
}

/// What a client may say at a time, which nobody reads: in bytes.
const MEANINGLESS: usize = 4 << 10;

/// Sends what comes, each in a message of its own, until it ends or the client does. What the client says means nothing.
pub(super) async fn tell(
    socket: ws::WebSocket,
    events: impl Stream<Item = Bytes> + Send,
    message: fn(Bytes) -> ws::Message,
) {
    let (mut to_client, mut from_client) = socket.split();
    let telling = async {
        let mut events = std::pin::pin!(events);
        while let Some(event) = events.next().await {
            to_client.send(message(event)).await?;
        }
        let close = ws::CloseFrame { code: ws::close_code::NORMAL, reason: "".into() };
        to_client.send(ws::Message::Close(Some(close))).await
    };
    let listening = async { while let Some(Ok(_)) = from_client.next().await {} };
    // Cancel-safe: the events are dropped with either, and nobody else waits for them.
    tokio::select! {
        told = telling => drop(told),
        () = listening => {}
    }
}

/// JSON is text.
pub(super) fn text(event: Bytes) -> ws::Message {
    match event.try_into() {
        Ok(text) => ws::Message::Text(text),
        // JSON is UTF-8: what is not cannot have come from us.
        Err(_) => ws::Message::Text("".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_is_asked_for_by_connection() {
        let headers = |name: &'static str, value: &'static str| -> HeaderMap {
            [(HeaderName::from_static(name), HeaderValue::from_static(value))].into_iter().collect()
        };
        assert!(wants_upgrade(&headers("connection", "keep-alive, Upgrade")));
        assert!(!wants_upgrade(&headers("upgrade", "websocket")));
    }

    #[test]
    fn values_of_lists_come_in_one_header_or_in_several() {
        let mut headers = HeaderMap::new();
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("a, b"));
        headers.append(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("c,"));
        assert_eq!(listed(&headers, header::SEC_WEBSOCKET_PROTOCOL), ["a", "b", "c"]);
    }
}
