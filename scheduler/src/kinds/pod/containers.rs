//! Validation of containers: names, images, ports, environment, mounts, resources.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{env, probes, resources, security};
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems, names},
};

/// All containers of a pod spec; `volumes` are the names that mounts may use.
pub(super) fn check(spec: &Value, volumes: &BTreeSet<&str>, path: &Path, problems: &mut Problems) {
    if items(&spec["containers"]).is_empty() {
        problems.required(&path.field("containers"), "");
    }
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let claims = resources::claim_names(spec);
    for list in ["initContainers", "containers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            let path = path.field(list).index(index);
            let name = text(container, "name");
            if name.is_empty() {
                problems.required(&path.field("name"), "");
            } else {
                problems.all(&path.field("name"), name, names::dns_label(name));
            }
            if !name.is_empty() && !seen.insert(name) {
                problems.duplicate(&path.field("name"), name);
            }
            self::container(container, volumes, &claims, &path, problems);
            probes::check_sleep(container, &spec["terminationGracePeriodSeconds"], &path, problems);
            if list == "initContainers" {
                init_container(container, &path, problems);
            } else if !container["restartPolicy"].is_null() {
                problems.forbidden(&path.field("restartPolicy"), "may not be set for non-init containers");
            }
            check_host_ports(container, &mut host_ports, &path, problems);
        }
    }
}

fn container(
    container: &Value,
    volumes: &BTreeSet<&str>,
    claims: &BTreeSet<&str>,
    path: &Path,
    problems: &mut Problems,
) {
    let image = text(container, "image");
    if image.is_empty() {
        problems.required(&path.field("image"), "");
    } else if image.trim() != image {
        problems.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
    }
    let policies = ["Always", "IfNotPresent", "Never"];
    problems.one_of(&path.field("imagePullPolicy"), text(container, "imagePullPolicy"), &policies);
    let policies = ["FallbackToLogsOnError", "File"];
    problems.one_of(
        &path.field("terminationMessagePolicy"),
        text(container, "terminationMessagePolicy"),
        &policies,
    );
    ports(&container["ports"], &path.field("ports"), problems);
    env::check(container, path, problems);
    mounts(&container["volumeMounts"], volumes, &path.field("volumeMounts"), problems);
    resources::container(&container["resources"], claims, &path.field("resources"), problems);
    probes::check(container, path, problems);
    security::container(&container["securityContext"], &path.field("securityContext"), problems);
}

/// An init container runs to its end, so nothing that watches it running makes sense, unless it is a sidecar.
fn init_container(container: &Value, path: &Path, problems: &mut Problems) {
    match text(container, "restartPolicy") {
        "Always" => return,
        "" => {}
        other => problems.unsupported(&path.field("restartPolicy"), other, &["Always"]),
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if !container[field].is_null() {
            let why = "may not be set for init containers without restartPolicy=Always";
            problems.forbidden(&path.field(field), why);
        }
    }
}

fn ports(ports: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, port) in items(ports).iter().enumerate() {
        let path = path.index(index);
        let name = text(port, "name");
        if !name.is_empty() {
            let complaints = names::port_name(name);
            if complaints.is_empty() && !seen.insert(name) {
                problems.duplicate(&path.field("name"), name);
            }
            problems.all(&path.field("name"), name, complaints);
        }
        match port["containerPort"].as_i64().unwrap_or_default() {
            0 => problems.required(&path.field("containerPort"), ""),
            number => problems.port(&path.field("containerPort"), number),
        }
        if let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) {
            problems.port(&path.field("hostPort"), number);
        }
        problems.one_of(&path.field("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn check_host_ports(container: &Value, taken: &mut BTreeSet<String>, path: &Path, problems: &mut Problems) {
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        if let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) {
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(key.clone()) {
                problems.duplicate(&path.field("ports").index(index).field("hostPort"), key);
            }
        }
    }
}

fn mounts(mounts: &Value, volumes: &BTreeSet<&str>, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, mount) in items(mounts).iter().enumerate() {
        let path = path.index(index);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            problems.required(&path.field("name"), "");
        } else if !volumes.contains(name) {
            problems.not_found(&path.field("name"), name);
        }
        if target.is_empty() {
            problems.required(&path.field("mountPath"), "");
        } else if !seen.insert(target) {
            problems.invalid(&path.field("mountPath"), target, "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            relative(text(mount, field), &path.field(field), problems);
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            problems.invalid(&path.field("subPathExpr"), text(mount, "subPathExpr"), why);
        }
    }
}

/// A path below some directory: neither absolute nor climbing out.
pub(super) fn relative(value: &str, path: &Path, problems: &mut Problems) {
    if value.starts_with('/') {
        problems.invalid(path, value, "must be a relative path");
    }
    if value.split('/').any(|part| part == "..") {
        problems.invalid(path, value, "must not contain '..'");
    }
}
