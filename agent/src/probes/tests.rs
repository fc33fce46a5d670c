//! httpGet against a server that says what the test tells it to.

use std::time::Duration;

use crate::{
    handlers::http::{self, Good},
    model::HttpCheck,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const LIMIT: Duration = Duration::from_secs(5);

/// Answers every request by its path; the port, and what the clients sent.
async fn server() -> (u16, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sent, requests) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = [0; 4096];
            let count = stream.read(&mut buffer).await.unwrap();
            let request = String::from_utf8_lossy(&buffer[..count]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
            let answer = match path.as_str() {
                "/ok" => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(),
                "/moved" => "HTTP/1.1 302 Found\r\nLocation: /ok\r\nContent-Length: 0\r\n\r\n".to_owned(),
                "/away" => {
                    "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 4\r\n\r\naway"
                        .to_owned()
                }
                "/unchanged" => "HTTP/1.1 304 Not Modified\r\n\r\n".to_owned(),
                "/loop" => "HTTP/1.1 302 Found\r\nLocation: /loop\r\nContent-Length: 0\r\n\r\n".to_owned(),
                _ => "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned(),
            };
            let _ = sent.send(request);
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, requests)
}

fn check(port: u16, path: &str) -> HttpCheck {
    HttpCheck {
        https: false,
        host: "127.0.0.1".into(),
        port,
        path: path.into(),
        headers: vec![("X-Probe".into(), "yes".into())],
    }
}

#[tokio::test]
async fn answers_count_as_upstream_counts_them() {
    let (port, mut requests) = server().await;
    assert_eq!(http::probe(&check(port, "/ok"), LIMIT).await.unwrap(), Good::Answered);
    let request = requests.recv().await.unwrap();
    assert!(request.contains("user-agent: kube-probe/") && request.contains("x-probe: yes"), "{request}");
    assert_eq!(http::probe(&check(port, "moved"), LIMIT).await.unwrap(), Good::Answered);
    // What is not followed is told: elsewhere, and to nowhere.
    let told = |body: &str| Good::Redirected(format!("Probe terminated redirects, Response body: {body}"));
    assert_eq!(http::probe(&check(port, "/away"), LIMIT).await.unwrap(), told("away"));
    assert_eq!(http::probe(&check(port, "/unchanged"), LIMIT).await.unwrap(), told(""));
    assert_eq!(
        http::probe(&check(port, "/bad"), LIMIT).await.unwrap_err(),
        "HTTP probe failed with statuscode: 503"
    );
    let looped = http::probe(&check(port, "/loop"), LIMIT).await.unwrap_err();
    assert!(looped.ends_with("stopped after 10 redirects"), "{looped}");
}

#[tokio::test]
async fn failures_to_connect_read_as_upstream_writes_them() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    assert_eq!(
        http::probe(&check(port, "/ok"), LIMIT).await.unwrap_err(),
        format!("Get \"http://127.0.0.1:{port}/ok\": dial tcp 127.0.0.1:{port}: connect: connection refused")
    );
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let error = http::probe(&check(port, "/ok"), Duration::from_millis(50)).await.unwrap_err();
    assert!(error.ends_with("(Client.Timeout exceeded while awaiting headers)"), "{error}");
}
