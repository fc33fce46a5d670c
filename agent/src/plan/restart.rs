//! Which ended containers are started again: by a container's own rules and policy, else by the policy of its pod; and
//! which round of its pod an attempt is of.
//!
//! A pod's life is a row of rounds. Every attempt carries the number of its round as a label, so that nothing but what
//! is observed tells which round it is: when a container of the latest one asks for it, all that live are ended, and
//! what is launched then is of the next. What ended in an earlier round counts for nothing, init containers included.

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, PodSpec};

use crate::model::{
    ObservedContainer, ObservedPod,
    spec::{RestartPolicy, all_containers, container_policy, is_sidecar, restart_policy},
};

/// Label: the round of the pod that an attempt is of.
pub(super) const ROUND_LABEL: &str = "gantry.dev/round";

/// Condition: the containers are being ended to begin anew.
pub(super) const ALL_RESTARTING: &str = "AllContainersRestarting";

/// Why a container waits that ended in an earlier round.
pub(super) const RESTARTING: &str = "RestartingAllContainers";

/// The action that begins the whole pod anew.
const RESTART_ALL: &str = "RestartAllContainers";

/// Where a pod stands in the row of its rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// What is launched now is of this one, from 0.
    pub number: u32,
    /// A container asked for this one, and nothing of it is there yet.
    pub due: bool,
    /// What lives is of the round before and must end first.
    pub ending: bool,
}

/// The latest round of what is there.
pub(super) fn latest(seen: &ObservedPod) -> Round {
    let number = seen.containers.values().filter_map(|attempts| attempts.last()).map(of).max();
    Round { number: number.unwrap_or(0), ..Round::default() }
}

/// The round of an attempt.
pub(super) fn of(attempt: &ObservedContainer) -> u32 {
    attempt.labels.get(ROUND_LABEL).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The first rule that its exit code meets.
fn rule(container: &Container, code: i32) -> Option<&ContainerRestartRule> {
    container.restart_policy_rules.iter().flatten().find(|rule| {
        rule.exit_codes.as_ref().is_some_and(|codes| {
            let named = codes.values.iter().flatten().any(|value| *value == code);
            match codes.operator.as_str() {
                "In" => named,
                "NotIn" => !named,
                _ => false,
            }
        })
    })
}

/// Whether its end with this code begins the whole pod anew.
pub(super) fn restarts_all(container: &Container, code: i32) -> bool {
    rule(container, code).is_some_and(|rule| rule.action == RESTART_ALL)
}

/// Some container may ask for that.
pub(super) fn could_restart_all(spec: &PodSpec) -> bool {
    let mut rules =
        all_containers(spec).flat_map(|(container, _)| container.restart_policy_rules.iter().flatten());
    rules.any(|rule| rule.action == RESTART_ALL)
}

/// Whether a container that ended with this code is started again. An init container that succeeded is done, whatever
/// this says.
pub(super) fn restarts(spec: &PodSpec, container: &Container, init: bool, code: i32) -> bool {
    if init && is_sidecar(container) {
        return true;
    }
    let ruled =
        rule(container, code).is_some_and(|rule| matches!(rule.action.as_str(), "Restart" | RESTART_ALL));
    match own(container) {
        Some(_) if ruled => true,
        Some(policy) => allows(policy, code),
        None => allows(container_policy(spec, container, init), code),
    }
}

fn own(container: &Container) -> Option<RestartPolicy> {
    match container.restart_policy.as_deref()? {
        "Always" => Some(RestartPolicy::Always),
        "OnFailure" => Some(RestartPolicy::OnFailure),
        "Never" => Some(RestartPolicy::Never),
        _ => None,
    }
}

fn allows(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => code != 0,
        RestartPolicy::Never => false,
    }
}

/// Whether a container that is ended for a failure is meant to come back: while it runs there is no exit code for a
/// rule to look at.
pub(super) fn comes_back(spec: &PodSpec, container: &Container) -> bool {
    own(container).unwrap_or_else(|| restart_policy(spec)) != RestartPolicy::Never
}
