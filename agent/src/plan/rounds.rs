//! When the end of a container begins its whole pod anew (`RestartAllContainers`), and what happens to the others then.

use k8s_openapi::api::core::v1::{Container, PodStatus};

use super::{
    containers,
    draft::{Draft, Subjects},
    phase::terminal,
    restart::{ALL_RESTARTING, RESTARTING, Round, of, restarts_all},
    standing::{Standing, previous, standing},
    termination::{self, Stop},
};
use crate::model::{
    ContainerName, ContainerState, ObservedContainer,
    spec::{all_containers, deleted},
};

/// The round that is planned for; `subjects` have the latest.
pub(super) fn round(subjects: &Subjects<'_>) -> Round {
    let (seen, known) = (subjects.seen, previous(subjects.pod, subjects.seen));
    let Round { number, .. } = subjects.round;
    let asked = all_containers(subjects.spec).any(|(container, _)| {
        let latest = seen.latest(&ContainerName::new(container.name.as_str()));
        latest.is_some_and(|latest| of(latest) == number && asks(container, latest))
    });
    let alive = !deleted(&subjects.pod.pod) && terminal(known).is_none();
    // Those that were ended for it do not make the pod one that is over.
    let due = asked && alive && (told(known) || !containers::over(subjects));
    match (due, seen.any_running()) {
        (true, true) => Round { number, due, ending: true },
        (true, false) => Round { number: number + 1, due, ending: false },
        (false, _) => subjects.round,
    }
}

fn told(status: Option<&PodStatus>) -> bool {
    let mut conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| condition.type_ == ALL_RESTARTING && condition.status == "True")
}

fn asks(container: &Container, latest: &ObservedContainer) -> bool {
    matches!(latest.state, ContainerState::Exited { code, .. } if restarts_all(container, code))
}

/// Ends what lives, without grace, as upstream.
pub(super) fn end_all(subjects: &Subjects<'_>, draft: &mut Draft) {
    for (container, _) in all_containers(subjects.spec) {
        let latest = subjects.seen.latest(&ContainerName::new(container.name.as_str()));
        if let Some(latest) = latest.filter(|latest| latest.state.may_live()) {
            let message =
                format!("Container {} will be restarted with all others of its pod", container.name);
            termination::stop(subjects, draft, container, latest, &Stop { message, grace_ms: 0 });
        }
    }
}

/// What ended and will be started in the new round waits for it.
pub(super) fn wait(subjects: &Subjects<'_>, draft: &mut Draft) {
    for (container, _) in all_containers(subjects.spec) {
        let name = ContainerName::new(container.name.as_str());
        let Standing::Ended { end, .. } = standing(subjects, &name) else { continue };
        // The one that asked shows how it ended while the others are being ended.
        if end.superseded || (subjects.round.ending && !restarts_all(container, end.code)) {
            draft.wait(&name, RESTARTING, "All containers of the pod are started anew");
        }
    }
}
