//! What depends on the operating system that a pod names: options that only the one or the other has, and the
//! syntax of Windows' own.

use serde_json::Value;

use super::each_container;
use crate::kinds::{
    json::text,
    validate::{Path, Problems, names},
};

/// Upstream's bound on a credential spec.
const MAX_CREDENTIAL_SPEC: usize = 64 * 1024;
const MAX_DOMAIN: usize = 256;
const MAX_USER: usize = 104;
/// What a user's name may not have.
const NOT_IN_USERS: &str = "\"/\\:;|=,+*?<>@[]";
/// What a NetBIOS domain may not have.
const NOT_IN_DOMAINS: &str = "\\/:*?\"<>|";
/// What a pod's security context may not say on Windows, in upstream's order.
const NOT_IN_PODS: [&str; 11] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];
/// What a container's security context may not say on Windows, in upstream's order.
const NOT_IN_CONTAINERS: [&str; 10] = [
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

/// `os` of a pod spec and what follows from it.
pub(super) fn os(spec: &Value, path: &Path, problems: &mut Problems) {
    if !spec["os"].is_object() {
        return;
    }
    match text(&spec["os"], "name") {
        "" => problems.required(&path.field("os").field("name"), ""),
        "linux" => linux(spec, path, problems),
        "windows" => windows(spec, path, problems),
        other => problems.unsupported(&path.field("os"), other, &["linux", "windows"]),
    }
}

fn linux(spec: &Value, path: &Path, problems: &mut Problems) {
    let mut refuse = |context: &Value, path: &Path| {
        if !context["windowsOptions"].is_null() {
            let why = "windows options cannot be set for a linux pod";
            problems.forbidden(&path.field("securityContext").field("windowsOptions"), why);
        }
    };
    refuse(&spec["securityContext"], path);
    each_container(spec, path, |container, path| refuse(&container["securityContext"], path));
}

fn windows(spec: &Value, path: &Path, problems: &mut Problems) {
    const WHY: &str = "cannot be set for a windows pod";
    let mut refuse = |holder: &Value, fields: &[&str], path: &Path| {
        for field in fields.iter().filter(|field| !holder[**field].is_null()) {
            problems.forbidden(&path.field(field), WHY);
        }
    };
    refuse(&spec["securityContext"], &NOT_IN_PODS, &path.field("securityContext"));
    refuse(spec, &["hostUsers"], path);
    for field in ["hostPID", "hostIPC"] {
        if spec[field] == true {
            refuse(spec, &[field], path);
        }
    }
    refuse(spec, &["shareProcessNamespace"], path);
    each_container(spec, path, |container, path| {
        refuse(&container["securityContext"], &NOT_IN_CONTAINERS, &path.field("securityContext"));
    });
}

/// Processes of the host among the containers: all or none of them, and only with the host's network.
pub(super) fn host_processes(spec: &Value, path: &Path, problems: &mut Problems) {
    let wanted = |context: &Value| context["securityContext"]["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = wanted(spec);
    let (mut all, mut hosts) = (0, 0);
    each_container(spec, path, |container, path| {
        let own = wanted(container);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let path = path.field("securityContext").field("windowsOptions").field("hostProcess");
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            problems.invalid(&path, own, why);
        }
        all += 1;
        hosts += usize::from(own.or(of_pod) == Some(true));
    });
    if hosts == 0 {
        return;
    }
    if hosts != all {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        problems.invalid(path, "", why);
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        problems.invalid(&path.field("hostNetwork"), false, why);
    }
}

/// `windowsOptions` of a security context.
pub(super) fn options(options: &Value, path: &Path, problems: &mut Problems) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        problems.all(&path.field("gmsaCredentialSpecName"), name, names::dns_subdomain(name));
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let path = path.field("gmsaCredentialSpec");
        if spec.is_empty() {
            problems.invalid(&path, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > MAX_CREDENTIAL_SPEC {
            problems.invalid(&path, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = options["runAsUserName"].as_str() {
        problems.all(&path.field("runAsUserName"), name, user_name(name));
    }
}

/// What is wrong with a user: `USER` or `DOMAIN\USER`.
fn user_name(name: &str) -> Vec<String> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string".to_owned()];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters".to_owned()];
    }
    let parts: Vec<&str> = name.split('\\').collect();
    let (domain, user) = match parts.as_slice() {
        [user] => (None, *user),
        [domain, user] => (Some(*domain), *user),
        _ => return vec!["runAsUserName cannot contain more than one backslash".to_owned()],
    };
    let long_domain = domain.is_some_and(|domain| domain.len() >= MAX_DOMAIN);
    let only_dots = !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ');
    let wrong = [
        (long_domain, format!("Domain length must be under {MAX_DOMAIN} characters")),
        (
            domain.is_some_and(|domain| !is_net_bios(domain) && !is_dns(domain)),
            "Domain doesn't match the NetBios nor the DNS format".to_owned(),
        ),
        (user.is_empty(), "User cannot be empty".to_owned()),
        (user.len() > MAX_USER, format!("User length must not be longer than {MAX_USER} characters")),
        (only_dots, "User cannot contain only periods or spaces".to_owned()),
        (
            user.contains(|c| NOT_IN_USERS.contains(c)),
            "User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned(),
        ),
    ];
    wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, why)| format!("runAsUserName's {why}")).collect()
}

fn is_net_bios(domain: &str) -> bool {
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(|c| NOT_IN_DOMAINS.contains(c))
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        label.len() <= 63
            && edge(label.chars().next())
            && edge(label.chars().last())
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_windows_are_judged_as_upstream_judges_them() {
        for good in ["admin", "NT AUTHORITY\\SYSTEM", "a.example\\b", "x.y"] {
            assert!(user_name(good).is_empty(), "{good}: {:?}", user_name(good));
        }
        for (bad, why) in [
            ("", "runAsUserName cannot be an empty string"),
            ("a\tb", "runAsUserName cannot contain control characters"),
            ("a\\b\\c", "runAsUserName cannot contain more than one backslash"),
            ("..", "runAsUserName's User cannot contain only periods or spaces"),
            (".a:b\\c", "runAsUserName's Domain doesn't match the NetBios nor the DNS format"),
            ("a\\", "runAsUserName's User cannot be empty"),
            ("a/b", "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]"),
        ] {
            assert_eq!(user_name(bad), [why], "{bad}");
        }
    }
}
