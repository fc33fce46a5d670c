//! The agent's session with the scheduler, both real, over loopback and TLS: join, snapshot, changes, reports,
//! restarts and resumption, renewal, streams.

#![expect(clippy::unwrap_used, reason = "a failure here is the test's failure")]

mod failpoints;
mod fake;
mod identity;
mod proxy;
mod streams;
mod table;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use gantry_agent::model::{Desired, EventSubject, EventType, NodeEvent, PodName, PodReport};
use gantry_scheduler::{
    connections::{self, Limits, Places},
    events::Recorder,
    model::Resource,
    nodes::{ClusterFacts, Nodes, NodesConfig, NodesParts},
    objects::{DeleteOptions, Objects, WriteOptions},
    pki::{Authority, Serving, Token, Tokens},
    tasks::Tasks,
};
use k8s_openapi::api::core::v1::PodStatus;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use fake::{Agent, PATIENCE, eventually};

const DAY: Duration = Duration::from_secs(86_400);

/// The scheduler's node side. Its objects outlive a restart of its sessions.
struct Scheduler {
    dir: tempfile::TempDir,
    objects: Objects,
    authority: Arc<Authority>,
    token: Token,
    address: SocketAddr,
    lifetime: Duration,
    running: Option<Running>,
}

struct Running {
    nodes: Nodes,
    registry: Registry,
    tasks: Tasks,
}

fn admin() -> WriteOptions {
    WriteOptions::controller("test")
}

impl Scheduler {
    async fn start(lifetime: Duration) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Arc::new(Authority::open(dir.path(), SystemTime::now())?);
        let token = Token::generate();
        Tokens::open(dir.path())?.add(&token, Some(DAY), "test", SystemTime::now())?;
        let objects = Objects::in_memory(Vec::new()).await?;
        let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
        let mut scheduler = Self { dir, objects, authority, token, address, lifetime, running: None };
        scheduler.resume().await?;
        for (node, range) in [("n1", "10.1.1.0/24"), ("n2", "10.1.2.0/24")] {
            let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
                "spec": {"podCIDR": range, "podCIDRs": [range]}});
            scheduler.objects.create(Resource::NODES, None, body, &admin()).await?;
        }
        Ok(scheduler)
    }

    /// Starts the sessions, at the same address as before.
    async fn resume(&mut self) -> Result<()> {
        let names = vec!["127.0.0.1".to_owned()];
        let parts = |tasks: &Tasks| -> Result<NodesParts> {
            Ok(NodesParts {
                recorder: Recorder::start(&self.objects, tasks),
                objects: self.objects.clone(),
                authority: self.authority.clone(),
                serving: Serving::issue(self.authority.clone(), names, DAY, SystemTime::now())?,
                tokens: Tokens::open(self.dir.path())?,
                places: Places::nodes(
                    Limits { total: 1000, per_user: 1000 },
                    &connections::Metrics::default(),
                ),
                config: NodesConfig {
                    heartbeat: Duration::from_secs(1),
                    lease: Duration::from_secs(10),
                    certificate_lifetime: self.lifetime,
                    cluster: ClusterFacts {
                        domain: "cluster.local".to_owned(),
                        service_cidr: "10.96.0.0/16".parse()?,
                        pod_cidr: "10.1.0.0/16".parse()?,
                        dns_ip: "10.96.0.10".parse()?,
                        node_ports: (30_000, 32_767),
                    },
                },
            })
        };
        let (tasks, _ended) = Tasks::new(CancellationToken::new());
        let mut registry = Registry::default();
        let nodes = Nodes::start(parts(&tasks)?, &mut registry, &tasks);
        let listener = TcpListener::bind(self.address).await?;
        let server = nodes.clone();
        tasks.tracker.spawn(async move {
            if let Err(error) = server.serve(listener).await {
                panic!("the node port failed: {error}");
            }
        });
        self.running = Some(Running { nodes, registry, tasks });
        Ok(())
    }

    async fn pause(&mut self) -> Result<()> {
        let running = self.running.take().context("not running")?;
        running.tasks.stop.cancel();
        running.tasks.tracker.close();
        tokio::time::timeout(PATIENCE, running.tasks.tracker.wait()).await?;
        Ok(())
    }

    fn running(&self) -> Result<&Running> {
        self.running.as_ref().context("not running")
    }

    fn metric(&self, name: &str) -> Result<u64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.running()?.registry)?;
        let line = text.lines().find_map(|l| l.strip_prefix(&format!("{name}_total ")));
        Ok(line.with_context(|| format!("no {name} in {text}"))?.parse()?)
    }

    fn agent(&self, node: &str, dir: &Path) -> Result<Agent> {
        Agent::start(self.address, node, dir, &self.authority.ca_hash(), &self.token.reveal())
    }

    async fn create(&self, resource: Resource, body: Value) -> Result<Value> {
        Ok(self.objects.create(resource, Some("default"), body, &admin()).await?.object.decode()?)
    }

    async fn get(&self, resource: Resource, name: &str) -> Result<Value> {
        Ok(self.objects.get(resource, Some("default"), name).await?.decode()?)
    }

    async fn pod(&self, name: &str, node: &str, secret: &str) -> Result<Value> {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i",
                "env": [{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]}]}});
        self.create(Resource::PODS, body).await
    }

    async fn secret(&self, name: &str) -> Result<Value> {
        let body = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {"k": "aHVudGVyMg=="}});
        self.create(Resource::SECRETS, body).await
    }

    async fn service(&self, name: &str) -> Result<Value> {
        let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]}});
        self.create(Resource::SERVICES, body).await
    }
}

