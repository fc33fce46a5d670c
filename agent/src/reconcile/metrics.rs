//! What the loop counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Metrics of the reconcile loop.
#[derive(Debug, Default)]
pub struct Metrics {
    passes: Counter,
    steps: Counter,
    stalls: Counter,
    failures: Counter,
    workers: Gauge,
    pass_seconds: Option<Histogram>,
    programmed_seconds: Option<Histogram>,
    start_seconds: Option<Histogram>,
    programming_failures: Counter,
    programmed_generation: Gauge<u64, AtomicU64>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        // 0.5 ms to 8 s: a pass without steps takes one call of containerd, one that pulls nothing takes a start.
        let buckets = || (0..15).map(|power| 0.0005 * f64::from(1 << power));
        let metrics = Self {
            pass_seconds: Some(Histogram::new(buckets())),
            programmed_seconds: Some(Histogram::new(buckets())),
            start_seconds: Some(Histogram::new(buckets())),
            ..Self::default()
        };
        registry.register("gantry_agent_reconcile_passes", "Looks at one pod", metrics.passes.clone());
        registry.register(
            "gantry_agent_reconcile_steps",
            "Steps that passes carried out",
            metrics.steps.clone(),
        );
        registry.register(
            "gantry_agent_reconcile_stalls",
            "Passes whose steps changed nothing that could be observed",
            metrics.stalls.clone(),
        );
        registry.register(
            "gantry_agent_reconcile_observation_failures",
            "Passes that ended because the node could not be read",
            metrics.failures.clone(),
        );
        registry.register(
            "gantry_agent_reconcile_workers",
            "Pods that are looked after",
            metrics.workers.clone(),
        );
        registry.register(
            "gantry_agent_dataplane_publish_failures",
            "Passes that could not program services or peers",
            metrics.programming_failures.clone(),
        );
        registry.register(
            "gantry_agent_programmed_generation",
            "Last generation of the desired state that is wholly programmed",
            metrics.programmed_generation.clone(),
        );
        if let Some(histogram) = &metrics.pass_seconds {
            registry.register("gantry_agent_reconcile_pass_seconds", "Duration of a pass", histogram.clone());
        }
        if let Some(histogram) = &metrics.start_seconds {
            registry.register(
                "kubelet_pod_start_duration_seconds",
                "From the first sight of a pod to its containers' running, pulls included",
                histogram.clone(),
            );
        }
        if let Some(histogram) = &metrics.programmed_seconds {
            registry.register(
                "gantry_agent_dataplane_publish_seconds",
                "Time to program the services of a generation",
                histogram.clone(),
            );
        }
        metrics
    }

    /// Passes so far.
    pub(super) fn passes(&self) -> u64 {
        self.passes.get()
    }

    pub(super) fn pass(&self, seconds: f64, steps: usize) {
        self.passes.inc();
        self.steps.inc_by(u64::try_from(steps).unwrap_or(u64::MAX));
        if let Some(histogram) = &self.pass_seconds {
            histogram.observe(seconds);
        }
    }

    pub(super) fn started(&self, seconds: f64) {
        if let Some(histogram) = &self.start_seconds {
            histogram.observe(seconds);
        }
    }

    pub(super) fn stall(&self) {
        self.stalls.inc();
    }

    pub(super) fn unreadable(&self) {
        self.failures.inc();
    }

    pub(super) fn workers(&self, count: usize) {
        self.workers.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn published(&self, seconds: f64, generation: u64, ok: bool) {
        if let Some(histogram) = &self.programmed_seconds {
            histogram.observe(seconds);
        }
        if ok {
            self.programmed_generation.set(generation);
        } else {
            self.programming_failures.inc();
        }
    }
}
