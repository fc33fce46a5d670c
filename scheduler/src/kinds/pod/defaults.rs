//! Defaults of pods and of the pod templates in workloads.

use serde_json::{Map, Value};

use super::{image, status, volumes};
use crate::kinds::json::{empty, ensure, is_unset, items_mut, member_mut, set_default};

/// What upstream fills in for a pod, beyond what it fills in for templates.
pub(in crate::kinds) fn pod(pod: &mut Value) {
    let Some(pod) = pod.as_object_mut() else { return };
    status::fill(pod);
    let spec = ensure(pod, "spec");
    if spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64).is_some_and(|seconds| seconds < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    let host_network = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    set_default(spec, "enableServiceLinks", true);
    template_spec(spec);
}

/// What upstream fills in for the `template` of a workload's spec.
pub(in crate::kinds) fn template(spec: &mut Map<String, Value>) {
    let template = ensure(spec, "template");
    ensure(template, "metadata");
    template_spec(ensure(template, "spec"));
}

fn template_spec(spec: &mut Map<String, Value>) {
    mirror_service_account(spec);
    set_default(spec, "restartPolicy", "Always");
    set_default(spec, "dnsPolicy", "ClusterFirst");
    set_default(spec, "schedulerName", "default-scheduler");
    set_default(spec, "terminationGracePeriodSeconds", 30);
    set_default(spec, "securityContext", empty());
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items_mut(spec, list).for_each(container);
    }
    items_mut(spec, "volumes").for_each(volumes::defaults::fill);
}

/// The old name of the field follows the new one.
fn mirror_service_account(spec: &mut Map<String, Value>) {
    for (from, to) in [("serviceAccountName", "serviceAccount"), ("serviceAccount", "serviceAccountName")] {
        if let Some(name) = spec.get(from).filter(|_| !is_unset(spec, from)).cloned() {
            spec.insert(to.to_owned(), name);
            return;
        }
    }
}

/// The ports of a container in the host's network are the host's.
fn host_ports(container: &mut Map<String, Value>) {
    for port in items_mut(container, "ports") {
        let number = port.get("containerPort").cloned();
        if let Some(number) = number
            && port.get("hostPort").is_none_or(|host| host == 0)
        {
            port.insert("hostPort".to_owned(), number);
        }
    }
}

fn requests_from_limits(container: &mut Map<String, Value>) {
    let Some(resources) = member_mut(container, "resources") else { return };
    let Some(limits) = member_mut(resources, "limits").cloned() else { return };
    let requests = ensure(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

fn container(container: &mut Map<String, Value>) {
    let policy = image::pull_policy(container.get("image").and_then(Value::as_str).unwrap_or_default());
    set_default(container, "imagePullPolicy", policy);
    set_default(container, "terminationMessagePath", "/dev/termination-log");
    set_default(container, "terminationMessagePolicy", "File");
    set_default(container, "resources", empty());
    for port in items_mut(container, "ports") {
        set_default(port, "protocol", "TCP");
    }
    for variable in items_mut(container, "env") {
        let Some(from) = member_mut(variable, "valueFrom") else { continue };
        if let Some(reference) = member_mut(from, "fieldRef") {
            set_default(reference, "apiVersion", "v1");
        }
        if let Some(reference) = member_mut(from, "fileKeyRef") {
            reference.entry("optional").or_insert(false.into());
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = member_mut(container, name) {
            self::probe(probe);
        }
    }
    if let Some(lifecycle) = member_mut(container, "lifecycle") {
        for name in ["postStart", "preStop"] {
            if let Some(handler) = member_mut(lifecycle, name) {
                http_get(handler);
            }
        }
    }
}

fn probe(probe: &mut Map<String, Value>) {
    http_get(probe);
    if let Some(grpc) = member_mut(probe, "grpc") {
        grpc.entry("service").or_insert_with(|| "".into());
    }
    for (name, value) in
        [("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3)]
    {
        // Zero is how Go spells unset here.
        if probe.get(name).is_none_or(|v| v == 0) {
            probe.insert(name.to_owned(), value.into());
        }
    }
    if probe.get("initialDelaySeconds").is_some_and(|v| v == 0) {
        probe.remove("initialDelaySeconds");
    }
}

fn http_get(handler: &mut Map<String, Value>) {
    if let Some(get) = member_mut(handler, "httpGet") {
        set_default(get, "path", "/");
        set_default(get, "scheme", "HTTP");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn a_minimal_pod_gets_what_upstream_gives_it() {
        let mut pod = json!({"spec": {"containers": [{
            "name": "web", "image": "nginx", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}},
            "livenessProbe": {"httpGet": {"port": 80}},
            "env": [{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        }], "volumes": [{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}]}});
        super::pod(&mut pod);
        let expected = json!({
            "containers": [{
                "name": "web", "image": "nginx", "imagePullPolicy": "Always",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}},
                "livenessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"}, "timeoutSeconds": 1,
                    "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "env": [{"name": "IP", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "status.podIP"}}}],
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "secret": {"secretName": "s", "defaultMode": 420}}],
            "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
            "terminationGracePeriodSeconds": 30, "securityContext": {}, "enableServiceLinks": true,
        });
        assert_eq!(pod["spec"], expected);
    }

    #[test]
    fn defaults_are_stable_and_respect_what_is_set() {
        let mut pod = json!({"spec": {"serviceAccountName": "ci", "terminationGracePeriodSeconds": 0,
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "reg:5000/a:1"}]}});
        super::pod(&mut pod);
        let once = pod.clone();
        super::pod(&mut pod);
        assert_eq!(pod, once);
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 0);
        assert_eq!(pod["spec"]["serviceAccount"], "ci");
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    }
}
