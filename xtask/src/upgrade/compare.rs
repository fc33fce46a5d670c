//! What of a cluster was touched: a record of before beside one of after. Pure.
//!
//! An object must be the same one (uid), at the same generation, and say all that it said; a later version may say more,
//! since defaults are added. The words of a condition are for people and may be others. Nothing may have gone, and nothing
//! may have come but what tells of the upgrade itself and what is of a kind that is new.

use std::collections::BTreeMap;

use serde_json::Value;

use super::record::Record;

/// Kinds whose objects tell of what happens: those of before stay, but others come and they count on.
const TELLING: [&str; 2] = ["events", "events.events.k8s.io"];
/// Fields that change while nothing is touched: the bookkeeping of the API, and heartbeats.
const RESTLESS: [&str; 5] =
    ["resourceVersion", "managedFields", "lastHeartbeatTime", "renewTime", "lastProbeTime"];
/// What a node reports of itself afresh at each start: its agent's version, and the images that it has.
const OF_THE_AGENT: [&str; 2] = ["/status/nodeInfo/kubeletVersion", "/status/images"];

/// Each difference in words; none when nothing was touched.
pub(super) fn faults(before: &Record, after: &Record) -> Vec<String> {
    let mut faults = Vec::new();
    for (key, old) in &before.objects {
        match after.objects.get(key) {
            // Events are forgotten in time.
            None if tells(key) => {}
            None => faults.push(format!("{key} has gone")),
            Some(new) if !tells(key) => {
                differences(old, new, "", &mut |path, what| {
                    let told_afresh =
                        key.starts_with("nodes ") && OF_THE_AGENT.iter().any(|own| path.starts_with(own));
                    let words = path.starts_with("/status/conditions/") && path.ends_with("/message");
                    if !told_afresh && !words {
                        faults.push(format!("{key} {path}: {what}"));
                    }
                });
                let revision = |object: &Value| {
                    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse::<u64>().ok())
                };
                if revision(new) < revision(old) {
                    faults.push(format!("{key} is at an earlier revision"));
                }
            }
            Some(_) => {}
        }
    }
    let known = |key: &str| key.split(' ').next().is_some_and(|kind| before.kinds.contains(kind));
    let come = after.objects.keys().filter(|key| !before.objects.contains_key(*key));
    let come = come.filter(|key| known(key) && !tells(key));
    faults.extend(come.map(|key| format!("{key} has come")));
    for (kind, revision) in &before.revisions {
        if after.revisions.get(kind).is_some_and(|now| now < revision) {
            faults.push(format!("the list of {kind} is at an earlier revision"));
        }
    }
    for (what, old, new) in [
        ("container's process", &before.processes, &after.processes),
        ("cgroup or link", &before.kernel, &after.kernel),
    ] {
        faults.extend(old.difference(new).map(|gone| format!("a {what} has gone: {gone}")));
        faults.extend(new.difference(old).map(|come| format!("a {what} has come: {come}")));
    }
    faults
}

fn tells(key: &str) -> bool {
    TELLING.iter().any(|kind| key.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' ')))
}

/// What `old` says and `new` does not.
fn differences(old: &Value, new: &Value, path: &str, tell: &mut impl FnMut(&str, String)) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (name, old) in old.iter().filter(|(name, _)| !RESTLESS.contains(&name.as_str())) {
                let path = format!("{path}/{name}");
                match new.get(name) {
                    Some(new) => differences(old, new, &path, tell),
                    None if is_nothing(old) => {}
                    None => tell(&path, format!("{old} has gone")),
                }
            }
        }
        // Conditions: others may come, and stand anywhere.
        (Value::Array(old), Value::Array(new)) if by_type(old).is_some() && by_type(new).is_some() => {
            let (old, new) = (by_type(old).unwrap_or_default(), by_type(new).unwrap_or_default());
            for (name, old) in old {
                let path = format!("{path}/{name}");
                match new.get(name) {
                    Some(new) => differences(old, new, &path, tell),
                    None => tell(&path, format!("{old} has gone")),
                }
            }
        }
        (Value::Array(old), Value::Array(new)) if old.len() <= new.len() => {
            for (at, (old, new)) in old.iter().zip(new).enumerate() {
                differences(old, new, &format!("{path}/{at}"), tell);
            }
            if old.len() < new.len() {
                tell(path, format!("{} has come", Value::from(&new[old.len()..])));
            }
        }
        (old, new) if old == new => {}
        (old, new) => tell(path, format!("{old} became {new}")),
    }
}

