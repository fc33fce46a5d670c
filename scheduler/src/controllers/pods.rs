//! What several controllers ask of a pod: is it active, ready, available, and since when.

use k8s_openapi::{
    api::core::v1::PodCondition,
    jiff::{SignedDuration, Timestamp},
};

use crate::cache::{MetaExt, Pod};

/// `status.phase`, `Pending` when it has none yet.
pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Counts towards its owner's replicas.
pub(super) fn is_active(pod: &Pod) -> bool {
    !pod.is_finished() && !pod.metadata.deleting()
}

/// One condition.
pub(super) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_deref()?.iter().find(|c| c.type_ == type_)
}

/// Since when it is ready; `None` when it is not.
pub(super) fn ready_since(pod: &Pod) -> Option<Option<Timestamp>> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    Some(ready.last_transition_time.as_ref().map(|t| t.0))
}

/// Whether it is ready.
pub(super) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// When a ready pod will have been ready for `min_ready` seconds; `None` when it is not ready.
pub(super) fn available_at(pod: &Pod, min_ready: i32) -> Option<Timestamp> {
    let since = ready_since(pod)?.unwrap_or(Timestamp::MIN);
    Some(since.saturating_add(SignedDuration::from_secs(min_ready.into())).unwrap_or(Timestamp::MAX))
}

/// Whether it has been ready for `min_ready` seconds.
pub(super) fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    is_ready(pod) && (min_ready == 0 || available_at(pod, min_ready).is_some_and(|at| at <= now))
}
