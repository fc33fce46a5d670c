use std::sync::Arc;

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::ReplicationController},
    jiff::Timestamp,
};
use proptest::prelude::*;
use serde_json::json;

use super::{
    Sets,
    kind::Replicated as _,
    plan::{Failure, batches, plan, pod_of, status},
};
use crate::{
    cache::{Cache, Client, Pod},
    controllers::owner::controller_ref,
    events::Recorder,
    model::LabelSelector,
    objects::Objects,
    tasks::Tasks,
};

fn set(replicas: i32) -> ReplicaSet {
    serde_json::from_value(json!({
        "metadata": {"name": "web-1", "namespace": "default", "uid": "rs", "generation": 3},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "minReadySeconds": 10,
            "template": {
                "metadata": {"labels": {"app": "web", "tier": "front"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    }))
    .unwrap()
}

/// A pod of the set; `ready` is the second since when it is.
fn pod(name: &str, node: &str, ready: Option<i64>) -> Arc<Pod> {
    let time = |s: i64| Timestamp::from_second(s).unwrap().to_string();
    let conditions = match ready {
        Some(at) => json!([{"type": "Ready", "status": "True", "lastTransitionTime": time(at)}]),
        None => json!([{"type": "Ready", "status": "False"}]),
    };
    let pod = json!({
        "metadata": {
            "name": name, "namespace": "default", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": time(0),
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
                "uid": "rs", "controller": true}],
        },
        "spec": {"containers": [], "nodeName": node},
        "status": {"phase": "Running", "conditions": conditions},
    });
    Arc::new(serde_json::from_value(pod).unwrap())
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn planned(set: &ReplicaSet, pods: &[Arc<Pod>]) -> super::Plan {
    let selector = LabelSelector::parse("app=web").unwrap();
    plan(set, &selector, pods, pods, at(10_000))
}

#[tokio::test]
async fn a_set_reads_each_of_its_pods_once_and_nobody_elses() {
    let (objects, cache, tasks) =
        (Objects::in_memory(Vec::new()).await.unwrap(), Cache::default(), Tasks::default());
    cache.start(&objects, &tasks);
    cache.synced().await;
    let client = Client::new(&objects, &cache, "test");
    let mine = set(20);
    let mut other = set(20);
    other.metadata.uid = Some("other".to_owned());
    for set in [&mine, &other] {
        for _ in 0..20 {
            client.create(&pod_of(set, controller_ref(set))).await.unwrap();
        }
    }
    let mut orphan = pod_of(&mine, controller_ref(&mine));
    orphan.metadata.owner_references = None;
    client.create(&orphan).await.unwrap();
    let recorder = Recorder::start(&objects, &tasks);
    let sets = Sets::<ReplicaSet> { cache: cache.clone(), client, recorder, kind: std::marker::PhantomData };
    let before = cache.pods.given();
    let candidates = sets.candidates(&mine, &LabelSelector::parse("app=web").unwrap());
    assert_eq!((candidates.len(), cache.pods.given() - before), (21, 21));
}

#[test]
fn missing_pods_are_created_from_the_template() {
    assert_eq!(planned(&set(3), &[pod("a", "n", None)]).create, 2);
    assert_eq!(batches(10).collect::<Vec<_>>(), [1, 2, 4, 3]);
    let made = pod_of(&set(1), controller_ref(&set(1)));
    assert_eq!(made.metadata.generate_name.as_deref(), Some("web-1-"));
    assert_eq!(made.metadata.labels.unwrap()["tier"], "front");
    let owner = &made.metadata.owner_references.unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.block_owner_deletion), ("ReplicaSet", Some(true)));
}

#[test]
fn finished_and_leaving_pods_do_not_count() {
    let mut failed = (*pod("b", "n", None)).clone();
    failed.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let mut leaving = (*pod("c", "n", None)).clone();
    leaving.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    let pods = [pod("a", "n", None), Arc::new(failed), Arc::new(leaving)];
    assert_eq!(planned(&set(3), &pods).create, 2);
    let (status, _) = status(&set(3), &pods, None, at(1));
    assert_eq!((status.replicas, status.terminating_replicas), (1, Some(1)));
}