/// The items of a list by their types, where all have one of their own.
fn by_type(list: &[Value]) -> Option<BTreeMap<&str, &Value>> {
    let items: BTreeMap<_, _> = list.iter().filter_map(|item| Some((item["type"].as_str()?, item))).collect();
    (items.len() == list.len() && !list.is_empty()).then_some(items)
}

/// What is the same as leaving it out.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn record(objects: &[(&str, Value)]) -> Record {
        Record {
            objects: objects.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect(),
            kinds: ["events", "nodes", "pods"].map(str::to_owned).into(),
            ..Record::default()
        }
    }

    #[test]
    fn more_may_be_said_and_nothing_else_may_differ() {
        let pod = |uid: &str, revision: &str, spec: Value| {
            ("pods a/b", json!({"metadata": {"uid": uid, "resourceVersion": revision}, "spec": spec}))
        };
        let before = record(&[pod("u", "5", json!({"a": [{"b": 1}], "none": null}))]);
        let same = record(&[pod("u", "6", json!({"a": [{"b": 1, "default": true}]}))]);
        assert_eq!(faults(&before, &same), Vec::<String>::new());
        let told = |after: &Record| faults(&before, after);
        assert_eq!(told(&record(&[])), ["pods a/b has gone"]);
        assert_eq!(
            told(&record(&[pod("v", "4", json!({"a": [{"b": 2}, 3]}))])),
            [
                "pods a/b /metadata/uid: \"u\" became \"v\"",
                "pods a/b /spec/a/0/b: 1 became 2",
                "pods a/b /spec/a: [3] has come",
                "pods a/b is at an earlier revision",
            ]
        );
    }

    #[test]
    fn events_come_and_go_and_others_do_not() {
        let of = |names: &[&'static str]| {
            record(&names.iter().map(|name| (*name, json!({"metadata": {"uid": name}}))).collect::<Vec<_>>())
        };
        let before = of(&["events a/1", "pods a/1"]);
        let after = of(&["events a/2", "pods a/1", "pods a/2", "novelties /n"]);
        assert_eq!(faults(&before, &after), ["pods a/2 has come"]);
        let ran = Record { processes: ["node-1 c 7 1000".to_owned()].into(), ..Record::default() };
        let again = Record { processes: ["node-1 c 8 2000".to_owned()].into(), ..Record::default() };
        assert_eq!(
            faults(&ran, &again),
            [
                "a container's process has gone: node-1 c 7 1000",
                "a container's process has come: node-1 c 8 2000",
            ]
        );
    }

    #[test]
    fn a_node_may_tell_of_another_agent_and_of_nothing_else() {
        let told = |message: &str| {
            record(&[(
                "pods a/b",
                json!({"status": {"conditions": [{"type": "Ready", "message": message}]}}),
            )])
        };
        assert_eq!(faults(&told("in these words"), &told("in others")), Vec::<String>::new());
        let conditions = |all: Value| record(&[("nodes /n", json!({"status": {"conditions": all}}))]);
        let before = conditions(json!([{"type": "Ready", "status": "True"}]));
        let more =
            conditions(json!([{"type": "New", "status": "True"}, {"type": "Ready", "status": "True"}]));
        assert_eq!(faults(&before, &more), Vec::<String>::new());
        let lost = conditions(json!([{"type": "Ready", "status": "Unknown"}]));
        assert_eq!(
            faults(&before, &lost),
            ["nodes /n /status/conditions/Ready/status: \"True\" became \"Unknown\""]
        );
        let node = |version: &str, ready: &str| {
            record(&[(
                "nodes /n",
                json!({"status": {"nodeInfo": {"kubeletVersion": version}, "ready": ready}}),
            )])
        };
        assert_eq!(faults(&node("1", "True"), &node("2", "True")), Vec::<String>::new());
        assert_eq!(faults(&node("1", "True"), &node("2", "False")).len(), 1);
    }
}
