//! The node's own network, in one hand: ranges, uplink, the node's addresses, routes to pods here and on other nodes,
//! announced addresses. One task looks when something is wanted anew, when the kernel says that something changed, and
//! now and then without a reason; what differs is set, what is found out is told.
//!
//! In: the cluster's ranges, what the service table asks for ([`TableNetwork`]), the network port's bell. Out: the node's
//! view (its addresses, the ranges in force), the datapath's uplink, the outcome for whoever acknowledges a table.
//! Never: a guess. An address that went is the node's until another one comes, and what is not known is not asked for.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{MAX_RETRY, NETWORK_RETRY};
use crate::{
    dataplane::Dataplane,
    lifecycle::Gate,
    model::{ClusterNetwork, NodeView, chain},
    net::{Network, NodeNetwork, NodeWants, Part, Peers},
};

/// How often everything is looked at without a reason: a restart of the host's firewall or a `sysctl --system` undoes
/// what no bell tells of.
pub(super) const REPAIR: Duration = Duration::from_secs(30);
/// From a ring to the look: whoever sets up an interface changes it many times, and so does a pod's start.
const QUIET: Duration = Duration::from_millis(100);

/// What the service table asks of the node's network, and how far that is. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct TableNetwork {
    wanted: watch::Sender<Wanted>,
    outcome: watch::Sender<Outcome>,
}

#[derive(Clone, Debug, Default)]
struct Wanted {
    revision: u64,
    peers: Option<Arc<Peers>>,
    announced: Option<BTreeSet<IpAddr>>,
}

/// What the last pass left undone of what was wanted up to `revision`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    revision: u64,
    pub(super) failures: Vec<(Part, String)>,
}

impl TableNetwork {
    /// Other nodes.
    pub fn want_peers(&self, peers: &Peers) {
        self.want(|wanted| {
            let news = wanted.peers.as_deref() != Some(peers);
            if news {
                wanted.peers = Some(Arc::new(peers.clone()));
            }
            news
        });
    }

    /// Load balancer addresses of this node.
    pub fn want_announced(&self, announced: BTreeSet<IpAddr>) {
        self.want(|wanted| wanted.announced.replace(announced.clone()) != Some(announced));
    }

    fn want(&self, change: impl FnOnce(&mut Wanted) -> bool) {
        self.wanted.send_if_modified(|wanted| {
            let news = change(wanted);
            wanted.revision += u64::from(news);
            news
        });
    }

    /// Follows the outcome.
    pub(super) fn outcome(&self) -> watch::Receiver<Outcome> {
        self.outcome.subscribe()
    }

    /// Waits for the outcome of everything that was wanted so far.
    pub(super) async fn settled(&self, outcome: &mut watch::Receiver<Outcome>) -> Outcome {
        let revision = self.wanted.borrow().revision;
        // The other end is ours.
        let settled = outcome.wait_for(|outcome| outcome.revision >= revision).await;
        settled.map(|outcome| outcome.clone()).unwrap_or_default()
    }
}

/// What the task works with.
pub struct NodeNetworking {
    /// The kernel's side.
    pub network: Arc<dyn Network>,
    /// Attached to the uplink, which may come late or change.
    pub dataplane: Arc<dyn Dataplane>,
    /// The cluster's ranges.
    pub ranges: watch::Receiver<Option<ClusterNetwork>>,
    /// What the service table asks for.
    pub table: TableNetwork,
    /// The node as everybody sees it.
    pub view: watch::Sender<Arc<NodeView>>,
    /// The node's addresses are of the configuration.
    pub fixed_addresses: bool,
    /// Open while the ranges are in force.
    pub configured: Gate,
}

/// The task.
pub struct NodeNetworker {
    parts: NodeNetworking,
    wanted: watch::Receiver<Wanted>,
    changes: watch::Receiver<()>,
    /// Told already.
    failures: Vec<(Part, String)>,
    uplink: Option<String>,
    uplink_failure: Option<String>,
    retry: Duration,
    again: Option<Instant>,
}

impl NodeNetworker {
    /// Looks once: what the ledger and the host have is in force before anything else begins.
    pub async fn start(parts: NodeNetworking) -> Self {
        let (wanted, changes) = (parts.table.wanted.subscribe(), parts.network.changes());
        let mut networker = Self {
            parts,
            wanted,
            changes,
            failures: Vec::new(),
            uplink: None,
            uplink_failure: None,
            retry: NETWORK_RETRY,
            again: None,
        };
        networker.look(true).await;
        networker
    }

