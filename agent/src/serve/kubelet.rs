//! What tools read from a kubelet, in its formats: pods, statistics, metrics, configuration, logs. Reached by way of the
//! API's proxy to nodes alone, which asks the agent over a stream of the session: nothing here listens on a port, so that
//! whole pods may be shown to whoever may do everything. Reads and never changes anything.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::StreamExt as _;
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    jiff::Timestamp,
};
use prometheus_client::registry::Registry;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{Served, alive, containers, figures, files, pods::Used};
use crate::{
    cgroup::Usage,
    control::{StreamChannel, StreamHandler},
    model::{DesiredPod, LogsRequest, StreamOutput, StreamRequest},
    observe::Host,
};

/// Chunks of a log that wait for a slow reader.
const BUFFER: usize = 16;

struct Kubelet {
    served: Arc<Served>,
    cadvisor: Registry,
    streams: Arc<dyn StreamHandler>,
    host: Host,
    /// CPU times as they were told last, for rates.
    before: Mutex<HashMap<String, Reading>>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Timestamp,
    cpu_ns: u64,
}

/// The endpoints.
pub(super) fn router(served: Arc<Served>, streams: Arc<dyn StreamHandler>) -> Router {
    let mut cadvisor = Registry::default();
    cadvisor.register_collector(Box::new(containers::Everything(served.pods.clone())));
    let before = Mutex::default();
    let kubelet = Kubelet { served, cadvisor, streams, host: Host::new(), before };
    Router::new()
        .route("/healthz", get(alive))
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/stats/summary", get(summary))
        .route("/configz", get(configuration))
        .route("/metrics", figures(|k: &Arc<Kubelet>| &k.served.everything))
        .route("/metrics/cadvisor", figures(|k: &Arc<Kubelet>| &k.cadvisor))
        .route("/metrics/resource", figures(|k: &Arc<Kubelet>| &k.served.resources))
        .route("/logs/", get(files::root))
        .route("/logs/{*path}", get(files::below))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(log))
        .with_state(Arc::new(kubelet))
}

async fn pods(State(kubelet): State<Arc<Kubelet>>) -> Json<Value> {
    let pods: Vec<Pod> = kubelet.served.pods.whole();
    Json(json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods}))
}

/// What of a kubelet's configuration has a meaning here.
async fn configuration(State(kubelet): State<Arc<Kubelet>>) -> Json<Value> {
    let node = kubelet.served.pods.node.borrow().clone();
    let cluster = node.cluster.as_ref();
    Json(json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": false,
        "clusterDomain": cluster.map(|cluster| &cluster.domain),
        "clusterDNS": cluster.map(|cluster| [cluster.dns_ip]),
        "podCIDR": cluster.and_then(|cluster| cluster.node_pod_cidrs.first()).map(ToString::to_string),
        "podPidsLimit": node.pids_max.unwrap_or(-1),
        "cgroupsPerQOS": node.enforced,
        "failSwapOn": false,
    }}))
}

impl Kubelet {
    fn cpu(&self, of: &str, at: Timestamp, cpu_ns: u64) -> Value {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        let told = before.insert(of.to_owned(), Reading { at, cpu_ns });
        let mut out = json!({"time": at.to_string(), "usageCoreNanoSeconds": cpu_ns});
        let rate = told.and_then(|told| rate(told, Reading { at, cpu_ns }));
        if let Some(rate) = rate {
            out["usageNanoCores"] = rate.into();
        }
        out
    }

    fn container(&self, pod: &DesiredPod, status: &ContainerStatus, usage: &Usage, at: Timestamp) -> Value {
        let started = status.state.as_ref().and_then(|state| state.running.as_ref()?.started_at.clone());
        let name = format!("{}/{}", pod.uid, status.name);
        json!({"name": status.name, "startTime": started,
            "cpu": self.cpu(&name, at, usage.cpu_ns), "memory": memory(usage, at)})
    }

