//! Services into the datapath, other nodes into routes, load balancer addresses onto the uplink; then the
//! generation that brought them is acknowledged. One worker: the last desired state counts, those between are skipped.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{DesiredState, Metrics};
use crate::{
    apply::chain,
    dataplane::Dataplane,
    dns::{Names, SharedNames},
    lifecycle::Gate,
    model::{ClusterNetwork, Desired, FailedKind, FailedObject, NodeView, ServiceTable, Upstream},
    net::Network,
};

/// First delay after a failure; doubles to the other.
const RETRY: Duration = Duration::from_millis(200);
const MAX_RETRY: Duration = Duration::from_secs(30);

/// What programming needs.
pub struct Programmer {
    /// eBPF.
    pub dataplane: Arc<dyn Dataplane>,
    /// Routes and announced addresses.
    pub network: Arc<dyn Network>,
    /// Where acks go.
    pub upstream: Arc<dyn Upstream>,
    /// The node: its name and addresses.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// What the name server answers from.
    pub names: SharedNames,
    /// Opened by the first table that is programmed.
    pub programmed: Gate,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What was programmed last.
#[derive(Default)]
struct Done {
    desired: Option<Arc<Desired>>,
    cluster: Option<ClusterNetwork>,
    announced: Option<Vec<IpAddr>>,
}

/// Programs every desired state until cancelled.
pub async fn programming(programmer: Programmer, mut desired: DesiredState, stop: CancellationToken) {
    let mut done = Done::default();
    let mut node = programmer.node.clone();
    let mut retry = RETRY;
    loop {
        let current = desired.borrow_and_update().clone();
        let failed = match current {
            Some(current) => programmer.program(&current, &mut done).await,
            None => false,
        };
        let timer =
            async { if failed { tokio::time::sleep(retry).await } else { std::future::pending().await } };
        // All cancel-safe: a watch, a timer, a flag.
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            // The cluster's ranges came: names can be answered.
            changed = node.changed() => if changed.is_err() { return },
            () = timer => retry = (retry * 2).min(MAX_RETRY),
            () = stop.cancelled() => return,
        }
        if !failed {
            retry = RETRY;
        }
    }
}

impl Programmer {
    /// Brings kernel and routes to this state and acknowledges it. True when something failed.
    async fn program(&self, desired: &Arc<Desired>, done: &mut Done) -> bool {
        let began = Instant::now();
        let before = done.desired.take();
        let mut failed = Vec::new();
        let same_peers = before.as_ref().is_some_and(|before| before.peers == desired.peers);
        if !same_peers && let Err(error) = self.network.set_peers(&desired.peers).await {
            failed.push(failure(FailedKind::Peer, desired.generation, chain(&error)));
        }
        let same = before.as_ref().is_some_and(|before| same_services(&before.services, &desired.services));
        self.name(desired, done, same, &mut failed);
        if !same {
            self.services(desired, done, &mut failed).await;
        }
        self.metrics.published(began.elapsed().as_secs_f64(), desired.generation, failed.is_empty());
        for object in &failed {
            warn!(kind = ?object.kind, generation = object.generation, error = %object.message, "programming failed");
        }
        let any = !failed.is_empty();
        if !any {
            done.desired = Some(Arc::clone(desired));
            self.programmed.open();
        }
        self.upstream.programmed(desired.epoch, desired.generation, failed);
        any
    }

    /// Names and load balancer have one source: both are replaced by the same pass.
    fn name(&self, desired: &Desired, done: &mut Done, same: bool, failed: &mut Vec<FailedObject>) {
        let cluster = self.node.borrow().cluster.clone();
        let Some(cluster) = cluster.filter(|cluster| !same || done.cluster.as_ref() != Some(cluster)) else {
            return;
        };
        match Names::new(cluster.clone(), Arc::new(desired.services.clone())) {
            Ok(names) => {
                self.names.store(Some(Arc::new(names)));
                done.cluster = Some(cluster);
            }
            Err(error) => failed.push(failure(FailedKind::Service, desired.generation, chain(&error))),
        }
    }

    async fn services(&self, desired: &Arc<Desired>, done: &mut Done, failed: &mut Vec<FailedObject>) {
        let node = self.node.borrow().clone();
        let announced = announced(&desired.services, &node);
        if done.announced.as_ref() != Some(&announced) {
            match self.network.set_announced(&announced).await {
                Ok(()) => done.announced = Some(announced),
                Err(error) => {
                    failed.push(failure(FailedKind::Service, desired.generation, chain(&error)));
                }
            }
        }
        let (dataplane, table) = (Arc::clone(&self.dataplane), Arc::clone(desired));
        // Map updates are system calls, thousands at the first time: not on a worker thread of the runtime.
        let published = tokio::task::spawn_blocking(move || {
            dataplane.publish(&table.services, &node.name, &node.addresses)
        });
        match published.await {
            Ok(Ok(result)) => {
                info!(
                    changed = result.changed,
                    removed = result.removed,
                    kept = result.kept,
                    generation = desired.generation,
                    "services programmed"
                );
            }
            Ok(Err(error)) => failed.push(failure(FailedKind::Service, desired.generation, chain(&error))),
            Err(error) => failed.push(failure(FailedKind::Service, desired.generation, chain(&error))),
        }
    }
}

fn failure(kind: FailedKind, generation: u64, message: String) -> FailedObject {
    FailedObject { kind, namespace: String::new(), name: String::new(), generation, message }
}

/// Equal tables by what brought each service: cheap at any size.
fn same_services(a: &ServiceTable, b: &ServiceTable) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((a_id, a), (b_id, b))| a_id == b_id && (Arc::ptr_eq(a, b) || a.generation == b.generation))
}

/// Load balancer addresses that this node answers for.
fn announced(services: &ServiceTable, node: &NodeView) -> Vec<IpAddr> {
    let addresses = services.values().flat_map(|service| &service.load_balancer_ips);
    let own = addresses.filter(|(_, announcer)| announcer.as_ref() == Some(&node.name));
    let mut own: Vec<_> = own.map(|(address, _)| *address).collect();
    own.sort_unstable();
    own.dedup();
    own
}
