//! Reading: one object, lists, and the forms they are shown in.

use std::sync::Arc;

use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Api,
    listing::{self, ListOptions},
    negotiate::Form,
    query::is_true,
    request::RequestContext,
    respond,
    stored::decode,
    table::{self, Layout},
};
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Object, Reason, encode},
    objects::{List, subresources},
    store::StoreError,
};

/// `GET` of one object.
pub(super) async fn get(
    api: &Api,
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    name: &str,
    sub: Option<Subresource>,
) -> Result<Response, ApiError> {
    if ask.params.get("export").is_some_and(is_true) {
        let message = "the export parameter, deprecated since v1.14, is no longer supported";
        return Err(ApiError::new(Reason::BadRequest, message));
    }
    let version = listing::at_least(&ask.params, kind)?;
    let current = api.objects.revision();
    if let Some(requested) = version.filter(|r| *r > current) {
        return Err(listing::to_come(StoreError::Future { requested, current }.into(), kind));
    }
    let object = api.objects.get(kind.resource, namespace, name).await?;
    object_response(ask, kind, &object, sub, StatusCode::OK).await
}

/// One object in the form that the client asked for.
pub(super) async fn object_response(
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    object: &Object,
    sub: Option<Subresource>,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let accepted = ask.accepted;
    let scale = sub == Some(Subresource::Scale);
    let body = match accepted.form {
        Form::Plain if scale => encode(&subresources::scale(&decode(object)?)),
        Form::Plain => plain(kind, object)?,
        Form::Partial => table::partial_of(object, accepted)?,
        Form::PartialList => {
            let name = if scale { "autoscaling.Scale".to_owned() } else { go_type(kind) };
            let message = format!(
                "you requested PartialObjectMetadataList, but the requested object is not a list (*{name})"
            );
            return Err(ApiError::new(Reason::NotAcceptable, message));
        }
        Form::Table => {
            let (value, include) = (decode(object)?, ask.table()?);
            let (layout, value) =
                if scale { (table::SCALE, subresources::scale(&value)) } else { (Layout::of(kind), value) };
            let revision = object.revision.to_string();
            let page = table::Page { revision: &revision, next: None, remaining: None };
            encode(&table::table(layout, std::slice::from_ref(&value), page, include, accepted))
        }
    };
    Ok(respond::json(status, body, ask.wishes).await)
}

/// `GET` of a collection.
pub(super) async fn list(
    api: &Api,
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    options: ListOptions,
) -> Result<Response, ApiError> {
    let (selection, page) = options.page()?;
    let list = api.objects.page(kind.resource, &selection, &page);
    let list = list.map_err(|error| listing::to_come(error, kind))?;
    list_response(ask, kind, &list).await
}

/// A list in the form that the client asked for.
pub(super) async fn list_response(
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    list: &List,
) -> Result<Response, ApiError> {
    let accepted = ask.accepted;
    let body = match accepted.form {
        Form::Plain => {
            let head = format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", kind.kind, kind.api_version());
            let items = list.items.iter().map(|o| item(kind, o, &head)).collect::<Result<Vec<_>, _>>()?;
            joined(&format!("{}List", kind.kind), &kind.api_version(), list, &items)
        }
        Form::PartialList => {
            let items = list.items.iter().map(|o| Ok(Item::Whole(table::partial_of(o, accepted)?)));
            let items = items.collect::<Result<Vec<_>, ApiError>>()?;
            joined(PARTIAL_LIST, accepted.version(), list, &items)
        }
        Form::Partial => {
            let name = go_type(kind);
            let message = format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*{name}List)"
            );
            return Err(ApiError::new(Reason::NotAcceptable, message));
        }
        Form::Table => {
            let include = ask.table()?;
            let revision = list.revision.to_string();
            let page =
                table::Page { revision: &revision, next: list.next.as_deref(), remaining: list.remaining };
            table::of_list(Layout::of(kind), &list.items, page, include, accepted)?
        }
    };
    Ok(respond::json(StatusCode::OK, body, ask.wishes).await)
}

/// The stored bytes, or those of the view.
pub(super) fn plain(kind: &Kind, object: &Object) -> Result<Bytes, ApiError> {
    match &kind.view {
        None => Ok(object.json.clone()),
        Some(view) => Ok(encode(&view.to_shown(&decode(object)?))),
    }
}

