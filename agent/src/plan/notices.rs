//! Events that follow from a change of status: back-off, configuration errors, volumes that cannot be made, the end of
//! the pod's time. What a step did is told by `apply`, which knows it.

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};

use super::{Outcome, step::Notice};
use crate::{
    model::{DesiredPod, spec::formatted},
    plan::draft::Draft,
};

/// `activeDeadlineSeconds` is over.
pub(super) const DEADLINE: &str = "DeadlineExceeded";

/// Events for what is new in `now`; with `remind` also for what still keeps containers waiting.
pub(super) fn notices(
    pod: &DesiredPod,
    before: Option<&PodStatus>,
    now: &PodStatus,
    draft: &Draft,
    outcome: &Outcome,
    remind: bool,
) -> Vec<Notice> {
    let mut notices = Vec::new();
    if now.reason.as_deref() == Some(DEADLINE)
        && before.and_then(|status| status.reason.as_deref()) != Some(DEADLINE)
    {
        let message = now.message.clone().unwrap_or_default();
        notices.push(Notice { field_path: None, warning: false, reason: DEADLINE, message });
    }
    if let Some(refused) = &outcome.refused {
        let (reason, message) = (refused.reason, refused.message.clone());
        notices.push(Notice { field_path: None, warning: true, reason, message });
    }
    let before = before.filter(|_| !remind);
    if let Some(why) = &draft.unnamed
        && !before.is_some_and(|before| tells(before, why))
    {
        let (reason, message) = ("FailedCreatePodSandBox", why.clone());
        notices.push(Notice { field_path: None, warning: true, reason, message });
    }
    for (prefix, status) in containers(now) {
        let Some((reason, message)) = waiting(status) else { continue };
        let known = before.and_then(|before| {
            containers(before).find(|(_, known)| known.name == status.name).and_then(|(_, s)| waiting(s))
        });
        if known == Some((reason, message)) || known.is_some_and(|(known, _)| same_wait(known, reason)) {
            continue;
        }
        let field_path = Some(format!("{prefix}{{{}}}", status.name));
        notices.extend(notice(pod, status, reason, message).into_iter().map(|(reason, warning, message)| {
            Notice { field_path: field_path.clone(), warning, reason, message }
        }));
    }
    for (volume, message) in &outcome.failing {
        let message = failed_mount(volume, message);
        if before.is_some_and(|before| tells(before, &message)) {
            continue;
        }
        notices.push(Notice { field_path: None, warning: true, reason: "FailedMount", message });
    }
    notices
}

/// Some container of the status waits with these words.
fn tells(status: &PodStatus, words: &str) -> bool {
    containers(status).any(|(_, known)| waiting(known).is_some_and(|(_, known)| known.contains(words)))
}

/// Upstream's words for a volume that cannot be made.
pub(super) fn failed_mount(volume: &str, message: &str) -> String {
    format!("MountVolume.SetUp failed for volume {volume:?} : {message}")
}

/// The message of a back-off grows with the delay; that alone is no news. Other reasons are news when their
/// message is.
fn same_wait(known: &str, reason: &str) -> bool {
    known == reason && matches!(reason, "ImagePullBackOff")
}

fn containers(status: &PodStatus) -> impl Iterator<Item = (&'static str, &ContainerStatus)> {
    let main = status.container_statuses.iter().flatten().map(|status| ("spec.containers", status));
    main.chain(status.init_container_statuses.iter().flatten().map(|status| ("spec.initContainers", status)))
}

fn waiting(status: &ContainerStatus) -> Option<(&str, &str)> {
    let waiting = status.state.as_ref()?.waiting.as_ref()?;
    Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
}

/// Reason, whether it is a warning, message.
type Parts = (&'static str, bool, String);

fn notice(pod: &DesiredPod, status: &ContainerStatus, reason: &str, message: &str) -> Vec<Parts> {
    match reason {
        "CrashLoopBackOff" => vec![(
            "BackOff",
            true,
            format!("Back-off restarting failed container {} in pod {}", status.name, formatted(pod)),
        )],
        "ImagePullBackOff" => vec![
            ("BackOff", false, format!("Back-off pulling image {:?}", status.image)),
            ("Failed", true, "Error: ImagePullBackOff".to_owned()),
        ],
        "ErrImagePull" => vec![
            ("Failed", true, format!("Failed to pull image {:?}: {message}", status.image)),
            ("Failed", true, "Error: ErrImagePull".to_owned()),
        ],
        "ErrImageNeverPull" => vec![
            ("ErrImageNeverPull", true, message.to_owned()),
            ("Failed", true, "Error: ErrImageNeverPull".to_owned()),
        ],
        "InvalidImageName" => vec![
            ("InspectFailed", true, message.to_owned()),
            ("Failed", true, "Error: InvalidImageName".to_owned()),
        ],
        "CreateContainerConfigError" => vec![("Failed", true, format!("Error: {message}"))],
        _ => Vec::new(),
    }
}
