//! Writing: create, update, patch, delete and the subresources that write.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::{Api, body, listing::ListOptions, read, request::RequestContext, respond};
use crate::{
    kinds::{self, Kind, Subresource, decode::decode_as, schema::ObjectType},
    model::{ApiError, Cause, Key, Reason, Resource},
    objects::{self, DeleteOptions, Deleted, Page, Patch, WriteOptions, Written},
};

/// Where a write goes.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) kind: &'a Arc<Kind>,
    pub(super) namespace: Option<&'a str>,
    pub(super) name: &'a str,
    pub(super) sub: Option<Subresource>,
}

/// `POST` to a collection.
pub(super) async fn create(
    api: &Api,
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    body: Body,
) -> Result<Response, ApiError> {
    ask.params.check_timeout()?;
    let mut options = ask.write_options("CreateOptions")?;
    let object = read_object(ask, kind, body, &mut options).await?;
    let written = api.objects.create(kind.resource, namespace, object, &options).await?;
    written_response(ask, kind, None, &written).await
}

/// `POST` to a subresource.
pub(super) async fn create_sub(
    api: &Api,
    ask: &RequestContext<'_>,
    at: At<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    let mut options = ask.write_options("CreateOptions")?;
    let (body, warnings) = own_body(ask, at, body, &mut options).await?;
    if name_of(&body) != at.name {
        let message = format!("name in URL does not match name in {} object", text(&body, "kind"));
        return Err(ApiError::new(Reason::BadRequest, message));
    }
    written_sub(api, ask, at, (body, warnings), options).await
}

/// `POST` of a binding to the namespace: the pod is the one that it names.
pub(super) async fn bind(
    api: &Api,
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    namespace: &str,
    body: Body,
) -> Result<Response, ApiError> {
    ask.params.check_timeout()?;
    let mut options = ask.write_options("CreateOptions")?;
    let at = At { kind, namespace: Some(namespace), name: "", sub: Some(Subresource::Binding) };
    let (body, warnings) = own_body(ask, at, body, &mut options).await?;
    let name = name_of(&body).to_owned();
    if name.is_empty() {
        return Err(ApiError::new(Reason::BadRequest, "Name parameter required."));
    }
    written_sub(api, ask, At { name: &name, ..at }, (body, warnings), options).await
}

/// What a `POST` to a subresource asks for, with the warnings about its body.
async fn written_sub(
    api: &Api,
    ask: &RequestContext<'_>,
    at: At<'_>,
    (body, warnings): (Value, Vec<String>),
    mut options: WriteOptions,
) -> Result<Response, ApiError> {
    match at.sub {
        Some(Subresource::Binding) => {
            let causes = kinds::check_binding(&body);
            if !causes.is_empty() {
                // Upstream has no class for it.
                return Err(ApiError::new(Reason::Unknown, Cause::together(causes).1));
            }
            api.objects.update(at.kind.resource, at.namespace, at.name, at.sub, body, &options).await?;
        }
        Some(Subresource::Eviction) => {
            let none = json!({});
            let (delete, dry_run) = ask.params.delete(Some(body.get("deleteOptions").unwrap_or(&none)))?;
            options.dry_run |= dry_run;
            api.objects.evict(at.namespace.unwrap_or_default(), at.name, &delete, &options).await?;
        }
        _ => return Err(respond::method_not_allowed()),
    }
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    let mut response = respond::value(StatusCode::CREATED, &status, ask.wishes).await;
    respond::warn(&mut response, &warnings);
    Ok(response)
}