#[test]
fn the_least_useful_pods_go_first() {
    let mut cheap = (*pod("cheap", "n1", Some(1))).clone();
    cheap.metadata.annotations =
        Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-5".to_owned())].into());
    let pods = [
        pod("old", "n1", Some(1)),
        pod("crowded", "n2", Some(1)),
        pod("crowded-too", "n2", Some(1)),
        pod("recent", "n3", Some(9_990)),
        pod("not-ready", "n4", None),
        pod("unbound", "", None),
        Arc::new(cheap),
        pod("n1-more", "n1", Some(1)),
    ];
    let names = |replicas| -> Vec<String> {
        let plan = planned(&set(replicas), &pods);
        plan.delete.iter().filter_map(|p| p.metadata.name.clone()).collect()
    };
    assert_eq!(names(4), ["unbound", "not-ready", "cheap", "n1-more"]);
    assert_eq!(names(0).last().unwrap(), "recent", "alone on its node");
}

#[test]
fn a_deleting_set_neither_creates_nor_deletes() {
    let mut set = set(5);
    set.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(1)));
    let plan = planned(&set, &[pod("a", "n", None)]);
    assert_eq!((plan.create, plan.delete.len()), (0, 0));
}

#[test]
fn status_waits_for_min_ready_seconds() {
    let pods = [pod("a", "n", Some(100)), pod("b", "n", Some(105)), pod("c", "n", None)];
    let (status, next) = status(&set(3), &pods, None, at(111));
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(1)));
    assert_eq!(status.fully_labeled_replicas, None, "the template has one more label");
    assert_eq!(status.observed_generation, Some(3));
    assert_eq!(next, Some(std::time::Duration::from_secs(4)));
}

#[test]
fn a_failure_is_a_condition_with_the_time_it_began() {
    let failure = Failure { reason: "FailedCreate", message: "quota".to_owned() };
    let mut set = set(1);
    set.status = Some(status(&set, &[], Some(&failure), at(5)).0);
    let (again, _) = status(&set, &[], Some(&failure), at(50));
    assert_eq!(Some(&again), set.status.as_ref(), "an unchanged failure is an unchanged status");
    assert_eq!(status(&set, &[], None, at(60)).0.conditions, None);
}

#[test]
fn a_replication_controller_is_planned_for_as_a_set() {
    let mut controller: ReplicationController = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "rs", "generation": 3},
        "spec": {"replicas": 2, "selector": {"app": "web"}, "template": {
            "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "web", "image": "web:1"}]}}},
        "status": {"replicas": 0},
    }))
    .unwrap();
    let selector = controller.selector().unwrap();
    assert_eq!(selector.to_string(), "app=web");
    let set = controller.as_set().into_owned();
    let pods = [pod("a", "n", Some(1))];
    let plan = plan(&set, &selector, &pods, &pods, at(10_000));
    assert_eq!((plan.create, plan.owned.len()), (1, 1));
    let made = pod_of(&set, controller_ref(&controller));
    assert_eq!(made.metadata.owner_references.unwrap()[0].kind, "ReplicationController");
    let failure = Failure { reason: "FailedCreate", message: "quota".to_owned() };
    let status = status(&set, &pods, Some(&failure), at(10_000)).0;
    assert!(controller.status_differs(&status));
    controller.set_status(status.clone());
    assert!(!controller.status_differs(&status), "{:?}", controller.status);
    let told = controller.status.unwrap();
    assert_eq!((told.replicas, told.ready_replicas, told.observed_generation), (1, Some(1), Some(3)));
    assert_eq!(told.conditions.unwrap()[0].type_, "ReplicaFailure");
}

proptest! {
    #[test]
    fn a_plan_leads_to_the_wanted_count_and_then_to_rest(have in 0_usize..30, want in 0_i32..30) {
        let mut pods: Vec<_> = (0..have).map(|n| pod(&format!("p{n}"), "n", Some(1))).collect();
        let first = planned(&set(want), &pods);
        pods.retain(|p| !first.delete.iter().any(|d| d.metadata.name == p.metadata.name));
        pods.extend((0..first.create).map(|n| pod(&format!("new{n}"), "n", None)));
        prop_assert_eq!(pods.len(), usize::try_from(want).unwrap());
        let second = planned(&set(want), &pods);
        prop_assert_eq!((second.create, second.delete.len()), (0, 0));
    }
}
