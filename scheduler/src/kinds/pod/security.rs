//! Validation of security contexts.

use std::collections::BTreeSet;

use serde_json::Value;

use super::windows;
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

const MAX_ID: i64 = i32::MAX as i64;
const SYSCTL: &str = "must have at most 253 characters and match regex \
    ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
/// The longest path that a profile may have: `PATH_MAX` without the end.
const MAX_PROFILE: usize = 4095;
/// Sysctls of the IPC namespace, with the stems of what was once written with an asterisk.
const IPC_SYSCTLS: [&str; 10] = [
    "kernel.msg",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shm",
    "kernel.shm_rmid_forced",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];
/// In upstream's order.
const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

/// The pod's security context and host namespaces.
pub(super) fn pod(spec: &Value, spec_path: &Path, problems: &mut Problems) {
    let (context, path) = (&spec["securityContext"], spec_path.field("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&context[field], &path.field(field), problems);
    }
    for (index, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        id(group, &path.field("supplementalGroups").index(index), problems);
    }
    sysctls(&context["sysctls"], spec, &path.field("sysctls"), problems);
    choice(context, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], &path, problems);
    seccomp(&context["seccompProfile"], &path.field("seccompProfile"), problems);
    windows::options(&context["windowsOptions"], &path.field("windowsOptions"), problems);
    app_armor(&context["appArmorProfile"], &path.field("appArmorProfile"), problems);
    choice(context, "supplementalGroupsPolicy", &["Merge", "Strict"], &path, problems);
    choice(context, "seLinuxChangePolicy", &["MountOption", "Recursive"], &path, problems);
    if spec["hostPID"] == true && spec["shareProcessNamespace"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        problems.invalid(&spec_path.field("shareProcessNamespace"), true, why);
    }
}

/// A container's security context; `host_users` when its users are those of the host.
pub(super) fn container(context: &Value, host_users: bool, path: &Path, problems: &mut Problems) {
    for field in ["runAsUser", "runAsGroup"] {
        id(&context[field], &path.field(field), problems);
    }
    choice(context, "procMount", &["Default", "Unmasked"], path, problems);
    if host_users && context["procMount"] == "Unmasked" {
        let why = "`hostUsers` must be false to use `Unmasked`";
        problems.invalid(&path.field("procMount"), "Unmasked", why);
    }
    seccomp(&context["seccompProfile"], &path.field("seccompProfile"), problems);
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            problems.invalid_of(path, "SecurityContext", context, why);
        }
        let added = items(&context["capabilities"]["add"]);
        if added.iter().filter_map(Value::as_str).any(|c| c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            problems.invalid_of(path, "SecurityContext", context, why);
        }
    }
    windows::options(&context["windowsOptions"], &path.field("windowsOptions"), problems);
    app_armor(&context["appArmorProfile"], &path.field("appArmorProfile"), problems);
}

/// A text that may be absent but not be anything else than one of `known`.
fn choice(context: &Value, field: &str, known: &[&str], path: &Path, problems: &mut Problems) {
    if let Some(chosen) = context[field].as_str().filter(|chosen| !known.contains(chosen)) {
        problems.unsupported(&path.field(field), chosen, known);
    }
}

fn sysctls(sysctls: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, sysctl) in items(sysctls).iter().enumerate() {
        let (name, path) = (text(sysctl, "name"), path.index(index).field("name"));
        if name.is_empty() {
            problems.required(&path, "");
        } else if !is_sysctl(name) {
            problems.invalid(&path, name, SYSCTL);
        } else if !seen.insert(name) {
            problems.duplicate(&path, name);
        }
        for (shared, namespace) in [("hostNetwork", Namespace::Net), ("hostIPC", Namespace::Ipc)] {
            if spec[shared] == true && namespace_of(name) == Some(namespace) {
                let why = format!("may not be specified when '{shared}' is true");
                problems.invalid(&path, name, why);
            }
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

/// A kernel namespace that sysctls belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Namespace {
    Ipc,
    Net,
}

/// The namespace that a sysctl is set in; none for one of the whole host.
fn namespace_of(name: &str) -> Option<Namespace> {
    // The kind of the first separator decides what separates; the other kind belongs to a name then.
    let name: String = match name.find(['.', '/']).map(|at| &name[at..=at]) {
        Some("/") => {
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    };
    let stem = name.split('*').next().unwrap_or_default();
    if IPC_SYSCTLS.contains(&stem) || stem.starts_with("fs.mqueue.") {
        Some(Namespace::Ipc)
    } else if stem.starts_with("net.") {
        Some(Namespace::Net)
    } else {
        None
    }
}

fn id(value: &Value, path: &Path, problems: &mut Problems) {
    if let Some(number) = value.as_i64() {
        problems.in_range(path, number, 0, MAX_ID);
    }
}

/// `type` of a profile; `owner` is the field that it stands in.
fn profile_type(profile: &Value, owner: &str, path: &Path, problems: &mut Problems) {
    match text(profile, "type") {
        "" => problems.required(path, &format!("type is required when {owner} is set")),
        ty if !PROFILE_TYPES.contains(&ty) => problems.unsupported(path, ty, &PROFILE_TYPES),
        _ => {}
    }
}

fn seccomp(profile: &Value, path: &Path, problems: &mut Problems) {
    if !profile.is_object() {
        return;
    }
    profile_type(profile, "seccompProfile", &path.field("type"), problems);
    let (file, path) = (profile["localhostProfile"].as_str(), path.field("localhostProfile"));
    match (text(profile, "type"), file) {
        ("Localhost", None) => problems.required(&path, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => super::paths::relative(file, &path, problems),
        (_, None) => {}
        (_, Some(_)) => {
            let why = "can only be set when seccomp type is Localhost";
            problems.invalid_of(&path, "SeccompProfile", profile, why);
        }
    }
}

fn app_armor(profile: &Value, path: &Path, problems: &mut Problems) {
    const LOCAL: &str = "must be set when AppArmor type is Localhost";
    if !profile.is_object() {
        return;
    }
    let (file, file_path) = (profile["localhostProfile"].as_str(), path.field("localhostProfile"));
    match (text(profile, "type"), file) {
        ("Localhost", None) => problems.required(&file_path, LOCAL),
        ("Localhost", Some(file)) => {
            if file.trim() != file {
                problems.invalid(&file_path, file, "must not be padded with whitespace");
            } else if file.is_empty() {
                problems.required(&file_path, LOCAL);
            }
            if file.len() > MAX_PROFILE {
                problems.too_long(&file_path, MAX_PROFILE);
            }
        }
        ("RuntimeDefault" | "Unconfined", Some(file)) => {
            problems.invalid(&file_path, file, "can only be set when AppArmor type is Localhost");
        }
        _ => profile_type(profile, "appArmorProfile", &path.field("type"), problems),
    }
}
