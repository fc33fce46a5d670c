//! What to do next for every pod: a pure function of Observed and Desired. No IO, no clock, no randomness: the
//! time is a field of the observation. A plan is only ever the next round of steps; what they did is learned by
//! observing again, so a plan of a pod that is as it should be is empty, and an agent killed between two steps
//! goes on where it stopped.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{HostIP, PodIP, PodSpec, PodStatus};

use crate::{
    model::{
        ContainerState, DesiredPod, Limits, ObservedPod, Subject, spec as pod,
        spec::{grace_ms, host_network},
    },
    net::PodNetwork,
};

mod admission;
mod affinity;
pub mod backoff;
mod containers;
mod context;
mod draft;
mod env;
mod expand;
mod fields;
mod files;
mod hooks;
mod images;
mod launch;
mod links;
mod notices;
mod phase;
pub mod probes;
pub mod quantity;
mod resources;
mod restart;
mod rounds;
mod security;
mod signals;
mod standing;
mod status;
mod step;
pub mod sysctls;
mod termination;
#[cfg(test)]
mod tests;
mod unsupported;
mod volumes;

pub use admission::is_new;
pub use context::{Context, Standings};
pub use resources::{Amounts, OOM_GUARANTEED, qos};
pub use standing::{IMAGE_LABEL, LEVEL_LABEL, container_id};
pub use step::{HookCall, ImageRequest, Launch, Notice, PodPlan, PullPolicy, Step};

use draft::target;
use draft::{Draft, Subjects, Waiting};
use phase::{Facts, Phase};

/// Plans one pod that is wanted, or wanted gone.
pub fn pod(context: &Context<'_>, pod: &DesiredPod, seen: &ObservedPod) -> PodPlan {
    let empty = PodSpec::default();
    let spec = pod.pod.spec.as_ref().unwrap_or(&empty);
    let mut draft = Draft::default();
    let previous = standing::previous(pod, seen);
    let ended = phase::terminal(previous);
    let refused = admission::refuse(context, pod, seen);
    let expired = expired(pod, seen, previous, &mut draft);
    let mut subjects = Subjects { context, pod, spec, seen, prepared: false, round: restart::latest(seen) };
    subjects.round = rounds::round(&subjects);
    let (mut finished, mut failing) = (false, BTreeMap::new());
    if pod::deleted(&pod.pod) {
        let over = termination::stop_all(&subjects, &mut draft, grace_ms(&pod.pod));
        finished = over && termination::clear(seen, &mut draft);
    } else if ended.is_some() || refused.is_some() || expired {
        if termination::stop_all(&subjects, &mut draft, grace_ms(&pod.pod)) {
            release(seen, &mut draft);
        }
    } else {
        failing = prepare(&mut subjects, &mut draft);
        rounds::wait(&subjects, &mut draft);
        if subjects.round.ending {
            rounds::end_all(&subjects, &mut draft);
        } else if containers::over(&subjects) {
            // Only sidecars are left, and they end with those they served.
            termination::stop_all(&subjects, &mut draft, grace_ms(&pod.pod));
        } else {
            containers::plan(&subjects, &mut draft);
        }
        containers::stale(seen, &mut draft);
    }
    let outcome = Outcome { ended, expired, refused, failing };
    let status = pod_status(&subjects, &draft, previous, &outcome);
    if ended.is_none() && phase::terminal(Some(&status)).is_some() {
        // What it holds is given back once its end is on record: that is now, and nothing else may happen to it for long.
        draft.wake_at(seen.now_ms);
    }
    hold(seen, &mut draft);
    PodPlan {
        probes: probes::targets(&subjects, pod::deleted(&pod.pod)),
        notices: notices::notices(pod, previous, &status, &draft, &outcome, context.remind),
        steps: draft.steps,
        wake_ms: draft.wake_ms,
        status,
        finished,
    }
}

/// Plans what is left of a pod that is not desired at all: it ends, and everything of it is removed.
pub fn abandoned(seen: &ObservedPod) -> (Vec<Step>, Option<i64>, bool) {
    let mut draft = Draft::default();
    let finished = termination::abandon(seen, &mut draft);
    hold(seen, &mut draft);
    (draft.steps, draft.wake_ms, finished)
}

/// What has been decided about the pod as a whole.
struct Outcome {
    ended: Option<Phase>,
    expired: bool,
    /// The node does not take the pod.
    refused: Option<admission::Refusal>,
    /// Volumes that cannot be made, with the reason.
    failing: BTreeMap<String, String>,
}

/// `activeDeadlineSeconds` is over.
fn expired(pod: &DesiredPod, seen: &ObservedPod, previous: Option<&PodStatus>, draft: &mut Draft) -> bool {
    let limit = pod.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
    let started = previous.and_then(|status| status.start_time.as_ref());
    let (Some(limit), Some(started)) = (limit, started) else { return false };
    let due = started.0.as_millisecond() + limit.saturating_mul(1000);
    if seen.now_ms < due {
        draft.wake_at(due);
    }
    seen.now_ms >= due
}

