//! Which containers are started again, and what that makes of the pod.

use super::*;
use crate::plan::restart::ROUND_LABEL;

fn rules(action: &str, operator: &str, values: &[i32]) -> serde_json::Value {
    json!([{"action": action, "exitCodes": {"operator": operator, "values": values}}])
}

fn named(name: &str, more: &serde_json::Value) -> serde_json::Value {
    let mut container = json!({"name": name, "image": "i"});
    container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    container
}

fn phase(plan: &PodPlan) -> &str {
    plan.status.phase.as_deref().unwrap()
}

/// Whether a container that ended is launched again, and the phase of its pod.
fn after(policy: &str, own: &serde_json::Value, code: i32) -> (bool, String) {
    let pod = testing::pod("p", json!({"restartPolicy": policy, "containers": [named("web", own)]}));
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "web", 0, exited(code, 20_000)));
    let plan = planned(&testing::desired([]), &pod, &seen);
    (launches(&plan) == ["p.web.1"], phase(&plan).to_owned())
}

#[test]
fn a_containers_own_policy_goes_before_that_of_its_pod() {
    let own = |policy: &str| json!({"restartPolicy": policy});
    let ruled = |operator: &str| json!({"restartPolicy": "Never", "restartPolicyRules": rules("Restart", operator, &[42])});
    for (policy, container, code, again, phase) in [
        ("Always", own("Never"), 0, false, "Succeeded"),
        ("Always", own("Never"), 1, false, "Failed"),
        ("Always", own("OnFailure"), 0, false, "Succeeded"),
        ("Always", own("OnFailure"), 1, true, "Running"),
        ("OnFailure", own("Never"), 1, false, "Failed"),
        ("OnFailure", own("Always"), 0, true, "Running"),
        ("Never", own("Always"), 0, true, "Running"),
        ("Never", own("OnFailure"), 1, true, "Running"),
        ("Never", json!({}), 1, false, "Failed"),
        ("Always", ruled("In"), 42, true, "Running"),
        ("Never", ruled("In"), 42, true, "Running"),
        ("Never", ruled("In"), 1, false, "Failed"),
        ("Never", ruled("In"), 0, false, "Succeeded"),
        ("Never", ruled("NotIn"), 42, false, "Failed"),
        ("Never", ruled("NotIn"), 0, true, "Running"),
        // Rules hold only beside a policy of the container's own.
        ("Never", json!({"restartPolicyRules": rules("Restart", "In", &[42])}), 42, false, "Failed"),
    ] {
        assert_eq!(after(policy, &container, code), (again, phase.to_owned()), "{policy} {container} {code}");
    }
}

#[test]
fn a_container_that_is_done_stays_terminated_beside_one_that_runs() {
    let pod = testing::pod(
        "p",
        json!({"containers": [named("once", &json!({"restartPolicy": "Never"})), named("web", &json!({}))]}),
    );
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "once", 0, exited(1, 20_000)));
    with(&mut seen, container(&pod, "web", 0, running(20_000)));
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert_eq!((launches(&plan).len(), phase(&plan)), (0, "Running"));
    let once = &plan.status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(once.state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 1);
    // The other is restarted by the pod's policy, and so the pod is not over.
    seen.containers.get_mut(&ContainerName::from("web")).unwrap()[0].state = exited(0, 20_000);
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert_eq!((launches(&plan), phase(&plan)), (vec!["p.web.1".to_owned()], "Running"));
}

#[test]
fn init_containers_have_policies_and_rules_of_their_own() {
    let ended = |policy: &str, own: serde_json::Value, code: i32| {
        let pod = testing::pod(
            "p",
            json!({"restartPolicy": policy, "initContainers": [named("a", &own)],
                   "containers": [named("web", &json!({}))]}),
        );
        let mut seen = prepared(&pod);
        with(&mut seen, container(&pod, "a", 0, exited(code, 20_000)));
        let plan = planned(&testing::desired([]), &pod, &seen);
        (launches(&plan).join(" "), phase(&plan).to_owned())
    };
    let result = |launch: &str, phase: &str| (launch.to_owned(), phase.to_owned());
    assert_eq!(ended("Always", json!({"restartPolicy": "Never"}), 1), result("", "Failed"));
    assert_eq!(ended("Never", json!({"restartPolicy": "OnFailure"}), 1), result("p.a.1", "Pending"));
    let ruled = json!({"restartPolicy": "Never", "restartPolicyRules": rules("Restart", "In", &[42, 0])});
    assert_eq!(ended("Never", ruled.clone(), 42), result("p.a.1", "Pending"));
    assert_eq!(ended("Never", ruled.clone(), 1), result("", "Failed"));
    // One that succeeded is done, whatever a rule says.
    assert_eq!(ended("Never", ruled, 0), result("p.web.0", "Pending"));
}

