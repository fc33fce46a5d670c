//! What a pod is kept apart by, and what it shares.

use super::*;

#[test]
fn what_would_be_weaker_than_promised_is_refused() {
    let refused = |spec: serde_json::Value| {
        let pod = testing::pod("p", spec);
        let plan = planned(&Desired::default(), &pod, &prepared(&pod));
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
        (of_pod(json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}})), "Strict"),
        (of_pod(json!({"securityContext": {"appArmorProfile": {"type": "Localhost"}}})), "AppArmor"),
        (container(json!({"securityContext": {"procMount": "Unmasked"}})), "procMount"),
        (container(json!({"ports": [{"containerPort": 80, "hostPort": 8080}]})), "hostPort"),
        (container(json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/x"}]})), "volumeDevices"),
    ] {
        let message = refused(spec).unwrap_or_else(|| panic!("{word} is not refused"));
        assert!(message.contains(word), "{message}");
    }
    for (field, value) in [("mountPropagation", "Bidirectional"), ("recursiveReadOnly", "Enabled")] {
        let container = testing::pod("p", mounted(field, value)).pod.spec.unwrap().containers.remove(0);
        let message = unsupported::refuse(&testing::pod("p", mounted(field, value)), &container, &node());
        assert!(message.unwrap_err().contains(field));
    }
    for (name, hosts, allowed) in [
        ("net.ipv4.ip_unprivileged_port_start", json!({}), true),
        ("net/ipv4/tcp_syncookies", json!({}), true),
        ("kernel.shmmax", json!({}), true),
        ("fs.mqueue.msg_max", json!({}), true),
        ("kernel.sem", json!({"hostIPC": true}), false),
        ("net.core.somaxconn", json!({"hostNetwork": true}), false),
        ("vm.swappiness", json!({}), false),
        ("net..x", json!({}), false),
    ] {
        let mut spec = of_pod(hosts);
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "0"}]});
        assert_eq!(refused(spec).is_none(), allowed, "{name}");
    }
}

#[test]
fn shared_memory_is_the_pods_and_names_in_the_nodes_network_are_the_nodes() {
    let launched = |spec: serde_json::Value| {
        let pod = testing::pod("p", spec);
        launch_of(&planned(&Desired::default(), &pod, &prepared(&pod))).clone()
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
