use std::sync::Arc;

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    model::{REVISION, Wanted, available, replicas, template_hash},
    plan::{Plan, plan},
};
use crate::cache::MetaExt;

fn deployment(replicas: i32, strategy: &Value) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "d", "generation": 1,
            "annotations": {"kubernetes.io/change-cause": "first",
                "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {
            "replicas": replicas, "strategy": strategy, "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": 60, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]}},
        },
    }))
    .unwrap()
}

fn rolling(surge: &str, unavailable: &str) -> Value {
    let value = |text: &str| text.parse::<i32>().map_or_else(|_| json!(text), |n| json!(n));
    json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": value(surge), "maxUnavailable": value(unavailable)}})
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A Deployment with its sets, moved on by plans and by pods that become available when told to.
struct World {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    now: i64,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), now: 1_000 }
    }

    fn plan(&self) -> Plan {
        let owned: Vec<_> = self.sets.iter().cloned().map(Arc::new).collect();
        let current = &self.deployment.spec.template;
        let old_pods = self
            .sets
            .iter()
            .any(|s| !super::made_from(s, current) && s.status.as_ref().is_some_and(|s| s.replicas > 0));
        plan(&self.deployment, &owned, old_pods, at(self.now))
    }

    /// One pass; whether it changed a set.
    fn step(&mut self) -> bool {
        self.now += 1;
        let plan = self.plan();
        let changed = plan.create.is_some() || !plan.update.is_empty() || !plan.delete.is_empty();
        for set in &plan.update {
            let known = self.sets.iter_mut().find(|s| s.metadata.name == set.metadata.name).unwrap();
            *known = set.clone();
        }
        if let Some(mut set) = plan.create {
            set.metadata.uid.clone_from(&set.metadata.name);
            set.metadata.creation_timestamp = Some(Time(at(self.now)));
            self.sets.push(set);
        }
        self.sets.retain(|s| !plan.delete.iter().any(|d| d.metadata.name == s.metadata.name));
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(REVISION.to_owned(), revision);
        }
        self.deployment.status = Some(plan.status);
        changed
    }

    /// The ReplicaSet controller and the nodes: pods exist, and all of them become available but `lag`.
    fn settle(&mut self, mut lag: i32) {
        for set in &mut self.sets {
            let size = replicas(set);
            let before = available(set).min(size);
            let missing = (size - before).min(lag);
            lag -= missing;
            set.status = Some(ReplicaSetStatus {
                replicas: size,
                ready_replicas: Some(size - missing),
                available_replicas: Some(size - missing),
                observed_generation: set.metadata.generation,
                ..ReplicaSetStatus::default()
            });
        }
    }

    fn run(&mut self) {
        for _ in 0..500 {
            let changed = self.step();
            self.settle(0);
            if !changed && !self.step() {
                return;
            }
        }
        panic!("does not come to rest");
    }

    fn image(&mut self, image: &str) {
        let containers = &mut self.deployment.spec.template.spec.as_mut().unwrap().containers;
        containers[0].image = Some(image.to_owned());
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn progressing(&self) -> (String, String) {
        let status = self.deployment.status.clone().unwrap();
        let conditions = status.conditions.unwrap();
        let found = conditions.into_iter().find(|c| c.type_.as_deref() == Some("Progressing")).unwrap();
        (found.status.unwrap(), found.reason.unwrap())
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(replicas).collect()
    }

    fn revision(&self) -> Option<&str> {
        self.deployment.metadata.annotation(REVISION)
    }
}

fn wanted(replicas: i32, surge: &str, unavailable: &str) -> (i32, i32) {
    let wanted = Wanted::of(&deployment(replicas, &rolling(surge, unavailable)));
    (wanted.surge, wanted.unavailable)
}

#[test]
fn percents_round_surge_up_and_unavailable_down() {
    assert_eq!(wanted(10, "25%", "25%"), (3, 2));
    assert_eq!(wanted(3, "25%", "25%"), (1, 0));
    assert_eq!(wanted(1, "0%", "25%"), (0, 1), "a rollout can always take a step");
    let wanted = Wanted::of(&deployment(5, &json!({"type": "Recreate"})));
    assert_eq!((wanted.surge, wanted.unavailable), (0, 0));
}