fn name_of(body: &Value) -> &str {
    body.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Reads a whole object; `options` get what else there is to know of it.
async fn read_object(
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    body: Body,
    options: &mut WriteOptions,
) -> Result<Value, ApiError> {
    let decoded = body::decode(ask.headers, &body::read(body).await?, &kind.kind)?;
    options.duplicates = decoded.duplicates;
    options.source = decoded.source;
    options.view = kind.view.is_some().then(|| kind.clone());
    Ok(decoded.value)
}

/// The body of a subresource that is of another type than the object, with what is told of it as warnings.
async fn own_body(
    ask: &RequestContext<'_>,
    at: At<'_>,
    body: Body,
    options: &mut WriteOptions,
) -> Result<(Value, Vec<String>), ApiError> {
    let kind = at.sub.and_then(kinds::body_of).ok_or_else(respond::method_not_allowed)?;
    let mut object = read_object(ask, kind, body, options).await?;
    // The version before is the same to the letter, and clients still send it.
    if at.sub == Some(Subresource::Eviction) && text(&object, "apiVersion") == "policy/v1beta1" {
        object["apiVersion"] = "policy/v1".into();
    }
    objects::own_body(kind, at.namespace, object, options)
}

/// `PUT`.
pub(super) async fn update(
    api: &Api,
    ask: &RequestContext<'_>,
    at: At<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    writable(at.sub)?;
    let mut options = ask.write_options("UpdateOptions")?;
    if at.sub == Some(Subresource::Scale) {
        let (scale, warnings) = own_body(ask, at, body, &mut options).await?;
        objects::check_name(at.name, &scale)?;
        let written = api.objects.update(at.kind.resource, at.namespace, at.name, at.sub, scale, &options);
        let mut written = written.await?;
        written.warnings.extend(warnings);
        return written_response(ask, at.kind, at.sub, &written).await;
    }
    let object = read_object(ask, at.kind, body, &mut options).await?;
    let written =
        api.objects.update(at.kind.resource, at.namespace, at.name, at.sub, object, &options).await?;
    written_response(ask, at.kind, at.sub, &written).await
}

/// `PATCH`.
pub(super) async fn patch(
    api: &Api,
    ask: &RequestContext<'_>,
    at: At<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    writable(at.sub)?;
    let mut options = ask.write_options("PatchOptions")?;
    let media = body::media_type(ask.headers);
    let bytes = body::read(body).await?;
    let apply = media == "application/apply-patch+yaml";
    if !apply && body::PATCHES.contains(&media) && ask.params.get("force").is_some() {
        let message = "Forbidden: may not be specified for non-apply patch".to_owned();
        let cause = Cause { reason: "FieldValueForbidden", field: "force".to_owned(), message };
        return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
    }
    let decoded = if apply { body::applied(&bytes)? } else { body::patch(&bytes)? };
    options.duplicates = decoded.duplicates;
    options.view = at.kind.view.is_some().then(|| at.kind.clone());
    let patch = match media {
        "application/json-patch+json" => Patch::Json(decoded.value),
        "application/merge-patch+json" => Patch::Merge(decoded.value),
        // How the lists of a type merge is known of the published ones alone.
        "application/strategic-merge-patch+json" if at.kind.described.is_some() => {
            let others = body::PATCHES.into_iter().filter(|known| *known != media);
            return Err(body::unsupported(&others.collect::<Vec<_>>().join(", ")));
        }
        "application/strategic-merge-patch+json" => Patch::Strategic(decoded.value),
        "application/apply-patch+yaml" => {
            // Ownership is what apply is about: a name guessed from the user agent will not do.
            if ask.params.get("fieldManager").is_none_or(str::is_empty) {
                let field = "fieldManager".to_owned();
                let message = "Required value: is required for apply patch".to_owned();
                let cause = Cause { reason: "FieldValueRequired", field, message };
                return Err(ApiError::invalid("meta.k8s.io", "PatchOptions", "", vec![cause]));
            }
            Patch::Apply(decoded.value)
        }
        _ => return Err(body::unsupported(&body::PATCHES.join(", "))),
    };
    let (resource, sub) = (at.kind.resource, at.sub);
    let written = api.objects.patch(resource, at.namespace, at.name, sub, patch, &options).await?;
    written_response(ask, at.kind, sub, &written).await
}

/// `DELETE` of one object.
pub(super) async fn delete(
    api: &Api,
    ask: &RequestContext<'_>,
    at: At<'_>,
    body: Body,
) -> Result<Response, ApiError> {
    if at.sub.is_some() {
        return Err(respond::method_not_allowed());
    }
    let (delete, options) = delete_options(ask, body).await?;
    let deleted = api.objects.remove(at.kind.resource, at.namespace, at.name, &delete, &options).await?;
    deleted_response(ask, at.kind, &deleted).await
}

/// `DELETE` of a collection.
pub(super) async fn delete_collection(
    api: &Api,
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    namespace: Option<&str>,
    body: Body,
) -> Result<Response, ApiError> {
    if kind.resource == Resource::NAMESPACES {
        return Err(respond::method_not_allowed());
    }
    let (delete, options) = delete_options(ask, body).await?;
    let (selection, page) = ListOptions::of(&ask.params, kind, namespace, false)?.page()?;
    let list = api.objects.page(kind.resource, &selection, &Page { at: None, ..page })?;
    for group in list.items.chunks(objects::GROUP) {
        let keys: Vec<Key> = group.iter().map(|object| object.key.clone()).collect();
        let outcomes = api.objects.remove_all(&keys, &delete, &options).await;
        // Where somebody else was faster there is nothing left to do.
        let refused = |error: &ApiError| error.reason != Reason::NotFound;
        if let Some(error) = outcomes.into_iter().filter_map(Result::err).find(refused) {
            return Err(error);
        }
    }
    read::list_response(ask, kind, &list).await
}

async fn delete_options(
    ask: &RequestContext<'_>,
    body: Body,
) -> Result<(DeleteOptions, WriteOptions), ApiError> {
    static OPTIONS: ObjectType = ObjectType::published("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions");
    let mut options = ask.write_options("DeleteOptions")?;
    let bytes = body::read(body).await?;
    if bytes.is_empty() {
        return Ok((ask.params.delete(None)?.0, options));
    }
    let decoded = body::decode(ask.headers, &bytes, "DeleteOptions")?;
    let mut body = decoded.value;
    let bad = |message: String| ApiError::new(Reason::BadRequest, message);
    // They are of every version, and mostly do not say which.
    let (version, kind) = (text(&body, "apiVersion"), text(&body, "kind"));
    if !matches!(kind, "" | "DeleteOptions") {
        let place = "in scheme \"pkg/runtime/scheme.go:111\"";
        return Err(bad(format!("no kind {kind:?} is registered for version {version:?} {place}")));
    }
    if !body.is_null() {
        decode_as(&OPTIONS, &mut body)
            .map_err(|error| bad(error.told(decoded.source.as_deref()).to_owned()))?;
    }
    let (delete, dry_run) = ask.params.delete(Some(&body))?;
    options.dry_run |= dry_run;
    Ok((delete, options))
}

/// The object while it waits, or a `Status` once it is gone, as upstream.
async fn deleted_response(
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    deleted: &Deleted,
) -> Result<Response, ApiError> {
    // Upstream returns the last state of these even when they are gone.
    let shown = [Resource::PODS, Resource::SERVICES, Resource::NAMESPACES, Resource::SERVICE_ACCOUNTS];
    if !deleted.gone || shown.contains(&kind.resource) {
        return read::object_response(ask, kind, &deleted.object, None, StatusCode::OK).await;
    }
    let mut details =
        json!({"name": &*deleted.object.key.name, "kind": kind.plural, "uid": &*deleted.object.uid});
    if !kind.group.is_empty() {
        details["group"] = (*kind.group).into();
    }
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details});
    Ok(respond::value(StatusCode::OK, &status, ask.wishes).await)
}

async fn written_response(
    ask: &RequestContext<'_>,
    kind: &Arc<Kind>,
    sub: Option<Subresource>,
    written: &Written,
) -> Result<Response, ApiError> {
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = read::object_response(ask, kind, &written.object, sub, status).await?;
    respond::warn(&mut response, &written.warnings);
    Ok(response)
}

fn writable(sub: Option<Subresource>) -> Result<(), ApiError> {
    match sub {
        None | Some(Subresource::Status | Subresource::Scale | Subresource::Finalize) => Ok(()),
        Some(_) => Err(respond::method_not_allowed()),
    }
}
