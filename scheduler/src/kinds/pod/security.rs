//! Validation of security contexts.

use serde_json::Value;

use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

const MAX_ID: i64 = i32::MAX as i64;
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

/// The pod's security context and host namespaces.
pub(super) fn pod(spec: &Value, path: &Path, problems: &mut Problems) {
    let (context, path) = (&spec["securityContext"], path.field("securityContext"));
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        id(&context[field], &path.field(field), problems);
    }
    for (index, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        id(group, &path.field("supplementalGroups").index(index), problems);
    }
    if let Some(policy) = context["fsGroupChangePolicy"].as_str() {
        problems.one_of(&path.field("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    for (index, sysctl) in items(&context["sysctls"]).iter().enumerate() {
        let (name, path) = (text(sysctl, "name"), path.field("sysctls").index(index).field("name"));
        if name.is_empty() {
            problems.required(&path, "");
        } else if !is_sysctl(name) {
            problems.invalid(&path, name, SYSCTL);
        }
    }
    seccomp(&context["seccompProfile"], &path.field("seccompProfile"), problems);
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        problems.invalid(&path.field("shareProcessNamespace"), true, why);
    }
}

/// A container's security context.
pub(super) fn container(context: &Value, path: &Path, problems: &mut Problems) {
    for field in ["runAsUser", "runAsGroup"] {
        id(&context[field], &path.field(field), problems);
    }
    seccomp(&context["seccompProfile"], &path.field("seccompProfile"), problems);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            problems.invalid(path, context.clone(), why);
        }
        let added = items(&context["capabilities"]["add"]);
        if added.iter().filter_map(Value::as_str).any(|c| matches!(c, "CAP_SYS_ADMIN" | "SYS_ADMIN")) {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            problems.invalid(path, context.clone(), why);
        }
    }
}

/// Parts of lower case letters, digits, `-` and `_`, which neither begin nor end with the latter two.
fn is_sysctl(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.len() <= 253
        && name.split(['.', '/']).all(|part| {
            let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
            part.chars().all(inner) && edge(part.chars().next()) && edge(part.chars().last())
        })
}

fn id(value: &Value, path: &Path, problems: &mut Problems) {
    if let Some(number) = value.as_i64() {
        problems.in_range(path, number, 0, MAX_ID);
    }
}

fn seccomp(profile: &Value, path: &Path, problems: &mut Problems) {
    if !profile.is_object() {
        return;
    }
    let kinds = ["Localhost", "RuntimeDefault", "Unconfined"];
    problems.one_of(&path.field("type"), text(profile, "type"), &kinds);
    let (file, field) = (text(profile, "localhostProfile"), path.field("localhostProfile"));
    match (text(profile, "type"), file) {
        ("Localhost", "") => problems.required(&field, "must be set when seccomp type is Localhost"),
        ("Localhost", file) => super::containers::relative(file, &field, problems),
        (_, "") => {}
        (_, file) => problems.invalid(&field, file, "can only be set when seccomp type is Localhost"),
    }
}
