//! A pod's phase and conditions from the statuses of its containers, as upstream computes them.

use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::status::time;
use crate::model::spec::{RestartPolicy, is_sidecar, restart_policy};

/// `status.phase`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not all containers have been started.
    Pending,
    /// At least one runs, or is being restarted.
    Running,
    /// All ended well and stay so.
    Succeeded,
    /// All ended, one of them badly.
    Failed,
}

impl Phase {
    /// As written in the status.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Phase::Pending => "Pending",
            Phase::Running => "Running",
            Phase::Succeeded => "Succeeded",
            Phase::Failed => "Failed",
        }
    }

    /// The pod will not run again.
    pub(super) fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// The phase that a reported status has, when it is a terminal one.
pub(super) fn terminal(status: Option<&PodStatus>) -> Option<Phase> {
    match status?.phase.as_deref()? {
        "Succeeded" => Some(Phase::Succeeded),
        "Failed" => Some(Phase::Failed),
        _ => None,
    }
}

#[derive(Default)]
struct Counts {
    waiting: usize,
    running: usize,
    stopped: usize,
    succeeded: usize,
}

impl Counts {
    fn of<'a>(statuses: impl Iterator<Item = &'a ContainerStatus>) -> Self {
        let mut counts = Self::default();
        for status in statuses {
            let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
                state.as_ref().and_then(|state| state.terminated.as_ref()).is_some()
            };
            let running = status.state.as_ref().is_some_and(|state| state.running.is_some());
            if running {
                counts.running += 1;
            } else if let Some(end) = status.state.as_ref().and_then(|state| state.terminated.as_ref()) {
                counts.stopped += 1;
                counts.succeeded += usize::from(end.exit_code == 0);
            } else if ended(&status.last_state) {
                counts.stopped += 1;
            } else {
                counts.waiting += 1;
            }
        }
        counts
    }
}

/// The phase. `init` and `main` are the statuses in the order of the specification.
pub(super) fn phase(spec: &PodSpec, init: &[ContainerStatus], main: &[ContainerStatus]) -> Phase {
    let policy = restart_policy(spec);
    let main_ran = main.iter().any(|status| status.container_id.is_some());
    let mut pending_init = false;
    let plain = spec.init_containers.iter().flatten().zip(init);
    for (_, status) in plain.clone().filter(|(container, _)| !is_sidecar(container)) {
        let end = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
        };
        let code = end(&status.state).or_else(|| end(&status.last_state));
        match code {
            Some(0) if end(&status.state).is_some() => {}
            Some(code) if code != 0 && policy == RestartPolicy::Never && end(&status.state).is_some() => {
                return Phase::Failed;
            }
            _ => pending_init = true,
        }
    }
    let sidecars = plain.filter(|(container, _)| is_sidecar(container));
    let sidecar_waits = sidecars.clone().any(|(_, status)| status.started != Some(true));
    if !main_ran && (pending_init || sidecar_waits) {
        return Phase::Pending;
    }
    let counts = Counts::of(main.iter());
    let sidecars_run = Counts::of(sidecars.map(|(_, status)| status)).running > 0;
    if counts.waiting > 0 {
        Phase::Pending
    } else if counts.running > 0 {
        Phase::Running
    } else if counts.stopped > 0 {
        match policy {
            RestartPolicy::Always => Phase::Running,
            // Sidecars end after the containers they serve: until then the pod is not over.
            _ if sidecars_run => Phase::Running,
            _ if counts.succeeded == counts.stopped => Phase::Succeeded,
            RestartPolicy::Never => Phase::Failed,
            RestartPolicy::OnFailure => Phase::Running,
        }
    } else {
        Phase::Pending
    }
}

/// What the conditions are made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// The pod, for readiness gates, generation and conditions that others own.
    pub pod: &'a Pod,
    /// The last reported status: transition times.
    pub previous: Option<&'a PodStatus>,
    /// Its phase now.
    pub phase: Phase,
    /// Network and volumes are there.
    pub prepared: bool,
    /// Statuses of init containers.
    pub init: &'a [ContainerStatus],
    /// Statuses of regular containers.
    pub main: &'a [ContainerStatus],
    /// Now.
    pub now_ms: i64,
}