    fn pod(&self, pod: &DesiredPod, containers: &[Used], at: Timestamp) -> Value {
        let status = self.served.pods.records.get(&pod.uid).status.unwrap_or_default();
        let sum = containers.iter().fold(Usage::default(), |sum, (_, usage)| Usage {
            cpu_ns: sum.cpu_ns + usage.cpu_ns,
            memory_working_set: sum.memory_working_set + usage.memory_working_set,
            memory_usage: sum.memory_usage + usage.memory_usage,
            pids: sum.pids + usage.pids,
            ..sum
        });
        let each: Vec<Value> =
            containers.iter().map(|(c, usage)| self.container(pod, c, usage, at)).collect();
        json!({
            "podRef": {"name": &*pod.name.name, "namespace": &*pod.name.namespace, "uid": pod.uid.as_str()},
            "startTime": status.start_time,
            "containers": each,
            "cpu": self.cpu(pod.uid.as_str(), at, sum.cpu_ns),
            "memory": memory(&sum, at),
            "process_stats": {"process_count": sum.pids},
        })
    }
}

fn rate(before: Reading, now: Reading) -> Option<u64> {
    let nanoseconds = u64::try_from(now.at.duration_since(before.at).as_nanos()).ok().filter(|n| *n > 0)?;
    // A container that was started again counts from the beginning.
    let used = now.cpu_ns.checked_sub(before.cpu_ns)?;
    u64::try_from(u128::from(used) * 1_000_000_000 / u128::from(nanoseconds)).ok()
}

fn memory(usage: &Usage, at: Timestamp) -> Value {
    json!({"time": at.to_string(), "usageBytes": usage.memory_usage, "workingSetBytes": usage.memory_working_set})
}

async fn summary(State(kubelet): State<Arc<Kubelet>>) -> Json<Value> {
    let at = Timestamp::now();
    let node = kubelet.served.pods.node.borrow().clone();
    let running = kubelet.served.pods.usage();
    let pods: Vec<Value> = running.iter().map(|(pod, all)| kubelet.pod(pod, all, at)).collect();
    let mut of_node = json!({"nodeName": node.name.to_string()});
    if let Some(usage) = kubelet.host.usage(at.as_millisecond()) {
        let available = node.memory_capacity.saturating_sub_unsigned(usage.memory_working_set_bytes).max(0);
        of_node["cpu"] = kubelet.cpu("", at, usage.cpu_nano_seconds);
        of_node["memory"] = json!({"time": at.to_string(), "availableBytes": available,
            "workingSetBytes": usage.memory_working_set_bytes});
    }
    Json(json!({"node": of_node, "pods": pods}))
}

/// As the kubelet calls them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogQuery {
    #[serde(default)]
    follow: bool,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    timestamps: bool,
    since_seconds: Option<i64>,
    tail_lines: Option<i64>,
    limit_bytes: Option<i64>,
}

async fn log(
    State(kubelet): State<Arc<Kubelet>>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<LogQuery>,
) -> Response {
    let Some(uid) = kubelet.served.pods.uid_of(&namespace, &pod) else {
        let message = format!("pod {pod:?} does not exist\n");
        return (StatusCode::NOT_FOUND, message).into_response();
    };
    let now = Timestamp::now().as_millisecond();
    let request = LogsRequest {
        pod: uid,
        container: container.as_str().into(),
        follow: query.follow,
        previous: query.previous,
        timestamps: query.timestamps,
        since_ms: query.since_seconds.map(|seconds| now.saturating_sub(seconds.saturating_mul(1000))),
        tail_lines: query.tail_lines,
        limit_bytes: query.limit_bytes,
    };
    match kubelet.streams.open(StreamRequest::Logs(request)).await {
        Ok(stream) => {
            let ((hold, input), (output, chunks)) = (mpsc::channel(1), mpsc::channel(BUFFER));
            tokio::spawn(stream(StreamChannel { input, output }));
            let bytes = ReceiverStream::new(chunks).map(move |chunk| {
                // The other direction stands for the reader, for as long as there is one.
                let _ = &hold;
                let (StreamOutput::Stdout(bytes) | StreamOutput::Stderr(bytes)) = chunk;
                Ok::<_, std::convert::Infallible>(bytes)
            });
            ([(header::CONTENT_TYPE, "text/plain")], Body::from_stream(bytes)).into_response()
        }
        Err(refusal) => {
            let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            (code, refusal.message).into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_two_readings() {
        let told = |seconds, cpu_ns| Reading { at: Timestamp::from_second(seconds).unwrap(), cpu_ns };
        assert_eq!(rate(told(10, 1_000), told(12, 1_000_001_000)), Some(500_000_000));
        assert_eq!(rate(told(10, 5), told(12, 1)), None, "started again");
        assert_eq!(rate(told(10, 5), told(10, 6)), None);
    }
}
