//! Reading: one object, lists, and the forms they are shown in.

use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use serde_json::{Map, Value, json};

use super::{
    Api,
    negotiate::{self, Form},
    request::Ask,
    respond, table,
};
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Object, Reason},
    objects::{List, subresources},
};

/// `GET` of one object.
pub(super) async fn get(
    api: &Api,
    ask: &Ask<'_>,
    kind: &'static Kind,
    namespace: Option<&str>,
    name: &str,
    sub: Option<Subresource>,
) -> Result<Response, ApiError> {
    if sub.is_some_and(|s| !matches!(s, Subresource::Status | Subresource::Scale)) {
        return Err(respond::method_not_allowed());
    }
    let object = api.objects.get(kind.resource, namespace, name).await?;
    if let Some(wanted) = ask.params.revision()?.filter(|r| *r > api.objects.revision()) {
        let current = api.objects.revision();
        return Err(crate::store::StoreError::Future { requested: wanted, current }.into());
    }
    object_response(ask, kind, &object, sub, StatusCode::OK).await
}

/// One object in the form that the client asked for.
pub(super) async fn object_response(
    ask: &Ask<'_>,
    kind: &'static Kind,
    object: &Object,
    sub: Option<Subresource>,
    status: StatusCode,
) -> Result<Response, ApiError> {
    let form = negotiate::form(ask.headers)?;
    let body = if sub == Some(Subresource::Scale) {
        Bytes::from(subresources::scale(&decode(object)?).to_string())
    } else {
        match form {
            Form::Plain => plain(kind, object)?,
            Form::Partial => Bytes::from(partial(&decode(object)?).to_string()),
            Form::Table => {
                let value = decode(object)?;
                let revision = object.revision.to_string();
                let page = table::Page { revision: &revision, next: None, remaining: None };
                Bytes::from(table::table(kind, std::slice::from_ref(&value), page, ask.table()?).to_string())
            }
        }
    };
    Ok(respond::json(status, body, ask.wishes).await)
}

/// `GET` of a collection.
pub(super) async fn list(
    api: &Api,
    ask: &Ask<'_>,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Response, ApiError> {
    let form = negotiate::form(ask.headers)?;
    let list = api.objects.page(kind.resource, &ask.params.selection(namespace)?, &ask.params.page()?)?;
    list_response(ask, kind, &list, form).await
}

/// A list in the form that the client asked for.
pub(super) async fn list_response(
    ask: &Ask<'_>,
    kind: &'static Kind,
    list: &List,
    form: Form,
) -> Result<Response, ApiError> {
    let body = match form {
        Form::Plain => {
            let items = list.items.iter().map(|o| plain(kind, o)).collect::<Result<Vec<_>, _>>()?;
            joined(&format!("{}List", kind.kind), &kind.api_version(), list, &items)
        }
        Form::Partial => {
            let items = list.items.iter().map(|o| Ok(Bytes::from(partial(&decode(o)?).to_string())));
            let items = items.collect::<Result<Vec<_>, ApiError>>()?;
            joined("PartialObjectMetadataList", "meta.k8s.io/v1", list, &items)
        }
        Form::Table => {
            let items = list.items.iter().map(|o| decode(o)).collect::<Result<Vec<_>, _>>()?;
            let revision = list.revision.to_string();
            let page =
                table::Page { revision: &revision, next: list.next.as_deref(), remaining: list.remaining };
            Bytes::from(table::table(kind, &items, page, ask.table()?).to_string())
        }
    };
    Ok(respond::json(StatusCode::OK, body, ask.wishes).await)
}

/// The stored bytes, or those of the view.
pub(super) fn plain(kind: &Kind, object: &Object) -> Result<Bytes, ApiError> {
    match &kind.view {
        None => Ok(object.json.clone()),
        Some(view) => Ok(Bytes::from((view.from_stored)(&decode(object)?).to_string())),
    }
}

/// Metadata alone.
pub(super) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

pub(super) fn decode(object: &Object) -> Result<Value, ApiError> {
    object.decode().map_err(|error| {
        tracing::error!(error = %crate::model::Chain(&error), "a stored object does not decode");
        ApiError::new(Reason::InternalError, error.to_string())
    })
}

/// A list whose items are bytes already.
fn joined(kind: &str, api_version: &str, list: &List, items: &[Bytes]) -> Bytes {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".to_owned(), list.revision.to_string().into());
    if let Some(next) = &list.next {
        metadata.insert("continue".to_owned(), next.clone().into());
    }
    if let Some(remaining) = list.remaining {
        metadata.insert("remainingItemCount".to_owned(), remaining.into());
    }
    let head = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata}).to_string();
    let size = items.iter().map(|i| i.len() + 1).sum::<usize>();
    let mut body = BytesMut::with_capacity(head.len() + size + 16);
    body.put_slice(&head.as_bytes()[..head.len() - 1]);
    body.put_slice(b",\"items\":[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            body.put_u8(b',');
        }
        body.put_slice(item);
    }
    body.put_slice(b"]}");
    body.freeze()
}
