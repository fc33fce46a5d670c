//! The ReplicaSets of a Deployment as a plan works on them: sorted into new and old, resized in place, and what
//! changed collected at the end. Annotations and revisions live here.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};

use super::model::{
    DESIRED, HASH_LABEL, HISTORY, MAXIMUM, REVISION, Wanted, annotate, made_from, replicas, revision,
    template_hash,
};
use crate::{cache::MetaExt, controllers::owner::controller_ref, events::Note};

/// Annotations of the Deployment that its sets do not take over: they are about the Deployment itself.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.rollbackTo",
    REVISION,
    HISTORY,
    DESIRED,
    MAXIMUM,
];
/// A set's history annotation is cut at this length, as upstream.
const HISTORY_LENGTH: usize = 2000;

/// One set and what the plan made of it.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) set: ReplicaSet,
    pub(super) changed: bool,
}

/// All sets of one Deployment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sets {
    /// The one made from the current template.
    pub(super) new: Option<Slot>,
    /// Everything else, oldest first.
    pub(super) old: Vec<Slot>,
    /// What to tell.
    pub(super) notes: Vec<Note>,
}

impl Sets {
    /// Sorts `owned` into new and old. Of several equal to the template the oldest counts, as upstream.
    pub(super) fn of(deployment: &Deployment, owned: &[Arc<ReplicaSet>]) -> Self {
        let mut all: Vec<&ReplicaSet> = owned.iter().map(|set| &**set).collect();
        all.sort_by(|a, b| age(a).cmp(&age(b)));
        let mut sets = Self::default();
        for set in all {
            let slot = Slot { set: set.clone(), changed: false };
            if sets.new.is_none() && made_from(set, &deployment.spec.template) {
                sets.new = Some(slot);
            } else {
                sets.old.push(slot);
            }
        }
        sets
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &ReplicaSet> {
        self.old.iter().chain(&self.new).map(|slot| &slot.set)
    }

    pub(super) fn sum(&self, of: impl Fn(&ReplicaSet) -> i32) -> i32 {
        self.all().map(of).sum()
    }

    /// The highest revision of the old sets.
    pub(super) fn last_revision(&self) -> i64 {
        self.old.iter().map(|slot| revision(&slot.set)).max().unwrap_or(0)
    }

    /// Brings the new set's annotations, revision and `minReadySeconds` in line.
    pub(super) fn refresh_new(&mut self, deployment: &Deployment) {
        let number = self.last_revision() + 1;
        let Some(slot) = &mut self.new else { return };
        let annotations = slot.set.metadata.annotations.get_or_insert_default();
        slot.changed |= copy_annotations(deployment, annotations);
        slot.changed |= raise_revision(annotations, number);
        if slot.set.spec.min_ready_seconds.unwrap_or(0) != deployment.spec.min_ready_seconds.unwrap_or(0) {
            slot.set.spec.min_ready_seconds = deployment.spec.min_ready_seconds;
            slot.changed = true;
        }
    }
}

fn age(set: &ReplicaSet) -> (Option<Timestamp>, &str) {
    (set.metadata.creation_timestamp.as_ref().map(|t| t.0), set.metadata.name_str())
}

fn copy_annotations(deployment: &Deployment, into: &mut BTreeMap<String, String>) -> bool {
    let from = deployment.metadata.annotations.iter().flatten();
    let wanted: Vec<_> = from.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())).collect();
    wanted.into_iter().fold(false, |changed, (key, value)| annotate(into, key, value.clone()) || changed)
}

fn raise_revision(annotations: &mut BTreeMap<String, String>, number: i64) -> bool {
    let current = annotations.get(REVISION).cloned();
    let known = current.as_deref().and_then(|r| r.parse::<i64>().ok()).unwrap_or(0);
    if known >= number {
        return false;
    }
    annotations.insert(REVISION.to_owned(), number.to_string());
    if let Some(before) = current {
        let history = annotations.get(HISTORY).map_or(before.clone(), |h| format!("{h},{before}"));
        let cut = history.len().saturating_sub(HISTORY_LENGTH);
        annotations.insert(HISTORY.to_owned(), history[cut..].trim_start_matches(',').to_owned());
    }
    true
}

/// Resizes `slot`; the note says by how much.
pub(super) fn resize(slot: &mut Slot, to: i32, wanted: Wanted, notes: &mut Vec<Note>) {
    let from = replicas(&slot.set);
    let annotations = slot.set.metadata.annotations.get_or_insert_default();
    let described = annotate(annotations, DESIRED, wanted.replicas.to_string())
        | annotate(annotations, MAXIMUM, wanted.maximum().to_string());
    slot.changed |= described || from != to;
    if from != to {
        slot.set.spec.replicas = Some(to);
        let way = if to > from { "up" } else { "down" };
        let name = slot.set.metadata.name_str();
        let message = format!("Scaled {way} replica set {name} from {from} to {to}");
        notes.push(Note::normal("ScalingReplicaSet", message));
    }
}

/// The set for a template that has none yet.
pub(super) fn new_set(deployment: &Deployment, wanted: Wanted, size: i32, number: i64) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|s| s.collision_count);
    let hash = template_hash(&deployment.spec.template, collisions);
    let mut template = deployment.spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    let mut annotations = BTreeMap::new();
    copy_annotations(deployment, &mut annotations);
    annotate(&mut annotations, REVISION, number.to_string());
    annotate(&mut annotations, DESIRED, wanted.replicas.to_string());
    annotate(&mut annotations, MAXIMUM, wanted.maximum().to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name_str())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(size),
            min_ready_seconds: deployment.spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}
