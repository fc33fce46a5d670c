//! Plans of observations that a test makes up. What only shows over time is in the tests of `reconcile`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::json;

use super::{phase::terminal, *};
use crate::{
    model::{
        ContainerId, ContainerName, ContainerState, Desired, Endpoint, Failure, ImageInfo, ImageState,
        NetworkStatus, NodeView, ObservedContainer, OwnNode, PodAddresses, Protocol, ServiceId, ServicePort,
        ServiceSpec, ServiceType, SharedObject, spec as pod,
    },
    runtime::{START_ERROR, Seccomp},
    testing,
};

mod admission;
mod ending;
mod isolation;
mod properties;
mod restarts;
mod whole;

const NOW: i64 = 1_800_000_000_000;

fn node() -> NodeView {
    testing::view("/test".as_ref())
}

/// Network, cgroup and all images are there.
fn prepared(pod: &DesiredPod) -> ObservedPod {
    let path = |kind: &str| format!("/pins/{kind}").into();
    let network = NetworkStatus {
        netns: path("net"),
        ipcns: path("ipc"),
        utsns: path("uts"),
        addresses: Some(PodAddresses { v4: [10, 244, 0, 7].into(), host_ifindex: 3 }),
    };
    let spec = pod.pod.spec.as_ref().unwrap();
    let images = pod::all_containers(spec).map(|(container, _)| {
        let reference = container.image.clone().unwrap_or_default();
        let info = ImageInfo { local_name: reference.clone(), reference, ..ImageInfo::default() };
        (container.name.as_str().into(), ImageState::Present { info, checked_for: u32::MAX })
    });
    ObservedPod {
        now_ms: NOW,
        network: Some(network),
        attached: true,
        cgroup: true,
        limited: true,
        files: true,
        images: images.collect(),
        ..ObservedPod::default()
    }
}

fn container(pod: &DesiredPod, name: &str, attempt: u32, state: ContainerState) -> ObservedContainer {
    let name = ContainerName::from(name);
    let image = pod::find(pod.pod.spec.as_ref().unwrap(), &name).and_then(|c| c.image.clone());
    ObservedContainer {
        id: ContainerId::of(&pod.uid, &name, attempt),
        pod: pod.uid.clone(),
        container: name,
        attempt,
        image: image.clone().unwrap_or_default(),
        image_id: String::new(),
        labels: BTreeMap::from([(IMAGE_LABEL.to_owned(), image.unwrap_or_default())]),
        earlier_boot: false,
        task: !matches!(state, ContainerState::Lost),
        state,
    }
}

fn running(ago_ms: i64) -> ContainerState {
    ContainerState::Running { pid: 1, started_ms: NOW - ago_ms }
}

fn exited(code: i32, ago_ms: i64) -> ContainerState {
    ContainerState::Exited {
        code,
        started_ms: NOW - ago_ms - 1000,
        finished_ms: NOW - ago_ms,
        oom_killed: false,
    }
}

fn with(seen: &mut ObservedPod, container: ObservedContainer) {
    seen.containers.entry(container.container.clone()).or_default().push(container);
}

fn planned(desired: &Desired, pod: &DesiredPod, seen: &ObservedPod) -> PodPlan {
    super::pod(&Context { desired, node: &node(), standings: &Standings::new(), remind: false }, pod, seen)
}

fn launches(plan: &PodPlan) -> Vec<String> {
    let launches = plan.steps.iter().filter_map(|step| match step {
        Step::Launch(launch) => Some(launch.target.id.to_string()),
        _ => None,
    });
    launches.collect()
}

fn launch_of(plan: &PodPlan) -> &Launch {
    let mut launches = plan.steps.iter().filter_map(|step| match step {
        Step::Launch(launch) => Some(&**launch),
        _ => None,
    });
    launches.next().expect("a launch")
}