struct Verdict {
    kind: &'static str,
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// All conditions: the agent's own five, then those of others as they are.
pub(super) fn conditions(facts: &Facts<'_>) -> Vec<PodCondition> {
    let ready_containers = containers_ready(facts);
    let ready = ready(facts, &ready_containers);
    let verdicts = [
        Verdict { kind: "PodReadyToStartContainers", ok: facts.prepared, reason: None, message: None },
        initialized(facts),
        ready,
        ready_containers,
        Verdict { kind: "PodScheduled", ok: true, reason: None, message: None },
    ];
    let own: Vec<_> = verdicts.into_iter().map(|verdict| condition(facts, verdict)).collect();
    let others = facts.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let others = others.filter(|other| !own.iter().any(|own| own.type_ == other.type_)).cloned();
    let others: Vec<_> = others.collect();
    own.into_iter().chain(others).collect()
}

fn condition(facts: &Facts<'_>, verdict: Verdict) -> PodCondition {
    let status = if verdict.ok { "True" } else { "False" };
    let known = |reported: Option<&PodStatus>| -> Option<PodCondition> {
        let mut conditions = reported?.conditions.iter().flatten();
        conditions.find(|known| known.type_ == verdict.kind && known.status == status).cloned()
    };
    let unchanged = known(facts.previous).or_else(|| known(facts.pod.status.as_ref()));
    let since: Option<Time> = match unchanged {
        Some(unchanged) => unchanged.last_transition_time,
        None => time(facts.now_ms),
    };
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: verdict.reason.map(str::to_owned),
        message: verdict.message,
        last_transition_time: since,
        last_probe_time: None,
        observed_generation: facts.pod.metadata.generation,
    }
}

fn initialized(facts: &Facts<'_>) -> Verdict {
    let kind = "Initialized";
    let main_ran = facts.main.iter().any(|status| status.container_id.is_some());
    let spec = facts.pod.spec.as_ref();
    let pairs = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()).zip(facts.init);
    let incomplete: Vec<_> = pairs
        .filter(
            |(container, status)| {
                if is_sidecar(container) { status.started != Some(true) } else { !status.ready }
            },
        )
        .map(|(container, _)| container.name.as_str())
        .collect();
    if facts.phase == Phase::Succeeded {
        return Verdict { kind, ok: true, reason: Some("PodCompleted"), message: None };
    }
    if incomplete.is_empty() || main_ran {
        return Verdict { kind, ok: true, reason: None, message: None };
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict { kind, ok: false, reason: Some("ContainersNotInitialized"), message: Some(message) }
}

fn containers_ready(facts: &Facts<'_>) -> Verdict {
    let kind = "ContainersReady";
    match facts.phase {
        Phase::Succeeded => return Verdict { kind, ok: false, reason: Some("PodCompleted"), message: None },
        Phase::Failed => return Verdict { kind, ok: false, reason: Some("PodFailed"), message: None },
        Phase::Pending | Phase::Running => {}
    }
    let spec = facts.pod.spec.as_ref();
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten()).zip(facts.init);
    let sidecars = init.filter(|(container, _)| is_sidecar(container)).map(|(_, status)| status);
    let unready: Vec<_> =
        sidecars.chain(facts.main).filter(|status| !status.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        return Verdict { kind, ok: true, reason: None, message: None };
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict { kind, ok: false, reason: Some("ContainersNotReady"), message: Some(message) }
}

fn ready(facts: &Facts<'_>, containers: &Verdict) -> Verdict {
    let kind = "Ready";
    if !containers.ok {
        return Verdict { kind, ok: false, reason: containers.reason, message: containers.message.clone() };
    }
    let gates = facts.pod.spec.iter().flat_map(|spec| spec.readiness_gates.iter().flatten());
    let mut problems = Vec::new();
    for gate in gates {
        let conditions = facts.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        match conditions.into_iter().find(|condition| condition.type_ == gate.condition_type) {
            None => problems.push(format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                gate.condition_type
            )),
            Some(condition) if condition.status != "True" => problems.push(format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {}",
                gate.condition_type, condition.status
            )),
            Some(_) => {}
        }
    }
    if problems.is_empty() {
        return Verdict { kind, ok: true, reason: None, message: None };
    }
    Verdict { kind, ok: false, reason: Some("ReadinessGatesNotReady"), message: Some(problems.join(", ")) }
}
