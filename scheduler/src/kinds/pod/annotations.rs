//! Annotations of pods that mean something: mirror pods, the cost of deletion, and the profiles of seccomp and
//! `AppArmor` that were written there before there were fields.

use serde_json::Value;

use super::{each_container, tolerations};
use crate::kinds::{
    json::{members, text},
    validate::{Path, Problems},
};

/// Marks the copy of a pod that a node runs on its own.
pub(super) const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// A pod's seccomp profile.
pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
/// Before the name of a container: its seccomp profile.
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Before the name of a container: its `AppArmor` profile.
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const LOCALHOST: &str = "localhost/";

/// What the annotations of a pod or template say.
pub(super) fn check(annotations: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    if let Some(value) = annotations.get(MIRROR)
        && text(spec, "nodeName").is_empty()
    {
        let why = "must set spec.nodeName if mirror pod annotation is set";
        problems.invalid(&path.key(MIRROR), value.clone(), why);
    }
    old_tolerations(text(annotations, TOLERATIONS), path, problems);
    if let Some(cost) = annotations.get(DELETION_COST).and_then(Value::as_str)
        && !is_cost(cost)
    {
        problems.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
    }
    if let Some(profile) = annotations.get(SECCOMP_POD).and_then(Value::as_str) {
        seccomp(profile, &path.field(SECCOMP_POD), problems);
    }
    for (key, profile) in members(annotations).filter(|(key, _)| key.starts_with(SECCOMP_CONTAINER)) {
        seccomp(profile.as_str().unwrap_or_default(), &path.field(key), problems);
    }
    for (key, profile) in members(annotations) {
        let Some(name) = key.strip_prefix(APP_ARMOR) else { continue };
        let mut found = false;
        each_container(spec, &Path::default(), |container, _| found |= text(container, "name") == name);
        if !found {
            problems.invalid(&path.key(key), name, "container not found");
        }
        let profile = profile.as_str().unwrap_or_default();
        let known =
            matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with(LOCALHOST);
        if !known {
            let why = format!("invalid AppArmor profile name: {}", crate::model::go::quote(profile));
            problems.invalid(&path.key(key), profile, why);
        }
    }
}

fn old_tolerations(listed: &str, path: &Path, problems: &mut Problems) {
    if listed.is_empty() {
        return;
    }
    match serde_json::from_str::<Value>(listed) {
        Ok(list) if list.is_array() || list.is_null() => {
            tolerations::check(&list, &path.field(TOLERATIONS), problems);
        }
        Ok(_) => problems.invalid(
            path,
            TOLERATIONS,
            "json: cannot unmarshal into Go value of type []core.Toleration",
        ),
        Err(error) => problems.invalid(path, TOLERATIONS, error),
    }
}

/// An integer without plus and leading zeros.
fn is_cost(cost: &str) -> bool {
    let first = cost.starts_with(|c: char| c == '-' || ('1'..='9').contains(&c)) || cost == "0";
    first && cost.parse::<i32>().is_ok()
}

fn seccomp(profile: &str, path: &Path, problems: &mut Problems) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix(LOCALHOST) {
            Some(file) => super::paths::relative(file, path, problems),
            None => problems.invalid(path, profile, "must be a valid seccomp profile"),
        },
    }
}

/// Where both an annotation and a field name a profile, it is the same.
pub(super) fn agree(metadata: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    let annotations = &metadata["annotations"];
    let of = |key: &str| annotations.get(key).and_then(Value::as_str);
    let seccomp = "seccompProfile";
    let field = &spec["securityContext"][seccomp];
    let place = path.field("securityContext").field(seccomp);
    same(of(SECCOMP_POD), field, "seccomp", &place, problems);
    each_container(spec, path, |container, path| {
        let key = format!("{SECCOMP_CONTAINER}{}", text(container, "name"));
        let field = &container["securityContext"][seccomp];
        same(of(&key), field, "seccomp", &path.field("securityContext").field(seccomp), problems);
    });
    if spec["os"]["name"] == "windows" {
        return;
    }
    let app_armor = "appArmorProfile";
    let of_pod = &spec["securityContext"][app_armor];
    each_container(spec, path, |container, path| {
        let key = format!("{APP_ARMOR}{}", text(container, "name"));
        let own = &container["securityContext"][app_armor];
        let field = if own.is_null() { of_pod } else { own };
        same(of(&key), field, "apparmor", &path.field("securityContext").field(app_armor), problems);
    });
}

fn same(annotation: Option<&str>, field: &Value, what: &str, path: &Path, problems: &mut Problems) {
    let (Some(annotation), true) = (annotation, field.is_object()) else { return };
    let file = annotation.strip_prefix(LOCALHOST);
    let of_type = match text(field, "type") {
        "Unconfined" => annotation == "unconfined",
        "RuntimeDefault" => {
            annotation == "runtime/default" || (what == "seccomp" && annotation == "docker/default")
        }
        "Localhost" => file.is_some(),
        _ => return,
    };
    if !of_type {
        problems.forbidden(&path.field("type"), format!("{what} type in annotation and field must match"));
    } else if text(field, "type") == "Localhost" && file != field["localhostProfile"].as_str() {
        let why = format!("{what} profile in annotation and field must match");
        problems.forbidden(&path.field("localhostProfile"), why);
    }
}

/// The field that means what an `AppArmor` annotation says; nothing for one that says nothing valid.
pub(super) fn app_armor_field(annotation: &str) -> Option<Value> {
    match annotation {
        "unconfined" => Some(serde_json::json!({"type": "Unconfined"})),
        "runtime/default" => Some(serde_json::json!({"type": "RuntimeDefault"})),
        other => {
            let file = other.strip_prefix(LOCALHOST).filter(|file| !file.is_empty())?;
            Some(serde_json::json!({"type": "Localhost", "localhostProfile": file}))
        }
    }
}

/// What an update of a pod may not do to its annotations.
pub(super) fn update(new: &Value, old: &Value, path: &Path, problems: &mut Problems) {
    for (key, _) in members(old).filter(|(key, value)| new.get(*key) != Some(*value)) {
        if key.starts_with(APP_ARMOR) {
            problems.forbidden(&path.key(key), "may not remove or update AppArmor annotations");
        }
        if key == MIRROR {
            problems.forbidden(&path.key(key), "may not remove or update mirror pod annotation");
        }
    }
    for (key, _) in members(new).filter(|(key, _)| old.get(*key).is_none()) {
        if key.starts_with(APP_ARMOR) {
            problems.forbidden(&path.key(key), "may not add AppArmor annotations");
        }
        if key == MIRROR {
            problems.forbidden(&path.key(key), "may not add mirror pod annotation");
        }
    }
}