fn pods(desired: &Desired) -> Vec<String> {
    desired.pods.values().map(|p| p.name.name.to_string()).collect()
}

fn report(pod: &Value, phase: &str, finished: bool) -> PodReport {
    let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
    PodReport {
        uid: text("uid").as_str().into(),
        name: PodName { namespace: text("namespace").into(), name: text("name").into() },
        status: PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() }.into(),
        finished,
    }
}

fn home() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("control");
    Ok((dir, path))
}

#[tokio::test]
async fn pods_come_down_and_statuses_go_up() -> Result<()> {
    let scheduler = Scheduler::start(DAY).await?;
    scheduler.secret("s").await?;
    let pod = scheduler.pod("p", "n1", "s").await?;
    scheduler.pod("other", "n2", "s").await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    let desired =
        agent.sees("the pod and its secret", |d| !d.pods.is_empty() && !d.secrets.is_empty()).await?;
    assert_eq!(pods(&desired), ["p"]);
    let network = agent.control.network.borrow().clone().context("no network")?;
    assert_eq!(network.node_pod_cidrs, ["10.1.1.0/24".parse()?]);

    // What did not exist is sent as soon as it does.
    scheduler.pod("waits", "n1", "late").await?;
    agent.sees("the second pod", |d| d.pods.len() == 2).await?;
    scheduler.secret("late").await?;
    agent.sees("its secret", |d| d.secrets.len() == 2).await?;

    scheduler.service("web").await?;
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}], "endpoints": [{"addresses": ["10.1.2.9"]}]});
    scheduler.create(Resource::ENDPOINT_SLICES, slice).await?;
    let with_endpoint = agent.sees("the endpoint", |d| {
        d.table
            .iter()
            .flat_map(|table| table.services.values())
            .any(|s| s.ports.iter().any(|p| p.endpoints.len() == 1))
    });
    let desired = with_endpoint.await?;
    agent.control.upstream.programmed(desired.epoch, desired.generation, Vec::new());
    let nodes = scheduler.running()?.nodes.clone();
    eventually("the ack", async || Ok(nodes.programmed(desired.generation).programmed == 1)).await?;

    agent.control.upstream.pod_status(report(&pod, "Running", false));
    agent.control.upstream.event(NodeEvent {
        subject: EventSubject::Pod {
            uid: pod["metadata"]["uid"].as_str().context("uid")?.into(),
            name: PodName { namespace: "default".into(), name: "p".into() },
            field_path: Some("spec.containers{c}".to_owned()),
        },
        kind: EventType::Normal,
        reason: "Started",
        message: "Started container c".to_owned(),
        time_ms: 1_800_000_000_000,
    });
    eventually("Running", async || {
        Ok(scheduler.get(Resource::PODS, "p").await?["status"]["phase"] == "Running")
    })
    .await?;
    eventually("the event", async || {
        let events = scheduler.objects.list(Resource::EVENTS, &Default::default()).await?;
        Ok(events.items.iter().any(|e| e.json.windows(19).any(|w| w == b"Started container c")))
    })
    .await?;
    eventually("usage", async || {
        Ok(nodes.usage().node("n1").is_some_and(|u| u.cpu_nanocores == 250_000_000))
    })
    .await?;

    let grace = DeleteOptions { grace_seconds: Some(30), ..DeleteOptions::default() };
    scheduler.objects.delete(Resource::PODS, Some("default"), "p", &grace, &admin()).await?;
    let uid = report(&pod, "", false).uid;
    agent.sees("the deletion", |d| d.pods[&uid].pod.metadata.deletion_timestamp.is_some()).await?;
    agent.control.upstream.pod_status(report(&pod, "Succeeded", true));
    agent.sees("it gone", |d| pods(d) == ["waits"]).await?;
    assert!(scheduler.get(Resource::PODS, "p").await.is_err());
    agent.stop().await
}

