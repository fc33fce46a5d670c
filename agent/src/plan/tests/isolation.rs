//! What a pod is kept apart by, and what it shares.

use super::*;

#[test]
fn what_would_be_weaker_than_promised_is_refused() {
    let refused = |spec: serde_json::Value| {
        let pod = testing::pod("p", spec);
        let plan = planned(&testing::desired([]), &pod, &prepared(&pod));
        let status = &plan.status.container_statuses.as_ref().unwrap()[0];
        let waiting = status.state.as_ref().unwrap().waiting.clone().unwrap_or_default();
        assert!(
            launches(&plan).is_empty() == (waiting.reason.as_deref() == Some("CreateContainerConfigError"))
        );
        waiting.message.filter(|_| launches(&plan).is_empty())
    };
    let container = |more: serde_json::Value| {
        let mut container = json!({"name": "web", "image": "i"});
        container.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"containers": [container]})
    };
    let of_pod = |more: serde_json::Value| {
        let mut spec = json!({"containers": [{"name": "web", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    let mounted = |field: &str, value: &str| {
        let mut pod = container(json!({"volumeMounts": [{"name": "v", "mountPath": "/v", field: value}]}));
        pod["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        pod
    };
    for (spec, word) in [
        (of_pod(json!({"hostUsers": false})), "hostUsers"),
        (of_pod(json!({"shareProcessNamespace": true})), "shareProcessNamespace"),
        (of_pod(json!({"securityContext": {"appArmorProfile": {"type": "Localhost"}}})), "AppArmor"),
        (container(json!({"securityContext": {"procMount": "Unmasked"}})), "procMount"),
        (container(json!({"ports": [{"containerPort": 80, "hostPort": 80, "protocol": "SCTP"}]})), "SCTP"),
        (
            container(json!({"ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "2001:db8::1"}]})),
            "hostIP",
        ),
        (container(json!({"ports": [{"containerPort": 80, "hostPort": 80, "protocol": "QUIC"}]})), "QUIC"),
        (container(json!({"ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "here"}]})), "here"),
        (container(json!({"securityContext": {"runAsUser": -1}})), "runAsUser -1"),
        (of_pod(json!({"securityContext": {"runAsGroup": 4_294_967_296_i64}})), "runAsGroup"),
        (of_pod(json!({"securityContext": {"supplementalGroups": [1, -7]}})), "supplementalGroups -7"),
        (container(json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]})), "volumeDevices"),
    ] {
        let message = refused(spec).unwrap_or_else(|| panic!("{word} is not refused"));
        assert!(message.contains(word), "{message}");
    }
    let pod = testing::pod("p", mounted("recursiveReadOnly", "Enabled"));
    let container = pod.pod.spec.as_ref().unwrap().containers[0].clone();
    let message = unsupported::refuse(&pod, &container, &node());
    assert!(message.unwrap_err().contains("recursiveReadOnly"));
}

#[test]
fn shared_memory_is_the_pods_and_names_in_the_nodes_network_are_the_nodes() {
    let launched = |spec: serde_json::Value| {
        let pod = testing::pod("p", spec);
        launch_of(&planned(&testing::desired([]), &pod, &prepared(&pod))).clone()
    };
    let shared = |launch: &Launch| {
        let mount = launch.spec.mounts.iter().find(|mount| mount.target == "/dev/shm").unwrap();
        (mount.source.display().to_string(), launch.shared_memory)
    };
    let own = launched(json!({"containers": [{"name": "web", "image": "i"}]}));
    assert_eq!(shared(&own), ("/test/run/shm/p".to_owned(), true));
    let theirs =
        launched(json!({"hostIPC": true, "hostNetwork": true, "containers": [{"name": "web", "image": "i"}],
               "hostAliases": [{"ip": "192.0.2.9", "hostnames": ["peer"]}]}));
    assert_eq!(shared(&theirs), ("/dev/shm".to_owned(), false));
    assert_eq!(
        theirs.files[0].content,
        "# Kubernetes-managed hosts file (host network).\n127.0.0.1\tlocalhost\n\n# Entries added by HostAliases.\n\
         192.0.2.9\tpeer\n"
    );
}

#[test]
fn the_oom_score_is_what_the_runtime_may_give() {
    let limits = json!({"limits": {"cpu": "1", "memory": "1Gi"}});
    let score = |floor: i32, resources: serde_json::Value| {
        let pod =
            testing::pod("p", json!({"containers": [{"name": "c", "image": "i", "resources": resources}]}));
        let node = NodeView { oom_floor: floor, ..node() };
        let (desired, standings) = (testing::desired([]), Standings::new());
        let context = Context { desired: &desired, node: &node, standings: &standings, remind: false };
        launch_of(&super::super::pod(&context, &pod, &prepared(&pod))).spec.oom_score_adj
    };
    assert_eq!(score(-1000, limits.clone()), -997);
    assert_eq!(score(-500, limits.clone()), -500);
    assert_eq!(score(0, limits), 0);
    assert_eq!(score(0, json!({})), 1000);
}

#[test]
fn propagation_is_handed_to_the_runtime() {
    use crate::runtime::Propagation;
    let mounts = json!([{"name": "v", "mountPath": "/a", "mountPropagation": "Bidirectional"},
                        {"name": "v", "mountPath": "/b", "mountPropagation": "HostToContainer"},
                        {"name": "v", "mountPath": "/c"}]);
    let pod = testing::pod(
        "p",
        json!({"volumes": [{"name": "v", "hostPath": {"path": "/srv"}}],
        "containers": [{"name": "c", "image": "i", "volumeMounts": mounts}]}),
    );
    let mut seen = prepared(&pod);
    for step in planned(&testing::desired([]), &pod, &seen).steps {
        if let Step::EnsureVolume(volume) = step {
            seen.volumes.insert(volume.name, volume.digest);
        }
    }
    let launch = launch_of(&planned(&testing::desired([]), &pod, &seen)).clone();
    let of = |target: &str| launch.spec.mounts.iter().find(|m| m.target == target).unwrap().propagation;
    assert_eq!(
        (of("/a"), of("/b"), of("/c")),
        (Propagation::Bidirectional, Propagation::HostToContainer, Propagation::None)
    );
}

#[test]
fn a_pod_is_called_as_its_specification_says() {
    let named = |more: serde_json::Value| {
        let mut spec = json!({"containers": [{"name": "c", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let pod = testing::pod("p", spec);
        let launch = launch_of(&planned(&testing::desired([]), &pod, &prepared(&pod))).clone();
        let line = launch.files[0].content.lines().last().unwrap().to_owned();
        let bare =
            planned(&testing::desired([]), &pod, &ObservedPod { now_ms: NOW, ..ObservedPod::default() });
        let kernel = bare.steps.iter().find_map(|step| match step {
            Step::EnsureNetwork(network) => Some(network.hostname.clone()),
            _ => None,
        });
        if let Some(kernel) = &kernel {
            assert_eq!(launch.files[1].content, format!("{kernel}\n"));
        }
        (kernel, line, bare)
    };
    let below = "sub.default.svc.cluster.local";
    let (kernel, line, _) = named(json!({"hostname": "h", "subdomain": "sub"}));
    assert_eq!((kernel.as_deref(), line), (Some("h"), format!("10.244.0.7\th.{below}\th")));
    let (kernel, line, _) = named(json!({"hostname": "h", "subdomain": "sub", "setHostnameAsFQDN": true}));
    assert_eq!((kernel, line), (Some(format!("h.{below}")), format!("10.244.0.7\th.{below}\th")));
    let (kernel, line, _) =
        named(json!({"hostnameOverride": "db.example.org", "hostname": "h", "subdomain": "sub"}));
    assert_eq!((kernel.as_deref(), line.as_str()), (Some("db.example.org"), "10.244.0.7\tdb.example.org"));
    let long = "x".repeat(62);
    let (kernel, _, _) = named(json!({"hostnameOverride": format!("{long}.example.org")}));
    assert_eq!(kernel, Some(long.clone()), "cut, and what may not end a name is gone");
    let (kernel, _, plan) = named(json!({"hostname": long, "subdomain": "sub", "setHostnameAsFQDN": true}));
    assert_eq!((kernel, plan.notices[0].reason), (None, "FailedCreatePodSandBox"));
    assert!(
        plan.notices[0].message.ends_with("(64 is the max, 92 characters requested)"),
        "{:?}",
        plan.notices
    );
}
