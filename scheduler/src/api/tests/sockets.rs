//! Watches over a WebSocket, as a client sees them on the wire.

use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    tls::{Listening, PLENTY, certificate},
    *,
};

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;

/// First byte and content of the next frame of a server.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let (first, length) = (stream.read_u8().await.unwrap(), stream.read_u8().await.unwrap());
    let length = match length {
        126 => u64::from(stream.read_u16().await.unwrap()),
        127 => stream.read_u64().await.unwrap(),
        length => length.into(),
    };
    let mut content = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut content).await.unwrap();
    (first, content)
}

/// The answer to a request that is to go on as a WebSocket.
async fn open(l: &Listening, uri: &str, headers: &[(&str, &str)]) -> Response<hyper::body::Incoming> {
    let admin = certificate(&l.ca, &["system:masters"], SystemTime::now());
    let mut sender = l.connect(Some(&admin)).await.unwrap();
    let mut request = Request::get(uri)
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    sender.send_request(request.body(http_body_util::Empty::new()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_watch_goes_over_a_websocket_event_by_event() {
    let l = Listening::with(PLENTY).await;
    l.f.make("a").await;
    let uri = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=2&fieldSelector=metadata.name%3Da");
    for (protocol, accept, kind) in [
        (None, "application/json", TEXT),
        (Some("base64.binary.k8s.io"), "application/json", TEXT),
        (None, "application/vnd.kubernetes.protobuf;stream=watch", BINARY),
    ] {
        let mut headers = vec![("accept", accept)];
        headers.extend(protocol.map(|name| ("sec-websocket-protocol", name)));
        let response = open(&l, &uri, &headers).await;
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        let spoken = response.headers().get("sec-websocket-protocol").map(|name| name.to_str().unwrap());
        assert_eq!(spoken, protocol);
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let (first, content) = frame(&mut stream).await;
        assert_eq!(first, kind);
        if kind == TEXT {
            let event: Value = serde_json::from_slice(&content).unwrap();
            assert_eq!(
                (&event["type"], &event["object"]["metadata"]["name"]),
                (&json!("ADDED"), &json!("a"))
            );
        } else {
            // Field 1 of the event itself: the length that comes before it elsewhere is that of the frame.
            assert!(content.starts_with(b"\x0a\x05ADDED"), "{content:?}");
        }
        let end = timeout(Duration::from_secs(20), frame(&mut stream)).await.unwrap();
        assert_eq!(end, (CLOSE, 1000_u16.to_be_bytes().to_vec()), "it ends in time, and says so");
    }
}

#[tokio::test]
async fn who_watches_may_not_say_much() {
    let l = Listening::with(PLENTY).await;
    l.f.make("a").await;
    let response = open(&l, &format!("{CONFIG_MAPS}?watch=1"), &[]).await;
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    assert_eq!(frame(&mut stream).await.0, TEXT);
    // A masked frame of 100 bytes is read and means nothing; one of which 8 KiB are to come ends it before they do.
    stream.write_all(&[BINARY, 0x80 | 100, 0, 0, 0, 0]).await.unwrap();
    stream.write_all(&[0; 100]).await.unwrap();
    l.f.make("b").await;
    assert_eq!(frame(&mut stream).await.0, TEXT);
    stream.write_all(&[BINARY, 0x80 | 126, 0x20, 0, 0, 0, 0, 0]).await.unwrap();
    let mut rest = Vec::new();
    // However it ends: without a bound the watch would go on.
    let ended = timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it waits for the rest");
}

#[tokio::test]
async fn what_is_no_watch_is_answered_as_ever_and_a_choice_of_protocols_is_refused() {
    let l = Listening::with(PLENTY).await;
    assert_eq!(open(&l, CONFIG_MAPS, &[]).await.status(), StatusCode::OK);
    let watch = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=1");
    let several = [("sec-websocket-protocol", "base64.binary.k8s.io, binary.k8s.io")];
    assert_eq!(open(&l, &watch, &several).await.status(), StatusCode::BAD_REQUEST);
}
