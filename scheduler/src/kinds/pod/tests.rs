//! Validation of pods: what is refused, in upstream's words, and what passes.

use serde_json::{Value, json};

use super::*;

fn problems(spec: Value) -> Vec<String> {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default"}});
    pod["spec"] = spec;
    defaults::pod(&mut pod);
    let causes = validate::pod(&pod, None);
    causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

/// The problems of a pod whose one container has `extra`.
fn container(extra: &Value) -> Vec<String> {
    let mut container = json!({"name": "c", "image": "i:1"});
    container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    problems(json!({"containers": [container], "volumes": [{"name": "v", "emptyDir": {}}]}))
}

/// The problems of an otherwise fine pod whose spec has `extra`.
fn spec(extra: &Value) -> Vec<String> {
    let mut spec = json!({"containers": [{"name": "c", "image": "i:1"}]});
    spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    problems(spec)
}

#[test]
fn containers() {
    assert_eq!(problems(json!({})), ["spec.containers: Required value"]);
    assert_eq!(
        problems(json!({"containers": [{"name": "a"}, {"name": "a", "image": "i"}]})),
        ["spec.containers[0].image: Required value", "spec.containers[1].name: Duplicate value: \"a\""]
    );
    for (extra, expected) in [
        (
            json!({"ports": [{"containerPort": 70000}]}),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            json!({"ports": [{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]}),
            "spec.containers[0].ports[1].name: Duplicate value: \"a\"",
        ),
        (
            json!({"imagePullPolicy": "Sometimes"}),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \
             \"IfNotPresent\", \"Never\"",
        ),
        (
            json!({"volumeMounts": [{"name": "gone", "mountPath": "/x"}]}),
            "spec.containers[0].volumeMounts[0].name: Not found: \"gone\"",
        ),
        (
            json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}, {"name": "v", "mountPath": "/x"}]}),
            "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/x\": must be unique",
        ),
        (
            json!({"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            json!({"resources": {"requests": {"memory": "-1"}}}),
            "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
        ),
        (
            json!({"env": [{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}),
            "spec.containers[0].env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]}),
            "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.nope\": error converting \
             fieldPath: field label not supported: spec.nope",
        ),
        (
            json!({"livenessProbe": {}}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            json!({"readinessProbe": {"exec": {"command": ["x"]}, "tcpSocket": {"port": 1}}}),
            "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            json!({"livenessProbe": {"tcpSocket": {"port": 80}, "successThreshold": 2}}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 99}}}}),
            "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 99: must be non-negative and less than \
             terminationGracePeriodSeconds (30)",
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "2Mi"}}}),
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            json!({"securityContext": {"runAsUser": -5}}),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -5: must be between 0 and 2147483647, inclusive",
        ),
    ] {
        assert_eq!(container(&extra), [expected]);
    }
}

#[test]
fn the_pod_as_a_whole() {
    for (extra, expected) in [
        (
            json!({"restartPolicy": "Sometimes"}),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "a b", "value": "1"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"a b\": must have at most 253 characters and match regex \
             ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
        ),
        (
            json!({"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}),
            "spec.tolerations[0].operator: Invalid value: \"b\": value must be empty when `operator` is 'Exists'",
        ),
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}, "secret": {"secretName": "s"}}]}),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {}}]}),
            "spec.volumes[0].secret.secretName: Required value",
        ),
        (
            json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 101, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}]}}}),
            "spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: \
             101: must be in the range 1-100",
        ),
        (
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}]}]}}}}),
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].\
             matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        ),
        (
            json!({"dnsPolicy": "None"}),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"searches": ["a"]}}),
            "spec.dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
        ),
        (
            json!({"dnsConfig": {"searches": ["a_b.", "."], "options": [{"value": "1"}]}}),
            "spec.dnsConfig.options[0]: Required value: must not be empty",
        ),
        (
            json!({"hostAliases": [{"ip": "010.1.2.3"}]}),
            "spec.hostAliases[0].ip: Invalid value: \"010.1.2.3\": must not have leading 0s",
        ),
        (
            json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net/core.x", "value": "1"}]}}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"net/core.x\": may not be specified when \
             'hostNetwork' is true",
        ),
        (
            json!({"securityContext": {"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}}}),
            "spec.securityContext.seccompProfile.localhostProfile: Invalid value: \
             {\"Type\":\"Unconfined\",\"LocalhostProfile\":\"a\"}: can only be set when seccomp type is Localhost",
        ),
        (
            json!({"securityContext": {"appArmorProfile": {"type": "Strict"}}}),
            "spec.securityContext.appArmorProfile.type: Unsupported value: \"Strict\": supported values: \
             \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
        ),
        (
            json!({"securityContext": {"supplementalGroupsPolicy": "None"}}),
            "spec.securityContext.supplementalGroupsPolicy: Unsupported value: \"None\": supported values: \"Merge\", \
             \"Strict\"",
        ),
        (json!({"hostUsers": false, "hostPID": true}), "spec.HostPID: Forbidden: when `hostUsers` is false"),
        (
            json!({"hostnameOverride": "a", "setHostnameAsFQDN": true}),
            "spec.hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
        ),
        (
            json!({"os": {"name": "windows"}, "hostIPC": true}),
            "spec.hostIPC: Forbidden: cannot be set for a windows pod",
        ),
        (
            json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}}),
            "spec.securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod",
        ),
        (
            json!({"os": {"name": "plan9"}}),
            "spec.os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ),
        (
            json!({"resources": {"limits": {"ephemeral-storage": "1"}}}),
            "spec.resources.limits[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \
             \"cpu\", \"hugepages-\", \"memory\"",
        ),
        (
            json!({"resourceClaims": [{"name": "a"}]}),
            "spec.resourceClaims[0]: Invalid value: \
             {\"Name\":\"a\",\"ResourceClaimName\":null,\"ResourceClaimTemplateName\":null}: must specify one of: \
             `resourceClaimName`, `resourceClaimTemplateName`",
        ),
        (
            json!({"schedulingGates": [{"name": "a.io/x"}, {"name": "a.io/x"}]}),
            "spec.schedulingGates[1]: Duplicate value: \"a.io/x\"",
        ),
        (
            json!({"preemptionPolicy": "Always"}),
            "spec.preemptionPolicy: Unsupported value: \"Always\": supported values: \"PreemptLowerPriority\", \"Never\"",
        ),
        (
            json!({"overhead": {"requests.cpu": "1"}}),
            "spec.overhead.limits[requests.cpu]: Invalid value: \"requests.cpu\": must be a standard resource for containers",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable":
                "DoNotSchedule", "matchLabelKeys": ["a"]}]}),
            "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not \
             set",
        ),
        (
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
    ] {
        assert_eq!(spec(&extra), [expected]);
    }
}

