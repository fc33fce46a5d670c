//! The loop on the fake node: real observe, plan, apply and prober; only the ports are fakes.

use std::sync::Arc;

use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    apply::{Apply, Events, Wires},
    model::{DesiredPod, NodeView, OwnNode, PodReport},
    observe::{Observer, TerminationMessages},
    probes::Prober,
    testing::{FakeNode, Heard, Said, State, desired, pod, view},
};

mod restart;

struct Agent {
    node: FakeNode,
    heard: Arc<Heard>,
    desired: watch::Sender<Option<Arc<Desired>>>,
    stop: CancellationToken,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    _nodes: watch::Sender<Arc<NodeView>>,
    dir: Arc<tempfile::TempDir>,
}

impl Agent {
    fn start(node: &FakeNode, dir: &Arc<tempfile::TempDir>, wanted: Option<Desired>) -> Self {
        let heard = Arc::new(Heard::default());
        let view: Arc<NodeView> = Arc::new(view(dir.path()));
        let layout = view.layout.clone();
        let records = Arc::new(Records::open(layout.records_dir(), &node.boot()).unwrap());
        let begin = Instant::now();
        let clock_node = node.clone();
        // The node's clock goes with tokio's: paused time moves both.
        let clock: crate::observe::Clock =
            Arc::new(move || clock_node.state().now_ms + i64::try_from(begin.elapsed().as_millis()).unwrap());
        let events = Events::new(heard.clone(), clock.clone());
        let ports = node.ports();
        let observer = Observer::new(
            ports.clone(),
            records.clone(),
            clock.clone(),
            TerminationMessages::new(layout.clone()),
        );
        let apply = Apply::new(
            ports.clone(),
            records.clone(),
            events.clone(),
            clock.clone(),
            layout,
            Wires::default(),
        );
        let prober = Prober::new(ports.runtime.clone(), records.clone(), events.clone(), clock);
        let nodes = watch::Sender::new(view);
        let tools = Tools {
            observer,
            apply,
            prober: prober.clone(),
            records,
            upstream: heard.clone(),
            events,
            node: nodes.subscribe(),
            metrics: Arc::default(),
        };
        let (sender, receiver) = watch::channel(wanted.map(Arc::new));
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(Pods::new(tools, ports.runtime.clone(), receiver, stop.clone()).run()),
            tokio::spawn(prober.run(stop.clone())),
        ];
        Self { node: node.clone(), heard, desired: sender, stop, tasks, _nodes: nodes, dir: dir.clone() }
    }

    fn want(&self, wanted: Desired) {
        self.desired.send_replace(Some(Arc::new(wanted)));
    }

    async fn until(&self, what: &str, holds: impl Fn(&PodReport) -> bool) -> PodReport {
        let said = self.heard.until(what, |said| said.reports.last().is_some_and(&holds)).await;
        said.reports.last().cloned().unwrap()
    }

    /// As SIGKILL: whatever it was doing is cut short.
    async fn kill(self) {
        // Workers are tasks of their own; hooks that run on have nobody left to tell.
        self.stop.cancel();
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            let _ = task.await;
        }
    }

    fn events(&self) -> Vec<(&'static str, String)> {
        self.heard.said().events.into_iter().map(|event| (event.reason, event.message)).collect()
    }
}

fn setup() -> (FakeNode, Arc<tempfile::TempDir>) {
    let node = FakeNode::new();
    node.state().registry.insert("app:1".into());
    (node, Arc::new(tempfile::tempdir().unwrap()))
}

fn web() -> DesiredPod {
    pod("p1", json!({"containers": [{"name": "web", "image": "app:1"}]}))
}

fn is_running(report: &PodReport) -> bool {
    report.status.phase.as_deref() == Some("Running")
}

fn starts(node: &FakeNode) -> Vec<String> {
    node.state().log.iter().filter(|line| line.starts_with("start ")).cloned().collect()
}

