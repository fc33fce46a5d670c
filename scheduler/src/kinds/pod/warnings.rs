//! Warnings about legal pods and templates, in upstream's words and order: what is deprecated, what has no effect,
//! what hides something else.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{annotations, each_container, overlaps};
use crate::{
    kinds::{
        json::{items, members, text},
        quantity::Quantity,
        validate::{Path, ip, names},
    },
    model::go,
};

const NODE_LABELS: [(&str, &str); 8] = [
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
];
const ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];
/// In upstream's order; `ephemeral` stands among them there, before `cephfs`.
const VOLUMES: [(&str, &str); 9] = [
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Warnings about a new pod. Those who update pods are programs mostly: nobody is told then.
pub(in crate::kinds) fn pod(pod: &Value) -> Vec<String> {
    let mut out = Vec::new();
    if !text(&pod["metadata"], "resourceVersion").is_empty() {
        return out;
    }
    let name = text(&pod["metadata"], "name");
    let complaints = names::dns_label(name);
    if !complaints.is_empty() {
        out.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label \
             is recommended: [{}]",
            complaints.join(" ")
        ));
    }
    check(pod, &Path::default(), &mut out);
    out
}

/// Warnings about a workload's template at `path`.
pub(in crate::kinds) fn template(template: &Value, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    check(template, path, &mut out);
    out
}

fn check(holder: &Value, base: &Path, out: &mut Vec<String>) {
    let (spec, path) = (&holder["spec"], base.field("spec"));
    for (key, _) in members(&spec["nodeSelector"]) {
        if let Some(why) = deprecated_label(key) {
            out.push(format!("{}: {why}", path.field("nodeSelector").key(key)));
        }
    }
    node_affinity(&spec["affinity"]["nodeAffinity"], &path.field("affinity").field("nodeAffinity"), out);
    spread(&spec["topologySpreadConstraints"], &path.field("topologySpreadConstraints"), out);
    let annotations_path = base.field("metadata").field("annotations");
    for (key, why) in ANNOTATIONS {
        if holder["metadata"]["annotations"].get(key).is_some() {
            out.push(format!("{}: {why}", annotations_path.key(key)));
        }
    }
    volumes(&spec["volumes"], &path.field("volumes"), out);
    overlaps::check(&spec["volumes"], out);
    repeated(&spec["hostAliases"], "ip", &path.field("hostAliases"), out);
    let secrets = path.field("imagePullSecrets");
    repeated(&spec["imagePullSecrets"], "name", &secrets, out);
    for (index, secret) in items(&spec["imagePullSecrets"]).iter().enumerate() {
        if text(secret, "name").is_empty() {
            out.push(format!("{}: invalid empty name \"\"", secrets.index(index).field("name")));
        }
    }
    fractions(&spec["overhead"], &path.field("overhead"), out);
    profiles(holder, base, out);
    ports(spec, &path, out);
    port_names(spec, &path, out);
    if spec["terminationGracePeriodSeconds"].as_i64().is_some_and(|seconds| seconds < 0) {
        let path = path.field("terminationGracePeriodSeconds");
        out.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    pod_affinity(&spec["affinity"], &path.field("affinity"), out);
    let servers = path.field("dnsConfig").field("nameservers");
    for (index, server) in
        items(&spec["dnsConfig"]["nameservers"]).iter().filter_map(Value::as_str).enumerate()
    {
        out.extend(ip::warning(server, &servers.index(index)));
    }
    for (index, alias) in items(&spec["hostAliases"]).iter().enumerate() {
        let path = path.field("hostAliases").index(index).field("ip");
        out.extend(ip::warning(text(alias, "ip"), &path));
    }
}

/// Warnings about the keys of a node selector at `path`.
pub(in crate::kinds) fn deprecated_labels(selector: &Value, path: &str) -> Vec<String> {
    members(selector).filter_map(|(key, _)| Some(format!("{path}: {}", deprecated_label(key)?))).collect()
}

fn deprecated_label(key: &str) -> Option<&'static str> {
    NODE_LABELS.iter().find(|(label, _)| *label == key).map(|(_, why)| *why)
}

fn node_affinity(affinity: &Value, path: &Path, out: &mut Vec<String>) {
    let required = path.field(REQUIRED).field("nodeSelectorTerms");
    for (index, term) in items(&affinity[REQUIRED]["nodeSelectorTerms"]).iter().enumerate() {
        node_term(term, false, &required.index(index), out);
    }
    for (index, term) in items(&affinity[PREFERRED]).iter().enumerate() {
        node_term(&term["preference"], true, &path.field(PREFERRED).index(index).field("preference"), out);
    }
}

