//! What columns and cells are made of that many kinds have, as upstream's printers make them.
//!
//! In: an object and the present time. Out: cells. Nothing here fails: what is missing prints as upstream
//! prints it (`<none>`, `<unknown>`).

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, json::text, schema};
use crate::model::LabelSelector;

/// The help text of a column. One that begins with `=` names a field of a published type, whose description it is.
pub fn description(column: &Column) -> &str {
    static DESCRIPTIONS: LazyLock<HashMap<String, String>> = LazyLock::new(|| {
        let definitions = schema::definitions();
        let columns = super::builtin().all().iter().flat_map(|kind| &*kind.columns).chain(SCALE_COLUMNS);
        let named =
            columns.filter_map(|column| Some((&column.description, column.description.strip_prefix('=')?)));
        let described = named.filter_map(|(whole, path)| {
            let (definition, field) = path.rsplit_once('.')?;
            let package =
                if definition.starts_with("meta.") { "io.k8s.apimachinery.pkg.apis" } else { "io.k8s.api" };
            let text =
                &definitions.get(&format!("{package}.{definition}"))?["properties"][field]["description"];
            Some((whole.clone().into_owned(), text.as_str()?.to_owned()))
        });
        described.collect()
    });
    DESCRIPTIONS.get(&*column.description).map_or(&column.description, String::as_str)
}

pub(super) const NONE: &str = "<none>";
pub(super) const UNKNOWN: &str = "<unknown>";

pub(super) const fn column(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed(kind),
        format: Cow::Borrowed(""),
        priority: 0,
        description: Cow::Borrowed(description),
    }
}

pub(super) const fn wide(name: &'static str, kind: &'static str, description: &'static str) -> Column {
    Column {
        name: Cow::Borrowed(name),
        kind: Cow::Borrowed(kind),
        format: Cow::Borrowed(""),
        priority: 1,
        description: Cow::Borrowed(description),
    }
}

pub(super) const NAME: Column = Column {
    name: Cow::Borrowed("Name"),
    kind: Cow::Borrowed("string"),
    format: Cow::Borrowed("name"),
    priority: 0,
    description: Cow::Borrowed("=meta.v1.ObjectMeta.name"),
};
pub(super) const AGE: Column = column("Age", "string", "=meta.v1.ObjectMeta.creationTimestamp");

/// Columns of an `autoscaling/v1` Scale.
pub const SCALE_COLUMNS: &[Column] = &[
    column("Name", "string", "=meta.v1.ObjectMeta.name"),
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

pub(super) fn name(object: &Value) -> Value {
    json!(text(&object["metadata"], "name"))
}

pub(super) fn age(object: &Value, now: i64) -> Value {
    json!(since(&object["metadata"]["creationTimestamp"], now))
}

pub(super) fn size(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

pub(super) fn or_none(text: &str) -> &str {
    if text.is_empty() { NONE } else { text }
}

pub(super) fn integer(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

/// How long ago a timestamp was: `5m30s`.
pub(super) fn since(timestamp: &Value, now: i64) -> String {
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
pub(super) fn selector(object: &Value) -> String {
    let selector = serde_json::from_value(object.clone()).ok();
    let text = selector.and_then(|s| LabelSelector::from_object(&s).ok()).map(|s| s.to_string());
    or_none(&text.unwrap_or_default()).to_owned()
}

/// `a,b,c + 2 more...`
pub(super) fn at_most_three(list: &[String], when_empty: &str) -> String {
    match list {
        [] => when_empty.to_owned(),
        [a, b, c, more @ ..] if !more.is_empty() => format!("{a},{b},{c} + {} more...", more.len()),
        all => all.join(","),
    }
}
