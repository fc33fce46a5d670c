//! Sizes: how far a rolling update may go now, and how a change of `replicas` in the middle of a rollout is
//! shared out. Arithmetic only, as upstream does it.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{
    model::{DESIRED, MAXIMUM, Wanted, available, replicas},
    sets::{Sets, Slot, resize},
};
use crate::cache::MetaExt;

/// The size of the new set in the next step, `all` being what all sets ask for together.
pub(super) fn next_new_size(wanted: Wanted, current: i32, all: i32) -> i32 {
    if !wanted.rolling {
        return wanted.replicas;
    }
    let room = wanted.maximum() - all;
    if room <= 0 { current } else { current + room.min(wanted.replicas - current).max(0) }
}

/// Grows or shrinks the new set. Whether that changed anything.
pub(super) fn step_new(sets: &mut Sets, wanted: Wanted) -> bool {
    let all = sets.sum(replicas);
    let Some(slot) = &mut sets.new else { return false };
    let current = replicas(&slot.set);
    let size = if current > wanted.replicas { wanted.replicas } else { next_new_size(wanted, current, all) };
    if size == current {
        return false;
    }
    resize(slot, size, wanted, &mut sets.notes);
    true
}

/// Shrinks old sets as far as availability allows: first pods that are not available anyway. Whether that
/// changed anything.
pub(super) fn step_old(sets: &mut Sets, wanted: Wanted) -> bool {
    let unavailable_new = sets.new.as_ref().map_or(0, |s| replicas(&s.set) - available(&s.set));
    let all = sets.sum(replicas);
    let budget = all - wanted.minimum_available() - unavailable_new;
    if budget <= 0 || sets.old.iter().all(|s| replicas(&s.set) == 0) {
        return false;
    }
    let unhealthy = shrink(sets, wanted, budget, |set| replicas(set) - available(set));
    let spare = sets.sum(available) - wanted.minimum_available();
    let healthy = if spare > 0 { shrink(sets, wanted, spare, replicas) } else { 0 };
    unhealthy + healthy > 0
}

fn shrink(sets: &mut Sets, wanted: Wanted, budget: i32, most: impl Fn(&ReplicaSet) -> i32) -> i32 {
    let mut done = 0;
    for slot in &mut sets.old {
        let by = most(&slot.set).min(budget - done).min(replicas(&slot.set));
        if by > 0 {
            let to = replicas(&slot.set) - by;
            resize(slot, to, wanted, &mut sets.notes);
            done += by;
        }
    }
    done
}

/// Recreate: all old sets to nothing. Whether that changed anything.
pub(super) fn empty_old(sets: &mut Sets, wanted: Wanted) -> bool {
    shrink(sets, wanted, i32::MAX, replicas) > 0
}

/// Whether `spec.replicas` changed since the sets were last sized.
pub(super) fn is_scaling(sets: &Sets, wanted: Wanted) -> bool {
    let number = |set: &ReplicaSet| set.metadata.annotation(DESIRED).and_then(|d| d.parse::<i32>().ok());
    sets.all().filter(|s| replicas(s) > 0).any(|s| number(s).is_some_and(|d| d != wanted.replicas))
}

/// Shares a change of `spec.replicas` out over the sets: a set at rest gets all of it, the sets of a rollout
/// get it in proportion to their size.
pub(super) fn share_out(sets: &mut Sets, deployment: &Deployment, wanted: Wanted) {
    if let Some(only) = only_or_latest(sets) {
        return resize(only.0, wanted.replicas, wanted, only.1);
    }
    if is_saturated(sets, wanted) {
        empty_old(sets, wanted);
        return;
    }
    if wanted.rolling {
        proportional(sets, deployment, wanted);
    }
}

fn only_or_latest(sets: &mut Sets) -> Option<(&mut Slot, &mut Vec<crate::events::Note>)> {
    let active = |slot: &&mut Slot| replicas(&slot.set) > 0;
    let count = sets.all().filter(|s| replicas(s) > 0).count();
    let notes = &mut sets.notes;
    let slot = match count {
        0 => sets.new.as_mut().or(sets.old.last_mut()),
        1 => sets.old.iter_mut().chain(&mut sets.new).find(active),
        _ => None,
    };
    slot.map(|slot| (slot, notes))
}

fn is_saturated(sets: &Sets, wanted: Wanted) -> bool {
    let Some(slot) = &sets.new else { return false };
    let desired = slot.set.metadata.annotation(DESIRED).and_then(|d| d.parse::<i32>().ok());
    replicas(&slot.set) == wanted.replicas
        && desired == Some(wanted.replicas)
        && available(&slot.set) == wanted.replicas
}

fn proportional(sets: &mut Sets, deployment: &Deployment, wanted: Wanted) {
    let allowed = if wanted.replicas > 0 { wanted.maximum() } else { 0 };
    let before = deployment.status.as_ref().and_then(|s| s.replicas).unwrap_or(0);
    let add = allowed - sets.sum(replicas);
    let notes = &mut sets.notes;
    let mut active: Vec<&mut Slot> =
        sets.old.iter_mut().chain(&mut sets.new).filter(|s| replicas(&s.set) > 0).collect();
    // Growing favours the newer of equal sets, shrinking the older. `active` is oldest first.
    if add > 0 {
        active.reverse();
    }
    active.sort_by_key(|slot| std::cmp::Reverse(replicas(&slot.set)));
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::with_capacity(active.len());
    for slot in &active {
        let share = proportion(&slot.set, wanted, before, add, added);
        added += share;
        sizes.push(replicas(&slot.set) + share);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + add - added).max(0);
    }
    for (slot, size) in active.into_iter().zip(sizes) {
        resize(slot, size, wanted, notes);
    }
}

fn proportion(set: &ReplicaSet, wanted: Wanted, before: i32, add: i32, added: i32) -> i32 {
    if add == 0 || add == added {
        return 0;
    }
    let fraction = fraction(set, wanted, before);
    if add > 0 { fraction.min(add - added) } else { fraction.max(add - added) }
}

fn fraction(set: &ReplicaSet, wanted: Wanted, before: i32) -> i32 {
    let size = replicas(set);
    if wanted.replicas == 0 {
        return -size;
    }
    let maximum = set.metadata.annotation(MAXIMUM).and_then(|m| m.parse::<i32>().ok());
    let before = maximum.unwrap_or(before);
    if before == 0 {
        return 0;
    }
    let exact = f64::from(size) * f64::from(wanted.maximum()) / f64::from(before);
    // Sizes are far below 2^31: the conversion is exact.
    exact.round() as i32 - size
}
