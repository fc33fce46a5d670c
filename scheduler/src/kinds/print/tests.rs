//! Expected tables: the text that `kubectl get -o wide` would show, one line per object.

use serde_json::{Value, json};

use super::*;
use crate::{kinds::builtin, model::Resource};

/// 2026-01-01T01:00:00Z
const NOW: i64 = 1_767_229_200;
const CREATED: &str = "2026-01-01T00:54:30Z";

fn printed(resource: Resource, mut object: Value) -> String {
    object["metadata"]["creationTimestamp"] = json!(CREATED);
    let cells = builtin().by_resource(resource).unwrap().rules.cells(&object, NOW);
    let text = |cell: &Value| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned);
    cells.iter().map(text).collect::<Vec<_>>().join(" | ")
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for kind in builtin().all() {
        let cells = kind.rules.cells(&json!({}), NOW);
        assert_eq!(cells.len(), kind.columns.len(), "{}", kind.kind);
        assert!(cells.iter().all(|c| !c.is_null()), "{}: {cells:?}", kind.kind);
    }
}

#[test]
fn durations_read_as_in_kubectl() {
    for (seconds, expected) in [
        (-5, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (12_000, "3h20m"),
        (28_800, "8h"),
        (172_799, "47h"),
        (176_400, "2d1h"),
        (172_800, "2d"),
        (8 * 86_400, "8d"),
        (800 * 86_400, "2y70d"),
        (3650 * 86_400, "10y"),
    ] {
        assert_eq!(human_duration(seconds), expected, "{seconds}");
    }
}

fn pod_with(status: Value) -> Value {
    let mut pod = json!({"metadata": {"name": "web"}});
    pod["spec"] = json!({"containers": [{"name": "a"}, {"name": "b"}], "nodeName": "node-1"});
    pod["status"] = status;
    pod
}

fn pod_line(status: Value) -> String {
    printed(Resource::PODS, pod_with(status))
}

#[test]
fn a_running_pod() {
    let line = pod_line(json!({
        "phase": "Running", "podIPs": [{"ip": "10.1.0.4"}],
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}},
            {"name": "b", "ready": true, "restartCount": 1, "state": {"running": {}},
                "lastState": {"terminated": {"finishedAt": "2026-01-01T00:50:00Z"}}},
        ],
    }));
    assert_eq!(line, "web | 2/2 | Running | 3 (5m ago) | 5m30s | 10.1.0.4 | node-1 | <none> | <none>");
}

#[test]
fn pod_statuses_are_those_of_upstream() {
    let waiting =
        |reason: &str| json!({"name": "a", "state": {"waiting": {"reason": reason}}, "restartCount": 0});
    let ended = |terminated: Value| json!({"name": "a", "state": {"terminated": terminated}});
    let running = json!({"name": "b", "ready": true, "state": {"running": {}}});
    for (status, expected) in [
        (json!({"phase": "Pending"}), "0/2 | Pending"),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ContainerCreating")]}),
            "0/2 | ContainerCreating",
        ),
        (
            json!({"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff"), running]}),
            "1/2 | CrashLoopBackOff",
        ),
        (
            json!({"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff")]}),
            "0/2 | ImagePullBackOff",
        ),
        (
            json!({"phase": "Succeeded", "containerStatuses": [ended(json!({"exitCode": 0, "reason": "Completed"}))]}),
            "0/2 | Completed",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 137, "reason": "OOMKilled"}))]}),
            "0/2 | OOMKilled",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 3}))]}),
            "0/2 | ExitCode:3",
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [ended(json!({"exitCode": 137, "signal": 9}))]}),
            "0/2 | Signal:9",
        ),
        (
            json!({"phase": "Running",
                "containerStatuses": [ended(json!({"exitCode": 0, "reason": "Completed"})), running]}),
            "1/2 | NotReady",
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), "0/2 | Evicted"),
    ] {
        let line = pod_line(status);
        assert!(line.starts_with(&format!("web | {expected} | ")), "{line}");
    }
}

#[test]
fn init_containers_are_counted_up() {
    let mut pod = pod_with(json!({"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}},
        {"name": "j", "state": {"running": {}}, "restartCount": 4},
    ]}));
    pod["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
    let line = printed(Resource::PODS, pod.clone());
    assert!(line.starts_with("web | 0/2 | Init:1/2 | 4 | "), "{line}");
    pod["status"]["initContainerStatuses"][1]["state"] = json!({"waiting": {"reason": "CrashLoopBackOff"}});
    let line = printed(Resource::PODS, pod.clone());
    assert!(line.starts_with("web | 0/2 | Init:CrashLoopBackOff | "), "{line}");
    pod["status"]["initContainerStatuses"][1]["state"] =
        json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    let line = printed(Resource::PODS, pod);
    assert!(line.starts_with("web | 0/2 | Init:Error | "), "{line}");
}