    /// Follows changes until the agent stops.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut repair = tokio::time::interval_at(Instant::now() + REPAIR, REPAIR);
        repair.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut due = None;
        loop {
            // All cancel-safe: watches, timers, a flag.
            let thorough = tokio::select! {
                changed = self.parts.ranges.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                // This end of the channel is held by `parts`.
                Ok(()) = self.wanted.changed() => false,
                Ok(()) = self.changes.changed() => {
                    due.get_or_insert_with(|| Instant::now() + QUIET);
                    continue;
                }
                () = until(due) => false,
                () = until(self.again) => true,
                _ = repair.tick() => true,
                () = stop.cancelled() => return,
            };
            due = None;
            self.look(thorough).await;
        }
    }

    async fn look(&mut self, thorough: bool) {
        // Read before the kernel is: what comes meanwhile is looked at again.
        let cluster = self.parts.ranges.borrow_and_update().clone();
        let Wanted { revision, peers, announced } = self.wanted.borrow_and_update().clone();
        self.changes.borrow_and_update();
        let wants = NodeWants { cluster, peers, announced };
        let (found, failures) = match self.parts.network.settle(&wants, thorough).await {
            Ok(found) => {
                let text = |(part, error): &(Part, crate::net::NetError)| (*part, chain(error));
                let failures = found.failures.iter().map(text).collect();
                (Some(found), failures)
            }
            // Nothing is known of any part.
            Err(error) => {
                let text = chain(&error);
                let parts = [Part::Ranges, Part::Pods, Part::Peers, Part::Announced, Part::Ports];
                (None, parts.into_iter().map(|part| (part, text.clone())).collect::<Vec<_>>())
            }
        };
        let in_force = wants.cluster.filter(|_| failures.iter().all(|(part, _)| *part != Part::Ranges));
        match &in_force {
            Some(_) => self.parts.configured.open(),
            None => self.parts.configured.close(),
        }
        if let Some(NodeNetwork { uplink, addresses, changed, .. }) = found {
            if changed > 0 {
                info!(changed, "the node's network was not as it should be");
            }
            self.attach(uplink).await;
            self.adopt(in_force, addresses);
        }
        self.tell(revision, failures);
    }

    /// The datapath at the interface by which the node is reached.
    async fn attach(&mut self, uplink: Option<String>) {
        if self.uplink != uplink {
            info!(uplink, before = self.uplink, "the node is reached by another interface");
            self.uplink.clone_from(&uplink);
        }
        let dataplane = Arc::clone(&self.parts.dataplane);
        // An attachment may wait for the kernel's grace periods.
        let set = tokio::task::spawn_blocking(move || dataplane.set_uplink(uplink.as_deref())).await;
        let failure = match set {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(chain(&error)),
            Err(error) => Some(chain(&error)),
        };
        if let Some(error) = failure.as_ref().filter(|_| self.uplink_failure != failure) {
            warn!(error, "NodePorts and load balancer addresses are not answered from outside");
        }
        self.uplink_failure = failure;
    }

    /// What was found out becomes the node's. No address is no news: the interface may be set up anew at this moment.
    fn adopt(&self, in_force: Option<ClusterNetwork>, addresses: Vec<IpAddr>) {
        self.parts.view.send_if_modified(|view| {
            let cluster = in_force.filter(|cluster| view.cluster.as_ref() != Some(cluster));
            let readdressed =
                !self.parts.fixed_addresses && !addresses.is_empty() && view.addresses != addresses;
            if cluster.is_none() && !readdressed {
                return false;
            }
            let view = Arc::make_mut(view);
            if let Some(cluster) = cluster {
                let (pods, dns) = (&cluster.node_pod_cidrs, cluster.dns_ip);
                info!(?pods, %dns, domain = cluster.domain, "network configured");
                view.cluster = Some(cluster);
            }
            if readdressed {
                info!(?addresses, before = ?view.addresses, "the node has other addresses");
                view.addresses = addresses;
            }
            true
        });
    }

    fn tell(&mut self, revision: u64, failures: Vec<(Part, String)>) {
        for (part, error) in failures.iter().filter(|failure| !self.failures.contains(failure)) {
            warn!(?part, error, "the node's network is not as it should be");
        }
        self.failures.clone_from(&failures);
        if self.failures.is_empty() && self.uplink_failure.is_none() {
            (self.retry, self.again) = (NETWORK_RETRY, None);
        } else {
            self.again = Some(Instant::now() + self.retry);
            self.retry = (self.retry * 2).min(MAX_RETRY);
        }
        let new = Outcome { revision, failures };
        self.parts.table.outcome.send_if_modified(|outcome| {
            let news = *outcome != new;
            *outcome = new;
            news
        });
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
