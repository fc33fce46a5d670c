//! Bodies: whether what a client sent is an object of the kind, in the namespace and under the name that its path says, and
//! what of it the kind knows. Out: the object in the form of the store. Never: defaults or validation of its content.

use serde_json::Value;

use super::{FieldValidation, WriteOptions, meta};
use crate::{
    kinds::{self, Kind, Scope, decode},
    model::{ApiError, Key, Reason},
    store::Draft,
};

/// The body must be an object of this kind; a missing part of its type is filled in, as upstream does.
pub(super) fn check_type(kind: &Kind, body: &mut Value) -> Result<(), ApiError> {
    let Some(object) = body.as_object_mut() else {
        return Err(ApiError::new(Reason::BadRequest, "the request body is not a JSON object"));
    };
    let api_version = kind.api_version();
    for (field, expected) in [("apiVersion", api_version.as_str()), ("kind", &*kind.kind)] {
        let slot = object.entry(field).or_insert(Value::Null);
        if slot.as_str().is_none_or(str::is_empty) {
            *slot = expected.into();
        }
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, given) = (text("apiVersion"), text("kind"));
    if (version, given) == (api_version.as_str(), &*kind.kind) {
        return Ok(());
    }
    Err(ApiError::new(Reason::BadRequest, not_of(kind, version, given)))
}

/// Upstream's words about a body that says that it is something else.
fn not_of(kind: &Kind, version: &str, given: &str) -> String {
    let expected = &kind.kind;
    let (group, short) = version.split_once('/').unwrap_or(("", version));
    let known = kinds::builtin().by_gvk(group, short, given);
    if known.is_some_and(|known| known.resource == kind.resource) {
        return other_version(version, kind);
    }
    let why = if known.is_some() || (version, given) == ("v1", "Status") {
        let package = match kind.group.split('.').next().unwrap_or_default() {
            "" | "events" => "core",
            package => package,
        };
        format!("converting ({short}.{given}) to ({package}.{expected}): unknown conversion")
    } else {
        // The place is that of upstream's registry, which its clients are used to see here.
        format!(
            "no kind {given:?} is registered for version {version:?} in scheme \"pkg/runtime/scheme.go:111\""
        )
    };
    format!("{given} in version {short:?} cannot be handled as a {expected}: {why}")
}

/// Upstream's words about the same object in another version than the path's.
fn other_version(version: &str, kind: &Kind) -> String {
    let expected = kind.api_version();
    format!("the API version in the data ({version}) does not match the expected API version ({expected})")
}

/// The body of a subresource that is of a type of its own: as `kind` has it, in the request's namespace, with what is told
/// of it as warnings.
pub fn own_body(
    kind: &Kind,
    namespace: Option<&str>,
    mut body: Value,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), ApiError> {
    check_type(kind, &mut body)?;
    let warnings = check_fields(kind, &mut body, options)?;
    check_namespace(kind, namespace, &mut body)?;
    Ok((body, warnings))
}

/// The body's namespace is that of the request.
pub(super) fn check_namespace(
    kind: &Kind,
    namespace: Option<&str>,
    body: &mut Value,
) -> Result<(), ApiError> {
    let stated = meta::text(body, "namespace");
    match (kind.scope, namespace) {
        (Scope::Namespaced, None) => {
            let message = "an empty namespace may not be set during creation";
            Err(ApiError::new(Reason::BadRequest, message))
        }
        (Scope::Namespaced, Some(namespace)) if !stated.is_empty() && stated != namespace => {
            let message =
                "the namespace of the provided object does not match the namespace sent on the request";
            Err(ApiError::new(Reason::BadRequest, message))
        }
        (Scope::Namespaced, Some(namespace)) => {
            meta::of_mut(body).insert("namespace".to_owned(), namespace.into());
            Ok(())
        }
        (Scope::Cluster, _) => {
            meta::of_mut(body).remove("namespace");
            Ok(())
        }
    }
}

/// Field validation: refuses or drops what the kind does not have; returns warnings.
pub(super) fn check_fields(
    kind: &Kind,
    body: &mut Value,
    options: &WriteOptions,
) -> Result<Vec<String>, ApiError> {
    forget_managers(body);
    let mut findings = options.duplicates.clone();
    let source = options.source.as_deref();
    findings.extend(decode::decode(kind, body).map_err(|e| decode::refusal(kind, e.told(source)))?);
    if let (false, Some(source)) = (findings.is_empty(), &options.source) {
        findings = decode::findings(kind, source);
    }
    match options.validation {
        FieldValidation::Strict if !findings.is_empty() => Err(decode::strict_refusal(kind, &findings)),
        FieldValidation::Warn => Ok(findings),
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
    }
}

/// An object of a kind in the form that the store has it in.
pub(super) fn to_stored(kind: &Kind, object: Value) -> Value {
    match &kind.view {
        Some(view) => view.to_stored(&object),
        None => object,
    }
}

/// The draft of an object that has passed everything.
pub(super) fn draft(kind: &Kind, key: Key, object: &Value) -> Result<Draft, ApiError> {
    Draft::new(key, object, &kind.fields).map_err(|e| ApiError::new(Reason::InternalError, e.to_string()))
}

/// The name in the patched object is the one in the URL.
pub fn check_name(name: &str, object: &Value) -> Result<(), ApiError> {
    let message = match meta::text(object, "name") {
        found if found == name => return Ok(()),
        "" => {
            format!("the name of the object ({name} based on URL) was undeterminable: name must be provided")
        }
        found => format!("the name of the object ({found}) does not match the name on the URL ({name})"),
    };
    Err(ApiError::new(Reason::BadRequest, message))
}

/// An empty list of managers asks to forget them, like one with an empty entry; decoding would drop it as nothing.
pub(super) fn forget_managers(object: &mut Value) {
    if let Some(Value::Array(managers)) = object.pointer_mut("/metadata/managedFields")
        && managers.is_empty()
    {
        managers.push(Value::Object(serde_json::Map::new()));
    }
}
