//! What one decision costs, without the API, the store and the queue: pods placed one after the other on many nodes. Times are
//! of the processor.
//!
//! `cargo bench -p gantry-scheduler --bench placement`

use std::{error::Error, fs};

use gantry_scheduler::placement::{Placer, Sampling, Snapshot};
use serde_json::{Value, json};

const PODS: usize = 2000;
/// Groups that keep apart: with two pods of each for every node there is always room.
const GROUPS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{:>6} {:<14} {:>12} {:>14}", "nodes", "pods", "us/decision", "decisions/s");
    for nodes in [1000, 5000] {
        for kind in ["plain", "owned", "anti-affinity", "spread", "each different"] {
            let micros = run(nodes, kind)?;
            println!("{nodes:>6} {kind:<14} {micros:>12.1} {:>14.0}", 1e6 / micros);
        }
    }
    Ok(())
}

fn run(nodes: usize, kind: &str) -> Result<f64, Box<dyn Error>> {
    let mut snapshot = Snapshot::default();
    for number in 0..nodes {
        snapshot.set_node(&serde_json::from_value(node(number))?);
    }
    let pods: Vec<Value> = (0..PODS).map(|number| pod(number, kind)).collect();
    let pods = pods.into_iter().map(serde_json::from_value).collect::<Result<Vec<_>, _>>()?;
    let mut placer = Placer::new(Sampling::Adaptive, 0);
    let begin = processor_time()?;
    for pod in &pods {
        let view = snapshot.view(pod);
        let node = placer.decide(&mut snapshot, &view).map_err(|why| why.to_string())?;
        snapshot.set_pod(&view, &node);
    }
    Ok((processor_time()? - begin) / PODS as f64)
}

/// Microseconds that this thread has run: others on the machine do not count.
fn processor_time() -> Result<f64, Box<dyn Error>> {
    let told = fs::read_to_string("/proc/thread-self/schedstat")?;
    let nanoseconds: f64 = told.split_whitespace().next().ok_or("no time in schedstat")?.parse()?;
    Ok(nanoseconds / 1000.0)
}

fn node(number: usize) -> Value {
    json!({
        "metadata": {"name": format!("node-{number}"), "labels": {
            "kubernetes.io/hostname": format!("node-{number}"), "kubernetes.io/os": "linux",
            "topology.kubernetes.io/zone": format!("zone-{}", number % 3),
        }},
        "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "pods": "110"}},
    })
}

fn pod(number: usize, kind: &str) -> Value {
    let group = format!("group-{}", number % GROUPS);
    let selector = json!({"matchLabels": {"group": group}});
    let mut pod = json!({
        "metadata": {"name": format!("pod-{number}"), "namespace": "default", "uid": format!("uid-{number}"),
            "labels": {"app": "bench", "group": group}},
        "spec": {"containers": [{"name": "main", "image": "registry.example/bench:1",
            "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}}}]},
    });
    match kind {
        "owned" => {
            pod["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
                "name": group, "uid": group, "controller": true}]);
        }
        "anti-affinity" => {
            pod["spec"]["affinity"] = json!({"podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}]}});
        }
        "spread" => {
            pod["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "labelSelector": selector,
                "whenUnsatisfiable": "DoNotSchedule", "topologyKey": "topology.kubernetes.io/zone"}]);
        }
        "each different" => pod["metadata"]["labels"]["pod"] = format!("pod-{number}").into(),
        _ => {}
    }
    pod
}
