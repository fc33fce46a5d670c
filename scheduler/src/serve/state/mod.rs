//! The state of the cluster as metrics, under the names and with the labels of kube-state-metrics, so that its
//! dashboards work. Made from the cache at each scrape: nothing is counted twice and nothing outlives its object.

mod cluster;
mod pods;
mod workloads;

#[cfg(test)]
mod tests;

use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};

use crate::{
    cache::{Cache, MetaExt},
    objects::Objects,
    placement::Amounts,
};

/// The collector.
#[derive(Clone)]
pub struct ClusterState {
    cache: Cache,
    objects: Objects,
}

impl fmt::Debug for ClusterState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterState").finish_non_exhaustive()
    }
}

type Labels = Vec<(&'static str, String)>;

/// One metric with all its samples.
#[derive(Debug)]
struct Family {
    name: &'static str,
    help: &'static str,
    /// Only rises; `_total` is added to its name.
    counts: bool,
    samples: Vec<(Labels, f64)>,
}

impl Family {
    fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, counts: false, samples: Vec::new() }
    }

    fn counter(name: &'static str, help: &'static str) -> Self {
        Self { counts: true, ..Self::gauge(name, help) }
    }

    fn add(&mut self, labels: Labels, value: f64) {
        self.samples.push((labels, value));
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if self.samples.is_empty() {
            return Ok(());
        }
        let kind = if self.counts { MetricType::Counter } else { MetricType::Gauge };
        let mut family = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in &self.samples {
            let metric = family.encode_family(labels)?;
            if self.counts {
                ConstCounter::new(*value).encode(metric)?;
            } else {
                ConstGauge::new(*value).encode(metric)?;
            }
        }
        Ok(())
    }
}

impl ClusterState {
    /// Over `cache`, and of `objects` what is in no cache.
    pub fn new(cache: &Cache, objects: &Objects) -> Self {
        Self { cache: cache.clone(), objects: objects.clone() }
    }
}

impl Collector for ClusterState {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let cache = &self.cache;
        let subjects = [
            pods::families(&cache.pods.all()),
            workloads::deployments(&cache.deployments.all()),
            workloads::replica_sets(&cache.replica_sets.all()),
            cluster::nodes(&cache.nodes.all()),
            cluster::services(&cache.services.all()),
            cluster::namespaces(&cache.namespaces.all()),
            cluster::unserved(&self.objects.unserved(None)),
        ];
        subjects.iter().flatten().try_for_each(|family| family.encode(&mut encoder))
    }
}

/// Namespace and name under the label that the subject is called by, and what else is said.
fn labels(meta: &ObjectMeta, subject: &'static str, more: &[(&'static str, &str)]) -> Labels {
    let mut labels =
        vec![("namespace", meta.namespace_str().to_owned()), (subject, meta.name_str().to_owned())];
    labels.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
    labels
}

/// Each owner of an object in the three labels that tell of it; one with empty ones when it has none.
fn owners(meta: &ObjectMeta) -> Vec<[(&'static str, String); 3]> {
    let of = |kind: &str, name: &str, controls: &str| {
        [
            ("owner_kind", kind.to_owned()),
            ("owner_name", name.to_owned()),
            ("owner_is_controller", controls.to_owned()),
        ]
    };
    let owner = |o: &OwnerReference| of(&o.kind, &o.name, &o.controller.unwrap_or(false).to_string());
    let owners: Vec<_> = meta.owner_references.iter().flatten().map(owner).collect();
    if owners.is_empty() { vec![of("", "", "")] } else { owners }
}

type Quantities = std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>;

/// Each amount in its base unit, with the labels `resource` and `unit`.
fn amounts(quantities: Option<&Quantities>) -> Vec<([(&'static str, String); 2], f64)> {
    let sample = |(resource, amount): (&str, i64)| {
        let unit = match resource {
            "cpu" => "core",
            "memory" | "ephemeral-storage" | "storage" => "byte",
            name if name.starts_with("hugepages-") => "byte",
            _ => "integer",
        };
        let value = if resource == "cpu" { amount as f64 / 1000.0 } else { amount as f64 };
        let resource = resource.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        ([("resource", resource), ("unit", unit.to_owned())], value)
    };
    Amounts::parse(quantities).iter().map(sample).collect()
}