#[test]
fn volumes_that_no_agent_provides_are_still_legal() {
    for source in [
        json!({"nfs": {"server": "s", "path": "/"}}),
        json!({"persistentVolumeClaim": {"claimName": "c"}}),
        json!({"csi": {"driver": "d"}}),
        json!({"hostPath": {"path": "/var/log"}}),
    ] {
        let mut volume = source;
        volume["name"] = json!("v");
        assert!(spec(&json!({"volumes": [volume]})).is_empty());
    }
}

fn update(change: impl Fn(&mut Value)) -> Vec<String> {
    update_of(&json!({}), change)
}

/// The problems of a change of a pod whose spec has `extra`.
fn update_of(extra: &Value, change: impl Fn(&mut Value)) -> Vec<String> {
    let mut old = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    old["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    defaults::pod(&mut old);
    let mut new = old.clone();
    change(&mut new);
    validate::pod(&new, Some(&old)).iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

#[test]
fn updates_may_change_images_and_add_tolerations() {
    assert!(update(|pod| pod["spec"]["containers"][0]["image"] = json!("i:2")).is_empty());
    assert!(
        update(|pod| pod["spec"]["tolerations"] = json!([{"key": "a", "operator": "Exists"}])).is_empty()
    );
    assert!(update(|pod| pod["spec"]["activeDeadlineSeconds"] = json!(10)).is_empty());
    assert!(update(|pod| pod["metadata"]["labels"] = json!({"a": "b"})).is_empty());
}

#[test]
fn updates_may_change_nothing_else() {
    let refused = update(|pod| pod["spec"]["containers"][0]["command"] = json!(["sh"]));
    assert_eq!(
        refused,
        ["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,\
          `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
          tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n\
          @@ -5,7 +5,9 @@\n   {\n    \"Name\": \"c\",\n    \"Image\": \"i:1\",\n-   \"Command\": null,\n+   \
          \"Command\": [\n+    \"sh\"\n+   ],\n    \"Args\": null,\n    \"WorkingDir\": \"\",\n    \"Ports\": null,\n"]
    );
    let refused = update(|pod| pod["spec"]["nodeName"] = json!("node-1"));
    assert!(
        refused[0].contains("\n- \"NodeName\": \"\",\n+ \"NodeName\": \"node-1\",\n"),
        "a binding's: {refused:?}"
    );
    let refused = update(|pod| pod["spec"]["nodeSelector"] = json!({"disk": "ssd"}));
    assert!(
        refused[0]
            .contains("\n- \"NodeSelector\": null,\n+ \"NodeSelector\": {\n+  \"disk\": \"ssd\"\n+ },\n"),
        "{refused:?}"
    );
    let refused = update(|pod| pod["spec"]["containers"] = json!([]));
    let why = "spec.containers: Forbidden: pod updates may not add or remove containers";
    assert_eq!(refused, ["spec.containers: Required value", why]);
}

#[test]
fn gates_are_opened_one_by_one_and_never_put_up() {
    let gates = json!({"schedulingGates": [{"name": "a.io/x"}, {"name": "a.io/y"}]});
    let gated = |wanted: Value| update_of(&gates, |pod| pod["spec"]["schedulingGates"] = wanted.clone());
    assert!(gated(json!([{"name": "a.io/y"}])).is_empty());
    assert!(gated(Value::Null).is_empty());
    let why = |index: usize| {
        format!(
            "spec.schedulingGates[{index}].name: Forbidden: only deletion is allowed, but found new scheduling gate \
             'a.io/z'"
        )
    };
    assert_eq!(gated(json!([{"name": "a.io/x"}, {"name": "a.io/z"}])), [why(1)]);
    assert_eq!(update(|pod| pod["spec"]["schedulingGates"] = json!([{"name": "a.io/z"}])), [why(0)]);
    let mut placed = gates;
    placed["nodeName"] = json!("n1");
    let why = "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared";
    assert_eq!(spec(&placed), [why]);
}

#[test]
fn who_holds_a_gate_may_narrow_where_the_pod_goes() {
    let term = |keys: &[&str]| {
        let each = keys.iter().map(|key| json!({"key": key, "operator": "Exists"}));
        json!({"matchExpressions": each.collect::<Vec<_>>()})
    };
    let affinity = |terms: Vec<Value>| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    let gated = json!({"schedulingGates": [{"name": "a.io/x"}], "nodeSelector": {"disk": "ssd"},
        "affinity": affinity(vec![term(&["zone"])])});
    let change = |field: &str, value: Value| update_of(&gated, |pod| pod["spec"][field] = value.clone());
    assert!(change("nodeSelector", json!({"disk": "ssd", "gpu": "yes"})).is_empty());
    let refused = change("nodeSelector", json!({"disk": "hdd"}));
    assert_eq!(
        refused,
        [
            "spec.nodeSelector: Invalid value: {\"disk\":\"hdd\"}: only additions to spec.nodeSelector are allowed (no \
          mutations or deletions)"
        ]
    );
    assert!(change("affinity", affinity(vec![term(&["zone", "rack"])])).is_empty());
    let refused = change("affinity", affinity(vec![term(&["rack"])]));
    assert!(refused[0].ends_with("only additions are allowed (no mutations or deletions)"), "{refused:?}");
    let refused = change("affinity", affinity(vec![term(&["zone"]), term(&["rack"])]));
    let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
    assert!(refused[0].ends_with(why), "{refused:?}");
    let free = json!({"schedulingGates": [{"name": "a.io/x"}]});
    let set = |pod: &mut Value| pod["spec"]["affinity"] = affinity(vec![term(&["zone"])]);
    assert!(update_of(&free, set).is_empty(), "where nothing was required, anything may be");
}

#[test]
fn metadata() {
    let mut pod = json!({"metadata": {"name": "Bad", "labels": {"a b": "c"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    defaults::pod(&mut pod);
    let fields: Vec<String> = validate::pod(&pod, None).into_iter().map(|c| c.field).collect();
    assert_eq!(fields, ["metadata.name", "metadata.labels"]);
}

#[test]
fn what_was_wrong_before_is_no_reason_to_refuse_another_change() {
    let wrong = json!({"hostname": "A_b"});
    assert!(update_of(&wrong, |pod| pod["spec"]["containers"][0]["image"] = json!("i:2")).is_empty());
    let refused = update_of(&wrong, |pod| pod["spec"]["activeDeadlineSeconds"] = json!(-1));
    assert_eq!(
        refused,
        [
            "spec.activeDeadlineSeconds: Invalid value: -1: must be between 1 and 2147483647, inclusive",
            "spec.activeDeadlineSeconds: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ]
    );
}

#[test]
fn profiles_in_annotations_stay_as_they_are() {
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    let refused = update(|pod| pod["metadata"]["annotations"] = json!({key: "unconfined"}));
    assert_eq!(
        refused,
        [format!("metadata.annotations[{key}]: Forbidden: may not add AppArmor annotations")]
    );
}

#[test]
fn qos_class_follows_requests_and_limits() {
    let spec = |resources: Value| json!({"containers": [{"name": "c", "resources": resources}]});
    let full = json!({"cpu": "1", "memory": "1Gi"});
    for (resources, expected) in [
        (json!({}), "BestEffort"),
        (json!({"limits": full, "requests": full}), "Guaranteed"),
        (
            json!({"requests": {"cpu": "1", "memory": "1e3"}, "limits": {"cpu": "1000m", "memory": "1k"}}),
            "Guaranteed",
        ),
        (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}), "Burstable"),
        (json!({"requests": {"a.io/b": "1"}, "limits": {"a.io/b": "1"}}), "BestEffort"),
        (json!({"limits": full, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
        (json!({"requests": {"cpu": "500m"}}), "Burstable"),
    ] {
        assert_eq!(qos_class(&spec(resources.clone())), expected, "{resources}");
        let mut of_pod = spec(json!({"requests": {"cpu": "3"}}));
        of_pod["resources"] = resources;
        let expected = if of_pod["resources"] == json!({}) { "Burstable" } else { expected };
        assert_eq!(qos_class(&of_pod), expected, "what the pod says counts: {of_pod}");
    }
}

#[test]
fn unsupported_volumes_are_named() {
    let spec = json!({"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "nfs": {"server": "x"}}]});
    assert_eq!(unsupported_volumes(&spec), [("b".to_owned(), "nfs".to_owned())]);
}