fn tutorial() -> DesiredPod {
    testing::pod(
        "web-app-pod",
        json!({
            "containers": [
                {"name": "web-server", "image": "registry.company.com/web-app:2.1.0",
                 "ports": [{"containerPort": 8080, "name": "http"}],
                 "resources": {"requests": {"memory": "256Mi", "cpu": "250m"},
                               "limits": {"memory": "512Mi", "cpu": "500m"}},
                 "readinessProbe": {"httpGet": {"path": "/health/ready", "port": "http"},
                                    "initialDelaySeconds": 10, "periodSeconds": 5, "timeoutSeconds": 3},
                 "env": [{"name": "LOG_LEVEL", "value": "info"}]},
                {"name": "log-forwarder", "image": "fluent/fluent-bit:2.2",
                 "volumeMounts": [{"name": "shared-logs", "mountPath": "/var/log/app"}]}],
            "volumes": [{"name": "shared-logs", "emptyDir": {}}],
            "securityContext": {"runAsNonRoot": true, "runAsUser": 1000, "fsGroup": 2000}}),
    )
}

#[test]
fn a_program_that_is_not_there_is_told_by_the_status() {
    let pod = tutorial();
    let mut seen = prepared(&pod);
    let mut failed = container(&pod, "web-server", 0, exited(128, 0));
    failed.labels.insert(START_ERROR.to_owned(), "exec: \"nosuch\": not found".to_owned());
    with(&mut seen, failed);
    let plan = planned(&testing::desired([]), &pod, &seen);
    let status = &plan.status.container_statuses.unwrap()[0];
    let end = status.state.as_ref().unwrap().terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.reason.as_deref()), (128, Some("StartError")));
    assert_eq!(end.message.as_deref(), Some("exec: \"nosuch\": not found"));
}

#[test]
fn the_end_of_a_pods_time_is_told_once() {
    let pod = testing::pod(
        "short",
        json!({"containers": [{"name": "a", "image": "a"}], "activeDeadlineSeconds": 1}),
    );
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "a", 0, running(10)));
    let first = planned(&testing::desired([]), &pod, &seen);
    seen.record.status = Some(Arc::new(first.status));
    seen.now_ms += 5000;
    let second = planned(&testing::desired([]), &pod, &seen);
    let told: Vec<_> = second.notices.iter().map(|notice| notice.reason).collect();
    assert_eq!(told, ["DeadlineExceeded"]);
    seen.record.status = Some(Arc::new(second.status));
    assert!(planned(&testing::desired([]), &pod, &seen).notices.is_empty());
}

/// The datapath comes while containers are made; when it failed a moment ago none is made either.
#[test]
fn attaching_goes_on_beside_the_creation() {
    let pod = testing::pod("p", json!({"containers": [{"name": "c", "image": "i"}]}));
    let mut seen = prepared(&pod);
    seen.attached = false;
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert!(plan.steps.iter().any(|step| matches!(step, Step::Attach(_))), "{:?}", plan.steps);
    assert_eq!(launches(&plan).len(), 1);
    let failure = Failure { reason: "", message: "no".into(), count: 1, at_ms: NOW, attempt: 0 };
    seen.failures.insert(Subject::Network, failure);
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert!(plan.steps.is_empty() && plan.wake_ms.is_some(), "{:?}", plan.steps);
    seen.failures.clear();
    seen.network.as_mut().unwrap().addresses = None;
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert!(matches!(plan.steps[..], [Step::EnsureNetwork(_)]), "a lost wire: {:?}", plan.steps);
}

#[test]
fn a_new_pod_is_prepared_all_at_once() {
    let pod = tutorial();
    let seen = ObservedPod { now_ms: NOW, ..ObservedPod::default() };
    let plan = planned(&testing::desired([]), &pod, &seen);
    let kinds: Vec<_> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::EnsureCgroup { .. } => "cgroup",
            Step::EnsureNetwork(_) => "network",
            Step::EnsureVolume(_) => "volume",
            Step::Image(_) => "image",
            _ => "other",
        })
        .collect();
    assert_eq!(kinds, ["cgroup", "network", "volume", "image", "image"]);
    assert_eq!(plan.status.phase.as_deref(), Some("Pending"));
    assert_eq!(plan.status.qos_class.as_deref(), Some("Burstable"));
    let status = &plan.status.container_statuses.as_ref().unwrap()[0];
    let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
}

