//! Which pods a node takes.

use super::*;

fn new_pod(uid: &str, spec: serde_json::Value) -> DesiredPod {
    testing::pod(uid, spec)
}

fn asking(cpu: &str) -> serde_json::Value {
    json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]})
}

fn status_of(desired: &Desired, standings: &Standings, node: &NodeView, uid: &str) -> PodPlan {
    let pod = Arc::clone(&desired.pods[&uid.into()]);
    let seen = ObservedPod { now_ms: NOW, ..ObservedPod::default() };
    super::super::pod(&Context { desired, node, standings, remind: false }, &pod, &seen)
}

/// Reason and message of the status, when it is one of refusal.
fn refusal(plan: &PodPlan) -> Option<(&str, &str)> {
    let status = &plan.status;
    (status.phase.as_deref() == Some("Failed")).then(|| {
        (status.reason.as_deref().unwrap_or_default(), status.message.as_deref().unwrap_or_default())
    })
}

fn alone(spec: serde_json::Value) -> Option<(String, String)> {
    let desired = testing::desired([new_pod("p", spec)]);
    let plan = status_of(&desired, &Standings::new(), &node(), "p");
    let refused = refusal(&plan).map(|(reason, message)| (reason.to_owned(), message.to_owned()));
    assert_eq!(refused.is_some(), plan.steps.is_empty(), "nothing is made for what is not taken");
    refused
}

