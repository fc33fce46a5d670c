//! What runs on the cluster meanwhile: workload.yaml, the tutorial's manifests where they are, and two pods that ask a
//! service without end, one on new connections and one on a single old one.

use std::{thread, time::Instant};

use anyhow::{Result, bail, ensure};
use serde_json::Value;

use crate::{cluster::Cluster, layout, ui, up};

use super::{LOOK_EVERY, SETTLE_TIME};

const MANIFESTS: &str = include_str!("workload.yaml");
const TUTORIAL_FILES: [&str; 5] = [
    "01-pod.yaml",
    "06-configmap-secret.yaml",
    "02-deployment.yaml",
    "03-service-loadbalancer.yaml",
    "04-service-clusterip.yaml",
];
/// Pods that are not to run: ended, or for no node.
const NOT_RUNNING: [&str; 3] = ["finished", "failed", "nowhere"];
/// Images are pulled, probes have their delays.
const ROLL_OUT: &str = "--timeout=180s";

/// The namespace of all but the tutorial.
pub(super) const NAMESPACE: &str = "kept";

/// Applies everything and waits until it is as it shall be.
pub(super) fn apply(cluster: &Cluster, step: &mut ui::Step) -> Result<String> {
    let root = &cluster.layout.root;
    let file = cluster.layout.dir.join("workload.yaml");
    std::fs::write(&file, MANIFESTS)?;
    cluster.kubectl().args(["apply", "-f"]).arg(&file).run()?;
    let kept = || cluster.kubectl().args(["-n", NAMESPACE]);
    step.detail("waiting for the first rollout");
    kept().args(["rollout", "status", "deployment/web", ROLL_OUT]).run()?;
    // A second revision, so that there is a ReplicaSet of the past.
    kept().args(["set", "image", "deployment/web", "*=registry.company.com/web-app:2.2.0"]).run()?;
    // Else the connection that stays would be to a pod that goes.
    kept().args(["rollout", "status", "deployment/web", ROLL_OUT]).run()?;
    let tutorial = root.join(layout::TUTORIAL);
    if tutorial.is_dir() {
        cluster
            .kubectl()
            .args(["apply", "-f"])
            .arg(root.join("config/examples/tutorial-fixtures.yaml"))
            .run()?;
        for file in TUTORIAL_FILES {
            cluster.kubectl().args(["apply", "-f"]).arg(tutorial.join(file)).run()?;
        }
    }
    let address = kept().args(["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]).text()?;
    std::fs::write(&file, askers(&address))?;
    kept().args(["apply", "-f"]).arg(&file).run()?;
    step.detail("waiting for everything");
    kept().args(["rollout", "status", "deployment/required", ROLL_OUT]).run()?;
    if tutorial.is_dir() {
        let words = ["-n", "production", "rollout", "status", "deployment/web-app-deployment", ROLL_OUT];
        cluster.kubectl().args(words).run()?;
    }
    let pods = settled(cluster)?;
    let without =
        if tutorial.is_dir() { "" } else { "; without the tutorial, which is not beside the project" };
    Ok(format!("{pods}{without}"))
}

/// `asker` makes a connection for each question and says how many went wrong; `holder` has one for all, and fails with it.
fn askers(address: &str) -> String {
    let script = format!(
        "n=0; bad=0; while :; do gantry-workload get http://{address}/hostname >/dev/null || bad=$((bad+1)); n=$((n+1)); \
         echo asked $n failed $bad > /tmp/asked.new; mv /tmp/asked.new /tmp/asked; sleep 0.05; done"
    );
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: asker}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "registry.company.com/web-app:2.1.0", command: [sh, -c, '{script}']}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: holder}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers: [{{name: c, image: "registry.company.com/web-app:2.1.0", args: [hold, "http://{address}/hostname"]}}]
"#
    )
}

/// Waits until every pod is what it shall be, and until nothing changes any more.
fn settled(cluster: &Cluster) -> Result<String> {
    let (mut last, end) = (None, Instant::now() + SETTLE_TIME);
    loop {
        let pods = up::pods(cluster)?;
        let waiting: Vec<&str> = pods.iter().filter(|pod| !is_well(pod)).filter_map(name).collect();
        let versions = pods.iter().map(|pod| pod["metadata"]["resourceVersion"].to_string());
        let now = Some(versions.collect::<Vec<_>>());
        if waiting.is_empty() && now == last {
            return Ok(format!("{} pods", pods.len()));
        }
        if Instant::now() > end {
            ensure!(waiting.is_empty(), "these pods are not well: {}", waiting.join(", "));
            bail!("pods change all the time");
        }
        last = now;
        thread::sleep(LOOK_EVERY);
    }
}

fn name(pod: &Value) -> Option<&str> {
    pod["metadata"]["name"].as_str()
}

fn is_well(pod: &Value) -> bool {
    if name(pod).is_some_and(|name| NOT_RUNNING.contains(&name)) {
        let phase = &pod["status"]["phase"];
        return phase == "Succeeded"
            || phase == "Failed"
            || pod["spec"]["nodeSelector"]["place"] == "nowhere";
    }
    up::state(pod) == "ready"
}
