//! What holds of every plan, whatever was observed.

use proptest::prelude::*;

use super::*;

fn any_state() -> impl Strategy<Value = ContainerState> {
    prop_oneof![
        Just(ContainerState::Created),
        (0..700_000_i64).prop_map(running),
        ((0..3_i32), (0..700_000_i64)).prop_map(|(code, ago)| exited(code, ago)),
        Just(ContainerState::Lost),
        Just(ContainerState::Unreadable),
    ]
}

/// One of the ways in which a container says itself when it is started again.
fn container_of(name: &str, own: usize) -> serde_json::Value {
    let rule = json!([{"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [1]}}]);
    match own {
        0 => json!({"name": name, "image": "i", "restartPolicy": "Never"}),
        1 => json!({"name": name, "image": "i", "restartPolicy": "OnFailure", "restartPolicyRules": rule}),
        _ => json!({"name": name, "image": "i"}),
    }
}

fn any_pod() -> impl Strategy<Value = (DesiredPod, Vec<(String, Vec<ContainerState>)>)> {
    let policy = prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")];
    let attempts = prop::collection::vec(any_state(), 0..4);
    let containers = prop::collection::vec(attempts, 1..4);
    let own = prop::collection::vec(0..4_usize, 3);
    (policy, containers, own, any::<bool>(), any::<bool>()).prop_map(
        |(policy, containers, own, init, deleted)| {
            let names: Vec<_> = (0..containers.len()).map(|index| format!("c{index}")).collect();
            let mut specs: Vec<_> =
                names.iter().zip(own).map(|(name, own)| container_of(name, own)).collect();
            let first = specs.remove(0);
            let spec = if init && !specs.is_empty() {
                json!({"restartPolicy": policy, "initContainers": [first], "containers": specs})
            } else {
                specs.insert(0, first);
                json!({"restartPolicy": policy, "containers": specs})
            };
            let mut pod = testing::pod("p", spec);
            if deleted {
                pod.pod.metadata.deletion_timestamp =
                    Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
            }
            (pod, names.into_iter().zip(containers).collect())
        },
    )
}

fn observed(pod: &DesiredPod, containers: &[(String, Vec<ContainerState>)]) -> ObservedPod {
    let mut seen = prepared(pod);
    for (name, states) in containers {
        for (attempt, state) in states.iter().enumerate() {
            // Only the latest attempt can be anything but ended: that is what the other property shows.
            let state = if attempt + 1 == states.len() { state.clone() } else { exited(1, 700_000) };
            with(&mut seen, container(pod, name, u32::try_from(attempt).unwrap(), state));
        }
    }
    seen
}

proptest! {
    /// Nothing is ever started beside a living attempt of the same container, nor under a number that was used,
    /// and every step is about this pod.
    #[test]
    fn never_two_attempts_of_one_container((pod, containers) in any_pod()) {
        let seen = observed(&pod, &containers);
        let plan = planned(&testing::desired([]), &pod, &seen);
        for step in &plan.steps {
            if let Step::Launch(launch) = step {
                let latest = seen.latest(&launch.target.container);
                let alive = latest.is_some_and(|l| l.state.may_live());
                prop_assert!(!alive);
                let free = latest.is_none_or(|latest| match latest.state {
                    // One that another container's end made void is not started.
                    ContainerState::Created => launch.target.attempt - latest.attempt <= 1,
                    _ => launch.target.attempt == latest.attempt + 1,
                });
                prop_assert!(free, "{launch:?} after {latest:?}");
                prop_assert!(pod.pod.metadata.deletion_timestamp.is_none());
            }
        }
    }

    /// A plan is a function: the same observation gives the same plan, and reporting its status changes neither the
    /// next status nor the next steps.
    #[test]
    fn a_reported_status_is_stable((pod, containers) in any_pod()) {
        let mut seen = observed(&pod, &containers);
        let first = planned(&testing::desired([]), &pod, &seen);
        seen.record.status = Some(Arc::new(first.status.clone()));
        let second = planned(&testing::desired([]), &pod, &seen);
        prop_assert_eq!(&second.status, &first.status);
        prop_assert!(second.notices.is_empty(), "{:?}", second.notices);
        if terminal(Some(&first.status)).is_none() {
            prop_assert_eq!(&second.steps, &first.steps);
        }
    }

    /// A pod that is as it should be needs nothing, now and at any later time.
    #[test]
    fn a_pod_that_runs_needs_nothing(count in 1..4_usize, later in 0..10_000_000_i64) {
        let names: Vec<_> = (0..count).map(|index| format!("c{index}")).collect();
        let specs: Vec<_> = names.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        let pod = testing::pod("p", json!({"containers": specs}));
        let mut seen = prepared(&pod);
        for name in &names {
            with(&mut seen, container(&pod, name, 0, running(1)));
        }
        seen.now_ms += later;
        let plan = planned(&testing::desired([]), &pod, &seen);
        prop_assert!(plan.steps.is_empty() && plan.wake_ms.is_none(), "{:?}", plan.steps);
        prop_assert_eq!(plan.status.phase.as_deref(), Some("Running"));
    }
}