#[test]
fn sidecars_count_as_containers() {
    let mut pod = pod_with(json!({"phase": "Running",
        "initContainerStatuses": [{"name": "s", "started": true, "ready": true, "state": {"running": {}}}],
        "containerStatuses": [{"name": "a", "ready": true, "state": {"running": {}}}]}));
    pod["spec"]["initContainers"] = json!([{"name": "s", "restartPolicy": "Always"}]);
    let line = printed(Resource::PODS, pod);
    assert!(line.starts_with("web | 2/3 | Running | 0 | "), "{line}");
}

#[test]
fn a_pod_under_deletion_is_terminating() {
    let mut pod = pod_with(json!({"phase": "Running"}));
    pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T01:00:00Z");
    assert!(printed(Resource::PODS, pod.clone()).contains("| Terminating |"));
    pod["status"]["phase"] = json!("Succeeded");
    assert!(printed(Resource::PODS, pod).contains("| Succeeded |"));
}

#[test]
fn nodes() {
    let node = json!({
        "metadata": {"name": "node-1", "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "edge"}},
        "spec": {"unschedulable": true},
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
            "nodeInfo": {"kubeletVersion": "v0.1.0", "osImage": "Debian", "kernelVersion": "6.1",
                "containerRuntimeVersion": "containerd://1.6.20"},
        },
    });
    assert_eq!(
        printed(Resource::NODES, node),
        "node-1 | Ready,SchedulingDisabled | edge,worker | 5m30s | v0.1.0 | 192.0.2.1 | <none> | Debian | 6.1 | \
         containerd://1.6.20"
    );
    let lost = json!({"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
    let expected = "n | NotReady | <none> | 5m30s |  | <none> | <none> | <unknown> | <unknown> | <unknown>";
    assert_eq!(printed(Resource::NODES, lost), expected);
}

#[test]
fn services() {
    let service = |spec: Value, status: Value| {
        printed(Resource::SERVICES, json!({"metadata": {"name": "s"}, "spec": spec, "status": status}))
    };
    assert_eq!(
        service(
            json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "selector": {"app": "web"},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]}),
            json!({})
        ),
        "s | LoadBalancer | 10.96.0.9 | <pending> | 80:30080/TCP,53/UDP | 5m30s | app=web"
    );
    assert_eq!(
        service(
            json!({"type": "LoadBalancer", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80, "protocol": "TCP"}]}),
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}})
        ),
        "s | LoadBalancer | 10.96.0.9 | 203.0.113.7 | 80/TCP | 5m30s | <none>"
    );
    assert_eq!(
        service(json!({"type": "ClusterIP", "clusterIPs": ["None"]}), json!({})),
        "s | ClusterIP | None | <none> | <none> | 5m30s | <none>"
    );
    assert_eq!(
        service(json!({"type": "ExternalName", "externalName": "db.example.com"}), json!({})),
        "s | ExternalName | <none> | db.example.com | <none> | 5m30s | <none>"
    );
}