fn deleted(mut pod: DesiredPod, grace: i64) -> DesiredPod {
    pod.generation += 1;
    pod.pod.metadata.deletion_grace_period_seconds = Some(grace);
    pod.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2027-01-15T08:00:30Z")).unwrap());
    pod
}

fn condition(report: &PodReport, kind: &str) -> String {
    let mut conditions = report.status.conditions.iter().flatten();
    conditions.find(|condition| condition.type_ == kind).map(|c| c.status.clone()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_pulled_started_and_ready_and_everything_of_it_goes() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    let report = agent.until("Running", is_running).await;
    assert_eq!(report.status.pod_ip.as_deref(), Some("10.244.0.1"));
    assert_eq!(report.status.qos_class.as_deref(), Some("BestEffort"));
    assert_eq!(condition(&report, "Ready"), "True");
    let reasons: Vec<_> = agent.events().into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["Pulling", "Pulled", "Created", "Started"]);

    let mut gone = desired([deleted(web(), 30)]);
    gone.generation = 2;
    agent.want(gone);
    let last = agent.until("finished", |report| report.finished).await;
    let state = last.status.container_statuses.as_ref().unwrap()[0].state.clone().unwrap();
    assert_eq!(state.terminated.unwrap().exit_code, 143);
    assert!(agent.events().contains(&("Killing", "Stopping container web".into())));
    let state = node.state();
    assert!(state.containers.is_empty() && state.networks.is_empty());
    assert!(state.cgroups.is_empty() && state.volumes.is_empty());
    // The runtime has one thread here: on it, everything else would wait for the kernel's kill.
    assert!(state.cgroup_removed_by.is_some_and(|thread| thread != std::thread::current().id()));
}

#[tokio::test(start_paused = true)]
async fn a_long_pull_shows_how_far_it_is() {
    let (node, dir) = setup();
    node.state().pull_time = Duration::from_secs(20);
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    let is_shown =
        |report: &PodReport| waiting(report).is_some_and(|(_, text)| text.contains("0.3 of 1.0 MB (30 %)"));
    let report = agent.until("progress in the status", is_shown).await;
    assert_eq!(waiting(&report).unwrap().0, "ContainerCreating");
    agent.until("Running", is_running).await;
    let told: Vec<_> = agent.events().into_iter().filter(|(reason, _)| *reason == "Pulling").collect();
    assert!(told[1].1.starts_with("Pulling image \"app:1\": 0.3 of 1.0 MB (30 %), 0."), "{told:?}");
    assert_eq!(told.len(), 3, "at the start, after 6 s and after 12 s: {told:?}");
}

#[tokio::test(start_paused = true)]
async fn crashes_are_restarted_with_growing_delays() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    node.exit(&"p1.web.0".into(), 1);
    let second = |report: &PodReport| {
        is_running(report) && report.status.container_statuses.as_ref().unwrap()[0].restart_count == 1
    };
    agent.until("the first restart, at once", second).await;
    node.exit(&"p1.web.1".into(), 1);
    let report = agent
        .until("CrashLoopBackOff", |report| waiting(report).is_some_and(|w| w.0 == "CrashLoopBackOff"))
        .await;
    let (_, message) = waiting(&report).unwrap();
    assert_eq!(message, "back-off 10s restarting failed container=web pod=p1_default(p1)");
    assert_eq!(report.status.phase.as_deref(), Some("Running"));
    let before = Instant::now();
    agent
        .until("the second restart", |report| {
            report.status.container_statuses.as_ref().unwrap()[0].restart_count == 2
        })
        .await;
    assert!(before.elapsed() >= Duration::from_secs(10));
    assert!(
        agent
            .events()
            .contains(&("BackOff", "Back-off restarting failed container web in pod p1_default(p1)".into()))
    );
}

fn waiting(report: &PodReport) -> Option<(String, String)> {
    let status = &report.status.container_statuses.as_ref()?[0];
    let waiting = status.state.as_ref()?.waiting.clone()?;
    Some((waiting.reason?, waiting.message.unwrap_or_default()))
}

