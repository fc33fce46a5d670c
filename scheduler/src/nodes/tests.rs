//! The node port over real TLS on loopback, with a client that is free to misbehave.

use std::{collections::HashMap, sync::Mutex, time::SystemTime};

use hyper_util::rt::TokioIo;
use prost::Message;
use rcgen::{CertificateParams, KeyPair};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpStream, sync::mpsc};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};

use super::*;
use crate::{
    connections::{self, Limits},
    model::Resource,
    objects::{DeleteOptions, Selection, WriteOptions},
    pki::{ClientCertificate, Token, Validity},
};
use pb::{bootstrap_client::BootstrapClient, node_client::NodeClient, scheduler_message::Kind};

mod acks;
mod identity;
mod limits;

const DAY: Duration = Duration::from_secs(86_400);

/// A scheduler's node port.
struct Port {
    objects: Objects,
    authority: Arc<Authority>,
    tokens: Tokens,
    nodes: Nodes,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    /// A machine keeps its certificate.
    certificates: Mutex<HashMap<String, Arc<ClientCertificate>>>,
    _dir: TempDir,
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn admin() -> WriteOptions {
    WriteOptions::controller("test")
}

impl Port {
    async fn open() -> Self {
        Self::open_with(DAY, Limits { total: 1000, per_user: 1000 }).await
    }

    /// With certificates of this lifetime, and so many connections.
    async fn open_with(certificate_lifetime: Duration, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = Arc::new(Authority::open(dir.path(), SystemTime::now()).unwrap());
        let names = vec!["127.0.0.1".to_owned()];
        let serving = Serving::issue(authority.clone(), names, DAY, SystemTime::now()).unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let tasks = Tasks::default();
        let config = NodesConfig {
            heartbeat: Duration::from_secs(10),
            lease: Duration::from_secs(40),
            certificate_lifetime,
            cluster: ClusterFacts {
                domain: "cluster.local".to_owned(),
                service_cidr: "10.96.0.0/16".parse().unwrap(),
                pod_cidr: "10.1.0.0/16".parse().unwrap(),
                dns_ip: "10.96.0.10".parse().unwrap(),
                node_ports: (30_000, 32_767),
            },
        };
        let parts = NodesParts {
            recorder: Recorder::start(&objects, &tasks),
            objects: objects.clone(),
            authority: authority.clone(),
            serving,
            tokens: tokens.clone(),
            places: Places::nodes(limits, &connections::Metrics::default()),
            config,
        };
        let nodes = Nodes::start(parts, &mut MetricsRegistry::default(), &tasks);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = nodes.clone();
        tasks.tracker.spawn(async move { server.serve(listener).await.unwrap() });
        let (stop, certificates) = (tasks.stop.clone(), Mutex::default());
        let port = Self { objects, authority, tokens, nodes, address, stop, certificates, _dir: dir };
        for (node, range) in [("n1", "10.1.1.0/24"), ("n2", "10.1.2.0/24")] {
            let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node},
                "spec": {"podCIDR": range, "podCIDRs": [range]}});
            port.objects.create(Resource::NODES, None, body, &admin()).await.unwrap();
        }
        port
    }

    /// Dials with a certificate of our choice, or none.
    async fn dial(&self, identity: Option<&ClientCertificate>) -> Result<Channel, tonic::transport::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.ca_der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut tls = match identity {
            Some(identity) => {
                let cert = CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let (connector, address) = (TlsConnector::from(Arc::new(tls)), self.address);
        let dial = tower::service_fn(move |_| {
            let connector = connector.clone();
            async move {
                let socket = TcpStream::connect(address).await?;
                let name = ServerName::try_from("127.0.0.1").unwrap();
                Ok::<_, std::io::Error>(TokioIo::new(connector.connect(name, socket).await?))
            }
        });
        tonic::transport::Endpoint::from_static("http://127.0.0.1").connect_with_connector(dial).await
    }

    fn node_certificate(&self, node: &str) -> Arc<ClientCertificate> {
        let mut known = self.certificates.lock().unwrap();
        let make = || Arc::new(self.certificate_from(node, SystemTime::now()));
        known.entry(node.to_owned()).or_insert_with(make).clone()
    }

    /// A certificate of a node that holds for a day from some time on.
    fn certificate_from(&self, node: &str, from: SystemTime) -> ClientCertificate {
        let user = format!("system:node:{node}");
        self.authority.client(&user, &["system:nodes"], Validity::starting(from, DAY)).unwrap()
    }

    async fn session(&self, node: &str) -> Peer {
        let channel = self.dial(Some(&self.node_certificate(node))).await.unwrap();
        let mut peer = Peer::start(channel).await.unwrap();
        peer.say(hello("boot", "instance")).await;
        peer
    }

    async fn pod(&self, name: &str, node: &str) -> Value {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
        let written = self.objects.create(Resource::PODS, Some("default"), body, &admin()).await.unwrap();
        written.object.decode().unwrap()
    }

    async fn stored(&self, name: &str) -> Value {
        self.objects.get(Resource::PODS, Some("default"), name).await.unwrap().decode().unwrap()
    }
}

