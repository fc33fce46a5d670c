//! The API's proxies and port-forward from a client's side: kube-rs against the whole scheduler, an agent that connects to
//! servers of the test.

use anyhow::{Context, Result, ensure};
use gantry_scheduler::{model::Resource, objects::WriteOptions};
use http::{Method, Request, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::streams::Cluster;

/// Answers every request with what it got, but for pages, redirects and an upgrade, on a port of its own.
async fn backend() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    Ok(port)
}

async fn answer(stream: TcpStream) -> Result<()> {
    let mut stream = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let before = head.len();
        stream.read_line(&mut head).await?;
        let line = head[before..].trim().to_ascii_lowercase();
        if let Some(number) = line.strip_prefix("content-length: ") {
            length = number.parse()?;
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    let path = head.split(' ').nth(1).context("no path")?;
    let reply = match path {
        "/page" => "200 OK\r\ncontent-type: text/html\r\n\r\n<a href=\"/x\">x</a>".to_owned(),
        "/away" => "302 Found\r\nlocation: /there?a=b\r\n\r\n".to_owned(),
        "/close" => return Ok(()),
        path if path.starts_with("/shout") => {
            let agreed = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: shout\r\n\r\n";
            stream.write_all(agreed.as_bytes()).await?;
            let mut word = [0; 5];
            stream.read_exact(&mut word).await?;
            stream.write_all(&word.to_ascii_uppercase()).await?;
            return Ok(());
        }
        _ => format!(
            "200 OK\r\nconnection: close\r\nx-theirs: 1\r\n\r\n{head}{}",
            String::from_utf8_lossy(&body)
        ),
    };
    stream.write_all(format!("HTTP/1.1 {reply}").as_bytes()).await?;
    Ok(())
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    body: String,
}

async fn ask(cluster: &Cluster, method: Method, path: &str, body: &str) -> Result<Answer> {
    let request = Request::builder().method(method).uri(path).body(Body::from(body.as_bytes().to_vec()))?;
    let (head, body) = cluster.client.send(request).await?.into_parts();
    let body = String::from_utf8_lossy(&body.collect_bytes().await?).into_owned();
    Ok(Answer { status: head.status, headers: head.headers, body })
}

const POD: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn requests_go_to_pods_with_every_verb_and_path() -> Result<()> {
    let (cluster, port) = (Cluster::start().await?, backend().await?);
    cluster.pod("p").await?;
    let base = format!("{POD}/p:{port}/proxy");
    for method in ["DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"] {
        let sent = if method == "GET" { "" } else { "sent" };
        let answer = ask(&cluster, method.parse()?, &format!("{base}/some/p%20th?q=%2F"), sent).await?;
        ensure!(answer.status == 200 && answer.headers["x-theirs"] == "1", "{method}: {}", answer.body);
        ensure!(
            answer.body.starts_with(&format!("{method} /some/p%20th?q=%2F HTTP/1.1\r\n")),
            "{}",
            answer.body
        );
        ensure!(answer.body.ends_with(sent), "{}", answer.body);
        ensure!(answer.body.contains("X-Forwarded-For: 127.0.0.1\r\n"), "{}", answer.body);
    }
    let moved = ask(&cluster, Method::GET, &format!("{base}?a=b"), "").await?;
    ensure!(moved.status == 301 && moved.headers["location"] == format!("{base}/?a=b"));
    let page = ask(&cluster, Method::GET, &format!("{base}/page"), "").await?;
    ensure!(page.body == format!("<a href=\"{base}/x\">x</a>"), "{}", page.body);
    let away = ask(&cluster, Method::GET, &format!("{base}/away"), "").await?;
    ensure!(away.status == 302 && away.headers["location"] == format!("{base}/there?a=b"));
    let outside = ask(&cluster, Method::GET, &format!("{base}/../../../secrets"), "").await?;
    ensure!(outside.body.starts_with("GET /secrets HTTP/1.1"), "{}", outside.body);
    cluster.stop().await
}

#[tokio::test]
async fn backends_that_do_not_answer_are_told_in_upstreams_words() -> Result<()> {
    let (cluster, port) = (Cluster::start().await?, backend().await?);
    cluster.pod("p").await?;
    for (path, code, message) in [
        (format!("p:{port}/proxy/close"), 503, "error trying to reach service: EOF".to_owned()),
        ("p:1/proxy/".to_owned(), 503, "error trying to reach service: dial tcp 127.0.0.1:1:".to_owned()),
        (
            "p:70000/proxy/".to_owned(),
            503,
            "error trying to reach service: dial tcp: address 70000: invalid port".to_owned(),
        ),
        ("ftp:p:1/proxy/".to_owned(), 400, "invalid pod request \"ftp:p:1\"".to_owned()),
        ("none/proxy/".to_owned(), 404, "pods \"none\" not found".to_owned()),
        (format!("p:{port}/proxy/x?dryRun=All"), 400, "dryRun is not supported".to_owned()),
    ] {
        let answer = ask(&cluster, Method::GET, &format!("{POD}/{path}"), "").await?;
        let status: Value = serde_json::from_str(&answer.body).with_context(|| answer.body.clone())?;
        ensure!(answer.status == code, "{path}: {}", answer.body);
        ensure!(status["message"].as_str().is_some_and(|said| said.starts_with(&message)), "{status}");
    }
    cluster.stop().await
}

#[tokio::test]
async fn services_choose_a_ready_endpoint() -> Result<()> {
    let (cluster, port) = (Cluster::start().await?, backend().await?);
    let pod = cluster.pod("p").await?;
    let admin = WriteOptions::controller("test");
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "default"},
        "spec": {"ports": [{"name": "web", "port": 80}, {"name": "none", "port": 81}]}});
    cluster.app.objects().create(Resource::SERVICES, Some("default"), service, &admin).await?;
    let target = json!({"kind": "Pod", "name": "p", "namespace": "default", "uid": pod.metadata.uid});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "namespace": "default", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4", "ports": [{"name": "web", "port": port, "protocol": "TCP"}],
        "endpoints": [
            {"addresses": ["192.0.2.8"], "conditions": {"ready": true}, "targetRef": target},
            {"addresses": ["192.0.2.9"], "conditions": {"ready": true}},
            {"addresses": ["10.244.9.7"], "conditions": {"ready": true}, "targetRef": target}]});
    cluster.app.objects().create(Resource::ENDPOINT_SLICES, Some("default"), slice, &admin).await?;
    let base = "/api/v1/namespaces/default/services";
    for name in ["s:web", "s:80", "http:s:web"] {
        let answer = ask(&cluster, Method::GET, &format!("{base}/{name}/proxy/a"), "").await?;
        ensure!(answer.body.starts_with("GET /a HTTP/1.1"), "{name}: {}", answer.body);
    }
    for (name, message) in [
        ("s", "no endpoints available for service \"s\""),
        ("s:81", "no endpoints available for service \"s\""),
        ("s:82", "no service port 82 found for service \"s\""),
        ("none", "no endpoints available for service \"none\""),
    ] {
        let answer = ask(&cluster, Method::GET, &format!("{base}/{name}/proxy/a"), "").await?;
        let status: Value = serde_json::from_str(&answer.body)?;
        ensure!(answer.status == 503 && status["message"] == message, "{name}: {status}");
    }
    cluster.stop().await
}

#[tokio::test]
async fn ports_are_forwarded_over_the_channels_of_a_web_socket() -> Result<()> {
    let (cluster, port) = (Cluster::start().await?, backend().await?);
    cluster.pod("p").await?;
    let mut forwarder = cluster.pods.portforward("p", &[port, 1]).await?;
    let mut stream = forwarder.take_stream(port).context("no stream")?;
    stream.write_all(b"GET /forwarded HTTP/1.1\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    ensure!(text.contains("GET /forwarded HTTP/1.1"), "{text}");
    let refused = forwarder.take_error(1).context("no error channel")?.await.context("no error")?;
    ensure!(refused.starts_with("error forwarding port 1 to pod p, uid "), "{refused}");
    cluster.stop().await
}