#[tokio::test]
async fn a_restarted_agent_resumes_from_its_ledger() -> Result<()> {
    let mut scheduler = Scheduler::start(DAY).await?;
    scheduler.secret("s").await?;
    scheduler.pod("first", "n1", "s").await?;
    scheduler.service("web").await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    let one_service = |d: &Arc<Desired>| d.table.as_ref().is_some_and(|table| table.services.len() == 1);
    let both = |d: &Arc<Desired>| d.pods.len() == 1 && one_service(d);
    agent.sees("the first pod", both).await?;
    agent.stop().await?;
    scheduler.pod("second", "n1", "s").await?;
    let before = scheduler.metric("gantry_node_snapshots")?;

    let agent = scheduler.agent("n1", &dir)?;
    assert!(both(&agent.control.desired.borrow().clone()), "from the ledger, before any session");
    agent.sees("the second pod", |d| d.pods.len() == 2 && one_service(d)).await?;
    assert_eq!(scheduler.metric("gantry_node_resumes")?, 1);
    assert_eq!(scheduler.metric("gantry_node_snapshots")?, before);
    agent.stop().await?;

    // Without a scheduler the node starts with what it has, and the ledger says nothing in the clear.
    scheduler.pause().await?;
    let agent = scheduler.agent("n1", &dir)?;
    let desired = agent.control.desired.borrow().clone();
    assert_eq!((desired.pods.len(), desired.secrets.len()), (2, 1));
    for file in std::fs::read_dir(&dir)? {
        let bytes = std::fs::read(file?.path())?;
        for secret in [&b"hunter2"[..], b"aHVudGVyMg"] {
            assert!(!bytes.windows(secret.len()).any(|w| w == secret));
        }
    }
    // The scheduler comes back with a new epoch, and without one of the pods.
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    scheduler.objects.delete(Resource::PODS, Some("default"), "first", &now, &admin()).await?;
    scheduler.resume().await?;
    agent.sees("the rest", |d| pods(d) == ["second"]).await?;
    assert_eq!(scheduler.metric("gantry_node_snapshots")?, 1);
    agent.stop().await
}

#[tokio::test]
async fn reports_wait_for_a_scheduler_that_is_away() -> Result<()> {
    let mut scheduler = Scheduler::start(DAY).await?;
    let pod = scheduler.pod("p", "n1", "none").await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    agent.sees("the pod", |d| d.pods.len() == 1).await?;
    scheduler.pause().await?;
    tokio::time::timeout(PATIENCE, agent.control.connected.clone().wait_for(|c| !*c)).await??;
    agent.control.upstream.pod_status(report(&pod, "Pending", false));
    agent.control.upstream.pod_status(report(&pod, "Running", false));
    scheduler.resume().await?;
    eventually("Running", async || {
        Ok(scheduler.get(Resource::PODS, "p").await?["status"]["phase"] == "Running")
    })
    .await?;
    agent.stop().await
}

