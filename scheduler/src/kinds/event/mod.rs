//! Events: core events are stored, and `events.k8s.io` shows the same objects in the newer form.

mod print;
mod validate;
mod versions;

use std::{borrow::Cow, sync::Arc};

use k8s_openapi::api::{core, events};
use serde_json::Value;

use super::{Kind, Rules, kind::texts};
use crate::model::{Cause, Resource};

/// Who reports an event: the component of its source, or else the reporting one.
const SOURCE: &str = "source.component|reportingComponent";

/// The fields of both, as core events spell them.
const FIELDS: [&str; 11] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    SOURCE,
    "type",
];

/// The row of core events.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["ev"]),
        fields: FIELDS.map(Cow::Borrowed).into(),
        labels: vec![("source".into(), SOURCE.into())],
        create_on_update: true,
        cached: false,
        columns: Cow::Borrowed(print::COLUMNS),
        ..Kind::published::<core::v1::Event>(Events)
    }
}

/// The row of the newer form. Without a short name: `ev` means core events, and kubectl would warn at each use that it
/// could mean these.
pub(super) fn newer() -> Kind {
    Kind {
        resource: Resource::EVENTS,
        fields: ["reason".into(), "type".into()].into(),
        labels: versions::LABELS.iter().map(|(label, path)| ((*label).into(), (*path).into())).collect(),
        create_on_update: true,
        cached: false,
        view: Some(Arc::new(versions::Newer)),
        columns: Cow::Borrowed(print::COLUMNS),
        ..Kind::published::<events::v1::Event>(NewerEvents)
    }
}

struct Events;

impl Rules for Events {
    fn validate(&self, event: &Value, _: Option<&Value>) -> Vec<Cause> {
        validate::core(event)
    }

    fn cells(&self, event: &Value, now: i64) -> Vec<Value> {
        print::cells(event, now)
    }
}

/// Both are given the stored form.
struct NewerEvents;

impl Rules for NewerEvents {
    fn validate(&self, event: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate::newer(event, old)
    }

    fn cells(&self, event: &Value, now: i64) -> Vec<Value> {
        print::cells(event, now)
    }
}
