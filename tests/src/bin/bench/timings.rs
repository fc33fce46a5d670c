//! What the agent's own metrics say of pod starts: the sums of two histograms, before and after.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};

const PATIENCE: Duration = Duration::from_secs(5);
const STARTS: &str = "kubelet_pod_start_duration_seconds";
const CALLS: &str = "kubelet_runtime_operations_duration_seconds_sum";

/// Sums since the agent's start.
#[derive(Debug)]
pub(crate) struct Timings {
    starts: f64,
    start_seconds: f64,
    call_seconds: f64,
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
        let call = |operation: &str| value(&format!("{CALLS}{{operation_type=\"{operation}\"}}"));
        Ok(Self {
            starts: value(&format!("{STARTS}_count"))?,
            start_seconds: value(&format!("{STARTS}_sum"))?,
            call_seconds: call("create_container")? + call("start_container")?,
        })
    }

    /// Mean per start since `before` of what was not spent in creating and starting containers, in ms.
    pub(crate) fn share_ms(&self, before: &Self) -> Result<f64> {
        let starts = self.starts - before.starts;
        ensure!(starts > 0.0, "the agent counted no pod start");
        let whole = self.start_seconds - before.start_seconds;
        Ok((whole - (self.call_seconds - before.call_seconds)) / starts * 1000.0)
    }
}
