//! Containers: what is refused and in which words, and what passes. Expected answers are upstream's own.

use serde_json::{Value, json};

use super::{defaults, validate};

/// The problems of an otherwise fine pod whose spec has `extra`; paths without the `spec.` they begin with.
fn spec(extra: &Value) -> Vec<String> {
    let mut pod = json!({"metadata": {"name": "p", "namespace": "default"},
        "spec": {"containers": [{"name": "c", "image": "i:1"}], "serviceAccountName": "s"}});
    pod["spec"].as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    defaults::pod(&mut pod);
    let text = |c: &crate::model::Cause| format!("{}: {}", c.field.trim_start_matches("spec."), c.message);
    validate::pod(&pod, None).iter().map(text).collect()
}

/// The problems of a pod whose one container has `extra`; paths without the container they begin with.
fn container(extra: &Value) -> Vec<String> {
    let mut container = json!({"name": "c", "image": "i:1"});
    container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    let volumes = json!([{"name": "v", "emptyDir": {}}, {"name": "i", "image": {"reference": "r"}},
        {"name": "p", "persistentVolumeClaim": {"claimName": "c"}}]);
    let problems = spec(&json!({"containers": [container], "volumes": volumes}));
    problems.into_iter().map(|p| p.replace("containers[0].", "")).collect()
}

fn each(cases: &[(Value, &[&str])], problems: impl Fn(&Value) -> Vec<String>) {
    for (extra, expected) in cases {
        assert_eq!(problems(extra), *expected, "{extra}");
    }
}

