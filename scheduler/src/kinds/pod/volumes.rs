//! Validation of volumes.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{containers::relative, env::field_ref};
use crate::kinds::{
    json::{items, members, text},
    quantity::Quantity,
    validate::{Path, Problems, names},
};

const FILE_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const HOST_PATH_TYPES: [&str; 7] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate"];

/// The volumes of a pod; returns the names that mounts may use.
pub(super) fn check<'a>(volumes: &'a Value, path: &Path, problems: &mut Problems) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    for (index, volume) in items(volumes).iter().enumerate() {
        let path = path.index(index);
        let name = text(volume, "name");
        if name.is_empty() {
            problems.required(&path.field("name"), "");
        } else {
            problems.all(&path.field("name"), name, names::dns_label(name));
        }
        if !name.is_empty() && !seen.insert(name) {
            problems.duplicate(&path.field("name"), name);
        }
        let mut sources = members(volume).filter(|(field, _)| *field != "name");
        match sources.next() {
            Some((kind, source)) => self::source(kind, source, &path.field(kind), problems),
            None => problems.required(&path, "must specify a volume type"),
        }
        for (more, _) in sources {
            problems.forbidden(&path.field(more), "may not specify more than 1 volume type");
        }
    }
    seen
}

fn source(kind: &str, source: &Value, path: &Path, problems: &mut Problems) {
    let mut need = |field: &str| {
        if text(source, field).is_empty() {
            problems.required(&path.field(field), "");
        }
    };
    match kind {
        "persistentVolumeClaim" => need("claimName"),
        "csi" => need("driver"),
        "secret" => need("secretName"),
        "configMap" => need("name"),
        "hostPath" => need("path"),
        "nfs" => {
            need("server");
            need("path");
        }
        _ => {}
    }
    match kind {
        "emptyDir" => empty_dir(source, path, problems),
        "secret" | "configMap" => {
            mode(&source["defaultMode"], &path.field("defaultMode"), problems);
            files(&source["items"], &path.field("items"), problems);
        }
        "downwardAPI" => {
            mode(&source["defaultMode"], &path.field("defaultMode"), problems);
            downward(&source["items"], &path.field("items"), problems);
        }
        "projected" => projected(source, path, problems),
        "hostPath" => {
            if text(source, "path").split('/').any(|part| part == "..") {
                problems.invalid(&path.field("path"), text(source, "path"), "must not contain '..'");
            }
            let ty = text(source, "type");
            if !HOST_PATH_TYPES.contains(&ty) {
                problems.unsupported(&path.field("type"), ty, &HOST_PATH_TYPES);
            }
        }
        _ => {}
    }
}

fn empty_dir(source: &Value, path: &Path, problems: &mut Problems) {
    let limit = text(source, "sizeLimit");
    if limit.parse::<Quantity>().is_ok_and(|q| q.is_negative()) {
        problems.forbidden(&path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
    let medium = text(source, "medium");
    if !matches!(medium, "" | "Memory") && !medium.starts_with("HugePages") {
        problems.unsupported(&path.field("medium"), medium, &["", "HugePages", "Memory"]);
    }
}

fn mode(value: &Value, path: &Path, problems: &mut Problems) {
    if let Some(mode) = value.as_i64().filter(|mode| !(0..=0o777).contains(mode)) {
        problems.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn file_path(value: &str, path: &Path, problems: &mut Problems) {
    if value.is_empty() {
        return problems.required(path, "");
    }
    relative(value, path, problems);
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        problems.invalid(path, value, "must not start with '..'");
    }
}

/// Keys of a ConfigMap or Secret as files.
fn files(list: &Value, path: &Path, problems: &mut Problems) {
    for (index, item) in items(list).iter().enumerate() {
        let path = path.index(index);
        if text(item, "key").is_empty() {
            problems.required(&path.field("key"), "");
        }
        file_path(text(item, "path"), &path.field("path"), problems);
        mode(&item["mode"], &path.field("mode"), problems);
    }
}

/// Facts about the pod as files.
fn downward(list: &Value, path: &Path, problems: &mut Problems) {
    for (index, item) in items(list).iter().enumerate() {
        let path = path.index(index);
        file_path(text(item, "path"), &path.field("path"), problems);
        mode(&item["mode"], &path.field("mode"), problems);
        match (item["fieldRef"].is_object(), item["resourceFieldRef"].is_object()) {
            (true, true) => {
                problems.invalid(
                    &path,
                    item.clone(),
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
            (true, false) => field_ref(&item["fieldRef"], &FILE_FIELDS, &path.field("fieldRef"), problems),
            (false, true) if text(&item["resourceFieldRef"], "containerName").is_empty() => {
                problems.required(&path.field("resourceFieldRef").field("containerName"), "");
            }
            (false, true) => {}
            (false, false) => problems.required(&path, "one of fieldRef and resourceFieldRef is required"),
        }
    }
}

fn projected(source: &Value, path: &Path, problems: &mut Problems) {
    mode(&source["defaultMode"], &path.field("defaultMode"), problems);
    let mut targets = BTreeSet::new();
    for (index, part) in items(&source["sources"]).iter().enumerate() {
        let path = path.field("sources").index(index);
        let mut kinds = members(part);
        let Some((kind, node)) = kinds.next() else {
            problems.required(&path, "must specify one of projected volume sources");
            continue;
        };
        if kinds.next().is_some() {
            problems.forbidden(&path, "may not specify more than 1 volume type");
        }
        let path = path.field(kind);
        match kind.as_str() {
            "secret" | "configMap" => {
                if text(node, "name").is_empty() {
                    problems.required(&path.field("name"), "");
                }
                files(&node["items"], &path.field("items"), problems);
            }
            "downwardAPI" => downward(&node["items"], &path.field("items"), problems),
            "serviceAccountToken" => token(node, &path, problems),
            _ => {}
        }
        for item in items(&node["items"]) {
            let target = text(item, "path");
            if !target.is_empty() && !targets.insert(target) {
                problems.invalid(&path, node.clone(), format!("conflicting duplicate paths: {target:?}"));
            }
        }
    }
}

fn token(node: &Value, path: &Path, problems: &mut Problems) {
    let seconds = node["expirationSeconds"].as_i64().unwrap_or(3600);
    if seconds < 600 {
        problems.invalid(
            &path.field("expirationSeconds"),
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    file_path(text(node, "path"), &path.field("path"), problems);
}
