//! Events.

use serde_json::{Value, json};

use crate::kinds::print::{NAME, column, integer, name, since, wide};
use crate::kinds::{Column, json::text};

pub(super) const COLUMNS: &[Column] = &[
    column("Last Seen", "string", "The time at which the most recent occurrence of this event was recorded."),
    column("Type", "string", "=core.v1.Event.type"),
    column("Reason", "string", "=core.v1.Event.reason"),
    column("Object", "string", "The object that this event is about."),
    wide("Subobject", "string", "=core.v1.ObjectReference.fieldPath"),
    wide(
        "Source",
        "string",
        "The component reporting this event. Should be a short machine understandable string.",
    ),
    column("Message", "string", "=core.v1.Event.message"),
    wide(
        "First Seen",
        "string",
        "The time at which the event was first recorded. (Time of server receipt is in TypeMeta.)",
    ),
    wide("Count", "string", "=core.v1.Event.count"),
    Column { priority: 1, ..NAME },
];

pub(super) fn cells(event: &Value, now: i64) -> Vec<Value> {
    let ago = |time: &Value, otherwise: &Value| since(if time.is_null() { otherwise } else { time }, now);
    let first = ago(&event["firstTimestamp"], &event["eventTime"]);
    let series = &event["series"];
    let (last, count) = if series.is_object() {
        (since(&series["lastObservedTime"], now), integer(&series["count"]))
    } else {
        let last = match &event["lastTimestamp"] {
            Value::Null => first.clone(),
            time => since(time, now),
        };
        (last, integer(&event["count"]).max(1))
    };
    let about = &event["involvedObject"];
    let target = match text(about, "name") {
        "" => text(about, "kind").to_lowercase(),
        name => format!("{}/{name}", text(about, "kind").to_lowercase()),
    };
    vec![
        json!(last),
        json!(text(event, "type")),
        json!(text(event, "reason")),
        json!(target),
        json!(text(about, "fieldPath")),
        json!(source(event)),
        json!(text(event, "message").trim()),
        json!(first),
        json!(count),
        name(event),
    ]
}

fn source(event: &Value) -> String {
    let or = |first: &str, second: &str| match text(&event["source"], first) {
        "" => text(event, second).to_owned(),
        text => text.to_owned(),
    };
    let (component, host) = (or("component", "reportingComponent"), or("host", "reportingInstance"));
    if host.is_empty() { component } else { format!("{component}, {host}") }
}