/// Network, cgroup and volumes; the volumes that cannot be made, with the reason.
fn prepare(subjects: &mut Subjects<'_>, draft: &mut Draft) -> BTreeMap<String, String> {
    let seen = subjects.seen;
    let mut prepared = true;
    let mut failing = BTreeMap::new();
    if !seen.cgroup || !seen.limited {
        prepared = false;
        let amounts = resources::pod_amounts(subjects.spec);
        let node = subjects.context.node;
        let limits = if node.enforced { amounts.limits(node.pids_max) } else { Limits::default() };
        let step = Step::EnsureCgroup { qos: qos(&subjects.pod.pod), limits };
        retry(seen, draft, &Subject::Cgroup, step);
    }
    prepared &= network(subjects, draft);
    for (name, resolved) in volumes::resolve(subjects.context, subjects.pod, seen) {
        match resolved {
            Ok(volume) if seen.volumes.get(&name) == Some(&volume.digest) => {}
            Ok(volume) => {
                // A volume that is there already is brought up to date while its containers run.
                prepared &= seen.volumes.contains_key(&name);
                retry(seen, draft, &Subject::Volume(name), Step::EnsureVolume(volume));
            }
            // What it held before stays when its source goes away, as upstream.
            Err(_) if seen.volumes.contains_key(&name) => {}
            Err(message) => {
                prepared = false;
                failing.insert(name, message);
            }
        }
    }
    subjects.prepared = prepared;
    failing
}

/// Whether containers may be made: the pod has its wire, and the datapath is at it or comes with this round.
fn network(subjects: &Subjects<'_>, draft: &mut Draft) -> bool {
    let seen = subjects.seen;
    let host_network = host_network(&subjects.pod.pod);
    match &seen.network {
        Some(network) if host_network || network.addresses.is_some() => {
            seen.attached || retry(seen, draft, &Subject::Network, Step::Attach(network.clone()))
        }
        // Without the cluster's ranges there is no address to give, and its domain is in names and files of any pod.
        _ if subjects.context.node.cluster.is_none() => false,
        _ => {
            match pod::kernel_name(subjects.pod, subjects.context.domain()) {
                Ok(hostname) => {
                    let (uid, name) = (subjects.pod.uid.clone(), subjects.pod.name.clone());
                    let step = Step::EnsureNetwork(PodNetwork { uid, name, hostname, host_network });
                    retry(seen, draft, &Subject::Network, step);
                }
                Err(why) => draft.unnamed = Some(why),
            }
            false
        }
    }
}

/// Adds the step unless its last failure is too recent; whether it did.
fn retry(seen: &ObservedPod, draft: &mut Draft, subject: &Subject, step: Step) -> bool {
    let due = seen.failures.get(subject).map(|failure| failure.at_ms + backoff::step_delay_ms(failure.count));
    match due {
        Some(due) if seen.now_ms < due => {
            draft.wake_at(due);
            false
        }
        _ => {
            draft.steps.push(step);
            true
        }
    }
}

/// Drops the steps that end or remove what another such step failed at a moment ago.
fn hold(seen: &ObservedPod, draft: &mut Draft) {
    let mut held = Vec::new();
    draft.steps.retain(|step| {
        let failure = step.ending().and_then(|subject| seen.failures.get(&subject));
        let due = failure.map(|failure| failure.at_ms + backoff::step_delay_ms(failure.count));
        let due = due.filter(|due| seen.now_ms < *due);
        held.extend(due);
        due.is_none()
    });
    for due in held {
        draft.wake_at(due);
    }
}

/// A pod that is over keeps the records of its containers (for their logs) and their termination messages, and gives back
/// the rest: shims, loggers, network, cgroup, volumes.
fn release(seen: &ObservedPod, draft: &mut Draft) {
    for observed in seen.containers.values().flatten() {
        let target = target(observed);
        match observed.state {
            ContainerState::Created => draft.steps.push(Step::Remove { target, log: false }),
            _ if observed.task => draft.steps.push(Step::Release(target)),
            _ => {}
        }
    }
    if seen.network.is_some() {
        draft.steps.push(Step::RemoveNetwork);
    }
    if seen.cgroup {
        draft.steps.push(Step::RemoveCgroup);
    }
    if seen.mounted {
        draft.steps.push(Step::RemoveVolumes);
    }
}

/// What containers wait for that have nothing better to say.
fn creating(spec: &PodSpec) -> &'static str {
    let has_init = spec.init_containers.as_ref().is_some_and(|list| !list.is_empty());
    if has_init { "PodInitializing" } else { "ContainerCreating" }
}

