//! What `kubectl get` prints: columns and cells of every kind, as upstream's printers make them.
//!
//! In: an object and the present time. Out: cells. Nothing here fails: what is missing prints as upstream
//! prints it (`<none>`, `<unknown>`).

mod events;
mod network;
mod nodes;
mod pods;
mod workloads;

#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::LazyLock};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, json::text, schema};
use crate::model::LabelSelector;

pub(super) use events::{EVENT_COLUMNS, event};
pub(super) use network::{
    ENDPOINT_SLICE_COLUMNS, ENDPOINTS_COLUMNS, INGRESS_CLASS_COLUMNS, INGRESS_COLUMNS, SERVICE_COLUMNS,
    endpoint_slice, endpoints, ingress, ingress_class, service,
};
pub(super) use nodes::{NODE_COLUMNS, node};
pub(super) use pods::{POD_COLUMNS, pod};
pub(super) use workloads::{
    DEPLOYMENT_COLUMNS, POD_TEMPLATE_COLUMNS, REPLICA_SET_COLUMNS, REPLICATION_CONTROLLER_COLUMNS,
    deployment, pod_template, replica_set, replication_controller,
};

/// The help text of a column. One that begins with `=` names a field of a published type, whose description it is.
pub fn description(column: &'static Column) -> &'static str {
    static DESCRIPTIONS: LazyLock<HashMap<&'static str, String>> = LazyLock::new(|| {
        let definitions = schema::definitions();
        let columns = super::all().iter().flat_map(|kind| kind.columns).chain(SCALE_COLUMNS);
        let named =
            columns.filter_map(|column| Some((column.description, column.description.strip_prefix('=')?)));
        let described = named.filter_map(|(whole, path)| {
            let (definition, field) = path.rsplit_once('.')?;
            let package =
                if definition.starts_with("meta.") { "io.k8s.apimachinery.pkg.apis" } else { "io.k8s.api" };
            let text =
                &definitions.get(&format!("{package}.{definition}"))?["properties"][field]["description"];
            Some((whole, text.as_str()?.to_owned()))
        });
        described.collect()
    });
    DESCRIPTIONS.get(column.description).map_or(column.description, String::as_str)
}

const NONE: &str = "<none>";
const UNKNOWN: &str = "<unknown>";

const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", priority: 0, description }
}

const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column { name, kind, format: "", priority: 1, description }
}

const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    description: "=meta.v1.ObjectMeta.name",
};
const AGE: Column = column("Age", "string", "=meta.v1.ObjectMeta.creationTimestamp");

pub(super) const NAMESPACE_COLUMNS: &[Column] =
    &[NAME, column("Status", "string", "The status of the namespace"), AGE];

pub(super) fn namespace(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), json!(text(&object["status"], "phase")), age(object, now)]
}

pub(super) const CONFIG_MAP_COLUMNS: &[Column] =
    &[NAME, column("Data", "string", "=core.v1.ConfigMap.data"), AGE];

pub(super) fn config_map(object: &Value, now: i64) -> Vec<Value> {
    let count = size(&object["data"]) + size(&object["binaryData"]);
    vec![name(object), json!(count), age(object, now)]
}

pub(super) const SECRET_COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "=core.v1.Secret.type"),
    column("Data", "string", "=core.v1.Secret.data"),
    AGE,
];

pub(super) fn secret(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), json!(text(object, "type")), json!(size(&object["data"])), age(object, now)]
}

pub(super) const SERVICE_ACCOUNT_COLUMNS: &[Column] = &[NAME, AGE];

pub(super) fn service_account(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), age(object, now)]
}

pub(super) const LEASE_COLUMNS: &[Column] =
    &[NAME, column("Holder", "string", "=coordination.v1.LeaseSpec.holderIdentity"), AGE];

pub(super) fn lease(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), json!(text(&object["spec"], "holderIdentity")), age(object, now)]
}

pub(super) const RUNTIME_CLASS_COLUMNS: &[Column] = &[NAME, column("Handler", "string", ""), AGE];

pub(super) fn runtime_class(object: &Value, now: i64) -> Vec<Value> {
    vec![name(object), json!(text(object, "handler")), age(object, now)]
}

/// Columns of an `autoscaling/v1` Scale.
pub const SCALE_COLUMNS: &[Column] = &[
    Column { format: "", ..NAME },
    column("Desired", "integer", "replicas is the desired number of instances for the scaled object."),
    column(
        "Available",
        "integer",
        "replicas is the actual number of observed instances of the scaled object.",
    ),
    AGE,
];

/// Its cells.
pub fn scale_cells(scale: &Value, now: i64) -> Vec<Value> {
    let count = |part: &str| json!(integer(&scale[part]["replicas"]));
    vec![name(scale), count("spec"), count("status"), age(scale, now)]
}

fn name(object: &Value) -> Value {
    json!(text(&object["metadata"], "name"))
}

fn age(object: &Value, now: i64) -> Value {
    json!(since(&object["metadata"]["creationTimestamp"], now))
}

fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// How long ago a timestamp was: `5m30s`.
fn since(timestamp: &Value, now: i64) -> String {
    let at = timestamp.as_str().and_then(|text| text.parse::<Timestamp>().ok());
    at.map_or_else(|| UNKNOWN.to_owned(), |at| human_duration(now - at.as_second()))
}

/// A duration as kubectl users read it: two units at most, coarser the longer it is.
fn human_duration(seconds: i64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{unit}"),
        _ => format!("{big}{unit}{small}{small_unit}"),
    };
    match seconds {
        // Clocks may differ a little.
        ..-1 => "<invalid>".to_owned(),
        -1 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

/// A selector object in the query form, `<none>` when it selects nothing in particular.
fn selector(object: &Value) -> String {
    let selector = serde_json::from_value(object.clone()).ok();
    let text = selector.and_then(|s| LabelSelector::from_object(&s).ok()).map(|s| s.to_string());
    or_none(&text.unwrap_or_default()).to_owned()
}

/// `a,b,c + 2 more...`
fn at_most_three(list: &[String], when_empty: &str) -> String {
    match list {
        [] => when_empty.to_owned(),
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        all => all.join(","),
    }
}
