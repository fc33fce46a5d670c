//! `meta.k8s.io/v1` Table: what `kubectl get` prints, made from a kind's columns and cells.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Computed,
    negotiate::{self, Accepted, Form},
    request::{Include, RequestContext},
    respond, stored,
};
use crate::{
    kinds::{self, Column, Conversion, Kind, Rules},
    model::{ApiError, Object, encode},
};

/// The list's metadata.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<'a> {
    pub(super) revision: &'a str,
    pub(super) next: Option<&'a str>,
    pub(super) remaining: Option<u64>,
}

/// Columns, and how an object fills them.
#[derive(Clone, Copy)]
pub(super) struct Layout<'a> {
    pub(super) columns: &'a [Column],
    pub(super) cells: Cells<'a>,
    /// How the object is shown beside them, when it is not in the form that they are made of.
    pub(super) shown: Option<&'a dyn Conversion>,
}

/// What makes the cells of an object; given now too, in Unix seconds.
#[derive(Clone, Copy)]
pub(super) enum Cells<'a> {
    /// The rules of a kind.
    Of(&'a dyn Rules),
    /// Those of what is not stored.
    By(fn(&Value, i64) -> Vec<Value>),
}

impl Cells<'_> {
    fn of(self, object: &Value, now: i64) -> Vec<Value> {
        match self {
            Self::Of(rules) => rules.cells(object, now),
            Self::By(make) => make(object, now),
        }
    }
}

impl<'a> Layout<'a> {
    /// That of a kind.
    pub(super) fn of(kind: &'a Kind) -> Self {
        Self { columns: &kind.columns, cells: Cells::Of(&*kind.rules), shown: kind.view.as_deref() }
    }
}

/// A scale has columns of its own.
pub(super) const SCALE: Layout<'static> =
    Layout { columns: kinds::SCALE_COLUMNS, cells: Cells::By(kinds::scale_cells), shown: None };

/// The table of `items`, in their stored form.
pub(super) fn table(
    layout: Layout<'_>,
    items: &[Value],
    page: Page<'_>,
    include: Include,
    accepted: Accepted,
) -> Value {
    let now = now();
    let mut metadata = Map::new();
    if !page.revision.is_empty() {
        metadata.insert("resourceVersion".to_owned(), page.revision.into());
    }
    if let Some(next) = page.next {
        metadata.insert("continue".to_owned(), next.into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let rows: Vec<Value> = items.iter().map(|item| row(layout, item, now, include, accepted)).collect();
    let columns: Vec<Value> = layout.columns.iter().map(column).collect();
    json!({"kind": "Table", "apiVersion": accepted.version(), "metadata": metadata,
        "columnDefinitions": columns, "rows": rows})
}

/// Now, in Unix seconds.
pub(super) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(now).unwrap_or(i64::MAX)
}

/// The table of a list, written row by row: of a large list, no more than one object is there decoded at any time, and
/// that one without its managers.
pub(super) fn of_list(
    layout: Layout<'_>,
    objects: &[Arc<Object>],
    page: Page<'_>,
    include: Include,
    accepted: Accepted,
) -> Result<Bytes, ApiError> {
    let now = now();
    around(&table(layout, &[], page, include, accepted), |out| {
        for (n, object) in objects.iter().enumerate() {
            if n > 0 {
                out.put_u8(b',');
            }
            write_row(out, layout, object, now, include, accepted)?;
        }
        Ok(())
    })
}

/// A table without rows, written with those that `write` writes: they are its last field.
pub(super) fn around(
    table: &Value,
    write: impl FnOnce(&mut BytesMut) -> Result<(), ApiError>,
) -> Result<Bytes, ApiError> {
    let head = encode(table);
    let end = head.len() - b"]}".len();
    let mut out = BytesMut::from(&head[..end]);
    write(&mut out)?;
    out.put_slice(&head[end..]);
    Ok(out.freeze())
}

/// One row of a stored object.
pub(super) fn write_row(
    out: &mut BytesMut,
    layout: Layout<'_>,
    object: &Object,
    now: i64,
    include: Include,
    accepted: Accepted,
) -> Result<(), ApiError> {
    let bare = stored::decode_bare(object)?;
    out.put_slice(b"{\"cells\":");
    out.put(encode(&layout.cells.of(&bare, now).into()));
    out.put_slice(b",\"object\":");
    match (include, layout.shown) {
        (Include::None, _) => out.put_slice(b"null"),
        (Include::Metadata, _) => out.put(partial_of(object, accepted)?),
        (Include::Object, None) => out.put_slice(&object.json),
        (Include::Object, Some(view)) => out.put(encode(&view.to_shown(&stored::decode(object)?))),
    }
    out.put_u8(b'}');
    Ok(())
}

/// Objects that are computed, one or a list of them, in the form that the client asked for.
pub(super) async fn computed(
    ask: &RequestContext<'_>,
    group: &dyn Computed,
    value: Value,
) -> Result<Response, ApiError> {
    let accepted = ask.accepted;
    let layout = Layout { columns: group.columns(), cells: Cells::By(group.cells()), shown: None };
    let page = Page { revision: "", next: None, remaining: None };
    let one = std::slice::from_ref(&value);
    let items = value["items"].as_array();
    let shaped = match (accepted.form, items) {
        (Form::Plain, _) => value,
        (Form::Table, items) => {
            let items = items.map_or(one, Vec::as_slice);
            table(layout, items, page, ask.table()?, accepted)
        }
        (Form::Partial, None) => partial(&value, accepted),
        (Form::PartialList, Some(items)) => {
            let items: Vec<Value> = items.iter().map(|item| partial(item, accepted)).collect();
            json!({"kind": "PartialObjectMetadataList", "apiVersion": accepted.version(), "metadata": {}, "items": items})
        }
        (Form::Partial | Form::PartialList, _) => return Err(negotiate::not_acceptable()),
    };
    Ok(respond::value(StatusCode::OK, &shaped, ask.wishes).await)
}

fn row(layout: Layout<'_>, item: &Value, now: i64, include: Include, accepted: Accepted) -> Value {
    let object = match include {
        Include::None => Value::Null,
        Include::Metadata => partial(item, accepted),
        Include::Object => layout.shown.map_or_else(|| item.clone(), |view| view.to_shown(item)),
    };
    json!({"cells": layout.cells.of(item, now), "object": object})
}

fn column(column: &Column) -> Value {
    json!({"name": column.name, "type": column.kind, "format": column.format,
        "description": kinds::description(column), "priority": column.priority})
}

/// Metadata alone.
pub(super) fn partial(object: &Value, accepted: Accepted) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": accepted.version(), "metadata": object["metadata"]})
}

