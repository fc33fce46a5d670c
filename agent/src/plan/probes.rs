//! Which probes a pod's containers want now, with everything resolved.

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::context::Context;
use crate::{
    model::{
        Check, ContainerName, ContainerState, DesiredPod, HttpCheck, ObservedPod, ProbeKind, ProbeTarget,
        Timing, spec as pod,
        spec::{all_containers, is_sidecar},
    },
    plan::draft::{Subjects, target},
};

/// The address probes and hooks connect to: the pod's, or the node's with host networking.
pub fn pod_host(context: &Context<'_>, pod: &DesiredPod, seen: &ObservedPod) -> Option<String> {
    if pod::host_network(&pod.pod) {
        return context.node.addresses.first().map(ToString::to_string);
    }
    let addresses = seen.network.as_ref()?.addresses.as_ref()?;
    Some(addresses.v4.to_string())
}

/// The container's ports that have a name.
pub fn named_ports(container: &Container) -> Vec<(String, u16)> {
    let ports = container.ports.iter().flatten();
    let named = ports.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?)));
    named.collect()
}

/// A port by number or name.
pub fn port(port: &IntOrString, named: &[(String, u16)]) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok(),
        IntOrString::String(name) => {
            named.iter().find(|(known, _)| known == name).map(|(_, port)| *port).or_else(|| name.parse().ok())
        }
    }
}

/// Probes of all running containers. A terminating pod is only asked whether it is ready, as upstream.
pub fn targets(subjects: &Subjects<'_>, terminating: bool) -> Vec<ProbeTarget> {
    let mut targets = Vec::new();
    for (container, init) in all_containers(subjects.spec) {
        if init && !is_sidecar(container) {
            continue;
        }
        let Some(observed) = subjects.seen.latest(&ContainerName::new(container.name.as_str())) else {
            continue;
        };
        let ContainerState::Running { started_ms, .. } = observed.state else { continue };
        let record = subjects.seen.record.of(&observed.container, observed.attempt);
        let condemned = record.is_some_and(|record| record.unhealthy.is_some() || record.stop.is_some());
        let started = super::status::started(container, record);
        let probes = [
            (ProbeKind::Startup, &container.startup_probe, !started && !terminating && !condemned),
            (ProbeKind::Liveness, &container.liveness_probe, started && !terminating && !condemned),
            (ProbeKind::Readiness, &container.readiness_probe, started),
        ];
        for (kind, probe, wanted) in probes {
            let Some(probe) = probe.as_ref().filter(|_| wanted) else { continue };
            let Some(check) = check(subjects, container, probe) else { continue };
            let check = check.unwrap_or_else(Check::Impossible);
            targets.push(ProbeTarget {
                pod: subjects.pod.uid.clone(),
                name: subjects.pod.name.clone(),
                target: target(observed),
                kind,
                check,
                timing: timing(probe),
                started_ms,
            });
        }
    }
    targets
}

fn timing(probe: &Probe) -> Timing {
    let positive = |value: Option<i32>, default: u32| {
        value.and_then(|value| u32::try_from(value).ok()).filter(|v| *v > 0).unwrap_or(default)
    };
    Timing {
        initial_delay_s: positive(probe.initial_delay_seconds, 0),
        period_s: positive(probe.period_seconds, 10),
        timeout_s: positive(probe.timeout_seconds, 1),
        success_threshold: positive(probe.success_threshold, 1),
        failure_threshold: positive(probe.failure_threshold, 3),
    }
}

/// What to ask; `None` while the pod has no address, or why it cannot be asked.
fn check(subjects: &Subjects<'_>, container: &Container, probe: &Probe) -> Option<Result<Check, String>> {
    let named = named_ports(container);
    let own = || pod_host(subjects.context, subjects.pod, subjects.seen);
    let host = |host: &Option<String>| host.clone().filter(|host| !host.is_empty()).or_else(own);
    let unknown = |port: &IntOrString| match port {
        IntOrString::String(name) => format!("couldn't find port: {name}"),
        IntOrString::Int(number) => format!("invalid port number: {number}"),
    };
    if let Some(exec) = &probe.exec {
        return Some(Ok(Check::Exec { command: exec.command.clone().unwrap_or_default() }));
    }
    if let Some(http) = &probe.http_get {
        let check = http_check(http, host(&http.host)?, &named).map(Check::Http);
        return Some(check.ok_or_else(|| unknown(&http.port)));
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = host(&tcp.host)?;
        let check = port(&tcp.port, &named).map(|port| Check::Tcp { host, port });
        return Some(check.ok_or_else(|| unknown(&tcp.port)));
    }
    let grpc = probe.grpc.as_ref()?;
    let (host, service) = (own()?, grpc.service.clone().unwrap_or_default());
    let port = u16::try_from(grpc.port).map_err(|_| format!("invalid port number: {}", grpc.port));
    Some(port.map(|port| Check::Grpc { host, port, service }))
}

/// An httpGet action, of a probe or a hook.
pub fn http_check(http: &HTTPGetAction, host: String, named: &[(String, u16)]) -> Option<HttpCheck> {
    Some(HttpCheck {
        https: http.scheme.as_deref() == Some("HTTPS"),
        host,
        port: port(&http.port, named)?,
        path: http.path.clone().unwrap_or_default(),
        headers: http
            .http_headers
            .iter()
            .flatten()
            .map(|header| (header.name.clone(), header.value.clone()))
            .collect(),
    })
}
