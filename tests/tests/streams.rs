//! The API's proxies, port-forward and WebSockets of a running cluster, with the newest and the oldest supported kubectl.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Child,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use gantry_tests::{Cluster, Kubectl, Namespace, get, manifests};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(20);

/// A kubectl that goes on serving, ended with its value.
struct Serving {
    child: Child,
    address: SocketAddr,
}

impl Serving {
    /// Waits for the line with the address that it serves on.
    fn start(kubectl: &Kubectl, words: &str) -> Result<Self> {
        let mut child = kubectl.spawn(words)?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        // kubectl ends by itself when it cannot serve.
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            line.split_whitespace()
                .find_map(|word| word.parse::<SocketAddr>().ok().filter(SocketAddr::is_ipv4))
        });
        std::thread::spawn(move || lines.for_each(drop));
        let Some(address) = address else {
            let mut said = String::new();
            child.stderr.take().context("no errors")?.read_to_string(&mut said)?;
            anyhow::bail!("kubectl {words} does not serve: {said}");
        };
        Ok(Self { child, address })
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn web<'a>(kubectl: &'a Kubectl, name: &str) -> Result<(Namespace<'a>, String)> {
    let ns = Namespace::create(kubectl, name)?;
    ns.apply(&manifests::web("web", 1, "2.1.0"))?;
    ns.ok("rollout status deployment/web --timeout=60s")?;
    let pods = ns.ok("get pods -l app=web -o jsonpath={.items[0].metadata.name}")?;
    Ok((ns, pods))
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn the_newest_kubectl_forwards_ports() -> Result<()> {
    forwarding(&Cluster::from_env()?.kubectl()?, "forward-new")
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn the_oldest_kubectl_forwards_ports() -> Result<()> {
    forwarding(&Cluster::from_env()?.old_kubectl()?, "forward-old")
}

fn forwarding(kubectl: &Kubectl, namespace: &str) -> Result<()> {
    let (ns, pod) = web(kubectl, namespace)?;
    for target in [format!("pod/{pod} :8080"), "svc/web :80".to_owned(), "deploy/web :8080".to_owned()] {
        let serving = Serving::start(kubectl, &format!("-n {} port-forward {target}", ns.name))?;
        // More than one connection at a time, and one after the other.
        for _ in 0..3 {
            let answer = get(serving.address, "/hostname", PATIENCE)?;
            ensure!(answer.status == 200 && answer.body.trim() == pod, "{target}: {answer:?}");
        }
        let both: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(move || get(serving.address, "/env", PATIENCE).map(|a| a.status)))
            .collect();
        for one in both {
            ensure!(one.join().ok().context("a thread failed")?? == 200);
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn pods_services_and_nodes_are_reached_through_the_api() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let (ns, pod) = web(&kubectl, "proxied")?;
    let base = format!("/api/v1/namespaces/{}", ns.name);
    for path in [
        format!("{base}/pods/{pod}/proxy/hostname"),
        format!("{base}/pods/{pod}:8080/proxy/hostname"),
        format!("{base}/services/web:http/proxy/hostname"),
        format!("{base}/services/web:80/proxy/hostname"),
    ] {
        ensure!(kubectl.ok(&format!("get --raw {path}"))?.trim() == pod, "{path}");
    }
    let refused = kubectl.fails(&format!("get --raw {base}/pods/{pod}:1/proxy/"))?;
    ensure!(
        refused.contains("error trying to reach service") && refused.contains("connection refused"),
        "{refused}"
    );
    let none = kubectl.fails(&format!("get --raw {base}/services/web:81/proxy/"))?;
    ensure!(none.contains("no service port 81 found for service \"web\""), "{none}");

    let node = ns.ok(&format!("get pod {pod} -o jsonpath={{.spec.nodeName}}"))?;
    let of_node = |path: &str| kubectl.ok(&format!("get --raw /api/v1/nodes/{node}/proxy/{path}"));
    let pods: Value = serde_json::from_str(&of_node("pods")?)?;
    let names = || pods["items"].as_array().into_iter().flatten().map(|p| &p["metadata"]["name"]);
    ensure!(names().any(|name| *name == *pod), "{pods}");
    ensure!(of_node("healthz")? == "ok");
    ensure!(of_node("stats/summary")?.contains(&pod));
    ensure!(of_node("metrics/cadvisor")?.contains("container_cpu_usage_seconds_total"));
    ensure!(of_node(&format!("containerLogs/{}/{pod}/server", ns.name))?.contains("serving on port"));
    kubectl.ok(&format!("get --raw /api/v1/nodes/{node}:10250/proxy/logs/"))?;
    Ok(())
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn every_verb_goes_through() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let (ns, pod) = web(&kubectl, "verbs")?;
    let api = Serving::start(&kubectl, "proxy --port=0")?;
    for verb in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"] {
        let path = format!("/api/v1/namespaces/{}/pods/{pod}/proxy/hostname", ns.name);
        let mut stream = TcpStream::connect(api.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{verb} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "{verb}: {text}");
        ensure!(verb == "HEAD" || text.contains(&pod), "{verb}: {text}");
    }
    Ok(())
}

/// What a WebSocket without frames of ours says: the answer's head, and the payloads of its first messages.
fn listen(api: SocketAddr, path: &str, protocol: Option<&str>) -> Result<(String, Vec<Vec<u8>>)> {
    let mut stream = BufReader::new(TcpStream::connect(api)?);
    stream.get_ref().set_read_timeout(Some(PATIENCE))?;
    let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
    write!(
        stream.get_mut(),
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{protocol}\r\n"
    )?;
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        ensure!(stream.read_line(&mut head)? > 0, "cut off: {head}");
    }
    let mut messages = Vec::new();
    loop {
        let mut start = [0; 2];
        if stream.read_exact(&mut start).is_err() {
            return Ok((head, messages));
        }
        let size = match start[1] {
            126 => {
                let mut size = [0; 2];
                stream.read_exact(&mut size)?;
                usize::from(u16::from_be_bytes(size))
            }
            size => usize::from(size),
        };
        let mut payload = vec![0; size];
        stream.read_exact(&mut payload)?;
        if start[0] & 0x0f == 8 {
            return Ok((head, messages));
        }
        messages.push(payload);
    }
}

#[test]
#[ignore = "needs a cluster: run by cargo xtask test"]
fn logs_and_exec_come_over_web_sockets() -> Result<()> {
    let cluster = Cluster::from_env()?;
    let kubectl = cluster.kubectl()?;
    let (ns, pod) = web(&kubectl, "sockets")?;
    let api = Serving::start(&kubectl, "proxy --port=0 --reject-paths=^$")?;
    let base = format!("/api/v1/namespaces/{}/pods/{pod}", ns.name);
    for protocol in [None, Some("binary.k8s.io")] {
        let (head, messages) = listen(api.address, &format!("{base}/log"), protocol)?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        ensure!(messages.first().is_some_and(Vec::is_empty), "the first message is empty");
        ensure!(String::from_utf8_lossy(&messages.concat()).contains("serving on port"), "{messages:?}");
    }
    let (_, coded) = listen(api.address, &format!("{base}/log"), Some("base64.binary.k8s.io"))?;
    let text = coded.concat();
    ensure!(text.iter().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(b)), "{text:?}");

    let exec = format!("{base}/exec?command=echo&command=hello&stdout=1&stderr=1");
    for protocol in [None, Some("channel.k8s.io"), Some("v4.channel.k8s.io")] {
        let (head, messages) = listen(api.address, &exec, protocol)?;
        ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
        ensure!(messages.contains(&b"\x01hello\n".to_vec()), "{messages:?}");
        let told = messages.iter().any(|m| m.starts_with(b"\x03") && m.len() > 1);
        ensure!(told == (protocol == Some("v4.channel.k8s.io")), "older protocols tell of failures alone");
    }
    let (_, coded) = listen(api.address, &exec, Some("base64.channel.k8s.io"))?;
    ensure!(coded.contains(&b"1aGVsbG8K".to_vec()), "{coded:?}");
    Ok(())
}
