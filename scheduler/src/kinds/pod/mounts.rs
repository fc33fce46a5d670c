//! Validation of what a container sees of the pod's volumes: mounts and block devices.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    paths::{no_backsteps, relative},
    volumes::Volumes,
};
use crate::kinds::{
    json::{items, text},
    validate::{Path, Problems},
};

/// `volumeMounts` and `volumeDevices` of a container; `volumes` are those that it may use.
pub(super) fn check(container: &Value, volumes: &Volumes<'_>, path: &Path, problems: &mut Problems) {
    let targets = |list: &str, field: &str| -> BTreeMap<&str, &str> {
        items(&container[list]).iter().map(|item| (text(item, "name"), text(item, field))).collect()
    };
    let (mounts, devices) = (targets("volumeMounts", "mountPath"), targets("volumeDevices", "devicePath"));
    let privileged = container["securityContext"]["privileged"] == true;
    let (list, mut seen) = (path.field("volumeMounts"), BTreeSet::new());
    for (index, mount) in items(&container["volumeMounts"]).iter().enumerate() {
        let path = list.index(index);
        target(mount, volumes, &path, problems);
        let at = text(mount, "mountPath");
        if !seen.insert(at) {
            problems.invalid(&path.field("mountPath"), at, "must be unique");
        }
        exclusive(mount, "mountPath", &devices, "volumeDevices", &path, problems);
        details(mount, privileged, &list, &path, problems);
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (index, device) in items(&container["volumeDevices"]).iter().enumerate() {
        let path = path.field("volumeDevices").index(index);
        self::device(device, volumes, (&mut names, &mut paths), &path, problems);
        exclusive(device, "devicePath", &mounts, "volumeMounts", &path, problems);
    }
}

/// A volume that is there, and a place for it.
fn target(mount: &Value, volumes: &Volumes<'_>, path: &Path, problems: &mut Problems) {
    let name = text(mount, "name");
    if name.is_empty() {
        problems.required(&path.field("name"), "");
    }
    if !volumes.contains_key(name) {
        problems.not_found(&path.field("name"), name);
    }
    if text(mount, "mountPath").is_empty() {
        problems.required(&path.field("mountPath"), "");
    }
}

/// No volume is mounted and a device too, and no path holds both.
fn exclusive(
    item: &Value,
    field: &str,
    others: &BTreeMap<&str, &str>,
    list: &str,
    path: &Path,
    problems: &mut Problems,
) {
    let (name, at) = (text(item, "name"), text(item, field));
    if others.contains_key(name) {
        problems.invalid(&path.field("name"), name, format!("must not already exist in {list}"));
    }
    if others.values().any(|other| *other == at) {
        problems.invalid(&path.field(field), at, format!("must not already exist as a path in {list}"));
    }
}

/// How a volume is mounted. As upstream, much is told of the list and not of the mount.
fn details(mount: &Value, privileged: bool, list: &Path, path: &Path, problems: &mut Problems) {
    let (sub, expression) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if !sub.is_empty() {
        relative(sub, &list.field("subPath"), problems);
    }
    if !expression.is_empty() {
        if !sub.is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            problems.invalid(&path.field("subPathExpr"), expression, why);
        }
        relative(expression, &list.field("subPathExpr"), problems);
    }
    if let Some(propagation) = mount["mountPropagation"].as_str() {
        let (known, at) = (["Bidirectional", "HostToContainer", "None"], list.field("mountPropagation"));
        if !known.contains(&propagation) {
            problems.unsupported(&at, propagation, &known);
        }
        if propagation == "Bidirectional" && !privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            problems.forbidden(&at, why);
        }
    }
    if let Some(mode) = mount["recursiveReadOnly"].as_str() {
        recursive(mode, mount, &list.field("recursiveReadOnly"), problems);
    }
}

fn recursive(mode: &str, mount: &Value, path: &Path, problems: &mut Problems) {
    let known = ["Disabled", "Enabled", "IfPossible"];
    match mode {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if mount["readOnly"] != true {
                problems.forbidden(path, "may only be specified when readOnly is true");
            }
            if mount["mountPropagation"].as_str().is_some_and(|propagation| propagation != "None") {
                let why = "may only be specified when mountPropagation is None or not specified";
                problems.forbidden(path, why);
            }
        }
        other => problems.unsupported(path, other, &known),
    }
}

/// A volume as a block device, which only claims can be; `seen` are the names and paths of those before.
fn device<'a>(
    device: &'a Value,
    volumes: &Volumes<'_>,
    seen: (&mut BTreeSet<&'a str>, &mut BTreeSet<&'a str>),
    path: &Path,
    problems: &mut Problems,
) {
    let (name, at) = (text(device, "name"), text(device, "devicePath"));
    let (names, paths) = seen;
    let (name_path, device_path) = (path.field("name"), path.field("devicePath"));
    if name.is_empty() {
        problems.required(&name_path, "");
    } else if !names.insert(name) {
        problems.invalid(&name_path, name, "must be unique");
    }
    match volumes.get(name) {
        None => problems.not_found(&name_path, name),
        Some(volume) if volume["persistentVolumeClaim"].is_object() || volume["ephemeral"].is_object() => {}
        Some(_) => {
            let why = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            problems.invalid(&name_path, name, why);
        }
    }
    if at.is_empty() {
        problems.required(&device_path, "");
    }
    if paths.contains(at) {
        problems.invalid(&device_path, at, "must be unique");
    }
    let mut climbs = Problems::default();
    no_backsteps(at, &device_path, &mut climbs);
    if climbs.is_empty() {
        paths.insert(at);
    } else {
        problems.invalid(&device_path, at, "can not contain backsteps ('..')");
    }
}
