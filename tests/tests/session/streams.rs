//! logs, exec and metrics from a client's side: kube-rs against the whole scheduler, an agent with a fake node.

use anyhow::{Context, Result};
use futures::SinkExt;
use gantry_agent::model::{PodName, PodReport};
use gantry_scheduler::{app::App, config::Config, model::Resource, objects::WriteOptions, pki};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{AttachParams, LogParams, TerminalSize},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::{net::TcpListener, path::Path, time::SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    DAY,
    fake::{Agent, eventually},
};

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(super) struct Cluster {
    pub(super) app: App,
    pub(super) client: Client,
    agent: Agent,
    pub(super) pods: Api<Pod>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    pub(super) async fn start() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (api, nodes) = (free_port()?, free_port()?);
        let text = format!(
            "data_dir = {:?}\n[api]\nlisten = \"127.0.0.1:{api}\"\n[nodes]\nlisten = \"127.0.0.1:{nodes}\"\n\
             [metrics]\nlisten = \"127.0.0.1:{}\"\n[timing]\nheartbeat = \"1s\"\n",
            dir.path().join("data"),
            free_port()?
        );
        let config = Config::parse(&text, Path::new("test"))?;
        let app = App::start(&config).await?;
        let authority = pki::Authority::open(&config.pki_dir(), SystemTime::now())?;
        let token = pki::Token::generate();
        pki::Tokens::open(&config.pki_dir())?.add(&token, Some(DAY), "test", SystemTime::now())?;
        let client = client(&authority, &format!("https://127.0.0.1:{api}")).await?;
        let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"},
            "spec": {"podCIDR": "10.244.9.0/24", "podCIDRs": ["10.244.9.0/24"]}});
        app.objects().create(Resource::NODES, None, body, &WriteOptions::controller("test")).await?;
        let address = format!("127.0.0.1:{nodes}").parse()?;
        let home = dir.path().join("agent");
        let agent = Agent::start(address, "n1", &home, &authority.ca_hash(), &token.reveal())?;
        agent.connected().await?;
        let pods = Api::namespaced(client.clone(), "default");
        Ok(Self { app, client, agent, pods, _dir: dir })
    }

    /// A pod whose container `c` runs and whose container `w` waits.
    pub(super) async fn pod(&self, name: &str) -> Result<Pod> {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}, {"name": "w", "image": "i"}]}}))?;
        let pod = self.pods.create(&Default::default(), &pod).await?;
        let container = |name: &str, state: Value| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let status: PodStatus = serde_json::from_value(json!({"phase": "Running",
            "podIP": "10.244.9.7", "podIPs": [{"ip": "10.244.9.7"}], "containerStatuses": [
            container("c", json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})),
            container("w", json!({"waiting": {"reason": "ContainerCreating"}}))]}))?;
        let uid = pod.metadata.uid.as_deref().context("no uid")?.into();
        let name = PodName { namespace: "default".into(), name: name.into() };
        self.agent.node.pods.lock().unwrap().push(uid);
        let uid = pod.metadata.uid.as_deref().context("no uid")?.into();
        self.agent.control.upstream.pod_status(PodReport {
            uid,
            name,
            status: status.into(),
            finished: false,
        });
        let pods = self.pods.clone();
        let pod_name = pod.metadata.name.clone().context("no name")?;
        eventually("Running", async || {
            Ok(pods.get(&pod_name).await?.status.and_then(|s| s.phase).as_deref() == Some("Running"))
        })
        .await?;
        Ok(pod)
    }

    async fn get(&self, path: &str) -> Result<Value> {
        Ok(self.client.request(http::Request::get(path).body(Vec::new())?).await?)
    }

    pub(super) async fn stop(self) -> Result<()> {
        self.agent.stop().await?;
        self.app.stop().await;
        Ok(())
    }
}

async fn client(authority: &pki::Authority, server: &str) -> Result<Client> {
    let validity = pki::Validity::starting(SystemTime::now(), DAY);
    let admin = authority.client("kubernetes-admin", &["system:masters"], validity)?;
    let text = pki::kubeconfig(server, authority, "kubernetes-admin", &admin);
    let kubeconfig = Kubeconfig::from_yaml(&text)?;
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    // A 503 is an answer to look at, not to ask again for.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

#[tokio::test]
async fn logs_come_as_text_and_refusals_in_upstreams_words() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.pod("p").await?;
    let of = |container: Option<&str>| LogParams {
        container: container.map(str::to_owned),
        tail_lines: Some(3),
        ..LogParams::default()
    };
    assert_eq!(cluster.pods.logs("p", &of(Some("c"))).await?, "one\ntail=Some(3) follow=false\n");
    for (params, message) in [
        (of(None), "a container name must be specified for pod p, choose one of: [c w]"),
        (of(Some("w")), "container \"w\" in pod \"p\" is waiting to start: ContainerCreating"),
        (of(Some("x")), "container x is not valid for pod p"),
    ] {
        let Err(kube::Error::Api(status)) = cluster.pods.logs("p", &params).await else {
            anyhow::bail!("not refused: {message}")
        };
        assert_eq!((status.code, status.message.as_str()), (400, message));
    }
    cluster.stop().await
}

#[tokio::test]
async fn exec_carries_every_stream_and_the_exit_code() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.pod("p").await?;
    let params = AttachParams::default().container("c").stdin(true).stdout(true).stderr(true);
    let mut process = cluster.pods.exec("p", ["cat", "-"], &params).await?;
    let status = process.take_status().context("no status")?;
    let mut stdin = process.stdin().context("no stdin")?;
    let (mut stdout, mut stderr) = (process.stdout().context("out")?, process.stderr().context("err")?);
    stdin.write_all(b"hello").await?;
    let mut out = [0; 5];
    stdout.read_exact(&mut out).await?;
    let mut err = [0; 5];
    stderr.read_exact(&mut err).await?;
    assert_eq!((&out, &err), (b"hello", b"cat -"));
    stdin.shutdown().await?;
    drop(stdin);
    let status = status.await.context("no status came")?;
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"));
    let causes = status.details.and_then(|d| d.causes).unwrap_or_default();
    assert_eq!(causes[0].message.as_deref(), Some("7"));

    let terminal = AttachParams::interactive_tty().container("c");
    let mut shell = cluster.pods.exec("p", ["sh"], &terminal).await?;
    let mut resize = shell.terminal_size().context("no terminal")?;
    resize.send(TerminalSize { width: 80, height: 24 }).await?;
    drop(shell);
    cluster.stop().await
}

#[tokio::test]
async fn usage_is_served_as_metrics_server_does() -> Result<()> {
    let cluster = Cluster::start().await?;
    cluster.pod("p").await?;
    let base = "/apis/metrics.k8s.io/v1beta1";
    eventually("two samples", async || {
        let list = cluster.get(&format!("{base}/namespaces/default/pods")).await?;
        Ok(list["items"][0]["containers"][0]["usage"] == json!({"cpu": "100000000n", "memory": "5120Ki"}))
    })
    .await?;
    let nodes = cluster.get(&format!("{base}/nodes")).await?;
    assert_eq!(nodes["items"][0]["usage"]["cpu"], "250000000n");
    assert_eq!(cluster.get(&format!("{base}/nodes/n1")).await?["metadata"]["name"], "n1");
    assert!(cluster.get(&format!("{base}/nodes/other")).await.is_err());
    cluster.stop().await
}
