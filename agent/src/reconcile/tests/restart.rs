//! What an agent makes of a node that an earlier one, or a reboot, left.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_restarts_nothing_and_flips_nothing() {
    let (node, dir) = setup();
    let probed = pod(
        "p1",
        json!({"containers": [{"name": "web", "image": "app:1",
            "readinessProbe": {"exec": {"command": ["check"]}, "periodSeconds": 5}}]}),
    );
    let agent = Agent::start(&node, &dir, Some(desired([probed.clone()])));
    agent.until("Ready", |report| condition(report, "Ready") == "True").await;
    agent.kill().await;

    let again = Agent::start(&node, &dir, Some(desired([probed])));
    let first = again.until("a report", |_| true).await;
    assert_eq!(condition(&first, "Ready"), "True");
    sleep(Duration::from_secs(130)).await;
    assert!(again.heard.said().reports.iter().all(|report| condition(report, "Ready") == "True"));
    assert!(node.state().log.iter().filter(|line| line.starts_with("exec")).count() > 10);
    assert_eq!(starts(&node), ["start p1.web.0"]);
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_sets_limits_once_and_begins_a_drain_again() {
    let (node, dir) = setup();
    let drained = || {
        pod(
            "p1",
            json!({"containers": [{"name": "web", "image": "app:1",
            "lifecycle": {"preStop": {"sleep": {"seconds": 10}}}}]}),
        )
    };
    let agent = Agent::start(&node, &dir, Some(desired([drained()])));
    agent.until("Running", is_running).await;
    agent.kill().await;
    let again = Agent::start(&node, &dir, Some(desired([drained()])));
    again.until("a report", |_| true).await;
    sleep(Duration::from_secs(130)).await;
    // A kill between making the cgroup and setting its limits must not leave a pod without.
    assert_eq!(log_of(&node, "cgroup").len(), 2);

    again.want(desired([deleted(drained(), 30)]));
    again.heard.until("Killing", |said| said.events.iter().any(|event| event.reason == "Killing")).await;
    sleep(Duration::from_secs(2)).await;
    again.kill().await;
    let began = Instant::now();
    let last = Agent::start(&node, &dir, Some(desired([deleted(drained(), 30)])));
    last.until("finished", |report| report.finished).await;
    assert!(began.elapsed() >= Duration::from_secs(10), "the hook ran to its end: {:?}", began.elapsed());
    assert_eq!(log_of(&node, "kill"), ["kill p1.web.0 15"]);
}