/// What a list holds of an object: everything but its kind and version, which the list's own tell. These are what the
/// stored bytes begin with, so nothing is encoded anew.
enum Item {
    /// The rest of the bytes, behind the brace.
    Cut(Bytes),
    /// All of them.
    Whole(Bytes),
}

fn item(kind: &Kind, object: &Object, head: &str) -> Result<Item, ApiError> {
    if kind.view.is_none() && object.json.starts_with(head.as_bytes()) {
        return Ok(Item::Cut(object.json.slice(head.len()..)));
    }
    let mut value = shown(kind, decode(object)?);
    if let Some(map) = value.as_object_mut() {
        map.remove("kind");
        map.remove("apiVersion");
    }
    Ok(Item::Whole(encode(&value)))
}

/// An object in the form of its kind.
fn shown(kind: &Kind, stored: Value) -> Value {
    match &kind.view {
        None => stored,
        Some(view) => view.to_shown(&stored),
    }
}

/// What upstream's programs call the type, as some refusals show.
fn go_type(kind: &Kind) -> String {
    let package = match kind.group.split('.').next().unwrap_or_default() {
        "" | "events" => "core",
        package => package,
    };
    format!("{package}.{}", kind.kind)
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Cut(bytes) => bytes.len() + 1,
            Self::Whole(bytes) => bytes.len(),
        }
    }
}

const PARTIAL_LIST: &str = "PartialObjectMetadataList";

/// A list whose items are bytes already.
fn joined(kind: &str, api_version: &str, list: &List, items: &[Item]) -> Bytes {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), list.revision.to_string().into());
    if let Some(next) = &list.next {
        metadata.insert("continue".to_owned(), next.clone().into());
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let head = encode(&json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}));
    let size = items.iter().map(|item| item.len() + 1).sum::<usize>();
    let mut body = BytesMut::with_capacity(head.len() + size + 16);
    body.put_slice(&head[..head.len() - 1]);
    if items.is_empty() && kind == PARTIAL_LIST {
        // As upstream makes it.
        body.put_slice(b",\"items\":null}\n");
        return body.freeze();
    }
    body.put_slice(b",\"items\":[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            body.put_u8(b',');
        }
        match item {
            Item::Cut(rest) => {
                body.put_u8(b'{');
                body.put_slice(rest);
            }
            Item::Whole(bytes) => body.put_slice(bytes),
        }
    }
    body.put_slice(b"]}\n");
    body.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        kinds,
        model::{Key, Resource, Revision},
        store::Draft,
    };

    #[test]
    fn items_of_a_list_are_the_stored_bytes_without_kind_and_version() {
        let kind = kinds::builtin().by_resource(Resource::CONFIG_MAPS).unwrap();
        let key = Key::namespaced(Resource::CONFIG_MAPS, "default", "a");
        let value =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": "v"}, "metadata": {"name": "a"}});
        let object = Draft::new(key, &value, &Default::default()).unwrap().at(Revision(7));
        let head = "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",";
        let cut = item(kind, &object, head).unwrap();
        assert!(matches!(&cut, Item::Cut(bytes) if bytes.as_ptr() == object.json[head.len()..].as_ptr()));
        let list = List { items: Vec::new(), revision: Revision(9), next: None, remaining: None };
        let body: Value = serde_json::from_slice(&joined("ConfigMapList", "v1", &list, &[cut])).unwrap();
        assert_eq!(
            body["items"],
            json!([{"data": {"k": "v"}, "metadata": {"name": "a", "resourceVersion": "7"}}])
        );
        let items =
            |kind| serde_json::from_slice::<Value>(&joined(kind, "v1", &list, &[])).unwrap()["items"].take();
        assert_eq!((items("ConfigMapList"), items(PARTIAL_LIST)), (json!([]), Value::Null));
    }

    #[test]
    fn refusals_name_types_as_upstream_does() {
        let name =
            |group: &str, plural: &str| go_type(kinds::builtin().by_path(group, "v1", plural).unwrap());
        assert_eq!(name("", "pods"), "core.Pod");
        assert_eq!(name("events.k8s.io", "events"), "core.Event");
        assert_eq!(name("coordination.k8s.io", "leases"), "coordination.Lease");
    }
}
