//! The endpoints over loopback, with two pods of which one runs.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    cgroup::{CgroupError, Enforcement, Qos, Usage},
    control::OpenStream,
    model::{
        DesiredPod, Layout, Limits, PodName, PodUid, Resolver, StreamEnd, StreamOutput, StreamRefusal,
        StreamRequest,
    },
};

struct Counters;

impl Cgroups for Counters {
    fn enforcement(&self) -> Enforcement {
        Enforcement::BestEffort { missing: vec!["memory".into()] }
    }
    fn ensure_pod(&self, _: &PodUid, _: Qos, _: &Limits) -> Result<(), CgroupError> {
        panic!("serving changes nothing")
    }
    fn container_path(&self, _: &PodUid, _: Qos, _: &str) -> String {
        panic!("serving changes nothing")
    }
    fn remove_pod(&self, _: &PodUid) -> Result<(), CgroupError> {
        panic!("serving changes nothing")
    }
    fn list_pods(&self) -> Result<Vec<PodUid>, CgroupError> {
        Ok(Vec::new())
    }
    fn container_usage(&self, _: &PodUid, container: &str) -> Result<Option<Usage>, CgroupError> {
        let cpu_ns = if container == "app" { 1_500_000_000 } else { 250_000_000 };
        Ok(Some(Usage { cpu_ns, memory_working_set: 1 << 20, oom_kills: 2, ..Usage::default() }))
    }
    fn node_usage(&self) -> Result<Usage, CgroupError> {
        Ok(Usage { cpu_ns: 9_000_000_000, ..Usage::default() })
    }
}

struct Gates(bool);

impl Readiness for Gates {
    fn gates(&self) -> Vec<(String, bool)> {
        vec![("containerd".into(), true), ("dataplane".into(), self.0)]
    }
}

fn pod(uid: &str, name: &str) -> Arc<DesiredPod> {
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid},
        "spec": {"containers": [{
            "name": "app", "image": "web:1",
            "env": [{"name": "PASSWORD", "value": "hunter2"}],
            "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "250m"}}
        }, {"name": "log", "image": "log:1"}]}
    }))
    .unwrap();
    let name = PodName { namespace: "shop".into(), name: name.into() };
    Arc::new(DesiredPod { uid: uid.into(), name, generation: 7, pod })
}

fn status() -> PodStatus {
    let started = "2026-11-23T10:00:00Z";
    serde_json::from_value(json!({
        "phase": "Running",
        "containerStatuses": [
            {"name": "app", "image": "web:1", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {"startedAt": started}}},
            {"name": "log", "image": "log:1", "imageID": "", "ready": true, "restartCount": 0,
             "state": {"running": {"startedAt": started}}},
            {"name": "over", "image": "x", "imageID": "", "ready": false, "restartCount": 1,
             "state": {"terminated": {"exitCode": 1}}}
        ]
    }))
    .unwrap()
}

fn answers(ready: bool) -> Answers {
    let directory = tempfile::tempdir().unwrap();
    let records = Arc::new(Records::open(directory.path().join("records"), "").unwrap());
    records.update(&"1".into(), |record| record.status = Some(Arc::new(status())));
    let mut desired = Desired::default();
    for pod in [pod("1", "web"), pod("2", "pending")] {
        desired.pods.insert(pod.uid.clone(), pod);
    }
    let path = directory.path().to_owned();
    let node = NodeView {
        name: "node-1".into(),
        addresses: Vec::new(),
        cluster: None,
        layout: Layout { state_dir: path.clone(), run_dir: path.clone(), log_dir: path },
        resolver: Resolver::default(),
        cpu_milli: 2000,
        memory_bytes: 1 << 30,
        memory_capacity: 2 << 30,
        ephemeral_bytes: 0,
        enforced: false,
        max_pods: 110,
        allowed_sysctls: Vec::new(),
        oom_floor: -1000,
        pids_max: None,
        apparmor: false,
        hosts: String::new(),
    };
    Answers::new(Sources {
        registry: Registry::default(),
        desired: watch::channel(Some(Arc::new(desired))).1,
        records,
        cgroups: Arc::new(Counters),
        node: watch::channel(Arc::new(node)).1,
        readiness: Arc::new(Gates(ready)),
        dataplane: Arc::new(|| None),
    })
}

async fn start(ready: bool) -> SocketAddr {
    let endpoints = Endpoints::bind("127.0.0.1:0".parse().unwrap(), &answers(ready)).await.unwrap();
    let address = endpoints.address().unwrap();
    tokio::spawn(endpoints.serve(CancellationToken::new()));
    address
}

/// Logs of every container are two lines.
struct Logs;

#[async_trait::async_trait]
impl StreamHandler for Logs {
    async fn open(&self, request: StreamRequest) -> Result<OpenStream, StreamRefusal> {
        let StreamRequest::Logs(request) = request else { panic!("only logs are read") };
        assert_eq!(request.pod.as_str(), "1");
        let text = format!("one {}\ntail {:?}\n", request.container, request.tail_lines);
        Ok(Box::new(move |channel| {
            Box::pin(async move {
                channel.output.send(StreamOutput::Stdout(text.into())).await.unwrap();
                StreamEnd::default()
            })
        }))
    }
}

