//! Validation of volumes: their names, and that each has one source that is complete.
//!
//! In: the volumes of a pod spec with their defaults. Out: what is wrong, and the volumes that mounts may use. Never:
//! whether an agent can provide a source ([`super::unsupported_volumes`]).

mod claim;
pub(super) mod defaults;
mod files;
mod projected;
mod sources;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::kinds::{
    json::{items, members, text},
    validate::{Path, Problems, names},
};
use sources::{SOURCES, Source};

/// Volumes by name.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// The volumes of a pod, called `pod` when it is one and no template; returns those that mounts may use.
pub(super) fn check<'a>(
    volumes: &'a Value,
    pod: Option<&str>,
    path: &Path,
    problems: &mut Problems,
) -> Volumes<'a> {
    let pod = pod.filter(|name| !name.is_empty());
    let volumes = items(volumes);
    let made = claims_made(volumes, pod);
    let mut good = Volumes::new();
    for (index, volume) in volumes.iter().enumerate() {
        let (path, before) = (path.index(index), problems.count());
        let name = text(volume, "name");
        source(volume, pod, &path, problems);
        if name.is_empty() {
            problems.required(&path.field("name"), "");
        } else {
            problems.all(&path.field("name"), name, names::dns_label(name));
        }
        if good.contains_key(name) {
            problems.duplicate(&path.field("name"), name);
        }
        if problems.count() == before {
            good.insert(name, volume);
        }
        let claim = text(&volume["persistentVolumeClaim"], "claimName");
        if made.contains(claim) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            problems.invalid(&path.field("persistentVolumeClaim").field("claimName"), claim, why);
        }
    }
    good
}

/// Tokens in a pod, and not in a template, are those of the account that it names.
pub(super) fn check_tokens(spec: &Value, path: &Path, problems: &mut Problems) {
    if !text(spec, "serviceAccountName").is_empty() {
        return;
    }
    for (index, volume) in items(&spec["volumes"]).iter().enumerate() {
        let path = path.field("volumes").index(index).field("projected").field("sources");
        for (index, part) in items(&volume["projected"]["sources"]).iter().enumerate() {
            if part["serviceAccountToken"].is_object() {
                let path = path.index(index).field("serviceAccountToken");
                problems.forbidden(&path, "must not be specified when serviceAccountName is not set");
            }
        }
    }
}

/// The claims that are made for the ephemeral volumes of a pod whose name is known.
fn claims_made(volumes: &[Value], pod: Option<&str>) -> BTreeSet<String> {
    let ephemeral = volumes.iter().filter(|volume| volume["ephemeral"].is_object());
    pod.map(|pod| ephemeral.map(|volume| format!("{pod}-{}", text(volume, "name"))).collect())
        .unwrap_or_default()
}

fn source(volume: &Value, pod: Option<&str>, path: &Path, problems: &mut Problems) {
    let mut found = false;
    let set: Vec<&str> =
        members(volume).filter(|(_, value)| value.is_object()).map(|(field, _)| field.as_str()).collect();
    for source in SOURCES.iter().filter(|source| set.contains(&source.field)) {
        if found {
            problems.forbidden(&path.field(source.refused_at), "may not specify more than 1 volume type");
        } else {
            found = true;
            complete(source, &volume[source.field], &path.field(source.shown_at), problems);
            if source.field == "ephemeral" {
                claim_name(text(volume, "name"), pod, path, problems);
            }
        }
        if source.field == "iscsi" {
            sources::iscsi_initiator(volume, path, problems);
        }
    }
    if !found {
        problems.required(path, "must specify a volume type");
    }
}

fn complete(source: &Source, value: &Value, path: &Path, problems: &mut Problems) {
    for field in source.required {
        let missing = match &value[*field] {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            _ => false,
        };
        if missing {
            problems.required(&path.field(field), "");
        }
    }
    (source.rest)(value, path, problems);
}

/// The claim of an ephemeral volume has the names of pod and volume.
fn claim_name(volume: &str, pod: Option<&str>, path: &Path, problems: &mut Problems) {
    let Some(pod) = pod.filter(|_| !volume.is_empty()) else { return };
    let claim = format!("{pod}-{volume}");
    for complaint in names::dns_subdomain(&claim) {
        problems.invalid(&path.field("name"), volume, format!("PVC name {claim:?}: {complaint}"));
    }
}