fn hello(boot_id: &str, instance: &str) -> pb::agent_message::Kind {
    let address = pb::Address { r#type: "InternalIP".into(), address: "192.0.2.1".into() };
    pb::agent_message::Kind::Hello(pb::AgentHello {
        protocol: Some(pb::Version { major: 1, minor: 0 }),
        boot_id: boot_id.into(),
        instance: instance.into(),
        node: Some(pb::NodeInfo { addresses: vec![address], ..Default::default() }),
        ..Default::default()
    })
}

/// An agent's end of a session.
struct Peer {
    to: mpsc::Sender<pb::AgentMessage>,
    from: Streaming<pb::SchedulerMessage>,
}

impl Peer {
    async fn start(channel: Channel) -> Result<Self, tonic::Status> {
        let (to, messages) = mpsc::channel(16);
        let from = NodeClient::new(channel).session(ReceiverStream::new(messages)).await?.into_inner();
        Ok(Self { to, from })
    }

    async fn say(&mut self, kind: pb::agent_message::Kind) {
        self.to.send(pb::AgentMessage { kind: Some(kind) }).await.unwrap();
    }

    /// The next message that `pick` wants.
    async fn expect<T>(&mut self, pick: impl Fn(Kind) -> Option<T>) -> T {
        let wait = async {
            loop {
                let message = self.from.message().await.unwrap().expect("the session ended");
                if let Some(found) = message.kind.and_then(&pick) {
                    return found;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), wait).await.expect("no such message came")
    }

    async fn hello(&mut self) -> pb::SchedulerHello {
        self.expect(|k| if let Kind::Hello(h) = k { Some(h) } else { None }).await
    }

    async fn report(&mut self, pod: &Value, status: Value, finished: bool) -> pb::PodStatusReply {
        let text = |field: &str| pod["metadata"][field].as_str().unwrap().to_owned();
        self.say(pb::agent_message::Kind::PodStatus(pb::PodStatusUpdate {
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            sequence: 1,
            status_json: status.to_string().into(),
            finished,
        }))
        .await;
        self.expect(|k| if let Kind::PodStatus(r) = k { Some(r) } else { None }).await
    }
}

fn join_request(token: &str, name: &str) -> pb::JoinRequest {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap();
    pb::JoinRequest {
        token: token.into(),
        node_name: name.into(),
        csr_der: csr.der().to_vec().into(),
        agent_version: "test".into(),
        ..pb::JoinRequest::default()
    }
}

#[tokio::test]
async fn a_token_joins_and_anything_else_does_not() {
    let port = Port::open().await;
    let (good, expired) = (Token::generate(), Token::generate());
    port.tokens.add(&good, Some(DAY), "", SystemTime::now()).unwrap();
    port.tokens.add(&expired, Some(DAY), "", SystemTime::now() - 2 * DAY).unwrap();
    let mut client = BootstrapClient::new(port.dial(None).await.unwrap());

    let joined = client.join(join_request(&good.reveal(), "n9")).await.unwrap().into_inner();
    let leaf = CertificateDer::from_pem_slice(&joined.certificate_pem).unwrap();
    assert_eq!(crate::pki::Identity::of(&leaf).unwrap().node(), Some("n9"));
    assert_eq!(&joined.ca_pem[..], port.authority.ca_pem().as_bytes());

    for token in [Token::generate().reveal(), expired.reveal(), String::new()] {
        let refused = client.join(join_request(&token, "n9")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert!(token.is_empty() || !refused.message().contains(&token));
    }
    let bad_name = client.join(join_request(&good.reveal(), "a,O=system:masters")).await.unwrap_err();
    assert_eq!(bad_name.code(), Code::InvalidArgument);
    let mut tampered = join_request(&good.reveal(), "n9");
    let mut csr = tampered.csr_der.to_vec();
    *csr.last_mut().unwrap() ^= 1;
    tampered.csr_der = csr.into();
    assert_eq!(client.join(tampered).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn only_a_node_certificate_opens_a_session() {
    let port = Port::open().await;
    let refused = |channel| async { Peer::start(channel).await.err().expect("a session was opened").code() };
    assert_eq!(refused(port.dial(None).await.unwrap()).await, Code::Unauthenticated);
    let now = Validity::starting(SystemTime::now(), DAY);
    let admin = port.authority.client("kubernetes-admin", &["system:masters"], now).unwrap();
    assert_eq!(refused(port.dial(Some(&admin)).await.unwrap()).await, Code::PermissionDenied);
    // A node's name without the nodes' organisation.
    let named = port.authority.client("system:node:n1", &["others"], now).unwrap();
    assert_eq!(refused(port.dial(Some(&named)).await.unwrap()).await, Code::PermissionDenied);
}

/// Whether a session can be opened. With TLS 1.3 a client learns only with its first read that its certificate
/// was refused.
async fn talks(port: &Port, identity: &ClientCertificate) -> bool {
    match port.dial(Some(identity)).await {
        Ok(channel) => Peer::start(channel).await.is_ok(),
        Err(_) => false,
    }
}

#[tokio::test]
async fn a_foreign_and_an_expired_certificate_do_not_get_through_the_handshake() {
    let port = Port::open().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::open(elsewhere.path(), SystemTime::now()).unwrap();
    let now = Validity::starting(SystemTime::now(), DAY);
    assert!(!talks(&port, &foreign.client("system:node:n1", &["system:nodes"], now).unwrap()).await);
    let past = Validity::starting(SystemTime::now() - 2 * DAY, DAY);
    assert!(!talks(&port, &port.authority.client("system:node:n1", &["system:nodes"], past).unwrap()).await);
    assert!(talks(&port, &port.node_certificate("n1")).await);
}

#[tokio::test]
async fn a_node_is_sent_its_own_and_cannot_report_for_another() {
    let port = Port::open().await;
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    for name in ["mine", "theirs"] {
        port.objects.create(Resource::SECRETS, Some("default"), secret(name), &admin()).await.unwrap();
    }
    let with_secret = |pod: &str, node: &str, secret: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": {"nodeName": node,
            "containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": secret}}]}]}})
    };
    for body in [with_secret("p1", "n1", "mine"), with_secret("p2", "n2", "theirs")] {
        port.objects.create(Resource::PODS, Some("default"), body, &admin()).await.unwrap();
    }
    let mut n1 = port.session("n1").await;
    assert!(n1.hello().await.snapshot);
    let mut seen = Vec::new();
    loop {
        let item = n1.expect(|k| match k {
            Kind::Update(raw) => {
                let update = pb::Update::decode(raw).unwrap();
                Some(Some((update.kind(), update.name)))
            }
            Kind::SnapshotEnd(_) => Some(None),
            _ => None,
        });
        let Some(item) = item.await else { break };
        seen.push(item);
    }
    assert_eq!(seen[0], (pb::ObjectKind::Node, "n1".to_owned()), "what it is goes before what it should do");
    seen.sort();
    let (pod, secret) = ((pb::ObjectKind::Pod, "p1".to_owned()), (pb::ObjectKind::Secret, "mine".to_owned()));
    assert_eq!(seen, [pod, secret, (pb::ObjectKind::Node, "n1".to_owned())]);

    let (mine, theirs) = (port.stored("p1").await, port.stored("p2").await);
    let refused = n1.report(&theirs, json!({"phase": "Failed"}), true).await;
    assert!(refused.gone, "told to forget it");
    assert_eq!(port.stored("p2").await["metadata"]["resourceVersion"], theirs["metadata"]["resourceVersion"]);

    // Its own it may report, but with addresses of its own range alone.
    n1.report(&mine, json!({"phase": "Running", "podIP": "10.1.2.7"}), false).await;
    assert_eq!(port.stored("p1").await["status"]["podIP"], Value::Null);
    let stored = n1.report(&mine, json!({"phase": "Running", "podIP": "10.1.1.7"}), false).await;
    assert!(!stored.gone);
    let status = port.stored("p1").await["status"].clone();
    assert_eq!((&status["phase"], &status["podIP"]), (&json!("Running"), &json!("10.1.1.7")));
    assert_eq!(status["hostIP"], "192.0.2.1");
}

