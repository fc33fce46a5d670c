//! Validation of events. Core events take nearly everything that clients ever sent; whoever writes in the newer form
//! keeps its stricter rules. Both are given the stored form.

use serde_json::Value;

use crate::{
    kinds::{
        json::text,
        validate::{Path, Problems, meta, names},
    },
    model::Cause,
};

/// Longest action, reason and reporting instance, and longest note.
const MAX_WORD: usize = 128;
const MAX_NOTE: usize = 1024;
/// What an update in the newer form may not change, by the names of the stored form and of what upstream calls them.
const FIXED: [(&str, &str); 9] = [
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
];
const FIXED_TOO: [(&str, &str); 5] = [
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingComponent", "reportingController"),
    ("reportingInstance", "reportingInstance"),
];

/// A core event.
pub(in crate::kinds) fn core(event: &Value, _old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    common(event, "reportingComponent", &mut problems);
    problems.into_causes()
}

/// An event of `events.k8s.io`; `old` on update.
pub(in crate::kinds) fn newer(event: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut problems = Problems::default();
    common(event, "reportingController", &mut problems);
    match old {
        None => create(event, &mut problems),
        Some(old) => update(event, old, &mut problems),
    }
    problems.into_causes()
}

fn unset(value: &Value) -> bool {
    value.is_null() || value == "" || value == 0
}

fn common(event: &Value, controller: &str, problems: &mut Problems) {
    let about = text(&event["involvedObject"], "namespace");
    let own = text(&event["metadata"], "namespace");
    let path = Path::new("involvedObject.namespace");
    let why = "does not match event.namespace";
    if unset(&event["eventTime"]) {
        // An event about a cluster-scoped object is kept in the default namespace.
        let elsewhere = about.is_empty() && matches!(own, "" | "default");
        if !elsewhere && about != own {
            problems.invalid(&path, about, why);
        }
        return;
    }
    if about.is_empty() && !matches!(own, "default" | "kube-system") {
        problems.invalid(&path, about, why);
    }
    let by = text(event, "reportingComponent");
    let path = Path::new(controller);
    if by.is_empty() {
        problems.required(&path, "");
    }
    problems.all(&path, by, names::qualified_name(by));
    for field in ["reportingInstance", "action", "reason", "message"] {
        let (value, path) = (text(event, field), Path::new(field));
        if value.is_empty() && field != "message" {
            problems.required(&path, "");
        }
        let most = if field == "message" { MAX_NOTE } else { MAX_WORD };
        if value.len() > most {
            problems.invalid(&path, "", format!("can have at most {most} characters"));
        }
    }
}

fn create(event: &Value, problems: &mut Problems) {
    meta::object_meta(event, names::dns_subdomain, problems);
    series(event, problems);
    if unset(&event["eventTime"]) {
        problems.required(&Path::new("eventTime"), "");
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        problems.invalid(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    let source = |field| text(&event["source"], field).is_empty();
    for (field, unset) in [
        ("firstTimestamp", unset(&event["firstTimestamp"])),
        ("lastTimestamp", unset(&event["lastTimestamp"])),
        ("count", unset(&event["count"])),
        ("source", source("component") && source("host")),
    ] {
        if !unset {
            problems.invalid(&Path::new(field), "", "needs to be unset");
        }
    }
}

fn update(event: &Value, old: &Value, problems: &mut Problems) {
    meta::object_meta_update(event, old, problems);
    if event["series"] != old["series"] {
        series(event, problems);
    }
    for (field, path) in FIXED.into_iter().chain(FIXED_TOO) {
        if !(unset(&event[field]) && unset(&old[field])) {
            problems.immutable(&Path::new(path), &event[field], &old[field]);
        }
    }
}

fn series(event: &Value, problems: &mut Problems) {
    let series = &event["series"];
    if series.is_null() {
        return;
    }
    if series["count"].as_i64().unwrap_or_default() < 2 {
        problems.invalid(&Path::new("series.count"), "", "should be at least 2");
    }
    if unset(&series["lastObservedTime"]) {
        problems.required(&Path::new("series.lastObservedTime"), "");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect()
    }

    fn event(change: &Value) -> Value {
        let mut event = json!({"metadata": {"name": "e", "namespace": "a"}, "involvedObject": {"namespace": "a"},
            "eventTime": "2026-01-01T00:00:00.000000Z", "reportingComponent": "c", "reportingInstance": "i",
            "action": "act", "reason": "why", "type": "Normal"});
        for (name, value) in change.as_object().into_iter().flatten() {
            event[name] = value.clone();
        }
        event
    }

    #[test]
    fn a_core_event_takes_any_name() {
        let odd = event(
            &json!({"eventTime": null, "metadata": {"name": "A_b c", "namespace": "a", "finalizers": ["x"]}}),
        );
        assert!(core(&odd, None).is_empty());
        let foreign = event(&json!({"eventTime": null, "involvedObject": {"namespace": "b"}}));
        let expected = "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace";
        assert_eq!(said(core(&foreign, None)), [expected]);
    }

    #[test]
    fn events_of_the_newer_form_are_complete_and_stay() {
        assert!(newer(&event(&json!({})), None).is_empty());
        let bare = event(&json!({"reportingComponent": "", "action": "", "count": 2}));
        let found = said(newer(&bare, None));
        assert_eq!(found[0], "reportingController: Required value");
        assert!(found.contains(&"action: Required value".to_owned()), "{found:?}");
        assert!(found.contains(&"count: Invalid value: \"\": needs to be unset".to_owned()), "{found:?}");
        let changed = event(&json!({"message": "other"}));
        let found = said(newer(&changed, Some(&event(&json!({})))));
        assert_eq!(found, ["message: Invalid value: \"other\": field is immutable"]);
    }
}
