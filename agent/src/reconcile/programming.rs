//! Services into the datapath, names into DNS; other nodes and load balancer addresses are asked of the node's network.
//! Then the generation that brought them is acknowledged. One worker: the last desired state counts, those between are
//! skipped.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    DesiredState, MAX_RETRY, Metrics, NETWORK_RETRY, host_ports,
    node_network::{Outcome, TableNetwork},
};
use crate::{
    apply::Wires,
    dataplane::{Dataplane, DataplaneError, Programmed, unserved},
    dns::{Names, SharedNames},
    lifecycle::Gate,
    model::{
        ClusterNetwork, Desired, FailedKind, FailedObject, NodeView, ServiceId, ServiceSpec, ServiceTable,
        Table, Upstream, chain,
    },
    net::{Network, Part},
};

/// What programming needs.
pub struct Programmer {
    /// eBPF.
    pub dataplane: Arc<dyn Dataplane>,
    /// Networks that pods have already.
    pub network: Arc<dyn Network>,
    /// Routes and announced addresses.
    pub table_network: TableNetwork,
    /// Where acks go.
    pub upstream: Arc<dyn Upstream>,
    /// The node: its name and addresses.
    pub node: watch::Receiver<Arc<NodeView>>,
    /// What the name server answers from.
    pub names: SharedNames,
    /// Addresses of pods, which ports of the node lead to.
    pub wires: Wires,
    /// Opened by the first table that is programmed.
    pub programmed: Gate,
    /// Counts.
    pub metrics: Arc<Metrics>,
}

/// What was programmed last. Each part by itself: one that fails is tried again without the others.
#[derive(Default)]
struct Done {
    services: Option<Arc<Table>>,
    /// Ports of the node that were published with them.
    host_ports: ServiceTable,
    /// The node's addresses that the services were published with.
    addresses: Vec<IpAddr>,
    named: Option<(Arc<Table>, ClusterNetwork)>,
    /// What no further try makes answer, told with every acknowledgement.
    unserved: Vec<FailedObject>,
}

/// Programs every desired state until cancelled.
pub async fn programming(programmer: Programmer, mut desired: DesiredState, stop: CancellationToken) {
    let mut done = Done::default();
    let mut node = programmer.node.clone();
    // Before the first table, in which a pod's ports must not be missing.
    match programmer.network.list().await {
        Ok(networks) => programmer.wires.found(&networks),
        Err(error) => warn!(error = chain(&error), "ports of the node come with each pod's next look"),
    }
    let mut wires = programmer.wires.follow();
    let mut outcome = programmer.table_network.outcome();
    let mut retry = NETWORK_RETRY;
    loop {
        let current = desired.borrow_and_update().clone();
        let pass = async {
            match current {
                Some(current) => programmer.program(&current, &mut done, &mut outcome).await,
                None => false,
            }
        };
        // Cancel-safe: what is not acknowledged is done again by the next agent.
        let Some(failed) = stop.run_until_cancelled(pass).await else { return };
        let timer =
            async { if failed { tokio::time::sleep(retry).await } else { std::future::pending().await } };
        // All cancel-safe: watches, timers, a flag.
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            // The cluster's ranges or the node's addresses came.
            changed = node.changed() => if changed.is_err() { return },
            // A pod got its network, or lost it; this end of the channel is ours.
            Ok(()) = wires.changed() => {}
            // What was in force is not any more, or is again; so is this end.
            Ok(()) = outcome.changed() => {}
            () = timer => retry = (retry * 2).min(MAX_RETRY),
            () = stop.cancelled() => return,
        }
        if !failed {
            retry = NETWORK_RETRY;
        }
    }
}

impl Programmer {
    /// Brings the kernel to this state and acknowledges it. True when something is to be tried again from here.
    ///
    /// Before the table is known, what the kernel has stays: it is of a table that was.
    async fn program(
        &self,
        desired: &Arc<Desired>,
        done: &mut Done,
        outcome: &mut watch::Receiver<Outcome>,
    ) -> bool {
        let Some(table) = &desired.table else { return false };
        let began = Instant::now();
        let mut failed = Vec::new();
        self.table_network.want_peers(&table.peers);
        self.services(desired, table, done, &mut failed).await;
        // After the services: no address and no name leads to one that is not answered yet.
        self.table_network.want_announced(announced(&table.services, &self.node.borrow()));
        self.name(desired, table, done, &mut failed);
        let again = !failed.is_empty();
        for object in &failed {
            let FailedObject { kind, namespace, name, generation, message } = object;
            warn!(?kind, namespace, name, generation, error = message, "programming failed");
        }
        let settled = self.table_network.settled(outcome).await;
        failed.extend(unsettled(settled, desired.generation));
        self.metrics.published(began.elapsed().as_secs_f64(), desired.generation, failed.is_empty());
        failed.extend(done.unserved.iter().cloned());
        self.upstream.programmed(desired.epoch, desired.generation, failed);
        again
    }

    /// Names come from the same table as the load balancer's.
    fn name(&self, desired: &Desired, table: &Arc<Table>, done: &mut Done, failed: &mut Vec<FailedObject>) {
        let Some(cluster) = self.node.borrow().cluster.clone() else { return };
        let is_known = done
            .named
            .as_ref()
            .is_some_and(|(named, of)| *of == cluster && same_services(&named.services, &table.services));
        if is_known {
            return;
        }
        match Names::new(cluster.clone(), Arc::new(table.services.clone())) {
            Ok(names) => {
                self.names.store(Some(Arc::new(names)));
                done.named = Some((Arc::clone(table), cluster));
            }
            Err(error) => failed.push(unnamed(FailedKind::Service, desired.generation, chain(&error))),
        }
    }

