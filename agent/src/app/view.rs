//! The node as plans see it, before the cluster is known: what the configuration and the machine say.

use crate::{
    cgroup::{Cgroups, Enforcement},
    config::Config,
    model::NodeView,
    observe::{Host, Machine},
    plan::OOM_GUARANTEED,
    runtime::oom,
};

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
