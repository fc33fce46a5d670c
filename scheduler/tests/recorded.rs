//! Replays upstream's recorded answers (tests/oracle/recorded, made by `cargo xtask oracle --record`) against our API
//! in this process: objects, field owners and words of refusals must be the same, except in the sequences that
//! `known.txt` lists. That list may only shrink: `RECORDED=shrink cargo test -p gantry-scheduler --test recorded` takes
//! from it what has come to agree, and nothing adds to it.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use axum::body::{Body, to_bytes};
use flate2::read::GzDecoder;
use gantry_scheduler::{
    access::{Certified, Connection},
    admission::{PodDefaults, RuntimeClasses, ServiceAddresses, ServiceRanges},
    api::{Api, InFlight, Parts},
    cache::Cache,
    objects::{Actor, Objects},
    tasks::Tasks,
};
use http::{Request, header};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// What no two servers have alike.
const UNIQUE: [&str; 5] = ["uid", "creationTimestamp", "resourceVersion", "selfLink", "managedFields"];

/// As the recorded server has it.
const RANGE: &str = "10.128.0.0/16";

struct Server {
    api: Arc<Api>,
}

impl Server {
    async fn start() -> Result<Self> {
        let (cache, stop) = (Cache::default(), CancellationToken::new());
        let (tasks, _) = Tasks::new(stop.clone());
        let ranges =
            ServiceRanges { addresses: RANGE.parse()?, ports: 30_000..=32_767, dns: "10.128.0.10".parse()? };
        let objects = Objects::in_memory(vec![
            Arc::new(PodDefaults { eviction: std::time::Duration::from_secs(300) }),
            Arc::new(RuntimeClasses),
            Arc::new(ServiceAddresses::new(ranges, &cache)),
        ])
        .await?;
        cache.start(&objects, &tasks);
        cache.synced().await;
        let parts = Parts {
            objects,
            connect: None,
            computed: Vec::new(),
            server: "127.0.0.1:6443".to_owned(),
            ready: tokio::sync::watch::channel(true).1,
            measures: Arc::default(),
            in_flight: InFlight::default(),
            stop,
        };
        let server = Self { api: Api::new(parts, &mut Registry::default()) };
        let namespace =
            json!(["POST", "/api/v1/namespaces", {"metadata": {"name": "oracle"}}, "application/json"]);
        let (code, body, _) = server.ask(&namespace).await?;
        ensure!(code == 201, "{body}");
        let range = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [RANGE]}});
        let range = json!(["POST", "/apis/networking.k8s.io/v1/servicecidrs", range, "application/json"]);
        let (code, body, _) = server.ask(&range).await?;
        ensure!(code == 201, "{body}");
        Ok(server)
    }

    /// Sends `[method, path, body, media type]`.
    async fn ask(&self, ask: &Value) -> Result<(u16, Value, Vec<String>)> {
        let text = |at: usize| ask[at].as_str().unwrap_or_default();
        let request = Request::builder()
            .method(text(0))
            .uri(text(1))
            .header(header::CONTENT_TYPE, text(3))
            .header(header::USER_AGENT, "oracle")
            .body(Body::from(ask[2].to_string()))?;
        let response = self.api.clone().handle(administrator(), request).await;
        let code = response.status().as_u16();
        let mut warnings: Vec<String> = response
            .headers()
            .get_all(header::WARNING)
            .iter()
            .filter_map(|value| value.to_str().ok()?.splitn(3, ' ').nth(2).map(str::to_owned))
            .collect();
        warnings.sort();
        let bytes = to_bytes(response.into_body(), usize::MAX).await?;
        Ok((code, serde_json::from_slice(&bytes).unwrap_or_default(), warnings))
    }
}

/// A connection that an administrator's certificate opened.
fn administrator() -> Arc<Connection> {
    let until = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let certificate = Some(Certified { actor: Actor::controller("oracle"), until });
    Arc::new(Connection { peer: ([127, 0, 0, 1], 1).into(), certificate })
}