    async fn services(
        &self,
        desired: &Desired,
        table: &Arc<Table>,
        done: &mut Done,
        failed: &mut Vec<FailedObject>,
    ) {
        let node = self.node.borrow().clone();
        let same =
            done.services.as_ref().is_some_and(|before| same_services(&before.services, &table.services));
        let ports = host_ports::table(desired, &self.wires.follow().borrow(), &node, &done.host_ports);
        if same && done.addresses == node.addresses && done.host_ports == ports {
            return;
        }
        let unserved = unserved_of(&table.services);
        for FailedObject { namespace, name, message, .. } in news(&done.unserved, &unserved) {
            warn!(namespace, name, reason = message, "a service is not wholly served");
        }
        done.unserved = unserved;
        let addresses = node.addresses.clone();
        let dataplane = Arc::clone(&self.dataplane);
        let (publish, more) = (Arc::clone(table), ports.clone());
        // Map updates are system calls, thousands at the first time: not on a worker thread of the runtime.
        let published = tokio::task::spawn_blocking(move || {
            if more.is_empty() {
                return dataplane.publish(&publish.services, &node.name, &node.addresses);
            }
            let mut all = publish.services.clone();
            all.extend(more);
            dataplane.publish(&all, &node.name, &node.addresses)
        });
        done.services = None;
        done.host_ports = ports;
        match published.await {
            Ok(Ok(result)) => {
                let Programmed { changed, removed, kept } = result;
                info!(changed, removed, kept, generation = desired.generation, "services programmed");
                done.services = Some(Arc::clone(table));
                done.addresses = addresses;
                self.programmed.open();
            }
            Ok(Err(DataplaneError::Services { failed: services, .. })) => {
                // The others are in service.
                self.programmed.open();
                failed.extend(services.into_iter().map(|(id, message)| named(desired, &id, message)));
            }
            Ok(Err(error)) => failed.push(unnamed(FailedKind::Service, desired.generation, chain(&error))),
            Err(error) => failed.push(unnamed(FailedKind::Service, desired.generation, chain(&error))),
        }
    }
}

/// What the node's network lacks of this generation. Ranges and pods' routes are no object of the table.
fn unsettled(outcome: Outcome, generation: u64) -> impl Iterator<Item = FailedObject> {
    outcome.failures.into_iter().filter_map(move |(part, message)| {
        let kind = match part {
            Part::Peers => FailedKind::Peer,
            Part::Announced => FailedKind::Service,
            Part::Ranges | Part::Pods | Part::Ports => return None,
        };
        Some(unnamed(kind, generation, message))
    })
}

/// What was not told before in the same words: a service comes with a new generation whenever its endpoints change.
fn news<'a>(before: &'a [FailedObject], now: &'a [FailedObject]) -> impl Iterator<Item = &'a FailedObject> {
    let same = |a: &FailedObject, b: &FailedObject| {
        (&a.namespace, &a.name, &a.message) == (&b.namespace, &b.name, &b.message)
    };
    now.iter().filter(move |failed| !before.iter().any(|known| same(known, failed)))
}

/// Services of which something is not served, whatever is tried.
fn unserved_of(services: &ServiceTable) -> Vec<FailedObject> {
    let told = |(id, service): (&ServiceId, &Arc<ServiceSpec>)| {
        Some(FailedObject {
            kind: FailedKind::Service,
            namespace: id.namespace.to_string(),
            name: id.name.to_string(),
            generation: service.generation,
            message: unserved(service)?,
        })
    };
    services.iter().filter_map(told).collect()
}

/// A failure that is of no single object.
fn unnamed(kind: FailedKind, generation: u64, message: String) -> FailedObject {
    FailedObject { kind, namespace: String::new(), name: String::new(), generation, message }
}

fn named(desired: &Desired, id: &ServiceId, message: String) -> FailedObject {
    if let Some((namespace, name)) = host_ports::pod_of(id) {
        return FailedObject {
            kind: FailedKind::Pod,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            generation: desired.generation,
            message: format!("hostPort: {message}"),
        };
    }
    FailedObject {
        kind: FailedKind::Service,
        namespace: id.namespace.to_string(),
        name: id.name.to_string(),
        // A removed service has no generation of its own any more.
        generation: desired
            .table
            .as_ref()
            .and_then(|table| table.services.get(id))
            .map_or(desired.generation, |service| service.generation),
        message,
    }
}

/// Equal tables: cheap where nothing came, and by content where all came anew. A generation tells nothing of that: the
/// next scheduler counts from the start again.
fn same_services(a: &ServiceTable, b: &ServiceTable) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((a_id, a), (b_id, b))| a_id == b_id && (Arc::ptr_eq(a, b) || a == b))
}

/// Load balancer addresses that this node answers for.
fn announced(services: &ServiceTable, node: &NodeView) -> BTreeSet<IpAddr> {
    let addresses = services.values().flat_map(|service| &service.load_balancer_ips);
    let own = addresses.filter(|(_, announcer)| announcer.as_ref() == Some(&node.name));
    own.map(|(address, _)| *address).collect()
}

#[cfg(test)]
mod tests;