#[tokio::test(start_paused = true)]
async fn a_reboot_starts_everything_again_under_the_next_number() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    agent.kill().await;
    node.reboot();
    // The ledger has the status of the time when the pod was bound: none.
    let again = Agent::start(&node, &dir, Some(desired([web()])));
    let report = again
        .until("Running again", |report| {
            is_running(report)
                && condition(report, "Ready") == "True"
                && report.status.container_statuses.as_ref().unwrap()[0].restart_count == 1
        })
        .await;
    assert_eq!(report.status.container_statuses.as_ref().unwrap()[0].restart_count, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_taken_stays_though_labels_and_taints_are_others_now() {
    let (node, dir) = setup();
    let at = |disk: &str, taints: serde_json::Value| {
        let labels = [("disk".to_owned(), disk.to_owned())].into();
        let own = OwnNode { labels, taints: serde_json::from_value(taints).unwrap() };
        let picky =
            json!({"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "web", "image": "app:1"}]});
        Desired { node: Some(Arc::new(own)), ..desired([pod("p1", picky)]) }
    };
    let other = || at("hdd", json!([{"key": "k", "effect": "NoExecute"}]));
    let nobody_failed = |agent: &Agent| {
        let said = agent.heard.said();
        let failed = |report: &PodReport| report.status.phase.as_deref() == Some("Failed");
        assert!(!said.reports.iter().any(failed), "{:?}", said.reports);
    };
    let agent = Agent::start(&node, &dir, Some(at("ssd", json!([]))));
    agent.until("Running", is_running).await;
    agent.want(other());
    sleep(Duration::from_secs(130)).await;
    nobody_failed(&agent);
    agent.kill().await;

    let again = Agent::start(&node, &dir, Some(other()));
    again.until("a report", |_| true).await;
    sleep(Duration::from_secs(130)).await;
    nobody_failed(&again);
    assert_eq!(starts(&node), ["start p1.web.0"]);
    again.kill().await;

    // Nothing but the record says that it was taken.
    node.reboot();
    node.state().containers.clear();
    let last = Agent::start(&node, &dir, Some(other()));
    last.until("Running again", is_running).await;
    nobody_failed(&last);
    // One that comes now is asked by what the node is now.
    last.kill().await;
    let elsewhere = Agent::start(&FakeNode::new(), &Arc::new(tempfile::tempdir().unwrap()), Some(other()));
    let refused = elsewhere.until("a report", |_| true).await;
    assert_eq!(refused.status.reason.as_deref(), Some("NodeAffinity"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_was_done_before_a_reboot_stays_done() {
    let (node, dir) = setup();
    let job =
        || pod("p1", json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "app:1"}]}));
    let agent = Agent::start(&node, &dir, Some(desired([job()])));
    agent.until("Running", is_running).await;
    node.exit(&"p1.web.0".into(), 3);
    agent.until("Failed", |report| report.status.phase.as_deref() == Some("Failed")).await;
    agent.kill().await;
    node.reboot();
    node.state().containers.clear();
    let again = Agent::start(&node, &dir, Some(desired([job()])));
    let report = again.until("a report", |_| true).await;
    assert_eq!(report.status.phase.as_deref(), Some("Failed"));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(starts(&node), ["start p1.web.0"], "nothing begins again");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_ended_gives_back_what_it_held_at_once() {
    let (node, dir) = setup();
    let job = pod("p1", json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "app:1"}]}));
    let agent = Agent::start(&node, &dir, Some(desired([job])));
    agent.until("Running", is_running).await;
    let ended = Instant::now();
    node.exit(&"p1.web.0".into(), 0);
    node.until("nothing is held", |node| node.networks.is_empty()).await;
    assert_eq!(log_of(&node, "release p1").len(), 1);
    assert!(
        ended.elapsed() < Duration::from_secs(1),
        "{:?}: by itself, not at some other event",
        ended.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn init_containers_run_again_in_the_sandbox_after_a_reboot() {
    let (node, dir) = setup();
    let with_init = || {
        pod(
            "p1",
            json!({"initContainers": [{"name": "setup", "image": "app:1"}],
            "containers": [{"name": "web", "image": "app:1"}]}),
        )
    };
    let agent = Agent::start(&node, &dir, Some(desired([with_init()])));
    let is_set_up = |node: &FakeNode| starts(node).iter().filter(|line| line.contains("setup")).count();
    agent.until("its init container", |_| is_set_up(&node) == 1).await;
    node.exit(&"p1.setup.0".into(), 0);
    agent.until("Running", is_running).await;
    agent.kill().await;
    node.reboot();
    let again = Agent::start(&node, &dir, Some(desired([with_init()])));
    again.until("its init container again", |_| is_set_up(&node) == 2).await;
    assert!(!starts(&node).contains(&"start p1.web.1".to_owned()), "the main container waits for it");
    node.exit(&"p1.setup.1".into(), 0);
    again.until("the main container", |_| starts(&node).contains(&"start p1.web.1".to_owned())).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_killed_at_any_step_goes_on_where_it_was() {
    for steps in 0..60 {
        let (node, dir) = setup();
        let agent = Agent::start(&node, &dir, Some(desired([web()])));
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        agent.kill().await;
        let again = Agent::start(&node, &dir, Some(desired([web()])));
        again.until("Running", is_running).await;
        assert_eq!(starts(&node), ["start p1.web.0"], "killed after {steps} steps");
        again.want(desired([deleted(web(), 30)]));
        for _ in 0..steps {
            tokio::task::yield_now().await;
        }
        again.kill().await;
        let last = Agent::start(&node, &dir, Some(desired([deleted(web(), 30)])));
        last.until("finished", |report| report.finished).await;
        let state = node.state();
        assert!(state.containers.is_empty() && state.networks.is_empty() && state.cgroups.is_empty());
    }
}