fn pod_status(
    subjects: &Subjects<'_>,
    draft: &Draft,
    previous: Option<&PodStatus>,
    outcome: &Outcome,
) -> PodStatus {
    let spec = subjects.spec;
    let default = Waiting { reason: creating(spec), message: creating_message(subjects, draft, outcome) };
    let statuses = |list: &[k8s_openapi::api::core::v1::Container], init: bool| {
        let each =
            list.iter().map(|container| status::container_status(subjects, draft, container, init, &default));
        each.collect::<Vec<_>>()
    };
    // Of a pod that was not taken there is no container to tell about.
    let untaken = outcome.refused.is_some()
        || outcome.ended.is_some() && previous.is_some_and(|status| status.container_statuses.is_none());
    let (init, main) = match untaken {
        true => Default::default(),
        false => (
            statuses(spec.init_containers.as_deref().unwrap_or_default(), true),
            statuses(&spec.containers, false),
        ),
    };
    let phase = decided_phase(subjects, outcome, &init, &main);
    let facts = Facts {
        pod: &subjects.pod.pod,
        previous,
        phase,
        prepared: subjects.seen.network.is_some(),
        init: &init,
        main: &main,
        restarting: subjects.round.due,
        now_ms: subjects.seen.now_ms,
    };
    let conditions = phase::conditions(&facts);
    let start_time = previous.and_then(|status| status.start_time.clone());
    let addresses = addresses(subjects, previous, phase);
    let host = subjects.context.node.addresses.first().map(ToString::to_string);
    let kept = |field: fn(&PodStatus) -> &Option<String>| previous.and_then(|status| field(status).clone());
    let (reason, message) = if outcome.expired && outcome.ended.is_none() {
        (
            Some(notices::DEADLINE.to_owned()),
            Some("Pod was active on the node longer than the specified deadline".to_owned()),
        )
    } else if let Some(refused) = &outcome.refused {
        (Some(refused.reason.to_owned()), Some(format!("{}{}", admission::REFUSED, refused.message)))
    } else if outcome.ended.is_some() {
        (kept(|status| &status.reason), kept(|status| &status.message))
    } else {
        (None, None)
    };
    PodStatus {
        phase: Some(phase.as_str().to_owned()),
        reason,
        message,
        conditions: Some(conditions),
        host_ips: host.clone().map(|ip| vec![HostIP { ip }]),
        host_ip: host,
        pod_ip: addresses.first().cloned(),
        pod_ips: (!addresses.is_empty()).then(|| addresses.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: start_time.or_else(|| status::time(subjects.seen.now_ms)),
        qos_class: Some(resources::qos_name(qos(&subjects.pod.pod)).to_owned()),
        observed_generation: subjects.pod.pod.metadata.generation,
        init_container_statuses: (!init.is_empty()).then_some(init),
        container_statuses: (!untaken).then_some(main),
        ..PodStatus::default()
    }
}

/// Terminal phases are for ever; a pod being deleted does not begin to look finished before it is.
fn decided_phase(
    subjects: &Subjects<'_>,
    outcome: &Outcome,
    init: &[k8s_openapi::api::core::v1::ContainerStatus],
    main: &[k8s_openapi::api::core::v1::ContainerStatus],
) -> Phase {
    if let Some(ended) = outcome.ended {
        return ended;
    }
    let running = subjects.seen.any_running();
    if outcome.expired || outcome.refused.is_some() {
        return Phase::Failed;
    }
    let phase = phase::phase(subjects.spec, init, main);
    // An init failure under Never ends the pod only when its sidecars have ended; and a container that was ended to be
    // replaced ends no pod.
    if phase.is_terminal() && (running || !containers::over(subjects)) { Phase::Running } else { phase }
}

fn creating_message(subjects: &Subjects<'_>, draft: &Draft, outcome: &Outcome) -> String {
    if let Some(why) = &draft.unnamed {
        return why.clone();
    }
    if !outcome.failing.is_empty() {
        let each = outcome.failing.iter().map(|(name, message)| notices::failed_mount(name, message));
        return each.collect::<Vec<_>>().join("; ");
    }
    let of_pod = |subject: &Subject| !matches!(subject, Subject::Container(_) | Subject::Stop(_));
    let failure = subjects.seen.failures.iter().find(|(subject, _)| of_pod(subject));
    failure.map(|(_, failure)| failure.message.clone()).unwrap_or_default()
}

fn addresses(subjects: &Subjects<'_>, previous: Option<&PodStatus>, phase: Phase) -> Vec<String> {
    let own = subjects.seen.network.as_ref().and_then(|network| network.addresses.as_ref());
    if let Some(own) = own {
        return vec![own.v4.to_string()];
    }
    if host_network(&subjects.pod.pod) {
        return subjects.context.node.addresses.iter().map(ToString::to_string).take(1).collect();
    }
    // The address of a pod that is over or going is still the one it had.
    let over = phase.is_terminal() || pod::deleted(&subjects.pod.pod);
    let known = previous.filter(|_| over).and_then(|status| status.pod_ip.clone());
    known.into_iter().collect()
}
