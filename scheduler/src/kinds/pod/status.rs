//! Validation of what is reported about a pod: `pods/status`. Statuses are written often, and mostly by nodes: what did
//! not change is not looked at.

use std::net::IpAddr;

use serde_json::Value;

use super::devices;
use crate::kinds::{
    json::{ensure, is_unset, items, items_mut, text},
    validate::{Path, Problems, ip, names},
};

/// Conditions whose types need no prefix to be legal.
const OWN_CONDITIONS: [&str; 3] = ["PodScheduled", "Ready", "Initialized"];
/// The lists of statuses with the lists of containers that they are of.
const LISTS: [(&str, &str); 2] =
    [("containerStatuses", "containers"), ("initContainerStatuses", "initContainers")];
const EPHEMERAL: &str = "ephemeralContainerStatuses";

/// What a written status keeps of the old one when its writer does not know it, and what is behind a gate that is off.
pub(in crate::kinds) fn prepare(new: &mut Value, old: &Value) {
    let Some(status) = new.get_mut("status").and_then(Value::as_object_mut) else { return };
    let old = &old["status"];
    for field in ["qosClass", "observedGeneration", "resourceClaimStatuses", "extendedResourceClaimStatus"] {
        if is_unset(status, field) && !old[field].is_null() {
            status.insert(field.to_owned(), old[field].clone());
        }
    }
    let mut before: Vec<&Value> = items(&old["conditions"]).iter().collect();
    for condition in items_mut(status, "conditions") {
        let same = |other: &&Value| condition.get("type") == other.get("type");
        let Some(at) = before.iter().position(same) else { continue };
        let generation = &before.remove(at)["observedGeneration"];
        if is_unset(condition, "observedGeneration") && !generation.is_null() {
            condition.insert("observedGeneration".to_owned(), generation.clone());
        }
    }
    for field in ["nodeAllocatableResourceClaimStatuses", "volumeHealth"] {
        status.remove(field);
    }
    for list in [LISTS[0].0, LISTS[1].0, EPHEMERAL] {
        for container in items_mut(status, list) {
            items_mut(container, "volumeMounts").for_each(|mount| drop(mount.remove("volumeStatus")));
        }
    }
}

/// Warnings about addresses in a status that are written in an unusual way.
pub(in crate::kinds) fn address_warnings(pod: &Value) -> Vec<String> {
    let (status, path, mut out) = (&pod["status"], Path::new("status"), Vec::new());
    for list in ["podIPs", "hostIPs"] {
        for (index, address) in items(&status[list]).iter().enumerate() {
            let path = path.field(list).index(index).field("ip");
            out.extend(ip::warning(text(address, "ip"), &path));
        }
    }
    out
}

/// Compares two states of a pod's status.
pub(super) fn check(pod: &Value, before: &Value, problems: &mut Problems) {
    let (spec, old_spec) = (&pod["spec"], &before["spec"]);
    let (new, old, path) = (&pod["status"], &before["status"], Path::new("status"));
    conditions(&new["conditions"], &path.field("conditions"), problems);
    let nominated = text(new, "nominatedNodeName");
    if !nominated.is_empty() && nominated != text(old, "nominatedNodeName") {
        let path = path.field("nominatedNodeName");
        problems.all(&path, nominated, names::dns_subdomain(nominated));
        if !text(old_spec, "nodeName").is_empty() {
            problems.forbidden(&path, "may not be set on pods that are already bound to a node");
        }
    }
    generation(&new["observedGeneration"], &path.field("observedGeneration"), problems);
    problems.immutable(&path.field("qosClass"), &new["qosClass"], &old["qosClass"]);
    for (list, containers) in LISTS {
        let may = |name: &str, code: i64| may_restart(old_spec, containers, name, code);
        restarts(&new[list], &old[list], may, &path.field(list), problems);
    }
    restarts(&new[EPHEMERAL], &old[EPHEMERAL], |_, _| false, &path.field(EPHEMERAL), problems);
    claims(&new["resourceClaimStatuses"], spec, &path.field("resourceClaimStatuses"), problems);
    let field = "extendedResourceClaimStatus";
    devices::extended_claim(&new[field], spec, &path.field(field), problems);
    addresses(new, old, &PODS, &path, problems);
    addresses(new, old, &HOSTS, &path, problems);
    for list in [LISTS[0].0, LISTS[1].0, EPHEMERAL] {
        devices::users(&new[list], text(&spec["os"], "name"), &path.field(list), problems);
    }
    for (list, containers) in LISTS {
        devices::allocated(&new[list], pod, containers, &path.field(list), problems);
    }
    devices::none_allocated(&new[EPHEMERAL], &path.field(EPHEMERAL), problems);
}

