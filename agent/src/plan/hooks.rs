//! Calls of lifecycle hooks with what they need.

use k8s_openapi::api::core::v1::Container;

use super::{draft::Subjects, probes, step::HookCall};
use crate::model::Target;

pub(super) fn hook_call(
    subjects: &Subjects<'_>,
    container: &Container,
    target: Target,
    handler: k8s_openapi::api::core::v1::LifecycleHandler,
    limit_ms: Option<i64>,
) -> HookCall {
    HookCall {
        target,
        handler,
        host: probes::pod_host(subjects.context, subjects.pod, subjects.seen).unwrap_or_default(),
        ports: probes::named_ports(container),
        limit_ms,
    }
}
