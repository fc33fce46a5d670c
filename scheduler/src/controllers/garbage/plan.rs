//! What becomes of one object, as a pure function of it, its owners and its dependents.

use std::collections::HashSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::{cache::MetaExt, objects::Propagation};

/// Holds an object until its dependents are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an object until its dependents have let go of it.
pub(super) const ORPHAN: &str = "orphan";

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// It is there, or nobody can say that it is not.
    Solid,
    /// It is there and waits for its dependents to go.
    Waiting,
    /// It is not there.
    Absent,
}

/// What to do with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing.
    Nothing,
    /// Delete it.
    Delete(Propagation),
    /// Keep it without these owners.
    Disown(HashSet<String>),
    /// It is ending: its dependents let go of it, then it may go.
    Orphan,
    /// It is ending: its dependents go first.
    Foreground,
}

/// Plans. `has_dependents` is asked only when it matters.
pub(super) fn plan(
    meta: &ObjectMeta,
    owner: impl Fn(&OwnerReference) -> Owner,
    has_dependents: impl Fn() -> bool,
) -> Action {
    let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
    if meta.deleting() {
        return if has(ORPHAN) {
            Action::Orphan
        } else if has(FOREGROUND) {
            Action::Foreground
        } else {
            Action::Nothing
        };
    }
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    if owners.is_empty() {
        return Action::Nothing;
    }
    let states: Vec<(&OwnerReference, Owner)> = owners.iter().map(|o| (o, owner(o))).collect();
    let is = |state: Owner| states.iter().any(|(_, s)| *s == state);
    if is(Owner::Solid) {
        // One owner is enough to live; the others are of no more use.
        let leaving = states.iter().filter(|(_, s)| *s != Owner::Solid).map(|(o, _)| o.uid.clone());
        let leaving: HashSet<String> = leaving.collect();
        return if leaving.is_empty() { Action::Nothing } else { Action::Disown(leaving) };
    }
    if is(Owner::Waiting) && has_dependents() {
        return Action::Delete(Propagation::Foreground);
    }
    Action::Delete(Propagation::Background)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(owners: &[&str], finalizers: &[&str], deleting: bool) -> ObjectMeta {
        let owner = |uid: &&str| OwnerReference { uid: (*uid).to_owned(), ..OwnerReference::default() };
        ObjectMeta {
            owner_references: Some(owners.iter().map(owner).collect()),
            finalizers: Some(finalizers.iter().map(|f| (*f).to_owned()).collect()),
            deletion_timestamp: deleting.then(|| serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap()),
            ..ObjectMeta::default()
        }
    }

    fn planned(meta: &ObjectMeta, dependents: bool) -> Action {
        let state = |o: &OwnerReference| match o.uid.as_str() {
            "solid" => Owner::Solid,
            "waiting" => Owner::Waiting,
            _ => Owner::Absent,
        };
        plan(meta, state, || dependents)
    }

    #[test]
    fn an_object_lives_as_long_as_one_of_its_owners() {
        assert_eq!(planned(&meta(&[], &[], false), false), Action::Nothing);
        assert_eq!(planned(&meta(&["solid"], &[], false), false), Action::Nothing);
        assert_eq!(planned(&meta(&["gone"], &[], false), true), Action::Delete(Propagation::Background));
        let lost = HashSet::from(["gone".to_owned(), "waiting".to_owned()]);
        assert_eq!(planned(&meta(&["solid", "gone", "waiting"], &[], false), false), Action::Disown(lost));
    }

    #[test]
    fn foreground_goes_down_the_tree() {
        let waits = meta(&["waiting"], &[], false);
        assert_eq!(planned(&waits, true), Action::Delete(Propagation::Foreground));
        assert_eq!(planned(&waits, false), Action::Delete(Propagation::Background));
        assert_eq!(planned(&meta(&["waiting"], &[FOREGROUND], true), true), Action::Foreground);
        assert_eq!(planned(&meta(&[], &[ORPHAN], true), true), Action::Orphan);
        assert_eq!(planned(&meta(&["gone"], &["other/hold"], true), true), Action::Nothing);
    }
}
