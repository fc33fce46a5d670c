//! Metrics of the queues and passes, under the names that Kubernetes' own controllers use.

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

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Name {
    name: &'static str,
}

/// The families; one child per controller.
#[derive(Clone)]
pub struct RunnerMetrics {
    depth: Family<Name, Gauge>,
    adds: Family<Name, Counter>,
    retries: Family<Name, Counter>,
    failures: Family<Name, Counter>,
    queue_seconds: Family<Name, Histogram>,
    work_seconds: Family<Name, Histogram>,
}

/// The children of one queue.
#[derive(Clone)]
pub struct QueueMetrics {
    pub(super) depth: Gauge,
    pub(super) adds: Counter,
    pub(super) retries: Counter,
    pub(super) failures: Counter,
    pub(super) queue_seconds: Histogram,
    pub(super) work_seconds: Histogram,
}

/// 10 us to 10 s: the range from a pass that finds nothing to do to one that waits for a slow disk.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.00001, 4.0, 11))
}

impl RunnerMetrics {
    /// Registers the families.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            failures: Family::default(),
            queue_seconds: Family::new_with_constructor(seconds),
            work_seconds: Family::new_with_constructor(seconds),
        };
        registry.register("workqueue_depth", "Keys that wait for a worker", metrics.depth.clone());
        registry.register("workqueue_adds", "Keys that were added", metrics.adds.clone());
        registry.register("workqueue_retries", "Keys added again after a failure", metrics.retries.clone());
        registry.register(
            "gantry_controller_reconcile_failures",
            "Passes that ended with an error",
            metrics.failures.clone(),
        );
        registry.register(
            "workqueue_queue_duration_seconds",
            "Time between the first add of a key and the start of its pass",
            metrics.queue_seconds.clone(),
        );
        registry.register(
            "workqueue_work_duration_seconds",
            "Time that one pass over one key takes",
            metrics.work_seconds.clone(),
        );
        metrics
    }

    /// The children of the controller `name`.
    pub fn of(&self, name: &'static str) -> QueueMetrics {
        let name = Name { name };
        QueueMetrics {
            depth: self.depth.get_or_create(&name).clone(),
            adds: self.adds.get_or_create(&name).clone(),
            retries: self.retries.get_or_create(&name).clone(),
            failures: self.failures.get_or_create(&name).clone(),
            queue_seconds: self.queue_seconds.get_or_create(&name).clone(),
            work_seconds: self.work_seconds.get_or_create(&name).clone(),
        }
    }
}