fn node_term(term: &Value, with_values: bool, path: &Path, out: &mut Vec<String>) {
    for (index, expression) in items(&term["matchExpressions"]).iter().enumerate() {
        let (path, key) = (path.field("matchExpressions").index(index), text(expression, "key"));
        if let Some(why) = deprecated_label(key) {
            out.push(format!("{}: {key} is {why}", path.field("key")));
        }
        let values = items(&expression["values"]).iter().filter_map(Value::as_str).enumerate();
        for (index, value) in values.filter(|_| with_values) {
            for why in names::label_value(value) {
                out.push(format!("{}: {value} is invalid, {why}", path.field("values").index(index)));
            }
        }
    }
}

fn spread(constraints: &Value, path: &Path, out: &mut Vec<String>) {
    for (index, constraint) in items(constraints).iter().enumerate() {
        let (path, key) = (path.index(index), text(constraint, "topologyKey"));
        if let Some(why) = deprecated_label(key) {
            out.push(format!("{}: {key} is {why}", path.field("topologyKey")));
        }
        if constraint["labelSelector"].is_null() {
            out.push(format!("{}: {NO_SELECTOR}", path.field("labelSelector")));
        }
    }
}

fn pod_affinity(affinity: &Value, path: &Path, out: &mut Vec<String>) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (affinity, path) = (&affinity[kind], path.field(kind));
        for (index, term) in items(&affinity[REQUIRED]).iter().enumerate() {
            if term["labelSelector"].is_null() {
                let path = path.field(REQUIRED).index(index).field("labelSelector");
                out.push(format!("{path}: {NO_SELECTOR}"));
            }
        }
        for (index, term) in items(&affinity[PREFERRED]).iter().enumerate() {
            if term["podAffinityTerm"]["labelSelector"].is_null() {
                let path = path.field(PREFERRED).index(index).field("podAffinityTerm").field("labelSelector");
                out.push(format!("{path}: {NO_SELECTOR}"));
            }
        }
    }
}

fn volumes(volumes: &Value, path: &Path, out: &mut Vec<String>) {
    for (index, volume) in items(volumes).iter().enumerate() {
        let path = path.index(index);
        for (source, why) in VOLUMES {
            if source == "cephfs" {
                claim_template(&volume["ephemeral"]["volumeClaimTemplate"], &path, out);
            }
            if volume.get(source).is_some() {
                // Upstream spells one of the paths so.
                let shown = if source == "storageos" { "storageOS" } else { source };
                out.push(format!("{}: {why}", path.field(shown)));
            }
        }
    }
}

fn claim_template(template: &Value, volume: &Path, out: &mut Vec<String>) {
    let path = volume.field("ephemeral").field("volumeClaimTemplate").field("spec").field("resources");
    for list in ["requests", "limits"] {
        let amount = &template["spec"]["resources"][list]["storage"];
        fraction(amount, &path.field(list).key("storage"), out);
    }
}

/// Entries of a list that an earlier one already names.
fn repeated(list: &Value, field: &str, path: &Path, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, item) in items(list).iter().enumerate() {
        let name = text(item, field);
        if !seen.insert(name) {
            out.push(format!("{}: duplicate {field} {}", path.index(index).field(field), go::quote(name)));
        }
    }
}

fn fractions(list: &Value, path: &Path, out: &mut Vec<String>) {
    for name in ["memory", "ephemeral-storage"] {
        fraction(&list[name], &path.key(name), out);
    }
}

/// Bytes come whole.
fn fraction(amount: &Value, path: &Path, out: &mut Vec<String>) {
    let parsed = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
    if let Some(amount) = parsed.filter(|amount| !amount.is_whole()) {
        out.push(format!("{path}: fractional byte value \"{amount}\" is invalid, must be an integer"));
    }
}