#[test]
fn the_tutorials_security_and_limits_reach_the_runtime() {
    let pod = tutorial();
    let mut seen = prepared(&pod);
    let first = planned(&testing::desired([]), &pod, &seen);
    let Some(Step::EnsureVolume(volume)) = first.steps.first() else { panic!("{:?}", first.steps) };
    assert_eq!(volume.fs_group, Some(2000));
    seen.volumes.insert("shared-logs".into(), volume.digest);
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert_eq!(launches(&plan), ["web-app-pod.web-server.0", "web-app-pod.log-forwarder.0"]);
    let spec = &launch_of(&plan).spec;
    assert_eq!((spec.user, spec.run_as_non_root), (Some(1000), true));
    assert_eq!(spec.extra_groups, [2000]);
    assert_eq!(spec.seccomp, Seccomp::RuntimeDefault);
    assert_eq!(spec.limits.memory_max, Some(512 << 20));
    assert_eq!(spec.limits.cpu_quota_us, Some(50_000));
    assert!(spec.env.contains(&("HOSTNAME".into(), "web-app-pod".into())));
    let targets: Vec<_> = spec.mounts.iter().map(|mount| mount.target.as_str()).collect();
    let expected = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/shm", "/dev/termination-log"];
    assert_eq!(targets, expected);
    let files = &launch_of(&plan).files;
    let resolv = &files.iter().find(|file| file.name == "resolv.conf").unwrap().content;
    assert_eq!(
        resolv,
        "search default.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:5\n"
    );
}

#[test]
fn run_as_non_root_refuses_an_image_of_root_with_upstreams_words() {
    let pod = testing::pod(
        "p",
        json!({"securityContext": {"runAsNonRoot": true},
               "containers": [{"name": "web", "image": "i"}]}),
    );
    let plan = planned(&testing::desired([]), &pod, &prepared(&pod));
    assert!(plan.steps.is_empty());
    let status = &plan.status.container_statuses.as_ref().unwrap()[0];
    let waiting = status.state.as_ref().unwrap().waiting.as_ref().unwrap();
    assert_eq!(waiting.reason.as_deref(), Some("CreateContainerConfigError"));
    assert_eq!(
        waiting.message.as_deref(),
        Some("container has runAsNonRoot and image will run as root (pod: \"p_default(p)\", container: web)")
    );
}

#[test]
fn readiness_needs_the_probe_and_the_condition_says_who_is_missing() {
    let pod = tutorial();
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "web-server", 0, running(60_000)));
    with(&mut seen, container(&pod, "log-forwarder", 0, running(60_000)));
    let plan = planned(&testing::desired([]), &pod, &seen);
    let ready = |plan: &PodPlan| {
        let conditions = plan.status.conditions.clone().unwrap();
        conditions.into_iter().find(|condition| condition.type_ == "Ready").unwrap()
    };
    assert_eq!(plan.status.phase.as_deref(), Some("Running"));
    assert_eq!(ready(&plan).message.as_deref(), Some("containers with unready status: [web-server]"));
    assert_eq!(plan.probes.len(), 1);
    seen.record.of_mut(&"web-server".into(), 0).unwrap().ready = true;
    assert_eq!(ready(&planned(&testing::desired([]), &pod, &seen)).status, "True");
    // The same verdict of an older attempt says nothing.
    seen.record.of_mut(&"web-server".into(), 7).unwrap().ready = true;
    assert_eq!(ready(&planned(&testing::desired([]), &pod, &seen)).status, "False");
}

