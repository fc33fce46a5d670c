//! A pod's phase and conditions from the statuses of its containers, as upstream computes them.

use k8s_openapi::{
    api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::restart::{ALL_RESTARTING, RESTARTING, could_restart_all, restarts};
use super::status::time;
use crate::model::spec::is_sidecar;

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
    /// Of those that stopped.
    succeeded: usize,
    /// Of those that stopped: they are not started again.
    for_good: usize,
}

impl Counts {
    /// Of regular containers.
    fn of(spec: &PodSpec, statuses: &[ContainerStatus]) -> Self {
        let mut counts = Self::default();
        for (container, status) in spec.containers.iter().zip(statuses) {
            let (now, last) = (code(&status.state), code(&status.last_state));
            if is_running(status) {
                counts.running += 1;
            } else if let Some(code) = now.or(last) {
                counts.stopped += 1;
                counts.succeeded += usize::from(now == Some(0));
                let again = restarts(spec, container, false, code) || waits_for_all(status);
                counts.for_good += usize::from(!again);
            } else {
                counts.waiting += 1;
            }
        }
        counts
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// The exit code of a state that is an end.
fn code(state: &Option<ContainerState>) -> Option<i32> {
    state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
}

/// It ended, or was ended, and is started again with all others of its pod.
fn waits_for_all(status: &ContainerStatus) -> bool {
    let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(RESTARTING))
}

/// The phase. `init` and `main` are the statuses in the order of the specification.
pub(super) fn phase(spec: &PodSpec, init: &[ContainerStatus], main: &[ContainerStatus]) -> Phase {
    let main_ran = main.iter().any(|status| status.container_id.is_some());
    let mut pending_init = false;
    let plain = spec.init_containers.iter().flatten().zip(init);
    for (container, status) in plain.clone().filter(|(container, _)| !is_sidecar(container)) {
        match code(&status.state) {
            Some(0) => {}
            Some(code) if !restarts(spec, container, true, code) => return Phase::Failed,
            _ => pending_init = true,
        }
    }
    let sidecars = plain.filter(|(container, _)| is_sidecar(container));
    let sidecar_waits = sidecars.clone().any(|(_, status)| status.started != Some(true));
    if !main_ran && (pending_init || sidecar_waits) {
        return Phase::Pending;
    }
    let counts = Counts::of(spec, main);
    if counts.waiting > 0 {
        Phase::Pending
    } else if counts.running > 0 {
        Phase::Running
    } else if counts.stopped == 0 {
        Phase::Pending
    } else if counts.stopped > counts.for_good || sidecars.clone().any(|(_, status)| is_running(status)) {
        // Sidecars end after the containers they serve: until then the pod is not over.
        Phase::Running
    } else if counts.succeeded == counts.stopped {
        Phase::Succeeded
    } else {
        Phase::Failed
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
    /// All containers are being started anew.
    pub restarting: bool,
    /// Now.
    pub now_ms: i64,
}

struct Verdict {
    kind: &'static str,
    ok: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

/// All conditions: the agent's own five, one more where containers may restart all others, then those of others as they are.
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
    let could = facts.pod.spec.as_ref().is_some_and(could_restart_all);
    let verdicts = verdicts.into_iter().chain(could.then(|| all_restarting(facts)));
    let own: Vec<_> = verdicts.map(|verdict| condition(facts, verdict)).collect();
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

fn all_restarting(facts: &Facts<'_>) -> Verdict {
    let kind = ALL_RESTARTING;
    let reason = match facts.phase {
        Phase::Succeeded => Some("PodCompleted"),
        Phase::Failed => Some("PodFailed"),
        Phase::Pending | Phase::Running if facts.restarting => {
            let message = Some("container exited with restart policy rule".to_owned());
            return Verdict { kind, ok: true, reason: Some("RestartAllContainersStarted"), message };
        }
        Phase::Pending | Phase::Running => None,
    };
    Verdict { kind, ok: false, reason, message: None }
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
