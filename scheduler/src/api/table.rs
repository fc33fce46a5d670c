//! `meta.k8s.io/v1` Table: what `kubectl get` prints, made from a kind's columns and cells.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::read;
use crate::kinds::{Column, Kind};

/// `?includeObject=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Include {
    /// Only the cells.
    None,
    /// The metadata, for `-l` and `-n` to work on.
    Metadata,
    /// All of it.
    Object,
}

/// The list's metadata.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    pub(super) revision: &'a str,
    pub(super) next: Option<&'a str>,
    pub(super) remaining: Option<u64>,
}

/// The table of `items`, in their stored form.
pub(super) fn table(kind: &Kind, items: &[Value], page: Page<'_>, include: Include) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), page.revision.into());
    if let Some(next) = page.next {
        metadata.insert("continue".to_owned(), next.into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let rows: Vec<Value> = items.iter().map(|item| row(kind, item, now, include)).collect();
    let columns: Vec<Value> = kind.columns.iter().map(column).collect();
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows})
}

fn row(kind: &Kind, item: &Value, now: i64, include: Include) -> Value {
    let mut row = json!({"cells": (kind.cells)(item, now)});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = read::partial(item),
        Include::Object => {
            let shown = kind.view.as_ref().map(|view| (view.from_stored)(item));
            row["object"] = shown.unwrap_or_else(|| item.clone());
        }
    }
    row
}

fn column(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format,
        "description": column.description, "priority": column.priority})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kinds, model::Resource};

    #[test]
    fn a_row_has_a_cell_per_column_and_the_object_that_was_asked_for() {
        let kind = kinds::by_resource(Resource::CONFIG_MAPS).unwrap();
        let item = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "data": {"k": "v"}});
        let page = Page { revision: "7", next: Some("t"), remaining: Some(3) };
        let metadata = table(kind, std::slice::from_ref(&item), page, Include::Metadata);
        let columns = metadata["columnDefinitions"].as_array().unwrap();
        let row = &metadata["rows"][0];
        assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
        assert_eq!((&row["cells"][0], &columns[0]["format"]), (&json!("a"), &json!("name")));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(
            metadata["metadata"],
            json!({"resourceVersion": "7", "continue": "t", "remainingItemCount": 3})
        );
        let bare = table(kind, std::slice::from_ref(&item), page, Include::None);
        assert!(bare["rows"][0].get("object").is_none());
        let full = table(kind, std::slice::from_ref(&item), page, Include::Object);
        assert_eq!(full["rows"][0]["object"], item);
    }
}