fn conditions(conditions: &Value, path: &Path, problems: &mut Problems) {
    for (index, condition) in items(conditions).iter().enumerate() {
        let path = path.index(index);
        generation(&condition["observedGeneration"], &path.field("observedGeneration"), problems);
        let ty = text(condition, "type");
        if !OWN_CONDITIONS.contains(&ty) {
            // Upstream spells the path so.
            problems.all(&path.field("Type"), ty, names::qualified_name(ty));
        }
    }
}

fn generation(value: &Value, path: &Path, problems: &mut Problems) {
    if let Some(number) = value.as_i64().filter(|number| *number < 0) {
        problems.invalid(path, number, "must be a non-negative integer");
    }
}

/// What has ended for good does not run again; `may` tells by name and exit code whether a container may.
fn restarts(new: &Value, old: &Value, may: impl Fn(&str, i64) -> bool, path: &Path, problems: &mut Problems) {
    for (index, before) in items(old).iter().enumerate() {
        let (name, ended) = (text(before, "name"), &before["state"]["terminated"]);
        if !ended.is_object() || may(name, ended["exitCode"].as_i64().unwrap_or_default()) {
            continue;
        }
        let runs =
            |status: &&Value| text(status, "name") == name && !status["state"]["terminated"].is_object();
        if items(new).iter().any(|status| runs(&status)) {
            let path = path.index(index).field("state");
            problems.forbidden(&path, "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether a container of `spec` that ended with `code` may run again: by its own rules, its own policy, or the pod's.
fn may_restart(spec: &Value, list: &str, name: &str, code: i64) -> bool {
    let everything = ["initContainers", "containers"].iter().any(|list| {
        let rules = items(&spec[*list]).iter().flat_map(|container| items(&container["restartPolicyRules"]));
        rules.into_iter().any(|rule| rule["action"] == "RestartAllContainers")
    });
    let Some(container) = items(&spec[list]).iter().find(|container| text(container, "name") == name) else {
        return everything;
    };
    if everything {
        return true;
    }
    for rule in items(&container["restartPolicyRules"]) {
        let codes = &rule["exitCodes"];
        let listed = items(&codes["values"]).iter().any(|value| value.as_i64() == Some(code));
        if rule["action"] == "Restart" && listed == (codes["operator"] == "In") {
            return true;
        }
    }
    let own = text(container, "restartPolicy");
    match if own.is_empty() { text(spec, "restartPolicy") } else { own } {
        "Never" => false,
        "OnFailure" => code != 0,
        _ => true,
    }
}

fn claims(statuses: &Value, spec: &Value, path: &Path, problems: &mut Problems) {
    let mut seen = Vec::new();
    for (index, status) in items(statuses).iter().enumerate() {
        let (path, name) = (path.index(index), text(status, "name"));
        if !items(&spec["resourceClaims"]).iter().any(|claim| text(claim, "name") == name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            problems.invalid(&path.field("name"), name, why);
        }
        if seen.contains(&name) {
            problems.duplicate(&path.field("name"), name);
        }
        seen.push(name);
        if let Some(claim) = status["resourceClaimName"].as_str() {
            problems.all(&path.field("resourceClaimName"), claim, names::dns_subdomain(claim));
        }
    }
}

/// A field for one address beside a list of them that begins with it.
struct Addresses {
    one: &'static str,
    all: &'static str,
    /// As upstream prints the items.
    ty: &'static str,
    /// Whether the one needs the list.
    both: bool,
}

const PODS: Addresses = Addresses { one: "podIP", all: "podIPs", ty: "PodIP", both: true };
const HOSTS: Addresses = Addresses { one: "hostIP", all: "hostIPs", ty: "HostIP", both: false };

fn addresses(new: &Value, old: &Value, which: &Addresses, path: &Path, problems: &mut Problems) {
    let (list, path) = (&new[which.all], path.field(which.all));
    if new[which.one] == old[which.one] && *list == old[which.all] {
        return;
    }
    let all: Vec<&str> = items(list).iter().map(|item| text(item, "ip")).collect();
    let first = |problems: &mut Problems| {
        if let Some(first) = all.first().filter(|first| **first != text(new, which.one)) {
            let why = format!("must be equal to `{}`", which.one);
            problems.invalid(&path.index(0).field("ip"), *first, why);
        }
    };
    if !which.both {
        first(problems);
    }
    for (index, address) in all.iter().enumerate() {
        let known = items(&old[which.all]).iter().any(|item| text(item, "ip") == *address);
        if !known {
            ip::check(address, &path.index(index), problems);
        }
    }
    if let (true, Some(at)) = (all.len() > 1, all.iter().position(|a| a.parse::<IpAddr>().is_err())) {
        let why = format!("failed to check for dual stack with error:invalid IP[{at}]: {}", all[at]);
        problems.internal(&path, why);
    }
    let families: Vec<bool> =
        all.iter().filter_map(|a| a.parse::<IpAddr>().ok()).map(|a| a.is_ipv6()).collect();
    if all.len() > 2 || (all.len() == 2 && families.first() == families.last()) {
        let why = "may specify no more than one IP for each IP family";
        problems.invalid_of(&path, which.ty, list, why);
    }
    if which.both {
        if text(new, which.one).is_empty() != all.is_empty() {
            let why = format!("{} and {} must either both be set or both be unset", which.one, which.all);
            problems.invalid_of(&path, which.ty, list, why);
        } else {
            first(problems);
        }
    }
}

/// Keeps the one address of a pod and the list of them in step, and its class: a reporter may know only one of the
/// two, and nothing of the class.
pub(super) fn fill(pod: &mut serde_json::Map<String, Value>) {
    let known = pod.get("status").and_then(Value::as_object).is_some_and(|s| !is_unset(s, "qosClass"));
    if let (false, Some(spec)) = (known, pod.get("spec")) {
        let class = super::qos_class(spec);
        ensure(pod, "status").insert("qosClass".to_owned(), class.into());
    }
    let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) else { return };
    let one = status.get("podIP").and_then(Value::as_str).unwrap_or_default().to_owned();
    let first = status.get("podIPs").and_then(|all| all[0]["ip"].as_str()).unwrap_or_default().to_owned();
    if one.is_empty() && !first.is_empty() {
        status.insert("podIP".to_owned(), first.into());
    } else if !one.is_empty() && first != one {
        status.insert("podIPs".to_owned(), serde_json::json!([{"ip": one}]));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(spec: &Value, new: &Value, old: &Value) -> Vec<String> {
        let mut problems = Problems::default();
        check(&json!({"spec": spec, "status": new}), &json!({"spec": spec, "status": old}), &mut problems);
        problems.into_causes().iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn a_writer_that_does_not_know_generations_keeps_them() {
        let condition = |ty: &str, seen: Value| json!({"type": ty, "observedGeneration": seen});
        let old = json!({"status": {"observedGeneration": 3, "qosClass": "Burstable",
            "conditions": [condition("A", json!(1)), condition("A", json!(2)), condition("B", json!(3))]}});
        let mut new = json!({"status": {
            "conditions": [{"type": "A"}, condition("B", json!(4)), {"type": "A"}, {"type": "C"}, {"type": "A"}],
            "containerStatuses": [{"volumeMounts": [{"name": "v", "volumeStatus": {"image": {}}}]}],
        }});
        prepare(&mut new, &old);
        let expected = json!({"status": {
            "observedGeneration": 3, "qosClass": "Burstable",
            "conditions": [condition("A", json!(1)), condition("B", json!(4)), condition("A", json!(2)), {"type": "C"},
                {"type": "A"}],
            "containerStatuses": [{"volumeMounts": [{"name": "v"}]}],
        }});
        assert_eq!(new, expected);
    }

    #[test]
    fn oddly_written_addresses_are_warned_about() {
        let pod = json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "FE80::1"}], "hostIPs": [{"ip": "10.0.0.1"}]}});
        let canonical = "should be in RFC 5952 canonical format (\"fe80::1\")";
        assert_eq!(
            address_warnings(&pod),
            [format!("status.podIPs[1].ip: IPv6 address \"FE80::1\" {canonical}")]
        );
    }

    #[test]
    fn what_is_reported_is_checked_in_upstreams_words() {
        let old = json!({"qosClass": "BestEffort"});
        let reported = |mut status: Value| {
            let map = status.as_object_mut().unwrap();
            map.entry("qosClass").or_insert_with(|| "BestEffort".into());
            status
        };
        for (new, expected) in [
            (
                json!({"conditions": [{"type": "Ready"}, {"type": "a.io/b"}, {"type": "DisruptionTarget"}]}),
                vec![],
            ),
            (
                json!({"conditions": [{"type": "Ready", "observedGeneration": -1}]}),
                vec![
                    "status.conditions[0].observedGeneration: Invalid value: -1: must be a non-negative integer",
                ],
            ),
            (
                json!({"qosClass": "Guaranteed"}),
                vec!["status.qosClass: Invalid value: \"Guaranteed\": field is immutable"],
            ),
            (
                json!({"nominatedNodeName": "n"}),
                vec![
                    "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node",
                ],
            ),
            (
                json!({"podIP": "10.0.0.1"}),
                vec![
                    "status.podIPs: Invalid value: null: podIP and podIPs must either both be set or both be unset",
                ],
            ),
            (
                json!({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
                vec![
                    "status.podIPs: Invalid value: [{\"IP\":\"10.0.0.1\"},{\"IP\":\"10.0.0.2\"}]: may specify no more \
                     than one IP for each IP family",
                ],
            ),
            (
                json!({"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}),
                vec!["status.hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`"],
            ),
        ] {
            assert_eq!(problems(&json!({"nodeName": "m"}), &reported(new), &old), expected);
        }
    }

    #[test]
    fn what_has_ended_for_good_does_not_run_again() {
        let status = |state: &Value| json!({"containerStatuses": [{"name": "c", "state": state}]});
        let restart = |spec: Value, code: i64| {
            let mut pod = json!({"restartPolicy": "Never"});
            pod.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let ended = status(&json!({"terminated": {"exitCode": code}}));
            problems(&pod, &status(&json!({"running": {}})), &ended).len()
        };
        let container = |own: Value| {
            let mut container = json!({"name": "c"});
            container.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
            json!({"containers": [container]})
        };
        assert_eq!(restart(container(json!({})), 0), 1);
        assert_eq!(restart(container(json!({})), 1), 1);
        assert_eq!(restart(container(json!({"restartPolicy": "OnFailure"})), 1), 0);
        let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
        let ruled = container(json!({"restartPolicy": "Never", "restartPolicyRules": rules}));
        assert_eq!((restart(ruled.clone(), 42), restart(ruled, 1)), (0, 1));
    }

    #[test]
    fn a_reporter_need_not_know_the_class() {
        let mut pod =
            json!({"spec": {"containers": [{"name": "c"}]}, "status": {"phase": "Running", "qosClass": ""}});
        fill(pod.as_object_mut().unwrap());
        assert_eq!(pod["status"]["qosClass"], "BestEffort");
    }

    #[test]
    fn the_one_address_and_the_list_are_kept_in_step() {
        for (given, expected) in [
            (json!({"podIP": "1.1.1.1"}), json!({"podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}]})),
            (json!({"podIPs": [{"ip": "::1"}]}), json!({"podIP": "::1", "podIPs": [{"ip": "::1"}]})),
            (json!({}), json!({})),
        ] {
            let mut pod = json!({ "status": given });
            fill(pod.as_object_mut().unwrap());
            assert_eq!(pod["status"], expected);
        }
    }
}
