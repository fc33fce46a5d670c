//! Validation of events. Core events take nearly everything that clients ever sent; whoever writes in the newer form
//! keeps its stricter rules. Both are given the stored form.

use serde_json::Value;

use crate::{
    kinds::{
        json::{empty, text},
        validate::{Path, Problems, meta, names},
    },
    model::Cause,
};

/// Longest action, reason and reporting instance, and longest note.
const MAX_WORD: usize = 128;
const MAX_NOTE: usize = 1024;
/// What a field holds, for how upstream prints it.
#[derive(Clone, Copy)]
enum Held {
    Text,
    Number,
    Time,
    /// An object of its internal type; one that is always there, or one that may be absent.
    Object(&'static str),
    Pointer(&'static str),
}

/// What an update in the newer form may not change, by the names of the stored form and of what upstream calls them.
const FIXED: [(&str, &str, Held); 14] = [
    ("involvedObject", "involvedObject", Held::Object("ObjectReference")),
    ("reason", "reason", Held::Text),
    ("message", "message", Held::Text),
    ("source", "source", Held::Object("EventSource")),
    ("firstTimestamp", "firstTimestamp", Held::Time),
    ("lastTimestamp", "lastTimestamp", Held::Time),
    ("count", "count", Held::Number),
    ("reason", "reason", Held::Text),
    ("type", "type", Held::Text),
    ("eventTime", "eventTime", Held::Time),
    ("action", "action", Held::Text),
    ("related", "related", Held::Pointer("ObjectReference")),
    ("reportingComponent", "reportingController", Held::Text),
    ("reportingInstance", "reportingInstance", Held::Text),
];

/// A core event.
pub(super) fn core(event: &Value) -> Vec<Cause> {
    let mut problems = Problems::default();
    common(event, "reportingComponent", &mut problems);
    problems.into_causes()
}

/// An event of `events.k8s.io`; `old` on update.
pub(super) fn newer(event: &Value, old: Option<&Value>) -> Vec<Cause> {
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
    for (field, path, held) in FIXED {
        let (new, path) = (&event[field], Path::new(path));
        if (unset(new) && unset(&old[field])) || *new == old[field] {
            continue;
        }
        const WHY: &str = "field is immutable";
        match (held, new) {
            (Held::Text, Value::Null) => problems.invalid(&path, "", WHY),
            (Held::Number, Value::Null) => problems.invalid(&path, 0, WHY),
            (Held::Object(ty), Value::Null) => problems.invalid_of(&path, ty, &empty(), WHY),
            (Held::Object(ty) | Held::Pointer(ty), _) => problems.invalid_of(&path, ty, new, WHY),
            _ => problems.invalid(&path, new.clone(), WHY),
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
        assert!(core(&odd).is_empty());
        let foreign = event(&json!({"eventTime": null, "involvedObject": {"namespace": "b"}}));
        let expected = "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace";
        assert_eq!(said(core(&foreign)), [expected]);
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
        let old = event(&json!({"message": "m", "related": {"kind": "Pod", "name": "p"}}));
        let found = said(newer(&event(&json!({"related": {"uid": "u"}})), Some(&old)));
        let related = r#"{"Kind":"","Namespace":"","Name":"","UID":"u","APIVersion":"","ResourceVersion":"","FieldPath":""}"#;
        assert_eq!(
            found,
            [
                "message: Invalid value: \"\": field is immutable".to_owned(),
                format!("related: Invalid value: {related}: field is immutable"),
            ]
        );
    }
}