#[test]
fn a_container_that_will_not_come_back_is_not_said_to() {
    let message = |policy: &str| {
        let pod = testing::pod("p", json!({"containers": [named("web", &json!({"restartPolicy": policy}))]}));
        let mut seen = prepared(&pod);
        with(&mut seen, container(&pod, "web", 0, running(20_000)));
        let condemned = Some(crate::model::Condemned::Liveness);
        seen.record.of_mut(&"web".into(), 0).unwrap().unhealthy = condemned;
        match &planned(&testing::desired([]), &pod, &seen).steps[..] {
            [Step::BeginStop { message, .. }] => message.clone(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message("Never"), "Container web failed liveness probe");
    assert_eq!(message("OnFailure"), "Container web failed liveness probe, will be restarted");
}

#[test]
fn a_container_that_was_ended_for_a_new_image_ends_no_pod() {
    let pod =
        testing::pod("p", json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "new"}]}));
    let mut seen = prepared(&pod);
    let mut old = container(&pod, "web", 0, exited(143, 1));
    old.labels.insert(IMAGE_LABEL.to_owned(), "old".to_owned());
    with(&mut seen, old);
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert_eq!((launches(&plan), phase(&plan)), (vec!["p.web.1".to_owned()], "Running"));
}

/// A pod of policy Never: `a` is an init container, `s` a sidecar, `web` restarts all when it ends with 42.
fn whole() -> DesiredPod {
    let asks =
        json!({"restartPolicy": "Never", "restartPolicyRules": rules("RestartAllContainers", "In", &[42])});
    testing::pod(
        "p",
        json!({"restartPolicy": "Never",
               "initContainers": [named("a", &json!({})), named("s", &json!({"restartPolicy": "Always"}))],
               "containers": [named("web", &asks), named("peer", &json!({}))]}),
    )
}

fn set(seen: &mut ObservedPod, name: &str, state: ContainerState) {
    seen.containers.get_mut(&ContainerName::from(name)).unwrap().last_mut().unwrap().state = state;
}

/// What the launches of a plan make of an observation.
fn launched(pod: &DesiredPod, seen: &mut ObservedPod, plan: &PodPlan, state: &ContainerState) {
    for step in &plan.steps {
        let Step::Launch(launch) = step else { continue };
        let mut made = container(pod, launch.target.container.as_str(), launch.target.attempt, state.clone());
        made.labels.clone_from(&launch.spec.labels);
        with(seen, made);
    }
}

fn restarting(plan: &PodPlan) -> (String, Option<String>) {
    let mut conditions = plan.status.conditions.iter().flatten();
    let condition = conditions.find(|condition| condition.type_ == "AllContainersRestarting").unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn one_container_begins_its_whole_pod_anew() {
    let (pod, desired) = (whole(), testing::desired([]));
    let mut seen = prepared(&pod);
    let plan_of = |seen: &mut ObservedPod| {
        let plan = planned(&desired, &pod, seen);
        seen.record.status = Some(Arc::new(plan.status.clone()));
        plan
    };
    with(&mut seen, container(&pod, "a", 0, exited(0, 60_000)));
    for name in ["s", "web", "peer"] {
        with(&mut seen, container(&pod, name, 0, running(50_000)));
    }
    assert_eq!(restarting(&plan_of(&mut seen)), ("False".to_owned(), None));
    set(&mut seen, "web", exited(42, 1000));
    let plan = plan_of(&mut seen);
    assert_eq!((launches(&plan).len(), phase(&plan)), (0, "Running"));
    assert_eq!(restarting(&plan), ("True".to_owned(), Some("RestartAllContainersStarted".to_owned())));
    let ended = plan.steps.iter().filter_map(|step| match step {
        Step::BeginStop { target, pre_stop: None, .. } => Some(target.container.as_str()),
        _ => None,
    });
    let ended: Vec<_> = ended.collect();
    assert_eq!(ended, ["peer", "s"]);
    // Killed, which its own policy would make a failure for good.
    set(&mut seen, "peer", exited(137, 500));
    let plan = plan_of(&mut seen);
    assert_eq!((launches(&plan).len(), phase(&plan), restarting(&plan).0.as_str()), (0, "Running", "True"));
    set(&mut seen, "s", exited(137, 400));
    let plan = plan_of(&mut seen);
    assert_eq!((launches(&plan), phase(&plan)), (vec!["p.a.1".to_owned()], "Running"));
    launched(&pod, &mut seen, &plan, &running(100));
    let plan = plan_of(&mut seen);
    assert_eq!(restarting(&plan), ("False".to_owned(), None), "the new round has begun");
    assert_eq!((launches(&plan).len(), phase(&plan)), (0, "Running"));
    let web = &plan.status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        web.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("RestartingAllContainers")
    );
    assert_eq!(web.last_state.as_ref().unwrap().terminated.as_ref().unwrap().exit_code, 42);
    for (ended, next) in [("a", vec!["p.s.1"]), ("", vec!["p.web.1", "p.peer.1"]), ("", vec![])] {
        if !ended.is_empty() {
            set(&mut seen, ended, exited(0, 50));
        }
        let plan = plan_of(&mut seen);
        assert_eq!(launches(&plan), next);
        launched(&pod, &mut seen, &plan, &running(10));
    }
    // The end of the new round's own containers is judged as ever.
    set(&mut seen, "web", exited(1, 5));
    set(&mut seen, "peer", exited(0, 5));
    let plan = plan_of(&mut seen);
    assert!(matches!(&plan.steps[..], [Step::BeginStop { target, .. }] if target.container.as_str() == "s"));
    set(&mut seen, "s", exited(143, 1));
    let plan = plan_of(&mut seen);
    assert_eq!((launches(&plan).len(), phase(&plan)), (0, "Failed"));
    assert_eq!(restarting(&plan), ("False".to_owned(), Some("PodFailed".to_owned())));
}

