//! Events in the form of `events.k8s.io/v1`, over the core events that are stored.

use serde_json::{Map, Value};

use crate::kinds::Conversion;

/// Field of a core event, field of an `events.k8s.io` event; all others are called the same in both.
const RENAMED: [(&str, &str); 7] = [
    ("reportingComponent", "reportingController"),
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// Names in field selectors, and the stored fields that they mean.
pub(super) const LABELS: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
];

/// The newer form over the stored one.
pub(super) struct Newer;

impl Conversion for Newer {
    fn to_shown(&self, event: &Value) -> Value {
        renamed(event, "events.k8s.io/v1", |name| {
            RENAMED.iter().find(|(core, _)| *core == name).map(|(_, new)| *new)
        })
    }

    fn to_stored(&self, event: &Value) -> Value {
        renamed(event, "v1", |name| RENAMED.iter().find(|(_, new)| *new == name).map(|(core, _)| *core))
    }
}

fn renamed(event: &Value, api_version: &str, rename: impl Fn(&str) -> Option<&'static str>) -> Value {
    let fields = event.as_object().into_iter().flatten();
    let mut out: Map<String, Value> =
        fields.map(|(name, value)| (rename(name).unwrap_or(name).to_owned(), value.clone())).collect();
    out.insert("apiVersion".to_owned(), api_version.into());
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_two_forms_hold_the_same() {
        let core = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "message": "pulled", "reason": "Pulled",
            "involvedObject": {"kind": "Pod", "name": "p"}, "source": {"component": "agent"}, "count": 2,
            "firstTimestamp": "2026-01-01T00:00:00Z", "reportingComponent": "agent", "type": "Normal",
        });
        let shown = Newer.to_shown(&core);
        assert_eq!(
            (shown["note"].as_str(), shown["apiVersion"].as_str()),
            (Some("pulled"), Some("events.k8s.io/v1"))
        );
        assert_eq!(shown["regarding"]["name"], "p");
        assert_eq!(Newer.to_stored(&shown), core);
    }
}
