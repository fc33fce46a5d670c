//! Containers and node under the names that dashboards know: cAdvisor's `container_*` and `machine_*`, kubelet's
//! `kubelet_*`, and the short list of kubelet's `/metrics/resource`.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet},
};

use super::{
    metrics::{counter, counters, gauge, gauges},
    pods::{Pods, Reading, Running},
};
use crate::cgroup::Enforcement;

const NANO: f64 = 1e9;

/// For `/metrics`.
#[derive(Debug)]
pub(super) struct Everything(pub(super) Pods);

/// For `/metrics/resource`.
#[derive(Debug)]
pub(super) struct Resources(pub(super) Pods);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ContainerLabels {
    container: String,
    namespace: String,
    pod: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DescribedLabels {
    container: String,
    image: String,
    namespace: String,
    pod: String,
}

fn labels(running: &Running) -> ContainerLabels {
    ContainerLabels {
        container: running.container.clone(),
        namespace: running.namespace.clone(),
        pod: running.pod.clone(),
    }
}

fn described(running: &Running) -> DescribedLabels {
    DescribedLabels {
        container: running.container.clone(),
        image: running.image.clone(),
        namespace: running.namespace.clone(),
        pod: running.pod.clone(),
    }
}

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reading = self.0.read();
        usage(&mut encoder, &reading)?;
        specification(&mut encoder, &reading)?;
        kubelet(&mut encoder, &reading, &self.0.node.borrow().name.to_string())?;
        self.machine(&mut encoder)
    }
}

impl Everything {
    fn machine(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        gauge(encoder, "machine_cpu_cores", "Logical CPUs of the machine", cores)?;
        let memory = self.0.node.borrow().memory_capacity as f64;
        gauge(encoder, "machine_memory_bytes", "Memory of the machine", memory)?;
        let enforced = self.0.cgroups.enforcement() == Enforcement::Enforced;
        gauge(
            encoder,
            "gantry_agent_cgroup_limits_enforced",
            "1 when CPU and memory limits hold on this host, 0 when its cgroup controllers are missing and the configuration lets the agent go on",
            f64::from(u8::from(enforced)),
        )?;
        gauge(
            encoder,
            "gantry_agent_oom_score_adj_lowest",
            "The lowest oom_score_adj that the runtime may give a container; upstream gives Guaranteed ones -997",
            f64::from(self.0.node.borrow().oom_floor),
        )
    }
}

/// cAdvisor's counters.
fn usage(encoder: &mut DescriptorEncoder<'_>, reading: &Reading) -> fmt::Result {
    let each = |value: fn(&Running) -> f64| reading.running.iter().map(move |r| (described(r), value(r)));
    counters(
        encoder,
        "container_cpu_usage_seconds",
        "Cumulative CPU time of the container",
        each(|r| r.usage.cpu_ns as f64 / NANO),
    )?;
    counters(
        encoder,
        "container_cpu_cfs_throttled_periods",
        "Periods in which the container was kept from the CPU by its limit",
        each(|r| r.usage.throttled_periods as f64),
    )?;
    counters(
        encoder,
        "container_cpu_cfs_throttled_seconds",
        "Time for which the container was kept from the CPU by its limit",
        each(|r| r.usage.throttled_ns as f64 / NANO),
    )?;
    counters(
        encoder,
        "container_oom_events",
        "Processes of the container that the kernel killed for memory",
        each(|r| r.usage.oom_kills as f64),
    )?;
    gauges(
        encoder,
        "container_memory_usage_bytes",
        "Memory charged to the container, page cache included",
        each(|r| r.usage.memory_usage as f64),
    )?;
    gauges(
        encoder,
        "container_memory_working_set_bytes",
        "Memory charged to the container without inactive file pages: what the OOM killer looks at",
        each(|r| r.usage.memory_working_set as f64),
    )?;
    gauges(encoder, "container_processes", "Processes of the container", each(|r| r.usage.pids as f64))?;
    let started = reading.running.iter().filter_map(|r| Some((described(r), r.started?)));
    gauges(encoder, "container_start_time_seconds", "Unix time at which the container started", started)
}