/// Profiles that only annotations name, and what single containers say twice.
fn profiles(holder: &Value, base: &Path, out: &mut Vec<String>) {
    const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
    let (spec, noted) = (&holder["spec"], &holder["metadata"]["annotations"]);
    let path = base.field("metadata").field("annotations");
    let context = &spec["securityContext"];
    if context["seccompProfile"].is_null() && noted.get(annotations::SECCOMP_POD).is_some() {
        out.push(format!("{}: {SECCOMP}", path.key(annotations::SECCOMP_POD)));
    }
    let is_template = holder.get("status").is_none() && holder.get("kind").is_none();
    each_container(spec, &base.field("spec"), |container, own_path| {
        let own = &container["securityContext"];
        let key = format!("{}{}", annotations::SECCOMP_CONTAINER, text(container, "name"));
        if own["seccompProfile"].is_null() && noted.get(&key).is_some() {
            out.push(format!("{}: {SECCOMP}", path.key(&key)));
        }
        let key = format!("{}{}", annotations::APP_ARMOR, text(container, "name"));
        // A pod gets the field from its annotation when it is made.
        if let (true, true, Some(profile)) =
            (is_template, own["appArmorProfile"].is_null(), noted.get(&key).and_then(Value::as_str))
        {
            let of_pod = Some(&context["appArmorProfile"]).filter(|profile| !profile.is_null());
            if of_pod.is_none() || of_pod != annotations::app_armor_field(profile).as_ref() {
                let why = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                out.push(format!("{}: {why}", path.key(&key)));
            }
        }
        let path = own_path.field("resources");
        for name in ["memory", "ephemeral-storage"] {
            for list in ["limits", "requests"] {
                fraction(&container["resources"][list][name], &path.field(list).key(name), out);
            }
        }
        variables(&container["env"], &own_path.field("env"), out);
    });
}

/// A variable that is set again hides the first, unless it only adds to it.
fn variables(env: &Value, path: &Path, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (index, variable) in items(env).iter().enumerate() {
        let (name, value) = (text(variable, "name"), text(variable, "value"));
        if seen.insert(name) {
            continue;
        }
        let reference = format!("$({name})");
        if !variable["valueFrom"].is_null() || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {}, which may be dropped when using apply",
                path.index(index),
                go::quote(name)
            ));
        }
    }
}

fn ports(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let mut known: BTreeMap<String, Vec<(Path, &Value)>> = BTreeMap::new();
    each_container(spec, path, |container, path| {
        for (index, port) in items(&container["ports"]).iter().enumerate() {
            let path = path.field("ports").index(index);
            let host = |port: &Value| port["hostPort"].as_i64().unwrap_or_default();
            if !text(port, "hostIP").is_empty() && host(port) == 0 {
                out.push(format!("{path}: hostIP set without hostPort: {}", plain_port(port)));
            }
            let key = format!("{}/{}", port["containerPort"], text(port, "protocol"));
            let others = known.entry(key).or_default();
            for (other_path, other) in &*others {
                let (ip, other_ip) = (text(port, "hostIP"), text(other, "hostIP"));
                let how = if ip == other_ip && host(port) == host(other) {
                    "duplicate"
                } else if host(port) == 0 || host(other) == 0 {
                    "overlapping"
                } else if host(port) == host(other) && ip.is_empty() != other_ip.is_empty() {
                    "dangerously ambiguous"
                } else {
                    continue;
                };
                out.push(format!("{path}: {how} port definition with {other_path}"));
            }
            others.push((path, port));
        }
    });
}

/// A port as Go prints a struct with the names of its fields.
fn plain_port(port: &Value) -> String {
    let number = |field: &str| port[field].as_i64().unwrap_or_default();
    format!(
        "{{Name:{} HostPort:{} ContainerPort:{} Protocol:{} HostIP:{}}}",
        text(port, "name"),
        number("hostPort"),
        number("containerPort"),
        text(port, "protocol"),
        text(port, "hostIP")
    )
}