#[test]
fn transition_times_move_only_with_their_condition() {
    let pod = testing::pod("p", json!({"containers": [{"name": "web", "image": "i"}]}));
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "web", 0, running(60_000)));
    let first = planned(&testing::desired([]), &pod, &seen).status;
    seen.record.status = Some(Arc::new(first.clone()));
    seen.now_ms += 50_000;
    assert_eq!(planned(&testing::desired([]), &pod, &seen).status, first);
}

#[test]
fn init_containers_go_one_by_one_and_sidecars_stay() {
    let pod = testing::pod(
        "p",
        json!({"initContainers": [{"name": "a", "image": "i"},
                                  {"name": "s", "image": "i", "restartPolicy": "Always"},
                                  {"name": "b", "image": "i"}],
               "containers": [{"name": "web", "image": "i"}]}),
    );
    let mut seen = prepared(&pod);
    let desired = testing::desired([]);
    let step = |seen: &ObservedPod| launches(&planned(&desired, &pod, seen));
    assert_eq!(step(&seen), ["p.a.0"]);
    with(&mut seen, container(&pod, "a", 0, exited(0, 10)));
    assert_eq!(step(&seen), ["p.s.0"]);
    let plan = planned(&desired, &pod, &seen);
    assert_eq!(plan.status.phase.as_deref(), Some("Pending"));
    let conditions = plan.status.conditions.unwrap();
    let initialized = conditions.iter().find(|condition| condition.type_ == "Initialized").unwrap();
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [s b]"));
    with(&mut seen, container(&pod, "s", 0, running(10)));
    assert_eq!(step(&seen), ["p.b.0"]);
    with(&mut seen, container(&pod, "b", 0, exited(0, 5)));
    assert_eq!(step(&seen), ["p.web.0"]);
    with(&mut seen, container(&pod, "web", 0, running(1)));
    assert!(step(&seen).is_empty());
}

#[test]
fn a_job_like_pod_succeeds_and_its_sidecar_is_told_to_end() {
    let pod = testing::pod(
        "p",
        json!({"restartPolicy": "Never",
               "initContainers": [{"name": "s", "image": "i", "restartPolicy": "Always"}],
               "containers": [{"name": "job", "image": "i"}]}),
    );
    let mut seen = prepared(&pod);
    with(&mut seen, container(&pod, "s", 0, running(10_000)));
    with(&mut seen, container(&pod, "job", 0, exited(0, 10)));
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert!(matches!(&plan.steps[..], [Step::BeginStop { target, .. }] if target.container.as_str() == "s"));
    seen.containers.get_mut(&ContainerName::from("s")).unwrap()[0].state = exited(143, 1);
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert_eq!(plan.status.phase.as_deref(), Some("Succeeded"));
    assert!(launches(&plan).is_empty());
    // Once reported it is for ever, whatever happens to the containers' records.
    seen.record.status = Some(Arc::new(plan.status));
    seen.containers.clear();
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert_eq!(terminal(Some(&plan.status)), Some(Phase::Succeeded));
    assert!(plan.steps.iter().all(|step| matches!(step, Step::RemoveNetwork | Step::RemoveCgroup)));
}

#[test]
fn a_changed_image_replaces_the_container_at_once() {
    let pod =
        testing::pod("p", json!({"restartPolicy": "Never", "containers": [{"name": "web", "image": "new"}]}));
    let mut seen = prepared(&pod);
    let mut old = container(&pod, "web", 0, running(1000));
    old.labels.insert(IMAGE_LABEL.to_owned(), "old".to_owned());
    with(&mut seen, old.clone());
    let plan = planned(&testing::desired([]), &pod, &seen);
    let [Step::BeginStop { message, .. }] = &plan.steps[..] else { panic!("{:?}", plan.steps) };
    assert_eq!(message, "Container web definition changed, will be restarted");
    old.state = exited(143, 1);
    seen.containers.clear();
    with(&mut seen, old);
    assert_eq!(launches(&planned(&testing::desired([]), &pod, &seen)), ["p.web.1"]);
}