#[test]
fn variables() {
    each(
        &[
            (
                json!({"envFrom": [{}]}),
                &["envFrom: Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
            ),
            (
                json!({"envFrom": [{"secretRef": {}}, {"configMapRef": {"name": "A"}}]}),
                &[
                    "envFrom[0].secretRef.name: Required value",
                    "envFrom[1].configMapRef.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of \
                     lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric \
                     character (e.g. 'example.com', regex used for validation is \
                     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {}}]}),
                &[
                    "env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
                   `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                ],
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.x['a']"}}}]}),
                &[
                    "env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.x['a']\": error converting fieldPath: \
                   field label does not support subscript: spec.x['a']",
                ],
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]}),
                &[
                    "env[0].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \
                   \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \
                   \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \
                   \"status.podIPs\"",
                ],
            ),
            (json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.host"}}}]}), &[]),
            (
                json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]}),
                &[
                    "env[0].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m \
                   and 1 are supported with the cpu resource",
                ],
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.hugepages-2Mi"}}}]}),
                &[],
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fileKeyRef": {"key": "k", "volumeName": "i", "path": "../x"}}}]}),
                &[
                    "env[0].valueFrom.fileKeyRef.path: Invalid value: \"../x\": must not contain '..'",
                    "env[0].valueFrom.fileKeyRef.volumeName: Invalid value: \"i\": referenced volume must be of type \
                     emptyDir",
                ],
            ),
        ],
        container,
    );
}

#[test]
fn mounts_and_devices() {
    let device = "volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of \
                  PersistentVolumeClaim or Ephemeral for block mode";
    each(
        &[
            (
                json!({"volumeMounts": [{"name": "", "mountPath": ""}]}),
                &[
                    "volumeMounts[0].name: Required value",
                    "volumeMounts[0].name: Not found: \"\"",
                    "volumeMounts[0].mountPath: Required value",
                ],
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "/a/../b"}]}),
                &[
                    "volumeMounts.subPath: Invalid value: \"/a/../b\": must be a relative path",
                    "volumeMounts.subPath: Invalid value: \"/a/../b\": must not contain '..'",
                ],
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]}),
                &[
                    "volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to \
                   privileged containers",
                ],
            ),
            (
                json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "recursiveReadOnly": "Enabled"}]}),
                &["volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true"],
            ),
            (json!({"volumeDevices": [{"name": "v", "devicePath": "/d"}]}), &[device]),
            (json!({"volumeDevices": [{"name": "p", "devicePath": "/d"}]}), &[]),
            (
                json!({"volumeDevices": [{"name": "p", "devicePath": "/d"}],
                    "volumeMounts": [{"name": "p", "mountPath": "/d"}]}),
                &[
                    "volumeMounts[0].name: Invalid value: \"p\": must not already exist in volumeDevices",
                    "volumeMounts[0].mountPath: Invalid value: \"/d\": must not already exist as a path in \
                     volumeDevices",
                    "volumeDevices[0].name: Invalid value: \"p\": must not already exist in volumeMounts",
                    "volumeDevices[0].devicePath: Invalid value: \"/d\": must not already exist as a path in \
                     volumeMounts",
                ],
            ),
            (
                json!({"volumeDevices": [{"name": "", "devicePath": "/a/../b"}]}),
                &[
                    "volumeDevices[0].name: Required value",
                    "volumeDevices[0].name: Not found: \"\"",
                    "volumeDevices[0].devicePath: Invalid value: \"/a/../b\": can not contain backsteps ('..')",
                ],
            ),
        ],
        container,
    );
}

#[test]
fn restarts_and_resizes() {
    let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
    each(
        &[
            (json!({"restartPolicy": "Never", "restartPolicyRules": [rule]}), &[]),
            (
                json!({"restartPolicyRules": [rule]}),
                &["restartPolicy: Required value: must specify restartPolicy when restart rules are used"],
            ),
            (
                json!({"restartPolicy": "Sometimes"}),
                &[
                    "restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\", \
                   \"OnFailure\"",
                ],
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": [{"action": "", "exitCodes": {"operator": "x"}}, {"action": "Restart"}]}),
                &[
                    "restartPolicyRules[0].action: Unsupported value: \"\": supported values: \"Restart\", \
                     \"RestartAllContainers\"",
                    "restartPolicyRules[0].exitCodes.operator: Unsupported value: \"x\": supported values: \"In\", \
                     \"NotIn\"",
                    "restartPolicyRules[1].exitCodes: Required value: must be specified",
                ],
            ),
            (
                json!({"restartPolicy": "Never", "restartPolicyRules": vec![rule; 21]}),
                &["restartPolicyRules: Too many: 21: must have at most 20 items"],
            ),
            (
                json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": ""}, {"resourceName": "cpu", "restartPolicy": "x"}]}),
                &[
                    "resizePolicy: Required value",
                    "resizePolicy[1]: Duplicate value: \"cpu\"",
                    "resizePolicy: Unsupported value: \"x\": supported values: \"NotRequired\", \"RestartContainer\"",
                ],
            ),
        ],
        container,
    );
    let never = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i",
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]}]});
    assert_eq!(
        spec(&never),
        ["containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod \
          `restartPolicy` is 'Never'"]
    );
    let init = |extra: Value| {
        let mut container = json!({"name": "i", "image": "i"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        spec(&json!({"initContainers": [container]}))
    };
    assert!(init(json!({"restartPolicy": "OnFailure"})).is_empty());
    assert_eq!(
        init(json!({"restartPolicyRules": [{}]})),
        [
            "initContainers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used"
        ]
    );
    assert_eq!(
        init(json!({"resizePolicy": [{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]})),
        [
            "initContainers[0].resizePolicy[0].restartPolicy: Invalid value: \"RestartContainer\": must not be set to \
          'RestartContainer' for non-sidecar initContainers"
        ]
    );
    assert_eq!(
        init(json!({"lifecycle": {}})),
        [
            "initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always"
        ]
    );
}

#[test]
fn probes_and_hooks() {
    each(
        &[
            (
                json!({"livenessProbe": {"tcpSocket": {"port": 80}, "successThreshold": -1}}),
                &[
                    "livenessProbe.successThreshold: Invalid value: -1: must be greater than or equal to 0",
                    "livenessProbe.successThreshold: Invalid value: -1: must be 1",
                ],
            ),
            (
                json!({"readinessProbe": {"tcpSocket": {"port": 80}, "terminationGracePeriodSeconds": 0}}),
                &[
                    "readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
                    "readinessProbe.terminationGracePeriodSeconds: Invalid value: 0: must not be set for \
                     readinessProbes",
                ],
            ),
            (
                json!({"livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "a_b", "value": ""}]}}}),
                &[
                    "livenessProbe.httpGet.httpHeaders: Invalid value: \"a_b\": a valid HTTP header must consist of \
                   alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is \
                   '[-A-Za-z0-9]+')",
                ],
            ),
            (
                json!({"livenessProbe": {"httpGet": {"port": ""}}}),
                &[
                    "livenessProbe.httpGet.port: Invalid value: \"\": must contain only alpha-numeric characters \
                     (a-z, 0-9), and hyphens (-)",
                    "livenessProbe.httpGet.port: Invalid value: \"\": must contain at least one letter (a-z)",
                ],
            ),
            (
                json!({"lifecycle": {"preStop": {"sleep": {"seconds": -1}}, "postStart": {}}}),
                &[
                    "lifecycle.postStart: Required value: must specify a handler type",
                    "lifecycle.preStop.sleep: Invalid value: -1: must be non-negative and less than \
                     terminationGracePeriodSeconds (30)",
                ],
            ),
        ],
        container,
    );
}

#[test]
fn proc_mounts_and_privileges() {
    let unmasked =
        "securityContext.procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`";
    each(
        &[
            (json!({"securityContext": {"procMount": "Unmasked"}}), &[unmasked]),
            (
                json!({"securityContext": {"procMount": "x"}}),
                &[
                    "securityContext.procMount: Unsupported value: \"x\": supported values: \"Default\", \"Unmasked\"",
                ],
            ),
            // The name without its prefix is no capability for upstream.
            (
                json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"]}}}),
                &[],
            ),
            (json!({"resources": {"claims": [{}]}}), &["resources.claims[0]: Required value"]),
        ],
        container,
    );
    let own_users = json!({"hostUsers": false, "containers": [{"name": "c", "image": "i",
        "securityContext": {"procMount": "Unmasked"}}]});
    assert!(spec(&own_users).is_empty());
}

#[test]
fn ephemeral_containers_say_little() {
    let extra = json!({"ephemeralContainers": [{"name": "c", "image": "i", "targetContainerName": "x", "ports": [{"containerPort": 1}],
        "volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "s"}]}], "volumes": [{"name": "v", "emptyDir": {}}]});
    let problems = spec(&extra);
    let expected = [
        "ephemeralContainers[0].name: Duplicate value: \"c\"",
        "ephemeralContainers[0].targetContainerName: Not found: \"x\"",
        "ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        "ephemeralContainers[0].volumeMounts[0].subPath: Forbidden: cannot be set for an Ephemeral Container",
    ];
    for cause in expected {
        assert!(problems.iter().any(|p| p == cause), "{cause}: {problems:?}");
    }
}

#[test]
fn containers_have_names_of_their_own() {
    let named = |names: &[&str]| {
        let containers: Vec<Value> = names.iter().map(|n| json!({"name": n, "image": "i"})).collect();
        spec(&json!({ "containers": containers }))
    };
    assert_eq!(named(&["a", "a"]), ["containers[1].name: Duplicate value: \"a\""]);
    let init = json!({"initContainers": [{"name": "c", "image": "i"}]});
    assert_eq!(spec(&init), ["initContainers[0].name: Duplicate value: \"c\""]);
    let twice = json!({"containers": [{"name": "c", "image": " i", "ports": [
        {"containerPort": 1, "hostPort": 1}, {"containerPort": 2, "hostPort": 1}]}]});
    assert_eq!(
        spec(&twice),
        [
            "containers[0].ports[1].hostPort: Duplicate value: \"TCP//1\"",
            "containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
        ]
    );
}

#[test]
fn defaults_of_containers() {
    let mut pod = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "image": "A",
        "ports": [{"containerPort": 80}, {"containerPort": 81, "hostPort": 0}],
        "env": [{"name": "A", "valueFrom": {"fileKeyRef": {"key": "k"}}}]}]}});
    let mut template = json!({"template": pod});
    defaults::pod(&mut pod);
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["imagePullPolicy"], "IfNotPresent", "no image can be called so");
    assert_eq!(container["ports"][0], json!({"containerPort": 80, "hostPort": 80, "protocol": "TCP"}));
    assert_eq!(container["ports"][1]["hostPort"], 81);
    assert_eq!(container["env"][0]["valueFrom"]["fileKeyRef"]["optional"], false);
    defaults::template(template.as_object_mut().unwrap());
    let ports = &template["template"]["spec"]["containers"][0]["ports"];
    assert_eq!(ports[0], json!({"containerPort": 80, "protocol": "TCP"}), "a template keeps its own");
}

#[test]
fn the_same_complaint_is_told_once() {
    let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i", "envFrom": [{}, {}]}]}});
    defaults::pod(&mut pod);
    let error = crate::model::ApiError::invalid("", "Pod", "p", validate::pod(&pod, None));
    assert_eq!(error.causes.len(), 1);
    assert!(
        error.message.starts_with("Pod \"p\" is invalid: spec.containers[0].envFrom: Invalid value"),
        "{}",
        error.message
    );
}
