//! What the agent's own metrics say of pod starts: the sums of two histograms, before and after.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use crate::report::Row;

const PATIENCE: Duration = Duration::from_secs(5);
const STARTS: &str = "kubelet_pod_start_duration_seconds";
const CALLS: &str = "kubelet_runtime_operations_duration_seconds_sum";

/// Sums since the agent's start.
#[derive(Debug)]
pub(crate) struct Timings {
    starts: f64,
    start_seconds: f64,
    make_seconds: f64,
    look_seconds: f64,
}

impl Timings {
    /// Scrapes the agent.
    pub(crate) fn read(metrics: SocketAddr) -> Result<Self> {
        let answer = gantry_tests::get(metrics, "/metrics", PATIENCE)?;
        ensure!(answer.status == 200, "{metrics}/metrics answered {}", answer.status);
        let value = |name: &str| {
            let line = answer.body.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|rest| rest.trim().parse().ok());
            number.with_context(|| format!("the agent has no metric {name}"))
        };
        let calls = |operation: &str| value(&format!("{CALLS}{{operation_type=\"{operation}\"}}"));
        Ok(Self {
            starts: value(&format!("{STARTS}_count"))?,
            start_seconds: value(&format!("{STARTS}_sum"))?,
            make_seconds: calls("create_container")? + calls("start_container")?,
            look_seconds: calls("container_status")?,
        })
    }

    /// What the starts since `before` took, on average.
    pub(crate) fn rows(&self, before: &Self) -> Result<Vec<Row>> {
        let starts = self.starts - before.starts;
        ensure!(starts > 0.0, "the agent counted no pod start");
        let mean = |sum: fn(&Self) -> f64| (sum(self) - sum(before)) / starts * 1000.0;
        let (whole, make, look) =
            (mean(|t| t.start_seconds), mean(|t| t.make_seconds), mean(|t| t.look_seconds));
        let row = |what: &str, ms: f64, target| Row::value(what, ms, "ms", target);
        Ok(vec![
            row("agent: pod received to Running (mean)", whole, ""),
            row("  of it: containerd creates and starts the container", make, ""),
            row("  of it: containerd is asked how the pod is", look, ""),
            row("  the rest: the agent's own share", whole - make - look, "p50 under 10"),
        ])
    }
}