#[test]
fn rounds_follow_each_other_and_the_one_that_asks_backs_off() {
    let (pod, desired) = (whole(), testing::desired([]));
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "a", 0, exited(0, 60_000)));
    for (name, state) in [("s", exited(137, 100)), ("web", exited(42, 1000)), ("peer", exited(137, 100))] {
        with(&mut seen, container(&pod, name, 0, state));
    }
    // Nothing lives any more: the next round begins.
    assert_eq!(launches(&planned(&desired, &pod, &seen)), ["p.a.1"]);
    for (name, state) in
        [("a", exited(0, 90)), ("s", running(80)), ("web", exited(42, 70)), ("peer", running(60))]
    {
        let mut again = container(&pod, name, 1, state);
        again.labels.insert(ROUND_LABEL.to_owned(), "1".to_owned());
        again.labels.insert(LEVEL_LABEL.to_owned(), "1".to_owned());
        with(&mut seen, again);
    }
    assert_eq!(restarting(&planned(&desired, &pod, &seen)).0, "True");
    for name in ["s", "peer"] {
        set(&mut seen, name, exited(137, 10));
    }
    let plan = planned(&desired, &pod, &seen);
    assert_eq!(launches(&plan), ["p.a.2"]);
    launched(&pod, &mut seen, &plan, &exited(0, 5));
    let plan = planned(&desired, &pod, &seen);
    launched(&pod, &mut seen, &plan, &running(4));
    let plan = planned(&desired, &pod, &seen);
    assert_eq!((launches(&plan), plan.wake_ms), (vec!["p.peer.2".to_owned()], Some(NOW - 70 + 10_000)));
    let web = &plan.status.container_statuses.as_ref().unwrap()[0];
    assert_eq!(
        web.state.as_ref().unwrap().waiting.as_ref().unwrap().reason.as_deref(),
        Some("CrashLoopBackOff")
    );
}

#[test]
fn a_pod_that_is_over_or_goes_is_not_begun_anew() {
    let (mut pod, desired) = (whole(), testing::desired([]));
    pod.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "web", 0, exited(42, 1000)));
    let plan = planned(&desired, &pod, &seen);
    assert_eq!((launches(&plan).len(), restarting(&plan).0.as_str()), (0, "False"));
    // All that were served have ended for good: their sidecar's end asks for nothing any more.
    let asks =
        json!({"restartPolicy": "Always", "restartPolicyRules": rules("RestartAllContainers", "In", &[42])});
    let pod = testing::pod(
        "q",
        json!({"restartPolicy": "Never", "initContainers": [named("s", &asks)],
               "containers": [named("job", &json!({}))]}),
    );
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "job", 0, exited(0, 2000)));
    with(&mut seen, container(&pod, "s", 0, exited(42, 1000)));
    let plan = planned(&desired, &pod, &seen);
    assert_eq!((launches(&plan).len(), phase(&plan)), (0, "Succeeded"));
    assert_eq!(restarting(&plan), ("False".to_owned(), Some("PodCompleted".to_owned())));
    set(&mut seen, "job", running(2000));
    let plan = planned(&desired, &pod, &seen);
    assert_eq!((launches(&plan).len(), restarting(&plan).0.as_str()), (0, "True"));
}
