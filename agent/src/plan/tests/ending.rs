//! How a pod is ended: hooks, signals, the grace.

use super::*;

#[test]
fn pre_stop_comes_before_the_signal_and_shares_its_grace() {
    let mut pod = testing::pod(
        "p",
        json!({"containers": [{"name": "web", "image": "i",
            "lifecycle": {"preStop": {"sleep": {"seconds": 3}}, "stopSignal": "SIGINT"}}]}),
    );
    pod.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
    pod.pod.metadata.deletion_grace_period_seconds = Some(10);
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "web", 0, running(1000)));
    let desired = testing::desired([]);
    let plan = planned(&desired, &pod, &seen);
    assert!(matches!(&plan.steps[..], [Step::BeginStop { pre_stop: Some(_), .. }]));
    let stop = |since_ms, pre_stop_done, signalled_ms| crate::model::StopRecord {
        since_ms,
        pre_stop_done,
        signalled_ms,
    };
    let record =
        |seen: &mut ObservedPod, stop| seen.record.of_mut(&"web".into(), 0).unwrap().stop = Some(stop);
    seen.hooks.insert(("p.web.0".into(), crate::model::HookKind::PreStop));
    record(&mut seen, stop(NOW - 1000, false, None));
    let plan = planned(&desired, &pod, &seen);
    assert_eq!((plan.steps.len(), plan.wake_ms), (0, Some(NOW + 9000)));
    seen.hooks.clear();
    // Left behind by an agent that was killed: the rest of the grace is its own.
    let plan = planned(&desired, &pod, &seen);
    assert!(
        matches!(&plan.steps[..], [Step::PreStop(call)] if call.limit_ms == Some(9000)),
        "{:?}",
        plan.steps
    );
    record(&mut seen, stop(NOW - 10_000, false, None));
    assert!(matches!(&planned(&desired, &pod, &seen).steps[..], [Step::Signal { .. }]), "no grace is left");
    record(&mut seen, stop(NOW - 3000, true, None));
    assert!(matches!(&planned(&desired, &pod, &seen).steps[..], [Step::Signal { signal: 2, .. }]));
    record(&mut seen, stop(NOW - 9500, true, Some(NOW - 100)));
    assert_eq!(planned(&desired, &pod, &seen).wake_ms, Some(NOW + 1900));
    record(&mut seen, stop(NOW - 12_000, true, Some(NOW - 2500)));
    assert!(matches!(&planned(&desired, &pod, &seen).steps[..], [Step::Kill(_)]));
}

#[test]
fn a_sidecar_gets_the_rest_of_the_pods_grace() {
    let mut pod = testing::pod(
        "p",
        json!({"initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
               "containers": [{"name": "web", "image": "i"}]}),
    );
    pod.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
    pod.pod.metadata.deletion_grace_period_seconds = Some(30);
    let wake = |main_ago: i64, sidecar_ago: i64| {
        let mut seen = prepared(&pod);
        with(&mut seen, container(&pod, "s", 0, running(60_000)));
        with(&mut seen, container(&pod, "web", 0, exited(0, 10)));
        let mut stop = |name: &str, ago: i64| {
            let since_ms = NOW - ago;
            let stop =
                crate::model::StopRecord { since_ms, pre_stop_done: true, signalled_ms: Some(since_ms) };
            seen.record.of_mut(&name.into(), 0).unwrap().stop = Some(stop);
        };
        stop("web", main_ago);
        stop("s", sidecar_ago);
        planned(&testing::desired([]), &pod, &seen).wake_ms
    };
    assert_eq!(wake(20_000, 0), Some(NOW + 10_000));
    assert_eq!(wake(30_000, 0), Some(NOW + 2_000), "never less than two seconds");
}

#[test]
fn a_removal_that_fails_holds_back_no_signal() {
    let mut pod = testing::pod("p", json!({"containers": [{"name": "web", "image": "i"}]}));
    pod.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "web", 0, running(1000)));
    let stop = crate::model::StopRecord { since_ms: NOW, pre_stop_done: true, signalled_ms: None };
    seen.record.of_mut(&"web".into(), 0).unwrap().stop = Some(stop);
    let failure = Failure { reason: "", message: String::new(), count: 3, at_ms: NOW, attempt: 0 };
    seen.failures.insert(Subject::Removal, failure.clone());
    let desired = testing::desired([]);
    assert!(matches!(&planned(&desired, &pod, &seen).steps[..], [Step::Signal { .. }]));
    // Its own failure does.
    seen.failures.insert(Subject::Stop("web".into()), failure);
    let plan = planned(&desired, &pod, &seen);
    assert!(plan.steps.is_empty() && plan.wake_ms.is_some());
}

#[test]
fn an_image_says_what_ends_its_containers_unless_the_pod_does() {
    let launched = |lifecycle: serde_json::Value, image: &str| {
        let pod =
            testing::pod("p", json!({"containers": [{"name": "web", "image": "i", "lifecycle": lifecycle}]}));
        let mut seen = prepared(&pod);
        for state in seen.images.values_mut() {
            let ImageState::Present { info, .. } = state else { panic!("{state:?}") };
            info.stop_signal = image.to_owned();
        }
        (planned(&testing::desired([]), &pod, &seen), pod)
    };
    let own = || json!({"stopSignal": "SIGUSR1"});
    for (lifecycle, image, expected) in [
        (json!({}), "", 15),
        (json!({}), "SIGQUIT", 3),
        (json!({}), "SIGRTMIN+3", 37),
        (own(), "SIGQUIT", 10),
    ] {
        let (plan, mut pod) = launched(lifecycle, image);
        let labels = launch_of(&plan).spec.labels.clone();
        // The image may be gone by then, or another one under its name.
        pod.pod.metadata.deletion_timestamp =
            Some(serde_json::from_value(json!("2027-01-15T08:00:00Z")).unwrap());
        let mut seen = prepared(&pod);
        with(&mut seen, ObservedContainer { labels, ..container(&pod, "web", 0, running(1000)) });
        let stop = crate::model::StopRecord { since_ms: NOW, pre_stop_done: true, signalled_ms: None };
        seen.record.of_mut(&"web".into(), 0).unwrap().stop = Some(stop);
        let steps = planned(&testing::desired([]), &pod, &seen).steps;
        let [Step::Signal { signal, .. }] = &steps[..] else { panic!("{steps:?}") };
        assert_eq!(*signal, expected);
    }
    for (lifecycle, image) in [(json!({"stopSignal": "SIGFOO"}), ""), (json!({}), "SIGFOO")] {
        let plan = launched(lifecycle, image).0;
        assert!(launches(&plan).is_empty(), "it could only be ended by another signal");
        let waiting =
            plan.status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap().waiting.unwrap();
        assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
        assert!(waiting.message.unwrap().contains("SIGFOO"));
    }
}