/// Also what is reported in the same moment is judged by the new address.
#[tokio::test]
async fn a_changed_address_reaches_the_node_and_its_pods_without_a_restart() -> Result<()> {
    let scheduler = Scheduler::start(DAY).await?;
    let pod = scheduler.pod("p", "n1", "none").await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    agent.sees("the pod", |d| d.pods.len() == 1).await?;
    let internal = async || -> Result<Value> {
        let node: Value = scheduler.objects.get(Resource::NODES, None, "n1").await?.decode()?;
        Ok(node["status"]["addresses"][0]["address"].clone())
    };
    assert_eq!(internal().await?, "192.0.2.1");
    let snapshots = scheduler.metric("gantry_node_snapshots")?;
    agent.node.address.send_replace("192.0.2.9".to_owned());
    agent.control.upstream.pod_status(report(&pod, "Running", false));
    eventually("the new address", async || Ok(internal().await? == "192.0.2.9")).await?;
    let status = async || Ok::<_, anyhow::Error>(scheduler.get(Resource::PODS, "p").await?["status"].clone());
    eventually("Running", async || Ok(status().await?["phase"] == "Running")).await?;
    assert_eq!(status().await?["hostIP"], "192.0.2.9");
    assert_eq!(scheduler.metric("gantry_node_snapshots")?, snapshots, "it goes on where it was");
    agent.stop().await
}

#[tokio::test]
async fn certificates_are_renewed_without_losing_the_session() -> Result<()> {
    let scheduler = Scheduler::start(Duration::from_secs(6)).await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    agent.connected().await?;
    let first = std::fs::read(dir.join("node.pem"))?;
    eventually("a renewed certificate", async || Ok(std::fs::read(dir.join("node.pem"))? != first)).await?;
    // Beyond the first certificate's end the session is still the same one.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(*agent.control.connected.borrow());
    assert_eq!(scheduler.metric("gantry_node_snapshots")?, 1);
    assert_eq!(scheduler.metric("gantry_node_resumes")?, 0);
    agent.stop().await
}

#[tokio::test]
async fn a_wrong_token_or_pin_joins_nothing() -> Result<()> {
    let scheduler = Scheduler::start(DAY).await?;
    let (_keep, dir) = home()?;
    let wrong = Token::generate().reveal();
    let agent = Agent::start(scheduler.address, "n1", &dir, &scheduler.authority.ca_hash(), &wrong)?;
    eventually("a refusal", async || Ok(scheduler.metric("gantry_node_joins_refused")? >= 1)).await?;
    assert!(!dir.join("node.pem").exists());
    agent.stop().await?;

    // An impostor's pin: the token is not even sent.
    let refused = scheduler.metric("gantry_node_joins_refused")?;
    let elsewhere = tempfile::tempdir()?;
    let impostor = Authority::open(elsewhere.path(), SystemTime::now())?;
    let (_keep, dir) = home()?;
    let token = scheduler.token.reveal();
    let agent = Agent::start(scheduler.address, "n1", &dir, &impostor.ca_hash(), &token)?;
    let connected = tokio::time::timeout(Duration::from_secs(2), agent.connected()).await;
    assert!(connected.is_err() && !dir.join("node.pem").exists());
    assert_eq!(scheduler.metric("gantry_node_joins_refused")?, refused);
    agent.stop().await
}

#[tokio::test]
async fn a_stream_flows_both_ways_and_ends_with_the_exit_code() -> Result<()> {
    use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
    let scheduler = Scheduler::start(DAY).await?;
    let (_keep, dir) = home()?;
    let agent = scheduler.agent("n1", &dir)?;
    agent.connected().await?;
    let nodes = scheduler.running()?.nodes.clone();
    let exec = pb::Exec { command: vec!["echo".to_owned()], stdin: true, ..Default::default() };
    let mut stream = nodes.open_stream("n1", pb::stream_request::Kind::Exec(exec)).await?;
    let frame = |kind| pb::StreamFrame { kind: Some(kind) };
    assert_eq!(stream.from_agent.recv().await, Some(frame(Kind::Stderr("echo".into()))));
    stream.to_agent.send(frame(Kind::Stdin("hello".into()))).await?;
    assert_eq!(stream.from_agent.recv().await, Some(frame(Kind::Stdout("hello".into()))));
    stream.to_agent.send(frame(Kind::StdinClosed(true))).await?;
    let end = pb::StreamEnd { exit_code: Some(7), error: String::new() };
    assert_eq!(stream.from_agent.recv().await, Some(frame(Kind::End(end))));
    drop(stream);

    let logs = nodes.open_stream("n1", pb::stream_request::Kind::Logs(pb::Logs::default())).await;
    assert_eq!(logs.err().context("not refused")?.to_string(), "no such container");
    agent.stop().await
}