/// The same of a stored object, whose metadata are taken as they stand.
pub(super) fn partial_of(object: &Object, accepted: Accepted) -> Result<Bytes, ApiError> {
    let metadata = object.metadata_json().map_err(|error| stored::undecodable(&error))?.unwrap_or("null");
    let kind = "{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"";
    Ok([kind, accepted.version(), "\",\"metadata\":", metadata, "}"].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{Key, Paths, Resource, Revision},
        store::Draft,
    };

    #[test]
    fn the_table_of_a_list_is_that_of_its_objects_and_takes_their_bytes_as_they_are() {
        let layout = Layout::of(kinds::builtin().by_resource(Resource::CONFIG_MAPS).unwrap());
        let stored = |name: &str| {
            let value = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"k": "v"},
                "metadata": {"name": name, "managedFields": [{"manager": "m"}]}});
            let key = Key::namespaced(Resource::CONFIG_MAPS, "default", name);
            Arc::new(Draft::new(key, &value, &Paths::default()).unwrap().at(Revision(7)))
        };
        let parsed = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).unwrap();
        let accepted = Accepted::default();
        let page = Page { revision: "9", next: Some("t"), remaining: None };
        for objects in [vec![], vec![stored("a")], vec![stored("a"), stored("b")]] {
            let values: Vec<Value> = objects.iter().map(|object| object.decode().unwrap()).collect();
            for include in [Include::None, Include::Metadata, Include::Object] {
                let bytes = of_list(layout, &objects, page, include, accepted).unwrap();
                let same = table(layout, &values, page, include, accepted);
                assert_eq!(parsed(&bytes), same);
                let within =
                    |object: &Arc<Object>| bytes.windows(object.json.len()).any(|w| w == object.json);
                assert_eq!(
                    objects.iter().filter(|o| within(o)).count(),
                    match include {
                        Include::Object => objects.len(),
                        Include::None | Include::Metadata => 0,
                    }
                );
            }
            for (object, value) in objects.iter().zip(&values) {
                assert_eq!(parsed(&partial_of(object, accepted).unwrap()), partial(value, accepted));
            }
        }
    }

    #[test]
    fn a_row_has_a_cell_per_column_and_the_object_that_was_asked_for() {
        let layout = Layout::of(kinds::builtin().by_resource(Resource::CONFIG_MAPS).unwrap());
        let plain = Accepted::default();
        let item = json!({"metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"}, "data": {"k": "v"}});
        let page = Page { revision: "7", next: Some("t"), remaining: Some(3) };
        let metadata = table(layout, std::slice::from_ref(&item), page, Include::Metadata, plain);
        let columns = metadata["columnDefinitions"].as_array().unwrap();
        let row = &metadata["rows"][0];
        assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
        assert_eq!((&row["cells"][0], &columns[0]["format"]), (&json!("a"), &json!("name")));
        assert_eq!(row["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(
            metadata["metadata"],
            json!({"resourceVersion": "7", "continue": "t", "remainingItemCount": 3})
        );
        let bare = table(layout, std::slice::from_ref(&item), page, Include::None, plain);
        assert!(bare["rows"][0]["object"].is_null());
        let full = table(layout, std::slice::from_ref(&item), page, Include::Object, plain);
        assert_eq!(full["rows"][0]["object"], item);
    }
}