#[test]
fn workloads() {
    let template =
        json!({"spec": {"containers": [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:2"}]}});
    let spec = json!({"replicas": 5, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let status = json!({"replicas": 5, "readyReplicas": 4, "updatedReplicas": 5, "availableReplicas": 3});
    let object = json!({"metadata": {"name": "web"}, "spec": spec, "status": status});
    assert_eq!(
        printed(Resource::DEPLOYMENTS, object.clone()),
        "web | 4/5 | 5 | 3 | 5m30s | a,b | a:1,b:2 | app=web"
    );
    assert_eq!(
        printed(Resource::REPLICA_SETS, object.clone()),
        "web | 5 | 5 | 4 | 5m30s | a,b | a:1,b:2 | app=web"
    );
    let mut controller = object;
    controller["spec"]["selector"] = json!({"app": "web", "tier": "front"});
    assert_eq!(
        printed(Resource::REPLICATION_CONTROLLERS, controller),
        "web | 5 | 5 | 4 | 5m30s | a,b | a:1,b:2 | app=web,tier=front"
    );
    let template = json!({"metadata": {"name": "t"}, "template": {"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "a", "image": "a:1"}]}}});
    assert_eq!(printed(Resource::POD_TEMPLATES, template), "t | a | a:1 | app=web");
}

#[test]
fn ingresses() {
    let ingress = |hosts: &[&str], rest: Value| {
        let mut spec = json!({"rules": hosts.iter().map(|h| json!({"host": h})).collect::<Vec<_>>()});
        spec.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        let status =
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "lb.example.com"}]}});
        printed(Resource::INGRESSES, json!({"metadata": {"name": "i"}, "spec": spec, "status": status}))
    };
    assert_eq!(ingress(&[], json!({})), "i | <none> | * | 203.0.113.7,lb.example.com | 80 | 5m30s");
    assert_eq!(
        ingress(&["a", "b", "c", "d"], json!({"ingressClassName": "nginx", "tls": [{}]})),
        "i | nginx | a,b,c + 1 more... | 203.0.113.7,lb.example.com | 80, 443 | 5m30s"
    );
    let class = json!({"metadata": {"name": "c", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": "acme.io/x", "parameters": {"apiGroup": "acme.io", "kind": "K", "name": "n"}}});
    assert_eq!(printed(Resource::INGRESS_CLASSES, class), "c (default) | acme.io/x | K.acme.io/n | 5m30s");
}

#[test]
fn endpoints_are_cut_after_three() {
    let slice = json!({"metadata": {"name": "web-1"}, "addressType": "IPv4", "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}, {"addresses": ["10.0.0.3"]},
            {"addresses": ["10.0.0.4"]}, {"addresses": ["10.0.0.5"]}]});
    assert_eq!(
        printed(Resource::ENDPOINT_SLICES, slice),
        "web-1 | IPv4 | 80 | 10.0.0.1,10.0.0.2,10.0.0.3 + 2 more... | 5m30s"
    );
    let empty = json!({"metadata": {"name": "none"}, "addressType": "IPv4"});
    assert_eq!(printed(Resource::ENDPOINT_SLICES, empty), "none | IPv4 | <unset> | <unset> | 5m30s");
    let endpoints = json!({"metadata": {"name": "web"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "ports": [{"port": 80}]}]});
    assert_eq!(printed(Resource::ENDPOINTS, endpoints), "web | 10.0.0.1:80,[fd00::1]:80 | 5m30s");
}

#[test]
fn events() {
    let event = json!({
        "metadata": {"name": "web.1"}, "type": "Warning", "reason": "FailedScheduling", "message": "0/2 nodes \n",
        "involvedObject": {"kind": "Pod", "name": "web"}, "source": {"component": "scheduler"},
        "firstTimestamp": "2026-01-01T00:50:00Z", "lastTimestamp": "2026-01-01T00:59:30Z", "count": 3,
    });
    assert_eq!(
        printed(Resource::EVENTS, event),
        "30s | Warning | FailedScheduling | pod/web |  | scheduler | 0/2 nodes | 10m | 3 | web.1"
    );
    let modern = json!({
        "metadata": {"name": "web.2"}, "type": "Normal", "reason": "Pulled", "message": "m",
        "involvedObject": {"kind": "Pod", "name": "web", "fieldPath": "spec.containers{a}"},
        "reportingComponent": "agent", "reportingInstance": "node-1", "eventTime": "2026-01-01T00:59:00.000000Z",
    });
    assert_eq!(
        printed(Resource::EVENTS, modern),
        "60s | Normal | Pulled | pod/web | spec.containers{a} | agent, node-1 | m | 60s | 1 | web.2"
    );
}

#[test]
fn the_small_kinds() {
    let small = |resource, extra: Value| {
        let mut object = json!({"metadata": {"name": "x"}});
        object.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        printed(resource, object)
    };
    assert_eq!(small(Resource::NAMESPACES, json!({"status": {"phase": "Active"}})), "x | Active | 5m30s");
    let config = json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": ""}});
    assert_eq!(small(Resource::CONFIG_MAPS, config), "x | 3 | 5m30s");
    assert_eq!(
        small(Resource::SECRETS, json!({"type": "Opaque", "data": {"a": ""}})),
        "x | Opaque | 1 | 5m30s"
    );
    assert_eq!(small(Resource::SERVICE_ACCOUNTS, json!({})), "x | 5m30s");
    assert_eq!(small(Resource::RUNTIME_CLASSES, json!({"handler": "runsc"})), "x | runsc | 5m30s");
    assert_eq!(small(Resource::LEASES, json!({"spec": {"holderIdentity": "n1"}})), "x | n1 | 5m30s");
}

#[test]
fn descriptions_of_columns_are_those_of_the_published_fields() {
    for column in builtin().all().iter().flat_map(|kind| &*kind.columns) {
        let text = description(column);
        assert!(!text.starts_with('='), "{}: {text}", column.name);
    }
    assert!(description(&NAME).starts_with("Name must be unique within a namespace."));
    assert!(description(&SCALE_COLUMNS[0]).ends_with("names#names"));
}

#[test]
fn ranges_and_addresses_of_services() {
    let range = json!({"metadata": {"name": "two"}, "spec": {"cidrs": ["10.200.0.0/24", "fd00::/64"]}});
    assert_eq!(printed(Resource::SERVICE_CIDRS, range), "two | 10.200.0.0/24,fd00::/64 | 5m30s");
    let address = |parent: Value| {
        let object = json!({"metadata": {"name": "10.9.9.8"}, "spec": {"parentRef": parent}});
        printed(Resource::IP_ADDRESSES, object)
    };
    assert_eq!(
        address(json!({"resource": "services", "namespace": "default", "name": "web"})),
        "10.9.9.8 | services/default/web"
    );
    assert_eq!(
        address(json!({"group": "g", "resource": "Things", "namespace": "ns", "name": "x"})),
        "10.9.9.8 | things.g/ns/x"
    );
}