#[test]
fn an_unsupported_volume_says_what_to_use() {
    let pod = testing::pod(
        "p",
        json!({"containers": [{"name": "web", "image": "i", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}],
               "volumes": [{"name": "data", "nfs": {"server": "s", "path": "/"}},
                           {"name": "late", "secret": {"secretName": "late"}}]}),
    );
    let mut seen = prepared(&pod);
    let plan = planned(&testing::desired([]), &pod, &seen);
    assert!(launches(&plan).is_empty());
    // Told once each.
    seen.record.status = Some(Arc::new(plan.status.clone()));
    assert!(planned(&testing::desired([]), &pod, &seen).notices.is_empty());
    let [notice, _] = &plan.notices[..] else { panic!("{:?}", plan.notices) };
    assert_eq!(notice.reason, "FailedMount");
    assert!(
        notice.message.contains("volume kind nfs is not supported by this node: use emptyDir"),
        "{}",
        notice.message
    );
}

fn service(port: u16) -> ServiceSpec {
    ServiceSpec {
        generation: 1,
        kind: ServiceType::ClusterIp,
        cluster_ips: vec![[10, 96, 0, 1].into()],
        headless: false,
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "https".into(),
            protocol: Protocol::Tcp,
            port,
            node_port: None,
            endpoints: Vec::<Endpoint>::new(),
        }],
    }
}

#[test]
fn environments_are_put_together_as_upstream_does() {
    let pod = testing::pod(
        "p",
        json!({"serviceAccountName": "sa", "containers": [{"name": "web", "image": "i",
            "resources": {"limits": {"cpu": "500m"}},
            "envFrom": [{"prefix": "C_", "configMapRef": {"name": "config"}},
                        {"secretRef": {"name": "absent", "optional": true}}],
            "env": [{"name": "A", "value": "1"},
                    {"name": "B", "value": "$(A)-$(C_KEY)-$(LATER)-$(MY_DB_SERVICE_HOST)"},
                    {"name": "LATER", "value": "x"},
                    {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                    {"name": "SA", "valueFrom": {"fieldRef": {"fieldPath": "spec.serviceAccountName"}}},
                    {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
                    {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Gi"}}},
                    {"name": "DISK", "valueFrom": {"resourceFieldRef": {"resource": "limits.ephemeral-storage", "divisor": "1Gi"}}},
                    {"name": "OPT", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k", "optional": true}}}],
            "args": ["--level=$(A)", "$$(A)"]}]}),
    );
    let mut desired = testing::desired([]);
    let config = serde_json::from_value(json!({"data": {"KEY": "v"}})).unwrap();
    desired.config_maps.insert(
        ("default".into(), "config".into()),
        SharedObject { generation: 1, object: Arc::new(config) },
    );
    for (namespace, name, port) in
        [("default", "kubernetes", 443), ("default", "my-db", 5432), ("other", "x", 1)]
    {
        let id = ServiceId { namespace: namespace.into(), name: name.into() };
        desired.table_mut().services.insert(id, Arc::new(service(port)));
    }
    let plan = planned(&desired, &pod, &prepared(&pod));
    let spec = &launch_of(&plan).spec;
    let env: BTreeMap<_, _> = spec.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    for (name, value) in [
        ("B", "1-v-$(LATER)-10.96.0.1"),
        ("IP", "10.244.0.7"),
        ("SA", "sa"),
        ("CPU", "500"),
        ("MEM", "8"),
        ("DISK", "100"),
        ("KUBERNETES_SERVICE_HOST", "10.96.0.1"),
        ("KUBERNETES_SERVICE_PORT", "443"),
        ("MY_DB_PORT_5432_TCP_ADDR", "10.96.0.1"),
        ("MY_DB_SERVICE_PORT_HTTPS", "5432"),
    ] {
        assert_eq!(env.get(name), Some(&value), "{name}");
    }
    assert!(!env.contains_key("OPT") && !env.contains_key("X_SERVICE_HOST"));
    assert_eq!(spec.args, ["--level=1", "$(A)"]);
}
