//! What upstream fills in for volumes.

use serde_json::{Map, Value, json};

use super::super::image;
use crate::kinds::json::{empty, ensure, items_mut, member_mut, set_default};

/// Texts and numbers of sources that have a value when nobody gives one.
const FIELDS: [(&str, &str, &str); 10] = [
    ("iscsi", "iscsiInterface", "default"),
    ("rbd", "pool", "rbd"),
    ("rbd", "user", "admin"),
    ("rbd", "keyring", "/etc/ceph/keyring"),
    ("azureDisk", "cachingMode", "ReadWrite"),
    ("azureDisk", "fsType", "ext4"),
    ("azureDisk", "kind", "Shared"),
    ("scaleIO", "storageMode", "ThinProvisioned"),
    ("scaleIO", "fsType", "xfs"),
    ("hostPath", "type", ""),
];
/// Those of them that may be empty: there, an empty text is a choice.
const EMPTY_IS_A_CHOICE: [&str; 2] = ["azureDisk", "hostPath"];

/// Fills in one volume.
pub(in crate::kinds::pod) fn fill(volume: &mut Map<String, Value>) {
    if volume.keys().all(|name| name == "name") {
        volume.insert("emptyDir".to_owned(), empty());
    }
    for (source, field, value) in FIELDS {
        let Some(map) = member_mut(volume, source) else { continue };
        if EMPTY_IS_A_CHOICE.contains(&source) {
            map.entry(field).or_insert_with(|| value.into());
        } else {
            set_default(map, field, value);
        }
    }
    if let Some(disk) = member_mut(volume, "azureDisk") {
        disk.entry("readOnly").or_insert(json!(false));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = member_mut(volume, source) {
            set_default(source, "defaultMode", 0o644);
        }
    }
    if let Some(image) = member_mut(volume, "image") {
        let reference = image.get("reference").and_then(Value::as_str).unwrap_or_default();
        let policy = image::pull_policy(reference);
        set_default(image, "pullPolicy", policy);
    }
    if let Some(template) =
        member_mut(volume, "ephemeral").and_then(|source| member_mut(source, "volumeClaimTemplate"))
    {
        ensure(template, "spec").entry("volumeMode").or_insert_with(|| "Filesystem".into());
    }
    if let Some(downward) = member_mut(volume, "downwardAPI") {
        facts(downward);
    }
    if let Some(projected) = member_mut(volume, "projected") {
        for source in items_mut(projected, "sources") {
            if let Some(downward) = member_mut(source, "downwardAPI") {
                facts(downward);
            }
            if let Some(token) = member_mut(source, "serviceAccountToken") {
                set_default(token, "expirationSeconds", 3600);
            }
        }
    }
}

fn facts(source: &mut Map<String, Value>) {
    for file in items_mut(source, "items") {
        if let Some(reference) = member_mut(file, "fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
    }
}