#[tokio::test]
async fn a_finished_pod_is_deleted_once_its_deletion_was_asked_for() {
    let port = Port::open().await;
    let pod = port.pod("p", "n1").await;
    let mut n1 = port.session("n1").await;
    n1.hello().await;
    let early = n1.report(&pod, json!({"phase": "Succeeded"}), true).await;
    assert!(!early.gone, "nobody asked for its deletion");
    assert_eq!(port.stored("p").await["status"]["phase"], "Succeeded");

    let pod = port.pod("q", "n1").await;
    let grace = DeleteOptions { grace_seconds: Some(30), ..Default::default() };
    port.objects.delete(Resource::PODS, Some("default"), "q", &grace, &admin()).await.unwrap();
    assert!(n1.report(&pod, json!({"phase": "Succeeded"}), true).await.gone);
    assert!(port.objects.get(Resource::PODS, Some("default"), "q").await.is_err());
}

#[tokio::test]
async fn heartbeats_keep_the_lease_and_the_condition() {
    let port = Port::open().await;
    let mut n1 = port.session("n1").await;
    let hello = n1.hello().await;
    assert_eq!(hello.assignment.unwrap().pod_cidrs, ["10.1.1.0/24"]);
    let condition =
        pb::NodeCondition { r#type: "LimitsEnforced".into(), status: "False".into(), ..Default::default() };
    let beat = pb::Heartbeat { sequence: 7, conditions: vec![condition], ..Default::default() };
    n1.say(pb::agent_message::Kind::Heartbeat(beat)).await;
    let sequence = n1.expect(|k| if let Kind::Heartbeat(h) = k { Some(h.sequence) } else { None }).await;
    assert_eq!(sequence, 7);
    let node: Value = port.objects.get(Resource::NODES, None, "n1").await.unwrap().decode().unwrap();
    let conditions = node["status"]["conditions"].as_array().unwrap();
    let status = |kind: &str| conditions.iter().find(|c| c["type"] == kind).map(|c| c["status"].clone());
    assert_eq!((status("Ready"), status("LimitsEnforced")), (Some(json!("True")), Some(json!("False"))));
    let lease = port.objects.get(Resource::LEASES, Some("kube-node-lease"), "n1").await.unwrap();
    let lease: Value = lease.decode().unwrap();
    assert_eq!(lease["spec"]["holderIdentity"], "n1");
}

#[tokio::test]
async fn an_incompatible_version_and_a_second_machine_are_told_why() {
    let port = Port::open().await;
    let mut first = port.session("n1").await;
    first.hello().await;
    let channel = port.dial(Some(&port.node_certificate("n1"))).await.unwrap();
    let mut second = Peer::start(channel).await.unwrap();
    second.say(hello("another boot", "x")).await;
    assert!(second.hello().await.refusal.contains("another machine serves node n1"));

    let channel = port.dial(Some(&port.node_certificate("n2"))).await.unwrap();
    let mut newer = Peer::start(channel).await.unwrap();
    let pb::agent_message::Kind::Hello(hello) = hello("b", "i") else { unreachable!() };
    let protocol = Some(pb::Version { major: 2, minor: 0 });
    newer.say(pb::agent_message::Kind::Hello(pb::AgentHello { protocol, ..hello })).await;
    assert!(newer.hello().await.refusal.contains("upgrade gantry-scheduler"));
}

#[tokio::test]
async fn a_stream_is_joined_with_the_agent_that_was_asked() {
    let port = Port::open().await;
    let mut n1 = port.session("n1").await;
    n1.hello().await;
    let nodes = port.nodes.clone();
    let request = pb::stream_request::Kind::PortForward(pb::PortForward { pod_uid: "u".into(), port: 80 });
    let waiting = tokio::spawn(async move { nodes.open_stream("n1", request).await });
    let id = n1.expect(|k| if let Kind::Stream(s) = k { Some(s.id) } else { None }).await;

    let frame = |kind| pb::StreamFrame { kind: Some(kind) };
    let open = frame(pb::stream_frame::Kind::Open(id.clone()));
    let foreign = NodeClient::new(port.dial(Some(&port.node_certificate("n2"))).await.unwrap())
        .stream(tokio_stream::iter([open.clone()]))
        .await;
    assert_eq!(foreign.unwrap_err().code(), Code::NotFound, "another node has the id");

    let stdout = frame(pb::stream_frame::Kind::Stdout("hi".into()));
    let own = NodeClient::new(port.dial(Some(&port.node_certificate("n1"))).await.unwrap())
        .stream(tokio_stream::iter([open, stdout.clone()]))
        .await
        .unwrap();
    let mut stream = waiting.await.unwrap().unwrap();
    assert_eq!(stream.from_agent.recv().await, Some(stdout));
    let closed = frame(pb::stream_frame::Kind::StdinClosed(true));
    stream.to_agent.send(closed.clone()).await.unwrap();
    assert_eq!(own.into_inner().message().await.unwrap(), Some(closed));
    let nobody = port.nodes.open_stream("n3", pb::stream_request::Kind::Logs(pb::Logs::default())).await;
    assert_eq!(nobody.unwrap_err(), StreamError::NotConnected("n3".to_owned()));
}

#[tokio::test]
async fn a_deleted_node_ends_the_session_and_only_a_restarted_agent_brings_it_back() {
    let port = Port::open().await;
    let mut first = port.session("n1").await;
    first.hello().await;
    port.objects.delete(Resource::NODES, None, "n1", &DeleteOptions::default(), &admin()).await.unwrap();
    let ended = async { while let Ok(Some(_)) = first.from.message().await {} };
    tokio::time::timeout(Duration::from_secs(20), ended).await.expect("the session ends");
    let mut same = port.session("n1").await;
    let refusal = same.hello().await.refusal;
    assert!(refusal.contains("restart the agent"), "{refusal}");
    assert!(
        port.objects.get(Resource::NODES, None, "n1").await.is_err(),
        "nothing is made behind one's back"
    );
    let channel = port.dial(Some(&port.node_certificate("n1"))).await.unwrap();
    let mut restarted = Peer::start(channel).await.unwrap();
    restarted.say(hello("boot", "another instance")).await;
    let back = async {
        while port.objects.get(Resource::NODES, None, "n1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), back).await.expect("the node comes back");
}

#[tokio::test]
async fn a_node_gives_itself_the_labels_that_it_may() {
    let port = Port::open().await;
    let node =
        async || -> Value { port.objects.get(Resource::NODES, None, "n1").await.unwrap().decode().unwrap() };
    let greet = async |instance: &str, labels: &[(&str, &str)]| {
        let pb::agent_message::Kind::Hello(mut hello) = hello("boot", instance) else { unreachable!() };
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        hello.node.as_mut().unwrap().labels = labels;
        let channel = port.dial(Some(&port.node_certificate("n1"))).await.unwrap();
        let mut peer = Peer::start(channel).await.unwrap();
        peer.say(pb::agent_message::Kind::Hello(hello)).await;
        assert_eq!(peer.hello().await.refusal, "");
    };
    greet("a", &[("disk", "ssd"), ("node-role.kubernetes.io/control-plane", "")]).await;
    let labels = node().await["metadata"]["labels"].clone();
    assert_eq!((&labels["disk"], labels.get("node-role.kubernetes.io/control-plane")), (&json!("ssd"), None));
    let told = async {
        loop {
            let events = port.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap();
            let reason = |e: &Arc<crate::model::Object>| e.decode::<Value>().unwrap()["reason"].clone();
            if events.items.iter().any(|e| reason(e) == "LabelsRefused") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("an event says so");
    greet("b", &[("disk", "nvme")]).await;
    assert_eq!(node().await["metadata"]["labels"]["disk"], "nvme", "its own value");
    let patch = crate::objects::Patch::Merge(json!({"metadata": {"labels": {"disk": "by-hand"}}}));
    port.objects.patch(Resource::NODES, None, "n1", None, patch, &admin()).await.unwrap();
    greet("c", &[("disk", "ssd")]).await;
    assert_eq!(node().await["metadata"]["labels"]["disk"], "by-hand");
}
