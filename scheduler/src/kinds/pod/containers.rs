//! Validation of containers of all three kinds: what they have in common and what each kind alone may say.
//!
//! In: a pod spec with its defaults and the volumes that mounts may use. Out: what is wrong, in upstream's order.
//! What a part of a container says is checked by the part's own module.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{env, mounts, probes, resources, restart, security, volumes::Volumes};
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems, names},
};

/// What a pod allows an ephemeral container not to say, in upstream's order.
const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

/// What containers are checked against.
struct Pod<'a> {
    spec: &'a Value,
    volumes: &'a Volumes<'a>,
    claims: BTreeSet<&'a str>,
    grace: Option<i64>,
}

/// All containers of a pod spec; `volumes` are those that mounts may use.
pub(super) fn check(spec: &Value, volumes: &Volumes<'_>, path: &Path, problems: &mut Problems) {
    let pod = Pod {
        spec,
        volumes,
        claims: resources::claim_names(spec),
        grace: spec["terminationGracePeriodSeconds"].as_i64(),
    };
    regular(&pod, &path.field("containers"), problems);
    init(&pod, &path.field("initContainers"), problems);
    ephemeral(&pod, &path.field("ephemeralContainers"), problems);
}

/// The images of a pod, and not of a template, where white space may be a token that is replaced.
pub(super) fn check_images(spec: &Value, path: &Path, problems: &mut Problems) {
    for list in ["containers", "initContainers"] {
        for (index, container) in items(&spec[list]).iter().enumerate() {
            image(container, &path.field(list).index(index), problems);
        }
    }
}

fn image(container: &Value, path: &Path, problems: &mut Problems) {
    let image = text(container, "image");
    if image.trim() != image {
        problems.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
    }
}

fn names_of<'a>(spec: &'a Value, list: &str) -> impl Iterator<Item = &'a str> {
    items(&spec[list]).iter().map(|container| text(container, "name"))
}

fn regular(pod: &Pod<'_>, path: &Path, problems: &mut Problems) {
    let containers = items(&pod.spec["containers"]);
    if containers.is_empty() {
        return problems.required(path, "");
    }
    let mut names = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path.index(index);
        common(container, pod, &path, problems);
        let name = text(container, "name");
        if !names.insert(name) {
            problems.duplicate(&path.field("name"), name);
        }
        probes::check(container, pod.grace, &path, problems);
        restart::policy(container, &path, problems);
    }
    let mut taken = BTreeSet::new();
    for (index, container) in containers.iter().enumerate() {
        host_ports(container, &mut taken, &path.index(index), problems);
    }
}

fn init(pod: &Pod<'_>, path: &Path, problems: &mut Problems) {
    let mut names: BTreeSet<&str> = names_of(pod.spec, "containers").collect();
    for (index, container) in items(&pod.spec["initContainers"]).iter().enumerate() {
        let list = path;
        let path = path.index(index);
        common(container, pod, &path, problems);
        restart::init_policy(container, &path, problems);
        let name = text(container, "name");
        if names.contains(name) {
            problems.duplicate(&path.field("name"), name);
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one by one, so each has the ports of the node to itself. As upstream: told of the first.
        host_ports(container, &mut BTreeSet::new(), &list.index(0), problems);
        if text(container, "restartPolicy") == "Always" {
            probes::check(container, pod.grace, &path, problems);
        } else {
            runs_to_its_end(container, &path, problems);
        }
    }
}

/// Nothing that watches a container running makes sense for one that runs to its end.
fn runs_to_its_end(container: &Value, path: &Path, problems: &mut Problems) {
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container[field].is_object() {
            let why = "may not be set for init containers without restartPolicy=Always";
            problems.forbidden(&path.field(field), why);
        }
    }
    for (index, policy) in items(&container["resizePolicy"]).iter().enumerate() {
        if text(policy, "restartPolicy") == "RestartContainer" {
            let path = path.field("resizePolicy").index(index).field("restartPolicy");
            let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            problems.invalid(&path, "RestartContainer", why);
        }
    }
}

fn ephemeral(pod: &Pod<'_>, path: &Path, problems: &mut Problems) {
    let lasting: BTreeSet<&str> =
        names_of(pod.spec, "containers").chain(names_of(pod.spec, "initContainers")).collect();
    let mut names = lasting.clone();
    for (index, container) in items(&pod.spec["ephemeralContainers"]).iter().enumerate() {
        let path = path.index(index);
        common(container, pod, &path, problems);
        image(container, &path, problems);
        let name = text(container, "name");
        if !names.insert(name) {
            problems.duplicate(&path.field("name"), name);
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !lasting.contains(target) {
            problems.not_found(&path.field("targetContainerName"), target);
        }
        const WHY: &str = "cannot be set for an Ephemeral Container";
        for field in NOT_EPHEMERAL.iter().filter(|field| is_set(field, &container[**field])) {
            problems.forbidden(&path.field(field), WHY);
        }
        for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
            for field in ["subPath", "subPathExpr"].into_iter().filter(|f| !text(mount, f).is_empty()) {
                problems.forbidden(&path.field("volumeMounts").index(index).field(field), WHY);
            }
        }
    }
}

/// Resources are always there, mostly empty; of everything else an empty one is one.
fn is_set(field: &str, value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Object(map) => field != "resources" || !map.is_empty(),
        _ => true,
    }
}

/// What holds for every container.
fn common(container: &Value, pod: &Pod<'_>, path: &Path, problems: &mut Problems) {
    let name = text(container, "name");
    if name.is_empty() {
        problems.required(&path.field("name"), "");
    } else {
        problems.all(&path.field("name"), name, names::dns_label(name));
    }
    if text(container, "image").is_empty() {
        problems.required(&path.field("image"), "");
    }
    let one_of = |field: &str, known: &[&str], problems: &mut Problems| {
        problems.one_of(&path.field(field), text(container, field), known);
    };
    one_of("terminationMessagePolicy", &["File", "FallbackToLogsOnError"], problems);
    ports(&container["ports"], &path.field("ports"), problems);
    env::check(container, path, problems);
    mounts::check(container, pod.volumes, path, problems);
    one_of("imagePullPolicy", &["Always", "IfNotPresent", "Never"], problems);
    resources::container(&container["resources"], &pod.claims, &path.field("resources"), problems);
    let never = text(pod.spec, "restartPolicy") == "Never";
    restart::resize_policy(&container["resizePolicy"], never, &path.field("resizePolicy"), problems);
    let (context, path) = (&container["securityContext"], path.field("securityContext"));
    security::container(context, pod.spec["hostUsers"] != false, &path, problems);
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

fn host_ports(container: &Value, taken: &mut BTreeSet<String>, path: &Path, problems: &mut Problems) {
    for (index, port) in items(&container["ports"]).iter().enumerate() {
        if let Some(number) = port["hostPort"].as_i64().filter(|n| *n != 0) {
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !taken.insert(key.clone()) {
                problems.duplicate(&path.field("ports").index(index).field("hostPort"), key);
            }
        }
    }
}
