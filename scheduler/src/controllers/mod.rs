//! The control loops: each a pure `plan` and a thin applier, all run by one [`runner`].
//!
//! In: changes of the shared cache. Out: writes through `Objects`, and events. Never: HTTP, the store itself, or
//! one loop calling another; they meet only in the objects.

mod addresses;
mod balancer;
mod deployment;
mod endpoints;
mod garbage;
mod ipam;
mod namespace;
mod nodes;
mod owner;
mod pods;
mod replicaset;
pub mod runner;
mod sweep;

use std::{sync::Arc, time::Duration};

use ipnet::Ipv4Net;

use self::runner::Runtime;
use crate::{admission::Promises, cache::Cache, events::Recorder, objects::Objects};

/// What the loops are told of the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The range that nodes get their pod ranges from.
    pub pod_range: Ipv4Net,
    /// Bits of a node's pod range.
    pub node_prefix: u8,
    /// The certificate authority that pods are told to trust, PEM.
    pub ca_pem: Arc<str>,
    /// Where load balancer addresses come from; empty: services wait for one.
    pub load_balancer_pool: Vec<Ipv4Net>,
    /// A node whose lease was not renewed for so long is lost.
    pub lease: Duration,
}

/// What the loops need from the process.
pub struct Dependencies {
    /// Where they write.
    pub objects: Objects,
    /// What they follow; not started yet.
    pub cache: Cache,
    /// What they tell.
    pub recorder: Recorder,
    /// Service addresses that are given and not stored yet.
    pub promises: Promises,
    /// How they run.
    pub runtime: Runtime,
    /// What they are told.
    pub settings: Settings,
}

/// Starts every loop. Call before the cache is started, so that none misses a change.
pub fn start(dependencies: Dependencies) {
    let Dependencies { objects, cache, recorder, promises, runtime, settings } = dependencies;
    namespace::start(&objects, &cache, &runtime, settings.ca_pem);
    garbage::start(&objects, &recorder, &runtime);
    ipam::start(&objects, &cache, &recorder, &runtime, settings.pod_range, settings.node_prefix);
    nodes::start(&objects, &cache, &recorder, &runtime, settings.lease);
    addresses::start(&objects, &cache, &recorder, &runtime, promises);
    balancer::start(&objects, &cache, &recorder, &runtime, settings.load_balancer_pool);
    sweep::start(&objects, &cache, &runtime);
    replicaset::start(&objects, &cache, &recorder, &runtime);
    deployment::start(&objects, &cache, &recorder, &runtime);
    endpoints::start(&objects, &cache, &recorder, &runtime);
}

#[cfg(test)]
mod fixture_tests;
#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod upgrade_tests;
