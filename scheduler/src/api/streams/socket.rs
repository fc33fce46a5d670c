//! WebSockets of the streams: which subprotocol is spoken, and how it writes messages. Every message begins with the
//! number of its channel, as a byte, or as a digit with the rest in base64.

use axum::{
    extract::{FromRequestParts, Request, WebSocketUpgrade, ws},
    response::Response,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::super::upgrade::upgrade_to;
pub(super) use super::super::upgrade::{is_socket, listed, wants_upgrade};
use crate::model::{ApiError, Reason};

/// The largest message of a client, as upstream.
const MAX_MESSAGE: usize = 32 << 20;
/// How SPDY is asked for.
const SPDY: &str = "SPDY/3.1";
/// What is spoken over SPDY.
pub(super) const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Codec {
    /// Binary, as they are.
    Raw,
    /// Text.
    Base64,
}

impl Codec {
    /// A message of a channel.
    pub(super) fn message(self, channel: u8, payload: &[u8]) -> ws::Message {
        match self {
            Self::Raw => {
                let mut message = BytesMut::with_capacity(1 + payload.len());
                message.put_u8(channel);
                message.put_slice(payload);
                ws::Message::Binary(message.freeze())
            }
            Self::Base64 => {
                let mut text = String::with_capacity(2 + payload.len() * 4 / 3);
                text.push(char::from(b'0'.saturating_add(channel)));
                STANDARD.encode_string(payload, &mut text);
                ws::Message::Text(text.into())
            }
        }
    }

    /// A message without channels.
    pub(super) fn whole(self, payload: Bytes) -> ws::Message {
        match self {
            Self::Raw => ws::Message::Binary(payload),
            Self::Base64 => ws::Message::Text(STANDARD.encode(payload).into()),
        }
    }

    /// The channel and payload of a client's message; `None` for what means nothing.
    pub(super) fn parts(self, message: ws::Message) -> Option<(u8, Bytes)> {
        let bytes: Bytes = match message {
            ws::Message::Binary(bytes) => bytes,
            ws::Message::Text(text) => text.into(),
            ws::Message::Close(_) | ws::Message::Ping(_) | ws::Message::Pong(_) => return None,
        };
        let (channel, payload) = (*bytes.first()?, bytes.slice(1..));
        match self {
            Self::Raw => Some((channel, payload)),
            Self::Base64 => Some((channel.checked_sub(b'0')?, STANDARD.decode(payload).ok()?.into())),
        }
    }
}

/// A WebSocket with the first subprotocol of the client that we know; the empty name stands for none.
pub(super) async fn accept<T: Copy>(
    request: Request,
    known: &[(&'static str, T)],
) -> Result<(WebSocketUpgrade, T), ApiError> {
    let (mut parts, _) = request.into_parts();
    let mut offered = listed(&parts.headers, header::SEC_WEBSOCKET_PROTOCOL);
    if offered.is_empty() {
        offered.push(String::new());
    }
    let chosen = offered.iter().find_map(|name| known.iter().find(|(ours, _)| ours == name));
    let Some((name, spoken)) = chosen else {
        let ours: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        let message = format!(
            "requested protocol(s) are not supported: [{}]; supports [{}]",
            offered.join(" "),
            ours.join(" ")
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    };
    let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(|rejection| ApiError::new(Reason::BadRequest, rejection.body_text()))?;
    let upgrade = upgrade.max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE);
    Ok((if name.is_empty() { upgrade } else { upgrade.protocols([*name]) }, *spoken))
}

/// The answer to a request that is to go on in SPDY, for one of these protocols over it.
pub(super) fn spdy(
    headers: &HeaderMap,
    known: &[&'static str],
) -> Result<(Response, &'static str), ApiError> {
    let bad = |message: &str| ApiError::new(Reason::BadRequest, message);
    if !wants_upgrade(headers) {
        return Err(bad("Upgrade request required"));
    }
    if !upgrade_to(headers).to_ascii_uppercase().contains(SPDY) {
        return Err(bad("unable to upgrade: missing upgrade headers in request"));
    }
    let offered = listed(headers, STREAM_PROTOCOL);
    let Some(chosen) = offered.iter().find_map(|name| known.iter().find(|ours| *ours == name)) else {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            known.join(" ")
        );
        return Err(ApiError::new(Reason::Forbidden, message));
    };
    let mut response = Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(chosen));
    Ok((response, chosen))
}

#[cfg(test)]
mod tests {
    use hyper::{server::conn::http1, service::service_fn};
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
        sync::mpsc,
    };

    use super::*;

    /// A client that writes its frames by hand, and the lengths of the messages that arrive; `None` at an error.
    async fn opened() -> (DuplexStream, mpsc::UnboundedReceiver<Option<usize>>) {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let (tell, told) = mpsc::unbounded_channel();
        let answer = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let tell = tell.clone();
            async move {
                let (upgrade, ()) = accept(request.map(axum::body::Body::new), &[("", ())]).await.unwrap();
                Ok::<_, std::convert::Infallible>(upgrade.on_upgrade(async move |mut socket| {
                    while let Some(message) = socket.recv().await {
                        tell.send(message.ok().map(|message| message.into_data().len())).unwrap();
                    }
                }))
            }
        });
        let serving = http1::Builder::new().serve_connection(TokioIo::new(server), answer);
        tokio::spawn(serving.with_upgrades());
        let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
            sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(client.read_u8().await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        (client, told)
    }

    /// The head of a masked frame of so many bytes; the mask leaves them as they are.
    async fn head(client: &mut DuplexStream, first: u8, length: usize) {
        client.write_all(&[first, 0x80 | 127]).await.unwrap();
        client.write_u64(length as u64).await.unwrap();
        client.write_u32(0).await.unwrap();
    }

    #[tokio::test]
    async fn a_message_is_bounded_and_so_is_each_frame() {
        let (whole, begun, ended) = (0x82, 0x02, 0x80);
        let bytes = vec![0; MAX_MESSAGE];
        let (mut client, mut told) = opened().await;
        // The largest goes in one frame, as upstream's clients may send it.
        head(&mut client, whole, MAX_MESSAGE).await;
        client.write_all(&bytes).await.unwrap();
        assert_eq!(told.recv().await, Some(Some(MAX_MESSAGE)));
        // One byte more is refused before any of them has come.
        head(&mut client, whole, MAX_MESSAGE + 1).await;
        assert_eq!(told.recv().await, Some(None));
        let (mut client, mut told) = opened().await;
        head(&mut client, begun, MAX_MESSAGE).await;
        client.write_all(&bytes).await.unwrap();
        head(&mut client, ended, 1).await;
        client.write_all(&[0]).await.unwrap();
        assert_eq!(told.recv().await, Some(None), "in two frames it is as large");
    }

    #[test]
    fn messages_carry_their_channel() {
        let binary = |bytes: &'static [u8]| ws::Message::Binary(Bytes::from_static(bytes));
        assert_eq!(Codec::Raw.message(1, b"out"), binary(b"\x01out"));
        assert_eq!(Codec::Base64.message(1, b"out"), ws::Message::Text("1b3V0".into()));
        assert_eq!(Codec::Raw.parts(binary(b"\0in")), Some((0, "in".into())));
        assert_eq!(Codec::Raw.parts(ws::Message::Text("\0in".into())), Some((0, "in".into())));
        assert_eq!(Codec::Base64.parts(ws::Message::Text("0aW4=".into())), Some((0, "in".into())));
        assert_eq!(Codec::Base64.parts(ws::Message::Text("4".into())), Some((4, Bytes::new())));
        for nothing in [binary(b""), ws::Message::Close(None), ws::Message::Ping(Bytes::new())] {
            assert_eq!(Codec::Raw.parts(nothing), None);
        }
        assert_eq!(Codec::Base64.parts(ws::Message::Text("0*".into())), None);
        assert_eq!(Codec::Base64.whole("log".into()), ws::Message::Text("bG9n".into()));
    }

    #[test]
    fn spdy_is_asked_for_by_three_headers() {
        let headers = |pairs: &[(&'static str, &'static str)]| -> HeaderMap {
            pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
        };
        let known = ["v4.channel.k8s.io"];
        let wanted = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "SPDY/3.1"),
            ("x-stream-protocol-version", "v9.channel.k8s.io"),
            ("x-stream-protocol-version", "v4.channel.k8s.io, channel.k8s.io"),
        ]);
        let (response, _) = spdy(&wanted, &known).unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()[STREAM_PROTOCOL], "v4.channel.k8s.io");
        let said = |headers: &HeaderMap| spdy(headers, &known).unwrap_err().message;
        assert_eq!(said(&headers(&[])), "Upgrade request required");
        let other = headers(&[("connection", "Upgrade"), ("upgrade", "h2c")]);
        assert_eq!(said(&other), "unable to upgrade: missing upgrade headers in request");
        let none = headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")]);
        assert!(said(&none).contains("server accepts [v4.channel.k8s.io]"));
    }
}
