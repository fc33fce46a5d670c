//! Which container is meant, and whether its state allows what is asked. Pure; in upstream's words.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use super::name_of;
use crate::model::{ApiError, Reason};

/// The container that `asked` names, or the only one.
pub(super) fn choose(pod: &Pod, asked: Option<&str>) -> Result<String, ApiError> {
    let bad = |message: String| Err(ApiError::new(Reason::BadRequest, message));
    let spec = pod.spec.clone().unwrap_or_default();
    let containers: Vec<_> = spec.containers.into_iter().map(|c| c.name).collect();
    let init: Vec<_> = spec.init_containers.into_iter().flatten().map(|c| c.name).collect();
    let ephemeral: Vec<_> = spec.ephemeral_containers.into_iter().flatten().map(|c| c.name).collect();
    let name = name_of(pod);
    match (asked.filter(|a| !a.is_empty()), containers.as_slice()) {
        (Some(asked), _) if [&containers, &init, &ephemeral].into_iter().flatten().any(|c| c == asked) => {
            Ok(asked.to_owned())
        }
        (Some(asked), _) => bad(format!("container {asked} is not valid for pod {name}")),
        (None, [only]) => Ok(only.clone()),
        (None, []) => bad(format!("a container name must be specified for pod {name}")),
        (None, many) => {
            let mut message = format!(
                "a container name must be specified for pod {name}, choose one of: [{}]",
                many.join(" ")
            );
            if !init.is_empty() {
                message += &format!(" or one of the init containers: [{}]", init.join(" "));
            }
            if !ephemeral.is_empty() {
                message += &format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" "));
            }
            bad(message)
        }
    }
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let lists =
        [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    lists.into_iter().flatten().flatten().find(|s| s.name == container)
}

/// Whether the container has a log to show, by the rules of the kubelet.
pub(super) fn has_log(pod: &Pod, container: &str, previous: bool) -> Result<(), ApiError> {
    let name = name_of(pod);
    let bad = |message: String| Err(ApiError::new(Reason::BadRequest, message));
    let Some(status) = status(pod, container) else {
        return bad(format!("container {container:?} in pod {name:?} is not available"));
    };
    let ended = |s: &Option<ContainerState>| s.as_ref().is_some_and(|s| s.terminated.is_some());
    let state = status.state.clone().unwrap_or_default();
    if previous {
        return if ended(&status.last_state) {
            Ok(())
        } else {
            bad(format!("previous terminated container {container:?} in pod {name:?} not found"))
        };
    }
    if state.running.is_some() || state.terminated.is_some() || ended(&status.last_state) {
        return Ok(());
    }
    let waiting = format!("container {container:?} in pod {name:?} is waiting to start");
    match state.waiting.and_then(|w| w.reason).as_deref() {
        Some("ErrImagePull") => bad(format!("{waiting}: image can't be pulled")),
        Some("ImagePullBackOff") => bad(format!("{waiting}: trying and failing to pull image")),
        Some(reason) => bad(format!("{waiting}: {reason}")),
        None => bad(format!("{waiting} - no logs yet")),
    }
}

/// Whether a process can be run in the container, or its own be attached to.
pub(super) fn runs(pod: &Pod, container: &str) -> Result<(), ApiError> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if let Some(phase @ ("Succeeded" | "Failed")) = phase {
        let message = format!("cannot exec into a container in a completed pod; current phase is {phase}");
        return Err(ApiError::new(Reason::BadRequest, message));
    }
    let running = status(pod, container).and_then(|s| s.state.as_ref()).is_some_and(|s| s.running.is_some());
    if running {
        return Ok(());
    }
    Err(ApiError::new(Reason::InternalError, format!("container not found ({container:?})")))
}
