//! Which pods of a ReplicaSet go first when there are too many: upstream's order.

use std::{
    cmp::{Ordering, Reverse},
    collections::HashMap,
    sync::Arc,
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    cache::{MetaExt, Pod},
    controllers::pods,
};

/// Lower goes first; `-2^31` to `2^31 - 1`, 0 when unset.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Orders `pods` so that those to delete first come first. `related` are the active pods of all siblings under
/// the same owner: of pods that are otherwise equal, those on a crowded node go first.
pub(super) fn deletion_order(pods: &mut [Arc<Pod>], related: &[Arc<Pod>], now: Timestamp) {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related.iter().filter(|p| pods::is_active(p)) {
        *crowd.entry(pod.node().unwrap_or("")).or_default() += 1;
    }
    pods.sort_by(|a, b| compare(a, b, &crowd, now));
}

fn compare(a: &Pod, b: &Pod, crowd: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let crowded = |p: &Pod| Reverse(crowd.get(p.node().unwrap_or("")).copied().unwrap_or(0));
    a.node()
        .is_some()
        .cmp(&b.node().is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowded(a).cmp(&crowded(b)))
        .then_with(|| ready_age(a, now).cmp(&ready_age(b, now)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(a, now).cmp(&age(b, now)))
        .then_with(|| a.metadata.uid_str().cmp(b.metadata.uid_str()))
}

fn phase_rank(pod: &Pod) -> u8 {
    match pods::phase(pod) {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    }
}

fn cost(pod: &Pod) -> i32 {
    pod.metadata.annotation(DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0)
}

/// Power-of-two bucket of how long it has been ready: recent ones go first, but pods of nearly the same age are
/// equal, so that a zone that came up a second later is not emptied as a whole.
fn ready_age(pod: &Pod, now: Timestamp) -> u32 {
    pods::ready_since(pod).flatten().map_or(0, |since| bucket(since, now))
}

fn age(pod: &Pod, now: Timestamp) -> u32 {
    pod.metadata.creation_timestamp.as_ref().map_or(0, |t| bucket(t.0, now))
}

fn bucket(since: Timestamp, now: Timestamp) -> u32 {
    let seconds = now.duration_since(since).as_secs().max(0).unsigned_abs();
    u64::BITS - seconds.leading_zeros()
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|s| s.restart_count).max().unwrap_or(0)
}