/// What comes back by way of the API's proxy to nodes.
async fn of_kubelet(router: &Router, path: &str) -> (u16, String) {
    let request = http::Request::get(path).body(axum::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
    let code = response.status().as_u16();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn tools_read_what_a_kubelet_would_tell() {
    let router = answers(true).kubelet(Arc::new(Logs));
    let json = async |path: &str| -> serde_json::Value {
        let (code, text) = of_kubelet(&router, path).await;
        assert_eq!(code, 200, "{path}: {text}");
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(of_kubelet(&router, "/healthz").await, (200, "ok".to_owned()));
    let pods = json("/pods").await;
    assert_eq!((&pods["kind"], &pods["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("web")));
    assert_eq!(pods["items"][0]["status"]["phase"], "Running");
    assert_eq!(pods["items"][0]["spec"]["containers"][0]["image"], "web:1");
    json("/stats/summary").await;
    let summary = json("/stats/summary").await;
    assert_eq!(summary["node"]["nodeName"], "node-1");
    let web = &summary["pods"][0];
    assert_eq!((&web["podRef"]["name"], &web["podRef"]["uid"]), (&json!("web"), &json!("1")));
    assert_eq!(web["cpu"]["usageCoreNanoSeconds"], 1_750_000_000_u64);
    assert_eq!(web["containers"][0]["memory"]["workingSetBytes"], 1 << 20);
    assert_eq!(web["containers"][0]["cpu"]["usageNanoCores"], 0, "nothing between the two readings");
    assert_eq!(json("/configz").await["kubeletconfig"]["kind"], "KubeletConfiguration");
    let (_, cadvisor) = of_kubelet(&router, "/metrics/cadvisor").await;
    assert!(cadvisor.contains("container_memory_working_set_bytes{"), "{cadvisor}");
    let log = of_kubelet(&router, "/containerLogs/shop/web/app?tailLines=5").await;
    assert_eq!(log, (200, "one app\ntail Some(5)\n".to_owned()));
    assert_eq!(of_kubelet(&router, "/containerLogs/shop/none/app").await.0, 404);
    assert_eq!(of_kubelet(&router, "/run/shop/web/app").await.0, 404);
}

/// The whole answer, head and body.
async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[track_caller]
fn assert_lines(answer: &str, lines: &[&str]) {
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for line in lines {
        assert!(answer.lines().any(|l| l == *line), "{line} is not in {answer}");
    }
}

#[tokio::test]
async fn containers_appear_under_the_names_of_cadvisor_and_kubelet() {
    let answer = get(start(true).await, "/metrics").await;
    let app = r#"{container="app",image="web:1",namespace="shop",pod="web"}"#;
    assert_lines(
        &answer,
        &[
            &format!("container_cpu_usage_seconds_total{app} 1.5"),
            &format!("container_memory_working_set_bytes{app} 1048576.0"),
            &format!("container_oom_events_total{app} 2.0"),
            &format!("container_spec_cpu_quota{app} 50000.0"),
            &format!("container_spec_cpu_period{app} 100000.0"),
            &format!("container_spec_cpu_shares{app} 256.0"),
            &format!("container_spec_memory_limit_bytes{app} 536870912.0"),
            "kubelet_running_pods 1.0",
            r#"kubelet_running_containers{container_state="running"} 2.0"#,
            r#"kubelet_running_containers{container_state="exited"} 1.0"#,
            "machine_memory_bytes 2147483648.0",
            "gantry_agent_cgroup_limits_enforced 0.0",
        ],
    );
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{answer}");
}

#[tokio::test]
async fn resources_are_summed_by_pod() {
    let answer = get(start(true).await, "/metrics/resource").await;
    assert_lines(
        &answer,
        &[
            r#"container_cpu_usage_seconds_total{container="log",namespace="shop",pod="web"} 0.25"#,
            r#"pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 1.75"#,
            r#"pod_memory_working_set_bytes{namespace="shop",pod="web"} 2097152.0"#,
            "node_cpu_usage_seconds_total 9.0",
            "resource_scrape_error 0.0",
        ],
    );
}

#[tokio::test]
async fn readiness_names_the_closed_gate_and_liveness_does_not_care() {
    let closed = start(false).await;
    let answer = get(closed, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.contains("[+]containerd ok\n[-]dataplane not yet\n"), "{answer}");
    assert_lines(&get(closed, "/livez").await, &["ok"]);
    assert_lines(&get(start(true).await, "/readyz").await, &["readyz check passed"]);
}

#[tokio::test]
async fn pods_are_shown_by_status_and_without_their_secrets() {
    let answer = get(start(true).await, "/debug/pods").await;
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    let pods: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(pods[0]["name"], "web");
    assert_eq!(pods[0]["generation"], 7);
    assert_eq!(pods[0]["status"]["phase"], "Running");
    assert_eq!(pods[1]["name"], "pending");
    assert!(!answer.contains("hunter2"));
}
