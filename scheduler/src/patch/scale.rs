//! Whose the count of a Scale is: a Scale shows one field of an object, so that who owns it there owns it here, and who
//! gains it here gains it there. Everything else of the object stays whose it was.

use serde_json::Value;

use super::{
    fields::FieldSet,
    managed::{Entry, Managers},
};
use crate::kinds::Kind;

/// The count, in a Scale as in every object that has one.
fn count() -> FieldSet {
    FieldSet::from_names(&[&["spec", "replicas"]])
}

fn has_count(entry: &Entry) -> bool {
    !entry.fields.intersection(&count()).is_empty()
}

/// Gives a Scale of `object` the owners of its count.
pub(crate) fn lend(object: &Value, scale_kind: &Kind, scale: &mut Value) {
    let mut managers = Managers::of(object);
    managers.0.retain(has_count);
    for entry in &mut managers.0 {
        entry.api_version = scale_kind.api_version();
        entry.fields = count();
    }
    managers.store(scale);
}

/// Gives `object` the owners of the count that a written Scale of it names: they gain it where they did not have it, and
/// whoever else had it loses it.
///
/// Upstream leaves two entries of one identity to an updater whose count somebody shares, and takes one of them for both at
/// the next write; here it keeps the one that it has.
pub(crate) fn take_back(kind: &Kind, scale: &Value, object: &mut Value) {
    let mut managers = Managers::of(object);
    let mut owners = Managers::of(scale).0;
    for entry in managers.0.iter_mut().filter(|entry| has_count(entry)) {
        let owner = owners.iter().position(|owner| owner.is_same_as(entry));
        match owner.map(|at| owners.remove(at)) {
            Some(_) => {}
            None => entry.fields = entry.fields.difference(&count()),
        }
    }
    managers.0.extend(owners.into_iter().filter(has_count).map(|owner| Entry {
        api_version: kind.api_version(),
        fields: count(),
        ..owner
    }));
    managers.store(object);
}