/// An answer in the form that is recorded.
fn recorded(ask: &Value, code: u16, body: Value, warnings: Vec<String>) -> Value {
    let mut step = json!({"ask": ask, "code": code});
    if code < 300 {
        step["owners"] = owners(&body);
        step["object"] = plain(body);
        if !warnings.is_empty() {
            step["warnings"] = warnings.into();
        }
        return step;
    }
    step["message"] = body["message"].clone();
    step["reason"] = body.get("reason").cloned().unwrap_or_else(|| "".into());
    let causes = body.pointer("/details/causes").and_then(Value::as_array);
    if let Some(causes) = causes.filter(|causes| !causes.is_empty()) {
        step["causes"] = causes.iter().map(|c| json!([c["reason"], c["field"], c["message"]])).collect();
    }
    step
}

fn owners(body: &Value) -> Value {
    let entries = body.pointer("/metadata/managedFields").and_then(Value::as_array);
    let mut all: Vec<Value> = entries
        .into_iter()
        .flatten()
        .map(|m| {
            let subresource = m.get("subresource").cloned().unwrap_or_else(|| "".into());
            json!([m["manager"], m["operation"], m["apiVersion"], subresource, m["fieldsV1"]])
        })
        .collect();
    all.sort_by_key(ToString::to_string);
    all.into()
}

fn plain(mut object: Value) -> Value {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        UNIQUE.iter().for_each(|name| drop(metadata.remove(*name)));
    }
    if object["kind"] == "Service" {
        drawn(&mut object["spec"]);
    }
    object
}

/// Addresses and ports that a server draws.
fn drawn(spec: &mut Value) {
    let hide = |value: &mut Value, with: &str| {
        let none = value.is_null() || value == "" || value == "None" || value == &json!(0);
        if !none {
            *value = with.into();
        }
    };
    if let Some(address) = spec.get_mut("clusterIP") {
        hide(address, "IP");
    }
    for address in spec.get_mut("clusterIPs").and_then(Value::as_array_mut).into_iter().flatten() {
        hide(address, "IP");
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(port) = port.get_mut("nodePort") {
            hide(port, "PORT");
        }
    }
    if let Some(port) = spec.get_mut("healthCheckNodePort") {
        hide(port, "PORT");
    }
}

/// Equal but for the order of owners, which a recording sorts by another spelling.
fn same(theirs: &Value, ours: &Value) -> bool {
    let sorted = |step: &Value| {
        let mut step = step.clone();
        if let Some(owners) = step.get_mut("owners").and_then(Value::as_array_mut) {
            owners.sort_by_key(ToString::to_string);
        }
        step
    };
    sorted(theirs) == sorted(ours)
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/oracle/recorded")
}

#[tokio::test]
async fn recorded_answers_are_ours_too() -> Result<()> {
    let file = fs::File::open(folder().join("writes.jsonl.gz")).context("the recording")?;
    let known_file = folder().join("known.txt");
    let known_text = fs::read_to_string(&known_file)?;
    let known: BTreeSet<&str> = known_text.lines().filter(|line| !line.starts_with('#')).collect();
    let server = Server::start().await?;
    let (mut differ, mut report, mut writes) = (BTreeSet::new(), String::new(), 0);
    for line in BufReader::new(GzDecoder::new(file)).lines() {
        let sequence: Value = serde_json::from_str(&line?)?;
        let id = sequence["id"].as_str().unwrap_or_default().to_owned();
        for theirs in sequence["steps"].as_array().into_iter().flatten() {
            writes += 1;
            let (code, body, warnings) = server.ask(&theirs["ask"]).await?;
            let ours = recorded(&theirs["ask"], code, body, warnings);
            if same(theirs, &ours) {
                continue;
            }
            if !known.contains(id.as_str()) {
                writeln!(report, "{id} {}\n  upstream: {theirs}\n  ours:     {ours}", sequence["kind"])?;
            }
            // What follows a difference differs by it.
            differ.insert(id);
            break;
        }
    }
    let agreeing: Vec<&str> = known.iter().copied().filter(|id| !differ.contains(*id)).collect();
    if std::env::var("RECORDED").is_ok_and(|word| word == "shrink") {
        let kept = known_text.lines().filter(|line| !agreeing.contains(line));
        fs::write(&known_file, kept.fold(String::new(), |text, line| text + line + "\n"))?;
    }
    println!(
        "{writes} writes; {} sequences differ, {} known ones have come to agree",
        differ.len(),
        agreeing.len()
    );
    ensure!(writes > 2_000, "only {writes} writes are recorded");
    ensure!(report.is_empty(), "answers that were upstream's are no longer:\n{report}");
    Ok(())
}