#[test]
fn the_first_set_carries_hash_revision_and_cause() {
    let mut world = World::new(deployment(3, &rolling("25%", "25%")));
    world.run();
    let set = &world.sets[0];
    let hash = template_hash(&world.deployment.spec.template, None);
    assert_eq!(set.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    assert_eq!(set.metadata.labels.as_ref().unwrap()["pod-template-hash"], hash);
    assert_eq!(set.spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["kubernetes.io/change-cause"], "first");
    assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "4");
    assert!(!annotations.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
    assert_eq!(world.revision(), Some("1"));
    assert_eq!(world.progressing(), ("True".to_owned(), "NewReplicaSetAvailable".to_owned()));
    let status = world.deployment.status.unwrap();
    assert_eq!(
        (status.replicas, status.updated_replicas, status.available_replicas),
        (Some(3), Some(3), Some(3))
    );
    assert_eq!((status.unavailable_replicas, status.observed_generation), (None, Some(1)));
}

#[test]
fn undo_brings_back_the_old_set_under_a_new_revision() {
    let mut world = World::new(deployment(3, &rolling("1", "0")));
    world.run();
    world.image("web:2");
    world.run();
    assert_eq!((world.sizes(), world.revision()), (vec![0, 3], Some("2")));
    world.image("web:1");
    world.run();
    assert_eq!((world.sizes(), world.revision()), (vec![3, 0], Some("3")));
    let annotations = world.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

#[test]
fn history_keeps_as_many_sets_as_asked_for() {
    let mut world = World::new(deployment(2, &rolling("1", "0")));
    for version in 1..6 {
        world.image(&format!("web:{version}"));
        world.run();
    }
    let revisions: Vec<_> = world.sets.iter().filter_map(|s| s.metadata.annotation(REVISION)).collect();
    assert_eq!(revisions, ["3", "4", "5"]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(3, &rolling("1", "0")));
    world.run();
    world.deployment.spec.paused = Some(true);
    world.image("web:2");
    world.run();
    assert_eq!(world.sizes(), [3]);
    assert_eq!(world.progressing(), ("Unknown".to_owned(), "DeploymentPaused".to_owned()));
    world.deployment.spec.replicas = Some(5);
    world.run();
    assert_eq!(world.sizes(), [5]);
    world.deployment.spec.paused = Some(false);
    world.run();
    assert_eq!(world.sizes(), [0, 5]);
    assert_eq!(world.progressing().1, "NewReplicaSetAvailable");
}

#[test]
fn a_rollout_that_stands_still_exceeds_its_deadline_once() {
    let mut world = World::new(deployment(3, &rolling("1", "0")));
    world.run();
    world.image("web:broken");
    for _ in 0..10 {
        world.step();
        world.settle(1);
    }
    assert_eq!(world.sizes(), [3, 1], "availability is kept");
    let left = world.plan().next.unwrap().as_secs();
    assert!((1..60).contains(&left), "{left}");
    world.now += 60;
    world.step();
    assert_eq!(world.progressing(), ("False".to_owned(), "ProgressDeadlineExceeded".to_owned()));
    assert_eq!(world.plan().next, None);
    // A fix goes on from there.
    world.image("web:2");
    world.run();
    assert_eq!(world.progressing().1, "NewReplicaSetAvailable");
}

#[test]
fn recreate_waits_until_the_last_old_pod_is_gone() {
    let mut world = World::new(deployment(2, &json!({"type": "Recreate"})));
    world.run();
    world.image("web:2");
    world.step();
    assert_eq!(world.sizes(), [0]);
    assert!(!world.step(), "pods of the old set are still there");
    world.settle(0);
    world.run();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn a_change_of_size_in_the_middle_of_a_rollout_is_shared_out() {
    let mut world = World::new(deployment(10, &rolling("3", "2")));
    world.run();
    world.image("web:2");
    world.step();
    world.settle(3);
    world.step();
    assert_eq!(world.sizes(), [8, 3]);
    world.settle(5);
    world.deployment.spec.replicas = Some(15);
    world.step();
    // 18 in all: 8 and 3 of 13 grow to 8/13 and 3/13 of 18, and the larger takes what is left.
    assert_eq!(world.sizes(), [14, 4]);
    world.run();
    assert_eq!(world.sizes(), [0, 15]);
}

#[test]
fn a_plan_at_rest_is_empty() {
    let mut world = World::new(deployment(4, &rolling("25%", "25%")));
    world.run();
    let plan = world.plan();
    assert!(
        plan.update.is_empty() && plan.create.is_none() && plan.delete.is_empty() && plan.notes.is_empty()
    );
    assert_eq!(Some(plan.status), world.deployment.status);
    assert_eq!((plan.revision, plan.next), (None, None));
}

proptest! {
    #[test]
    fn a_rolling_update_keeps_its_bounds_and_ends(
        size in 1_i32..20,
        surge in 0_i32..5,
        unavailable in 0_i32..5,
        lags in proptest::collection::vec(0_i32..8, 1..60),
    ) {
        let strategy = json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}});
        let mut world = World::new(deployment(size, &strategy));
        world.run();
        let wanted = Wanted::of(&world.deployment);
        world.image("web:2");
        for lag in lags {
            world.step();
            let total: i32 = world.sizes().iter().sum();
            let up: i32 = world.sets.iter().map(|s| available(s).min(replicas(s))).sum();
            prop_assert!(total <= wanted.maximum(), "{total} pods of at most {}", wanted.maximum());
            prop_assert!(up >= wanted.minimum_available(), "{up} of {}", wanted.minimum_available());
            world.settle(lag);
            // Pods only ever become available: what lags was not there before.
        }
        world.settle(0);
        world.run();
        prop_assert_eq!(world.sizes(), vec![0, size]);
    }
}
