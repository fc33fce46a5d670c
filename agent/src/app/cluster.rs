//! What the cluster's ranges set off on the node: the network's configuration, the view that plans have, the name
//! server on the cluster DNS address.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    cgroup::{Cgroups, Enforcement},
    config::{Config, DnsConfig},
    dns::{self, DnsSettings, Server, SharedNames, Upstreams},
    lifecycle::{Drain, Gate},
    model::{ClusterNetwork, NodeView, chain},
    net::{Network, REPAIR},
    observe::{Host, Machine},
    plan::OOM_GUARANTEED,
    runtime::oom,
};

/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Port of DNS.
const DNS_PORT: u16 = 53;

/// The node as plans see it, before the cluster is known.
pub(super) fn view(config: &Config, host: &Host, machine: &Machine, cgroups: &dyn Cgroups) -> NodeView {
    let oom_floor = oom::floor(&config.containerd.socket);
    if oom_floor > OOM_GUARANTEED {
        tracing::warn!(
            lowest = oom_floor,
            "the runtime may not lower oom_score_adj further (no CAP_SYS_RESOURCE): Guaranteed and critical containers \
             are less protected from the OOM killer than upstream's"
        );
    }
    let (cpu_milli, memory_bytes) = super::reporter::allocatable(&config.node, machine);
    NodeView {
        name: config.node.name.clone(),
        addresses: config.node.addresses.clone(),
        cluster: None,
        layout: config.layout.clone(),
        resolver: Host::resolver(&config.dns.resolv_conf),
        cpu_milli,
        memory_bytes,
        memory_capacity: i64::try_from(machine.memory).unwrap_or(i64::MAX),
        ephemeral_bytes: Host::disk(&config.layout.state_dir)
            .map_or(0, |(all, _)| i64::try_from(all).unwrap_or(i64::MAX)),
        enforced: cgroups.enforcement() == Enforcement::Enforced,
        max_pods: config.node.max_pods.into(),
        allowed_sysctls: config.node.allowed_unsafe_sysctls.clone(),
        oom_floor,
        pids_max: config.node.pod_pids,
        apparmor: host.apparmor(),
        hosts: host.hosts(),
    }
}

/// Follows the cluster's ranges.
pub(super) struct Cluster {
    pub(super) networks: watch::Receiver<Option<ClusterNetwork>>,
    pub(super) network: Arc<dyn Network>,
    /// Of the configuration; empty: those of the uplink.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) dns: DnsConfig,
    pub(super) names: SharedNames,
    pub(super) dns_metrics: dns::Metrics,
    pub(super) view: watch::Sender<Arc<NodeView>>,
    pub(super) configured: Gate,
    pub(super) named: Gate,
    pub(super) drain: Drain,
}

impl Cluster {
    /// What the ledger has, and the node's own addresses, before anything else begins.
    pub(super) async fn first(mut self) -> Self {
        if self.addresses.is_empty() {
            match self.network.node_addresses().await {
                Ok(addresses) => {
                    self.addresses.clone_from(&addresses);
                    self.view.send_modify(|view| Arc::make_mut(view).addresses = addresses);
                }
                Err(error) => warn!(error = %chain(&error), "the node's addresses cannot be read"),
            }
        }
        let known = self.networks.borrow_and_update().clone();
        if let Some(known) = known {
            // Failed: `run` tries again.
            self.apply(&known).await;
        }
        self
    }

    /// Follows changes until the agent stops.
    pub(super) async fn run(mut self) {
        let mut serving: Option<(IpAddr, CancellationToken)> = None;
        let mut repair = tokio::time::interval_at(Instant::now() + REPAIR, REPAIR);
        repair.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wanted = self.networks.borrow_and_update().clone();
            let mut done = true;
            if let Some(wanted) = wanted {
                let applied = self.view.borrow().cluster.as_ref() == Some(&wanted);
                done = applied || self.apply(&wanted).await;
                done = done && self.serve_names(wanted.dns_ip, &mut serving).await;
            }
            let retry =
                async { if done { std::future::pending().await } else { tokio::time::sleep(RETRY).await } };
            let stop = self.drain.stop.clone();
            // All cancel-safe: a watch, timers, a flag.
            tokio::select! {
                changed = self.networks.changed() => if changed.is_err() { return },
                () = retry => {}
                _ = repair.tick() => if !self.repair().await {
                    repair.reset_after(RETRY);
                },
                () = stop.cancelled() => return,
            }
        }
    }

    async fn configure(&self, cluster: &ClusterNetwork) -> bool {
        if let Err(error) = self.network.configure(cluster).await {
            warn!(error = %chain(&error), "the cluster's network cannot be configured");
            self.configured.close();
            return false;
        }
        self.configured.open();
        true
    }

    /// What is configured is so again; `false` when that failed.
    async fn repair(&self) -> bool {
        let cluster = self.view.borrow().cluster.clone();
        match cluster {
            Some(cluster) => self.configure(&cluster).await,
            None => true,
        }
    }

    async fn apply(&self, cluster: &ClusterNetwork) -> bool {
        if !self.configure(cluster).await {
            return false;
        }
        info!(pods = ?cluster.node_pod_cidrs, dns = %cluster.dns_ip, domain = cluster.domain, "network configured");
        self.view.send_modify(|view| Arc::make_mut(view).cluster = Some(cluster.clone()));
        true
    }

    /// Answers on the cluster DNS address; a changed one replaces the server.
    async fn serve_names(&self, address: IpAddr, serving: &mut Option<(IpAddr, CancellationToken)>) -> bool {
        if serving.as_ref().is_some_and(|(known, _)| *known == address) {
            return true;
        }
        if let Some((_, stop)) = serving.take() {
            stop.cancel();
            self.named.close();
        }
        let upstreams = if self.dns.servers.is_empty() {
            Upstreams::ResolvConf(self.dns.resolv_conf.clone())
        } else {
            Upstreams::Servers(self.dns.servers.clone())
        };
        let settings =
            DnsSettings { upstreams, timeout: self.dns.timeout, cache_entries: self.dns.cache_entries };
        let at = SocketAddr::new(address, DNS_PORT);
        match Server::bind(at, settings, self.names.clone(), self.dns_metrics.clone()).await {
            Ok(server) => {
                let stop = self.drain.stop.child_token();
                *serving = Some((address, stop.clone()));
                self.drain.spawn(server.serve(stop));
                self.named.open();
                true
            }
            Err(error) => {
                warn!(error = %chain(&error), "cluster names are not answered on this node");
                false
            }
        }
    }
}

/// Keeps the runtime's gate as the runtime is.
pub(super) async fn watch_runtime(
    mut unhealthy: watch::Receiver<Option<String>>,
    gate: Gate,
    stop: CancellationToken,
) {
    // Nobody has asked the runtime before the first change.
    loop {
        // Both cancel-safe: a watch and a flag.
        tokio::select! {
            changed = unhealthy.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
        match *unhealthy.borrow_and_update() {
            None => gate.open(),
            Some(_) => gate.close(),
        }
    }
}
