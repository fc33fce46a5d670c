//! What a Deployment asks for, read once: sizes, surge, strategy; and small questions about its ReplicaSets.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    cache::MetaExt,
    kinds::schema::{ObjectType, complete},
};

/// Which template a pod or set was made from.
pub(super) const HASH_LABEL: &str = "pod-template-hash";
/// The number of a rollout; `kubectl rollout history` lists it.
pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers that a set had before it was rolled back to.
pub(super) const HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// `spec.replicas` of the Deployment when the set was last sized.
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The same plus the surge.
pub(super) const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";

/// The sizes that a Deployment asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) replicas: i32,
    /// Pods there may be above `replicas`.
    pub(super) surge: i32,
    /// Pods that may be unavailable.
    pub(super) unavailable: i32,
    pub(super) rolling: bool,
}

impl Wanted {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let replicas = deployment.spec.replicas.unwrap_or(1);
        let strategy = deployment.spec.strategy.as_ref();
        let rolling = strategy.and_then(|s| s.type_.as_deref()) != Some("Recreate");
        if !rolling {
            return Self { replicas, surge: 0, unavailable: 0, rolling };
        }
        let limits = strategy.and_then(|s| s.rolling_update.as_ref());
        let quarter = IntOrString::String("25%".to_owned());
        let surge = limits.and_then(|l| l.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = limits.and_then(|l| l.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = scaled(surge, replicas, true);
        let mut unavailable = scaled(unavailable, replicas, false);
        if surge == 0 && unavailable == 0 {
            // Both round to nothing: without this the rollout could never take a step.
            unavailable = 1;
        }
        Self { replicas, surge, unavailable: unavailable.min(replicas), rolling }
    }

    /// Pods there may be in all.
    pub(super) fn maximum(self) -> i32 {
        self.replicas.saturating_add(self.surge)
    }

    /// Pods that must stay available.
    pub(super) fn minimum_available(self) -> i32 {
        (self.replicas - self.unavailable).max(0)
    }
}

fn scaled(value: &IntOrString, total: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(n) => *n,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let rounded = if up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// The label value that tells the pods of one template from those of another: stable for equal templates, and
/// different for the same template after a collision.
pub(super) fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    // No vowels and no look-alikes, as upstream: a hash never spells a word.
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut digest = Sha256::new();
    digest.update(completed(template).to_string());
    digest.update(collisions.unwrap_or(0).to_be_bytes());
    digest.finalize().iter().take(10).map(|b| char::from(ALPHABET[usize::from(*b) % 27])).collect()
}

/// Whether `set` was made from `template`.
pub(super) fn made_from(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let without_hash = |t: &PodTemplateSpec| {
        let mut t = completed(t);
        if let Some(labels) = t.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
            labels.remove(HASH_LABEL);
        }
        for field in ["labels", "annotations"] {
            let metadata = t.get_mut("metadata").and_then(Value::as_object_mut);
            if let Some(metadata) = metadata
                && metadata.get(field).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty)
            {
                metadata.remove(field);
            }
        }
        t
    };
    set.spec.template.as_ref().is_some_and(|t| t == template || without_hash(t) == without_hash(template))
}

/// A template with all that it always shows, so that one that was stored with less is the same.
fn completed(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    complete(&ObjectType::published("io.k8s.api.core.v1.PodTemplateSpec"), &mut template);
    template
}

pub(super) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub(super) fn ready(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
}

/// Pods that the set has, whatever it asks for.
pub(super) fn actual(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |s| s.replicas)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    set.metadata.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// Sets `key` and says whether that changed anything.
pub(super) fn annotate(annotations: &mut BTreeMap<String, String>, key: &str, value: String) -> bool {
    if annotations.get(key) == Some(&value) {
        return false;
    }
    annotations.insert(key.to_owned(), value);
    true
}
