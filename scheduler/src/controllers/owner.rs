//! Owner references: who controls an object, and the claim rules that ReplicaSets and Deployments share.

use std::collections::BTreeMap;

use k8s_openapi::{
    Resource,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use crate::{
    cache::{Cached, MetaExt},
    model::LabelSelector,
};

/// The reference that makes `owner` the controller.
pub(super) fn controller_ref<T: Cached + Resource>(owner: &T) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: T::API_VERSION.to_owned(),
        kind: T::KIND.to_owned(),
        name: meta.name_str().to_owned(),
        uid: meta.uid_str().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controlling reference of an object.
pub(super) fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_deref()?.iter().find(|o| o.controller == Some(true))
}

/// What an owner makes of one candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is the owner's and fits.
    Keep,
    /// It fits and has no controller: take it.
    Adopt,
    /// It is the owner's but fits no more: let it go.
    Release,
    /// It is none of the owner's business.
    Ignore,
}

/// Upstream's claim rules, for a candidate with these labels. A deleting owner adopts nothing, a deleting candidate is not fought over.
pub(super) fn claim(
    owner: &ObjectMeta,
    selector: &LabelSelector,
    candidate: &ObjectMeta,
    labels: &BTreeMap<String, String>,
) -> Claim {
    let fits = selector.matches(labels);
    match controller_of(candidate) {
        Some(current) if current.uid == owner.uid_str() => {
            if fits {
                Claim::Keep
            } else if owner.deleting() || candidate.deleting() {
                Claim::Ignore
            } else {
                Claim::Release
            }
        }
        None if fits && !owner.deleting() && !candidate.deleting() => Claim::Adopt,
        Some(_) | None => Claim::Ignore,
    }
}

/// The owner references of `candidate` once `owner` has taken it.
pub(super) fn adopted(candidate: &ObjectMeta, owner: OwnerReference) -> Vec<OwnerReference> {
    let mut owners = candidate.owner_references.clone().unwrap_or_default();
    owners.retain(|o| o.uid != owner.uid);
    owners.push(owner);
    owners
}

/// The owner references of `candidate` once the owner `uid` has let it go.
pub(super) fn released(candidate: &ObjectMeta, uid: &str) -> Vec<OwnerReference> {
    let mut owners = candidate.owner_references.clone().unwrap_or_default();
    owners.retain(|o| o.uid != uid);
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(uid: &str, label: &str, owner: Option<&str>) -> ObjectMeta {
        ObjectMeta {
            uid: Some(uid.to_owned()),
            labels: Some([("app".to_owned(), label.to_owned())].into()),
            owner_references: owner.map(|uid| {
                vec![OwnerReference {
                    uid: uid.to_owned(),
                    controller: Some(true),
                    ..OwnerReference::default()
                }]
            }),
            ..ObjectMeta::default()
        }
    }

    #[test]
    fn claims_follow_selector_and_controller() {
        let selector = LabelSelector::parse("app=web").unwrap();
        let owner = meta("rs", "", None);
        let of = |owner: &ObjectMeta, candidate: &ObjectMeta| {
            claim(owner, &selector, candidate, candidate.labels.as_ref().unwrap())
        };
        assert_eq!(of(&owner, &meta("p", "web", Some("rs"))), Claim::Keep);
        assert_eq!(of(&owner, &meta("p", "db", Some("rs"))), Claim::Release);
        assert_eq!(of(&owner, &meta("p", "web", None)), Claim::Adopt);
        assert_eq!(of(&owner, &meta("p", "db", None)), Claim::Ignore);
        assert_eq!(of(&owner, &meta("p", "web", Some("other"))), Claim::Ignore);
        let mut deleting = meta("rs", "", None);
        deleting.deletion_timestamp = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
        assert_eq!(of(&deleting, &meta("p", "web", None)), Claim::Ignore);
        assert_eq!(of(&deleting, &meta("p", "db", Some("rs"))), Claim::Ignore);
    }
}