#[test]
fn what_the_node_cannot_be_is_refused_in_upstreams_words() {
    let of_pod = |more: serde_json::Value| {
        let mut spec = json!({"containers": [{"name": "web", "image": "i"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        spec
    };
    for (spec, reason, message) in [
        (
            of_pod(json!({"os": {"name": "windows"}})),
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
        (
            of_pod(json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}})),
            "SupplementalGroupsPolicyNotSupported",
            "SupplementalGroupsPolicy=Strict is not supported in this node",
        ),
        (
            asking("5"),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: 4000",
        ),
        (
            of_pod(json!({"resources": {"requests": {"cpu": "5"}}})),
            "OutOfcpu",
            "Node didn't have enough resource: cpu, requested: 5000, used: 0, capacity: 4000",
        ),
        (
            json!({"containers": [{"name": "web", "image": "i",
                "resources": {"requests": {"cpu": "1", "hugepages-2Mi": "4Mi"}}}]}),
            "OutOfhugepages-2Mi",
            "Node didn't have enough resource: hugepages-2Mi, requested: 4194304, used: 0, capacity: 0",
        ),
    ] {
        assert_eq!(alone(spec), Some((reason.to_owned(), format!("Pod was rejected: {message}"))));
    }
    assert_eq!(alone(of_pod(json!({"os": {"name": "linux"}}))), None);
    let sysctl = |name: &str, more: serde_json::Value| {
        let mut spec = of_pod(more);
        spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
        alone(spec).map(|(reason, message)| {
            assert_eq!(reason, "SysctlForbidden");
            message.strip_prefix("Pod was rejected: forbidden sysctl: ").unwrap().to_owned()
        })
    };
    assert_eq!(sysctl("kernel/shm_rmid_forced", json!({})), None);
    assert_eq!(sysctl("net.ipv4.tcp_syncookies", json!({})), None);
    for name in ["kernel.msgmax", "net.core.somaxconn", "vm.swappiness"] {
        assert_eq!(sysctl(name, json!({})), Some(format!("{name:?} not allowlisted")));
    }
    assert_eq!(
        sysctl("net.ipv4.tcp_syncookies", json!({"hostNetwork": true})).unwrap(),
        "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled"
    );
    assert_eq!(
        sysctl("kernel.shm_rmid_forced", json!({"hostIPC": true})).unwrap(),
        "\"kernel.shm_rmid_forced\" not allowed with host IPC enabled"
    );
}

#[test]
fn a_configuration_may_allow_more_parameters() {
    let allowing = NodeView { allowed_sysctls: vec!["net.core.*".into(), "kernel/msgmax".into()], ..node() };
    for (name, taken) in
        [("net.core.somaxconn", true), ("kernel.msgmax", true), ("net.ipv4.ip_forward", false)]
    {
        let spec = json!({"containers": [{"name": "web", "image": "i"}],
                          "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        let desired = testing::desired([new_pod("p", spec)]);
        let plan = status_of(&desired, &Standings::new(), &allowing, "p");
        assert_eq!(refusal(&plan).is_none(), taken, "{name}");
    }
}

#[test]
fn room_is_what_the_pods_before_leave() {
    let mut old = new_pod("a", asking("3"));
    old.pod.status = Some(serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z"})).unwrap());
    let desired = testing::desired([old, new_pod("b", asking("1500m")), new_pod("c", asking("1"))]);
    let ask = |standings: &[(&str, bool)], node: &NodeView, uid| {
        let standings = standings.iter().map(|(uid, over)| ((*uid).into(), *over)).collect();
        let plan = status_of(&desired, &standings, node, uid);
        refusal(&plan).map(|(reason, _)| reason.to_owned())
    };
    let node = node();
    assert_eq!(ask(&[], &node, "b").as_deref(), Some("OutOfcpu"), "3 of 4 are used");
    assert_eq!(ask(&[("b", true)], &node, "c"), None, "b was refused and does not count");
    assert_eq!(ask(&[("b", false)], &node, "c").as_deref(), Some("OutOfcpu"));
    assert_eq!(ask(&[("a", true)], &node, "b"), None, "a is over, which only the node knows so far");
    // The older comes first where both are new; by name where they are of one age.
    assert_eq!(ask(&[], &node, "c").as_deref(), Some("OutOfcpu"), "b comes first, whatever becomes of it");
    let full = NodeView { max_pods: 1, ..node.clone() };
    assert_eq!(ask(&[], &full, "b").as_deref(), Some("OutOfpods"));
    let plan = status_of(&desired, &Standings::new(), &node, "b");
    assert_eq!(plan.status.container_statuses, None);
    assert_eq!((plan.notices.len(), plan.notices[0].reason, plan.notices[0].warning), (1, "OutOfcpu", true));
    assert_eq!(
        plan.notices[0].message,
        "Node didn't have enough resource: cpu, requested: 1500, used: 3000, capacity: 4000"
    );
}

#[test]
fn init_containers_and_overhead_count_as_they_run() {
    let request = |cpu: &str| json!({"requests": {"cpu": cpu}});
    let spec = json!({
        "initContainers": [
            {"name": "sidecar", "image": "i", "restartPolicy": "Always", "resources": request("1")},
            {"name": "init", "image": "i", "resources": request("2500m")}],
        "containers": [{"name": "c", "image": "i", "resources": request("1")}],
        "overhead": {"cpu": "501m"}});
    let (reason, message) = alone(spec).unwrap();
    assert_eq!(reason, "OutOfcpu");
    assert!(message.contains("requested: 4001"), "{message}");
}

#[test]
fn a_port_of_the_node_is_taken_once() {
    let with =
        |port: serde_json::Value| json!({"containers": [{"name": "web", "image": "i", "ports": [port]}]});
    let clash = |first: serde_json::Value, second: serde_json::Value| {
        let desired = testing::desired([new_pod("a", with(first)), new_pod("b", with(second))]);
        let plan = status_of(&desired, &[("a".into(), false)].into(), &node(), "b");
        refusal(&plan).map(|(reason, _)| reason.to_owned())
    };
    let port = |more: serde_json::Value| {
        let mut port = json!({"containerPort": 80, "hostPort": 8080});
        port.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        port
    };
    let (plain, local) = (port(json!({})), port(json!({"hostIP": "127.0.0.1"})));
    assert_eq!(clash(plain.clone(), plain.clone()).as_deref(), Some("NodePorts"));
    assert_eq!(clash(plain.clone(), local.clone()).as_deref(), Some("NodePorts"));
    assert_eq!(clash(local, port(json!({"hostIP": "192.0.2.1"}))), None);
    assert_eq!(clash(plain.clone(), port(json!({"protocol": "UDP"}))), None);
    assert_eq!(clash(plain, port(json!({"hostPort": 8081}))), None);
}

#[test]
fn a_pod_is_where_its_selector_and_its_tolerations_let_it_be() {
    let bound = |more: serde_json::Value, own: Option<OwnNode>| {
        let mut spec = asking("1");
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let desired = Desired { node: own.map(Arc::new), ..testing::desired([new_pod("p", spec)]) };
        let plan = status_of(&desired, &Standings::new(), &node(), "p");
        refusal(&plan).map(|(reason, message)| (reason.to_owned(), message.to_owned()))
    };
    let labelled =
        |disk: &str| OwnNode { labels: [("disk".into(), disk.into())].into(), ..OwnNode::default() };
    let picky = || json!({"nodeSelector": {"disk": "ssd"}});
    assert_eq!(bound(picky(), None), None, "a node that was not told its labels refuses nobody");
    assert_eq!(bound(picky(), Some(labelled("ssd"))), None);
    let said = |reason: &str, why: &str| {
        Some((reason.to_owned(), format!("Pod was rejected: Predicate {reason} failed: {why}")))
    };
    let why = "node(s) didn't match Pod's node affinity/selector";
    assert_eq!(bound(picky(), Some(labelled("hdd"))), said("NodeAffinity", why));
    let taints = serde_json::from_value(json!([{"key": "k", "effect": "NoExecute"}])).unwrap();
    let tainted = OwnNode { taints, ..labelled("ssd") };
    let why = "node(s) had taints that the pod didn't tolerate";
    assert_eq!(bound(picky(), Some(tainted.clone())), said("TaintToleration", why));
    let mut tolerant = picky();
    tolerant["tolerations"] = json!([{"operator": "Exists"}]);
    assert_eq!(bound(tolerant, Some(tainted)), None);
    let running = testing::desired([new_pod("p", picky())]);
    let running = Desired { node: Some(Arc::new(labelled("hdd"))), ..running };
    let pod = Arc::clone(&running.pods[&"p".into()]);
    assert_eq!(refusal(&planned(&running, &pod, &prepared(&pod))), None, "who runs is not asked again");
}

#[test]
fn what_was_taken_once_stays_taken_and_a_refusal_is_final() {
    let desired = testing::desired([new_pod("p", asking("5"))]);
    let pod = Arc::clone(&desired.pods[&"p".into()]);
    let seen = prepared(&pod);
    assert_eq!(refusal(&planned(&desired, &pod, &seen)), None, "it has its network already");
    let first = status_of(&desired, &Standings::new(), &node(), "p");
    let mut seen = ObservedPod { now_ms: NOW, ..ObservedPod::default() };
    seen.record.status = Some(Arc::new(first.status.clone()));
    let second = planned(&desired, &pod, &seen);
    assert_eq!(refusal(&second), refusal(&first));
    assert_eq!((second.status.container_statuses, second.notices.len()), (None, 0));
    assert!(second.steps.is_empty());
}
