//! The latest usage of nodes and containers, as rates: what metrics.k8s.io answers from.
//!
//! CPU comes as a cumulative counter; a rate needs two samples. One sample is kept per heartbeat, so the window
//! is the heartbeat's interval. Never stored: after a restart it is there again within two heartbeats.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use gantry_proto::node::v1 as pb;

/// One cumulative sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    cpu_nanos: u64,
    memory: u64,
    time_ms: i64,
}

/// Usage over a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Cores, in billionths.
    pub cpu_nanocores: u64,
    /// Working set.
    pub memory_bytes: u64,
    /// End of the window (Unix milliseconds).
    pub time_ms: i64,
    /// Its length.
    pub window_ms: i64,
}

#[derive(Clone, Copy, Debug)]
struct Pair {
    before: Option<Sample>,
    last: Sample,
}

impl Pair {
    fn next(old: Option<&Self>, sample: Sample) -> Self {
        match old {
            // The same sample again tells nothing new.
            Some(old) if sample.time_ms <= old.last.time_ms => *old,
            // A counter that went back is another container's: its rate begins with the next sample.
            Some(old) if sample.cpu_nanos < old.last.cpu_nanos => Self { before: None, last: sample },
            Some(old) => Self { before: Some(old.last), last: sample },
            None => Self { before: None, last: sample },
        }
    }

    fn usage(&self) -> Option<Usage> {
        let before = self.before?;
        let window_ms = self.last.time_ms - before.time_ms;
        let nanos = u128::from(self.last.cpu_nanos - before.cpu_nanos) * 1000;
        let cpu = nanos / u128::try_from(window_ms).ok().filter(|w| *w > 0)?;
        Some(Usage {
            cpu_nanocores: u64::try_from(cpu).unwrap_or(u64::MAX),
            memory_bytes: self.last.memory,
            time_ms: self.last.time_ms,
            window_ms,
        })
    }
}

#[derive(Debug, Default)]
struct NodeSamples {
    node: Option<Pair>,
    /// By pod uid and container.
    containers: HashMap<String, BTreeMap<String, Pair>>,
}

/// Usage of everything. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct UsageTable(Arc<Mutex<HashMap<String, NodeSamples>>>);

impl UsageTable {
    /// Takes a heartbeat's samples. Containers that are not in it run no more.
    pub(super) fn record(&self, node: &str, heartbeat: &pb::Heartbeat) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let samples = table.entry(node.to_owned()).or_default();
        if let Some(usage) = &heartbeat.node {
            let sample = Sample {
                cpu_nanos: usage.cpu_nano_seconds,
                memory: usage.memory_working_set_bytes,
                time_ms: usage.time_ms,
            };
            samples.node = Some(Pair::next(samples.node.as_ref(), sample));
        }
        let mut containers: HashMap<String, BTreeMap<String, Pair>> = HashMap::new();
        for usage in &heartbeat.containers {
            let sample = Sample {
                cpu_nanos: usage.cpu_nano_seconds,
                memory: usage.memory_working_set_bytes,
                time_ms: usage.time_ms,
            };
            let old = samples.containers.get(&usage.pod_uid).and_then(|p| p.get(&usage.container));
            let pair = Pair::next(old, sample);
            containers.entry(usage.pod_uid.clone()).or_default().insert(usage.container.clone(), pair);
        }
        samples.containers = containers;
    }

    /// The node is gone or silent: old figures would pass for new ones.
    pub(super) fn forget(&self, node: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }

    /// Usage of a node; `None` before two samples.
    pub fn node(&self, node: &str) -> Option<Usage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(node)?.node.as_ref()?.usage()
    }

    /// Usage of the containers of a pod on `node`; empty before two samples.
    pub fn pod(&self, node: &str, uid: &str) -> BTreeMap<String, Usage> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let containers = table.get(node).and_then(|n| n.containers.get(uid));
        containers
            .into_iter()
            .flatten()
            .filter_map(|(name, pair)| Some((name.clone(), pair.usage()?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(cpu: u64, time_ms: i64) -> pb::Heartbeat {
        pb::Heartbeat {
            node: Some(pb::NodeUsage { cpu_nano_seconds: cpu, memory_working_set_bytes: 7, time_ms }),
            containers: vec![pb::ContainerUsage {
                pod_uid: "u".into(),
                container: "c".into(),
                cpu_nano_seconds: cpu,
                memory_working_set_bytes: 5,
                time_ms,
            }],
            ..pb::Heartbeat::default()
        }
    }

    #[test]
    fn a_rate_needs_two_samples_and_survives_a_restart_of_the_counter() {
        let table = UsageTable::default();
        table.record("n", &heartbeat(1_000_000_000, 10_000));
        assert_eq!((table.node("n"), table.pod("n", "u").len()), (None, 0));
        table.record("n", &heartbeat(6_000_000_000, 20_000));
        let usage = table.node("n").unwrap();
        assert_eq!((usage.cpu_nanocores, usage.memory_bytes, usage.window_ms), (500_000_000, 7, 10_000));
        assert_eq!(table.pod("n", "u")["c"].cpu_nanocores, 500_000_000);
        // The same sample again: the rate stays.
        table.record("n", &heartbeat(6_000_000_000, 20_000));
        assert_eq!(table.node("n"), Some(usage));
        table.record("n", &heartbeat(10, 30_000));
        assert_eq!(table.pod("n", "u").len(), 0);
        table.record("n", &heartbeat(1_000_000_010, 40_000));
        assert_eq!(table.pod("n", "u")["c"].cpu_nanocores, 100_000_000);
        table.forget("n");
        assert_eq!(table.node("n"), None);
    }
}