/// cAdvisor's limits.
fn specification(encoder: &mut DescriptorEncoder<'_>, reading: &Reading) -> fmt::Result {
    let each = |value: fn(&Running) -> Option<f64>| {
        reading.running.iter().filter_map(move |r| Some((described(r), value(r)?)))
    };
    gauges(
        encoder,
        "container_spec_cpu_quota",
        "CPU limit of the container: microseconds per period",
        each(|r| r.amounts.limits(None).cpu_quota_us.map(|quota| quota as f64)),
    )?;
    gauges(
        encoder,
        "container_spec_cpu_period",
        "Period of the CPU limit in microseconds",
        each(|r| r.amounts.limits(None).cpu_period_us.map(|period| period as f64)),
    )?;
    gauges(
        encoder,
        "container_spec_cpu_shares",
        "CPU request of the container in the unit of cgroup version 1: 1024 is one core",
        each(|r| Some((r.amounts.cpu_request as f64 * 1024.0 / 1000.0).floor().max(2.0))),
    )?;
    gauges(
        encoder,
        "container_spec_memory_limit_bytes",
        "Memory limit of the container, 0 when there is none",
        each(|r| Some(r.amounts.memory_limit.unwrap_or(0) as f64)),
    )
}

fn kubelet(encoder: &mut DescriptorEncoder<'_>, reading: &Reading, node: &str) -> fmt::Result {
    gauges(encoder, "kubelet_node_name", "The node's name", [([("node", node)], 1.0)])?;
    gauge(encoder, "kubelet_running_pods", "Pods of which a container runs", reading.running_pods as f64)?;
    let states =
        [("running", reading.running.len()), ("exited", reading.exited), ("created", reading.waiting)];
    gauges(
        encoder,
        "kubelet_running_containers",
        "Containers by state",
        states.map(|(state, count)| ([("container_state", state)], count as f64)),
    )
}

impl Collector for Resources {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let reading = self.0.read();
        let each = |value: fn(&Running) -> f64| reading.running.iter().map(move |r| (labels(r), value(r)));
        counters(
            &mut encoder,
            "container_cpu_usage_seconds",
            "Cumulative CPU time of the container",
            each(|r| r.usage.cpu_ns as f64 / NANO),
        )?;
        gauges(
            &mut encoder,
            "container_memory_working_set_bytes",
            "Working set of the container",
            each(|r| r.usage.memory_working_set as f64),
        )?;
        let started = reading.running.iter().filter_map(|r| Some((labels(r), r.started?)));
        gauges(
            &mut encoder,
            "container_start_time_seconds",
            "Unix time at which the container started",
            started,
        )?;
        pods(&mut encoder, &reading)?;
        let node = self.0.cgroups.node_usage();
        if let Ok(node) = &node {
            counter(
                &mut encoder,
                "node_cpu_usage_seconds",
                "Cumulative CPU time of the node's pods",
                node.cpu_ns as f64 / NANO,
            )?;
            gauge(
                &mut encoder,
                "node_memory_working_set_bytes",
                "Working set of the node's pods",
                node.memory_working_set as f64,
            )?;
        }
        let failed = f64::from(u8::from(reading.failed || node.is_err()));
        gauge(&mut encoder, "resource_scrape_error", "1 when a part could not be read", failed)
    }
}

/// Sums over the containers of each pod, which are next to each other in a reading.
fn pods(encoder: &mut DescriptorEncoder<'_>, reading: &Reading) -> fmt::Result {
    let sums = |value: fn(&Running) -> f64| {
        let of_one_pod = |a: &Running, b: &Running| (&a.namespace, &a.pod) == (&b.namespace, &b.pod);
        reading.running.chunk_by(of_one_pod).filter_map(move |containers| {
            let first = containers.first()?;
            let labels = [("namespace", first.namespace.clone()), ("pod", first.pod.clone())];
            Some((labels, containers.iter().map(value).sum()))
        })
    };
    counters(
        encoder,
        "pod_cpu_usage_seconds",
        "Cumulative CPU time of the pod's containers",
        sums(|r| r.usage.cpu_ns as f64 / NANO),
    )?;
    gauges(
        encoder,
        "pod_memory_working_set_bytes",
        "Working set of the pod's containers",
        sums(|r| r.usage.memory_working_set as f64),
    )
}