fn port_names(spec: &Value, path: &Path, out: &mut Vec<String>) {
    let mut known: BTreeMap<&str, Path> = BTreeMap::new();
    each_container(spec, path, |container, path| {
        for (index, port) in items(&container["ports"]).iter().enumerate() {
            let (path, name) = (path.field("ports").index(index), text(port, "name"));
            if name.is_empty() {
                continue;
            }
            match known.get(name) {
                Some(first) => out.push(format!(
                    "{path}: duplicate port name {} with {first}, services and probes that select ports by name will \
                     use {first}",
                    go::quote(name)
                )),
                None => drop(known.insert(name, path)),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The warnings about a pod whose spec is `spec`, beside its annotations.
    fn warned(annotations: &Value, spec: Value) -> Vec<String> {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "p", "annotations": annotations}});
        pod["spec"] = spec;
        super::pod(&pod)
    }

    #[test]
    fn shadowed_variables_are_warned_about() {
        let spec = json!({"containers": [{"name": "c", "env": [{"name": "A"}, {"name": "A"}, {"name": "A", "value": "x$(A)"}],
            "resources": {"limits": {"memory": "128m"}}}]});
        assert_eq!(
            warned(&json!({}), spec),
            [
                "spec.containers[0].resources.limits[memory]: fractional byte value \"128m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ]
        );
    }

    #[test]
    fn what_is_deprecated_or_without_effect_is_warned_about() {
        let label = "beta.kubernetes.io/os";
        let term = json!({"matchExpressions": [{"key": label, "operator": "In", "values": ["-"]}]});
        let spec = json!({
            "nodeSelector": {label: "linux"},
            "affinity": {
                "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "preference": term}]},
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "a"}]},
            },
            "topologySpreadConstraints": [{"topologyKey": label}],
            "volumes": [
                {"name": "a", "cephfs": {}},
                {"name": "b", "configMap": {"name": "m", "items": [{"key": "x", "path": "p/"}, {"key": "y", "path": "p/q"}]}},
                {"name": "c", "projected": {"sources": [{}, {"secret": {"name": "s", "items": [{"key": "x", "path": "t"}]}},
                    {"serviceAccountToken": {"path": "t"}}]}},
            ],
            "hostAliases": [{"ip": "FE80::1"}, {"ip": "FE80::1"}],
            "imagePullSecrets": [{"name": ""}, {"name": ""}],
            "overhead": {"memory": "1m"},
            "terminationGracePeriodSeconds": -1,
            "containers": [
                {"name": "c", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "web", "hostIP": "1.2.3.4"},
                    {"containerPort": 80, "protocol": "TCP", "name": "web"}]},
            ],
            "dnsConfig": {"nameservers": ["::ffff:1.2.3.4"]},
        });
        let annotations = json!({"security.alpha.kubernetes.io/sysctls": "x", "seccomp.security.alpha.kubernetes.io/pod": "y"});
        let value_wrong = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and \
                           must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', \
                           regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
        let place = "spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0]";
        let os = "deprecated since v1.14; use \"kubernetes.io/os\" instead";
        let expected = [
            format!("spec.nodeSelector[{label}]: {os}"),
            format!("{place}.key: {label} is {os}"),
            format!("{place}.values[0]: - is invalid, {value_wrong}"),
            format!("spec.topologySpreadConstraints[0].topologyKey: {label} is {os}"),
            "spec.topologySpreadConstraints[0].labelSelector: a null labelSelector results in matching no pod".to_owned(),
            "metadata.annotations[security.alpha.kubernetes.io/sysctls]: non-functional in v1.11+; use the \"sysctls\" \
             field instead"
                .to_owned(),
            "spec.volumes[0].cephfs: deprecated in v1.28, non-functional in v1.31+".to_owned(),
            "volume \"b\" (ConfigMap \"m\"): overlapping paths: \"p/q\" with \"p\"".to_owned(),
            "volume \"c\" (Projected) has no sources provided".to_owned(),
            "volume \"c\" (Projected): overlapping paths: \"t\" (ServiceAccountToken) with \"t\" (Secret \"s\")".to_owned(),
            "spec.hostAliases[1].ip: duplicate ip \"FE80::1\"".to_owned(),
            "spec.imagePullSecrets[1].name: duplicate name \"\"".to_owned(),
            "spec.imagePullSecrets[0].name: invalid empty name \"\"".to_owned(),
            "spec.imagePullSecrets[1].name: invalid empty name \"\"".to_owned(),
            "spec.overhead[memory]: fractional byte value \"1m\" is invalid, must be an integer".to_owned(),
            "metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the \
             \"seccompProfile\" field instead"
                .to_owned(),
            "spec.containers[0].ports[0]: hostIP set without hostPort: {Name:web HostPort:0 ContainerPort:80 Protocol:TCP \
             HostIP:1.2.3.4}"
                .to_owned(),
            "spec.containers[0].ports[1]: overlapping port definition with spec.containers[0].ports[0]".to_owned(),
            "spec.containers[0].ports[1]: duplicate port name \"web\" with spec.containers[0].ports[0], services and probes \
             that select ports by name will use spec.containers[0].ports[0]"
                .to_owned(),
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
                .to_owned(),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].labelSelector: a null labelSelector \
             results in matching no pod"
                .to_owned(),
            "spec.dnsConfig.nameservers[0]: non-standard IP address \"::ffff:1.2.3.4\" is invalid: use \"1.2.3.4\"".to_owned(),
            "spec.hostAliases[0].ip: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")".to_owned(),
            "spec.hostAliases[1].ip: IPv6 address \"FE80::1\" should be in RFC 5952 canonical format (\"fe80::1\")".to_owned(),
        ];
        assert_eq!(warned(&annotations, spec), expected);
    }

    #[test]
    fn a_pods_name_should_be_a_host_name_and_updates_warn_of_nothing() {
        let mut pod = json!({"kind": "Pod", "metadata": {"name": "a.b"}, "spec": {"containers": []}});
        assert_eq!(
            super::pod(&pod),
            [
                "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
              recommended: [must not contain dots]"
            ]
        );
        pod["metadata"]["resourceVersion"] = json!("7");
        assert!(super::pod(&pod).is_empty());
    }
}
