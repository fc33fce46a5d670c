//! Metrics of placement, under the names of kube-scheduler.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::queue::Depths;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabel {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
    profile: &'static str,
}

/// The families.
#[derive(Clone)]
pub struct Metrics {
    pending: Family<QueueLabel, Gauge>,
    attempts: Family<Outcome, Counter>,
    seconds: Family<Outcome, Histogram>,
}

/// 10 us to 10 s.
fn buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.00001, 4.0, 11))
}

impl Metrics {
    /// Registers the families.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            pending: Family::default(),
            attempts: Family::default(),
            seconds: Family::new_with_constructor(buckets),
        };
        registry.register("scheduler_pending_pods", "Pods that wait for a node", metrics.pending.clone());
        registry.register(
            "scheduler_schedule_attempts",
            "Attempts to place a pod, by result",
            metrics.attempts.clone(),
        );
        registry.register(
            "scheduler_scheduling_attempt_duration_seconds",
            "Time of one decision; a placed pod's binding included",
            metrics.seconds.clone(),
        );
        metrics
    }

    pub(super) fn pending(&self, depths: Depths) {
        let all = [("active", depths.active), ("backoff", depths.backoff), ("unschedulable", depths.aside)];
        for (queue, count) in all {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.pending.get_or_create(&QueueLabel { queue }).set(count);
        }
    }

    pub(super) fn attempt(&self, result: &'static str, seconds: f64) {
        let outcome = Outcome { result, profile: "default-scheduler" };
        self.attempts.get_or_create(&outcome).inc();
        self.seconds.get_or_create(&outcome).observe(seconds);
    }
}