#[tokio::test(start_paused = true)]
async fn what_nobody_wants_is_removed_but_only_when_desired_is_known() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    agent.kill().await;

    let again = Agent::start(&node, &dir, None);
    sleep(Duration::from_secs(130)).await;
    assert_eq!(node.state().containers.len(), 1);
    again.want(Desired::default());
    let nothing =
        |node: &State| node.networks.is_empty() && node.containers.is_empty() && node.cgroups.is_empty();
    node.until("nothing is left", nothing).await;
    drop(again.dir);
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_in_a_way_that_nobody_understands_is_left_alone() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    let held = || Desired { held: ["p1".into()].into(), ..desired([]) };
    // Under the eyes of the same agent, and of the next one.
    agent.want(held());
    sleep(Duration::from_secs(130)).await;
    agent.kill().await;
    let again = Agent::start(&node, &dir, Some(held()));
    sleep(Duration::from_secs(130)).await;
    assert_eq!(node.state().containers.len(), 1);
    assert_eq!(starts(&node).len(), 1);
    again.want(desired([]));
    node.until("it is removed when it is not wanted", |node| node.containers.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_schedulers_generations_are_others() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    let mut pod = web();
    pod.pod.metadata.deletion_timestamp =
        Some(serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap());
    let began = Instant::now();
    agent.want(Desired { epoch: 2, ..desired([pod]) });
    agent.until("its end", |report| report.finished).await;
    // Not only the next look at everything finds it.
    assert!(began.elapsed() < RESYNC, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn containers_wait_until_services_are_known() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(Desired { table: None, ..desired([web()]) }));
    let report = agent.until("a reason", |report| waiting(report).is_some_and(|(_, text)| !text.is_empty()));
    let (reason, message) = waiting(&report.await).unwrap();
    assert_eq!(reason, "CreateContainerConfigError");
    assert_eq!(message, "services have not yet been read at least once, cannot construct envvars");
    assert!(starts(&node).is_empty());
    let began = Instant::now();
    agent.want(desired([web()]));
    agent.until("Running", is_running).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_missing_secret_is_named_and_its_arrival_is_enough() {
    let (node, dir) = setup();
    let needs = pod(
        "p1",
        json!({"containers": [{"name": "web", "image": "app:1", "env": [{"name": "URL",
            "valueFrom": {"secretKeyRef": {"name": "db-credentials", "key": "connection-string"}}}]}]}),
    );
    let agent = Agent::start(&node, &dir, Some(desired([needs.clone()])));
    let report = agent.until("an error", |report| {
        waiting(report).is_some_and(|(reason, _)| reason == "CreateContainerConfigError")
    });
    assert_eq!(waiting(&report.await).unwrap().1, "secret \"db-credentials\" not found");
    assert!(agent.events().contains(&("Failed", "Error: secret \"db-credentials\" not found".into())));

    let with = |generation: u64, data: serde_json::Value| {
        let mut wanted = desired([needs.clone()]);
        wanted.generation = generation;
        let secret: k8s_openapi::api::core::v1::Secret =
            serde_json::from_value(json!({"data": data})).unwrap();
        let object = crate::model::SharedObject { generation, object: Arc::new(secret) };
        wanted.secrets.insert(("default".into(), "db-credentials".into()), object);
        wanted
    };
    agent.want(with(2, json!({"other": "eA=="})));
    let text = "couldn't find key connection-string in Secret default/db-credentials";
    agent
        .until("the missing key", |report| waiting(report).is_some_and(|(_, message)| message == text))
        .await;
    agent.want(with(3, json!({"connection-string": "eA=="})));
    agent.until("Running", is_running).await;
    let state = node.state();
    let (_, spec) = state.containers.values().next().unwrap();
    assert!(spec.env.contains(&("URL".into(), "x".into())));
}

#[tokio::test(start_paused = true)]
async fn an_image_that_is_not_there_backs_off_and_recovers() {
    let (node, dir) = setup();
    node.state().registry.clear();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("ErrImagePull", |r| waiting(r).is_some_and(|w| w.0 == "ErrImagePull")).await;
    let report =
        agent.until("ImagePullBackOff", |r| waiting(r).is_some_and(|w| w.0 == "ImagePullBackOff")).await;
    assert!(waiting(&report).unwrap().1.starts_with("Back-off pulling image \"app:1\": ErrImagePull: "));
    assert_eq!(report.status.phase.as_deref(), Some("Pending"));
    node.state().registry.insert("app:1".into());
    agent.until("Running", is_running).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ignores_its_signal_is_killed_when_the_grace_is_over() {
    let (node, dir) = setup();
    node.state().stubborn.insert("web".into());
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    let began = Instant::now();
    agent.want(desired([deleted(web(), 5)]));
    agent.until("finished", |report| report.finished).await;
    let took = began.elapsed().as_secs();
    assert!((5..8).contains(&took), "{took}");
    let log = node.state().log.clone();
    assert!(log.contains(&"kill p1.web.0 15".to_owned()) && log.contains(&"kill p1.web.0 9".to_owned()));
    agent.stop.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_failed_liveness_probe_restarts_the_container() {
    let (node, dir) = setup();
    node.state().exec_codes.insert("alive".into(), 1);
    let probed = pod(
        "p1",
        json!({"containers": [{"name": "web", "image": "app:1",
            "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 5, "failureThreshold": 3}}]}),
    );
    let agent = Agent::start(&node, &dir, Some(desired([probed])));
    agent
        .until("a restart", |report| report.status.container_statuses.as_ref().unwrap()[0].restart_count == 1)
        .await;
    let events = agent.events();
    assert!(events.iter().filter(|event| event.0 == "Unhealthy").count() >= 3);
    assert!(events.contains(&("Killing", "Container web failed liveness probe, will be restarted".into())));
    drop(agent.node);
}

/// As upstream: a probe that cannot be asked says nothing about the container.
#[tokio::test(start_paused = true)]
async fn a_probe_that_cannot_be_asked_is_told_and_restarts_nothing() {
    let (node, dir) = setup();
    node.state().failures.insert("exec", vec!["no such file".to_owned(); 100].into());
    let probed = pod(
        "p1",
        json!({"containers": [{"name": "web", "image": "app:1", "ports": [{"name": "http", "containerPort": 80}],
            "livenessProbe": {"exec": {"command": ["alive"]}, "periodSeconds": 1, "failureThreshold": 1},
            "readinessProbe": {"httpGet": {"port": "htp"}}}]}),
    );
    let agent = Agent::start(&node, &dir, Some(desired([probed])));
    agent.until("Running", is_running).await;
    let unknown = "probe errored and resulted in unknown state";
    let liveness = format!("Liveness {unknown}: no such file");
    let readiness = format!("Readiness {unknown}: couldn't find port: htp");
    // More often than a failure would be allowed to be.
    let told = |said: &Said, text: &str| said.events.iter().filter(|event| event.message == text).count() > 2;
    agent.heard.until("both, again and again", |said| told(said, &liveness) && told(said, &readiness)).await;
    assert!(agent.events().contains(&("Unhealthy", liveness)));
    let report = agent.heard.last(&"p1".into()).unwrap();
    assert_eq!(report.status.container_statuses.as_ref().unwrap()[0].restart_count, 0);
    assert_eq!(condition(&report, "Ready"), "False");
}

#[tokio::test]
async fn a_redirect_to_another_host_is_good_and_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = listener.accept().await {
            let away = "HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\nContent-Length: 4\r\n\r\naway";
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(away.as_bytes()).await;
        }
    });
    let (node, dir) = setup();
    let probe = json!({"httpGet": {"host": "127.0.0.1", "port": port}, "periodSeconds": 1});
    let probed =
        pod("p1", json!({"containers": [{"name": "web", "image": "app:1", "readinessProbe": probe}]}));
    let agent = Agent::start(&node, &dir, Some(desired([probed])));
    agent.until("Ready", |report| condition(report, "Ready") == "True").await;
    let told = "Readiness probe warning: Probe terminated redirects, Response body: away";
    assert!(agent.events().contains(&("ProbeWarning", told.to_owned())), "{:?}", agent.events());
}

/// Events live for an hour only.
#[tokio::test(start_paused = true)]
async fn what_keeps_a_pod_waiting_is_told_again() {
    let (node, dir) = setup();
    let needs = json!({"containers": [{"name": "web", "image": "app:1",
        "envFrom": [{"secretRef": {"name": "nowhere"}}]}]});
    let agent = Agent::start(&node, &dir, Some(desired([pod("p1", needs)])));
    let told = || agent.events().iter().filter(|event| event.1.contains("nowhere")).count();
    sleep(RESYNC).await;
    assert_eq!(told(), 1);
    sleep(RESYNC * 30).await;
    assert!((6..=8).contains(&told()), "{}", told());
}

fn log_of(node: &FakeNode, word: &str) -> Vec<String> {
    node.state().log.iter().filter(|line| line.starts_with(word)).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn a_shim_that_does_not_answer_is_asked_again_and_nothing_is_started_beside_it() {
    let (node, dir) = setup();
    let agent = Agent::start(&node, &dir, Some(desired([web()])));
    agent.until("Running", is_running).await;
    let running = node.state().containers.get(&"p1.web.0".into()).unwrap().0.state.clone();
    let set = |state| node.state().containers.get_mut(&"p1.web.0".into()).unwrap().0.state = state;
    set(crate::model::ContainerState::Unreadable);
    sleep(RESYNC * 2).await;
    assert_eq!(starts(&node), ["start p1.web.0"]);
    set(running);
    sleep(RESYNC * 2).await;
    let report = agent.heard.last(&"p1".into()).unwrap();
    assert!(is_running(&report) && condition(&report, "Ready") == "True", "{report:#?}");
    assert_eq!(report.status.container_statuses.as_ref().unwrap()[0].restart_count, 0);
}

#[tokio::test(start_paused = true)]
async fn whatever_fails_for_a_while_the_pod_comes_up_and_goes() {
    for operation in ["list", "network", "attach", "cgroup", "volume", "create", "start"] {
        let (node, dir) = setup();
        node.fail(operation, "broken");
        node.fail(operation, "still broken");
        let spec = json!({"containers": [{"name": "web", "image": "app:1"}],
                          "volumes": [{"name": "v", "emptyDir": {}}]});
        let agent = Agent::start(&node, &dir, Some(desired([pod("p1", spec.clone())])));
        agent.until(operation, is_running).await;
        agent.kill().await;
        let again = Agent::start(&node, &dir, Some(desired([pod("p1", spec.clone())])));
        again.until("Running", is_running).await;
        for operation in ["kill", "remove", "remove network"] {
            node.fail(operation, "broken");
        }
        again.want(desired([deleted(pod("p1", spec), 30)]));
        again.until("finished", |report| report.finished).await;
        assert!(node.state().networks.is_empty() && node.state().containers.is_empty(), "{operation}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_of_others_and_a_quiet_resync_are_left_alone() {
    let (node, dir) = setup();
    let agent = Agent::start(
        &node,
        &dir,
        Some(desired([
            web(),
            pod(
                "p2",
                json!({"containers": [
        {"name": "web", "image": "app:1"}]}),
            ),
        ])),
    );
    let both = |said: &Said| {
        ["p1", "p2"].iter().all(|uid| said.reports.iter().any(|r| r.uid.as_str() == *uid && is_running(r)))
    };
    agent.heard.until("both Running", both).await;
    let (log, said) = (node.state().log.clone(), agent.heard.said().reports.len());
    sleep(Duration::from_secs(300)).await;
    assert_eq!(node.state().log, log);
    assert_eq!(agent.heard.said().reports.len(), said);
    agent.want(desired([web()]));
    node.until("the other is gone", |node| node.networks.len() == 1).await;
    assert!(node.state().containers.keys().all(|id| id.as_str().starts_with("p1.")));
    assert!(
        node.state().log.iter().all(|line| !line.starts_with("kill p1") && !line.starts_with("remove p1"))
    );
}
