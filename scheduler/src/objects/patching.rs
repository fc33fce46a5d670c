//! Patches: the calls into the pure functions of [`crate::patch`].

use serde_json::Value;

use super::{
    FieldValidation, Patch, WriteOptions,
    body::{self, check_name, forget_managers},
    meta,
    ownership::apply,
    subresources,
    target::{Edited, Target},
};
use crate::{
    kinds::{self, Kind, Subresource, decode},
    model::{ApiError, Cause},
    patch,
};

/// The object that a patch makes of the stored one.
pub(super) fn patched(
    target: Target<'_>,
    old: &Value,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<Edited, ApiError> {
    if target.sub == Some(Subresource::Scale) {
        return patched_scale(target, old, patch, options);
    }
    // A view is patched in the form that its clients know.
    let kind = options.view.as_deref().unwrap_or(target.kind);
    let shown = kind.view.as_ref().map(|view| view.to_shown(old));
    let old = shown.as_ref().unwrap_or(old);
    let recorded = matches!(patch, Patch::Apply(_));
    let (mut object, mut findings) = apply_patch(target, kind, target.sub, old, patch, options)?;
    if !recorded {
        findings.splice(0..0, options.duplicates.iter().cloned());
    }
    // Refusals quote what the patch made, or the patch itself. Both are made again: it is rare.
    let unfitting = |why: &str| match (patch, apply_patch(target, kind, target.sub, old, patch, options)) {
        (Patch::Apply(_), _) => decode::refusal(kind, why),
        (Patch::Strategic(patch), _) => patch::unfitting(&patch::printed(patch), why),
        (_, Ok((made, _))) => patch::unfitting(&made.to_string(), why),
        (_, Err(error)) => error,
    };
    if let (Patch::Strategic(_), Some(map)) = (patch, object.as_object_mut()) {
        // It goes into the object's type as it is: what it says of the type is not looked at.
        map.insert("apiVersion".to_owned(), kind.api_version().into());
        map.insert("kind".to_owned(), (*kind.kind).into());
    }
    check_own_type(kind, &object).map_err(|why| unfitting(&why))?;
    body::check_namespace(kind, target.namespace, &mut object)?;
    check_name(target.name, &object)?;
    check_uid(target, old, &object)?;
    forget_managers(&mut object);
    let known = take_unchanged(old, &mut object);
    findings.extend(decode::decode(kind, &mut object).map_err(|why| unfitting(&why.to_string()))?);
    if let Value::Object(object) = &mut object {
        object.extend(known);
    }
    let mut warnings = match options.validation {
        FieldValidation::Strict if !findings.is_empty() => {
            return Err(unfitting(&format!("strict decoding error: {}", findings.join(", "))));
        }
        FieldValidation::Warn => findings,
        FieldValidation::Strict | FieldValidation::Ignore => Vec::new(),
    };
    object = body::to_stored(kind, object);
    warnings.extend(meta::join_owners(&mut object));
    Ok(Edited { object, warnings, recorded })
}

/// Takes out of `new` the fields that are as they are stored, and so were decoded before: most of an object.
fn take_unchanged(old: &Value, new: &mut Value) -> Vec<(String, Value)> {
    let Value::Object(new) = new else { return Vec::new() };
    let same = |(name, value): (&String, &Value)| old.get(name).is_some_and(|old| old == value);
    let names: Vec<String> = new.iter().filter(|field| same(*field)).map(|(name, _)| name.clone()).collect();
    names.into_iter().filter_map(|name| new.remove_entry(&name)).collect()
}

/// The object after a patch of its Scale, which is checked like any object that a patch made.
fn patched_scale(
    target: Target<'_>,
    old: &Value,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<Edited, ApiError> {
    let kind = kinds::body_of(Subresource::Scale).map_or(target.kind, |kind| &**kind);
    let recorded = matches!(patch, Patch::Apply(_));
    let mut view = subresources::scale(old);
    let (mut scale, mut findings) = if recorded {
        patch::scale::lend(old, kind, &mut view);
        apply_patch(target, kind, target.sub, &view, patch, options)?
    } else {
        apply_patch(target, target.kind, None, &view, patch, options)?
    };
    let made = scale.to_string();
    let unfitting = |why: &str| match patch {
        Patch::Apply(_) => decode::refusal(kind, why),
        Patch::Strategic(patch) => patch::unfitting(&patch::printed(patch), why),
        _ => patch::unfitting(&made, why),
    };
    check_own_type(kind, &scale).map_err(|why| unfitting(&why))?;
    findings.extend(decode::decode(kind, &mut scale).map_err(|why| unfitting(why.told(None)))?);
    if options.validation == FieldValidation::Strict && !findings.is_empty() {
        return Err(unfitting(&format!("strict decoding error: {}", findings.join(", "))));
    }
    body::check_namespace(kind, target.namespace, &mut scale)?;
    check_name(target.name, &scale)?;
    let (wanted, found) = (meta::text(&scale, "uid"), meta::text(old, "uid"));
    if !wanted.is_empty() && wanted != found {
        let why = format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {found}");
        let group = Some(&target.kind.group).filter(|group| !group.is_empty());
        let group = group.map(|group| format!(".{group}")).unwrap_or_default();
        let resource = format!("{}/scale{group}", target.kind.plural);
        return Err(ApiError::conflict(resource, target.name, &why));
    }
    let mut edited = subresources::merge(target, old, &scale)?;
    if options.validation == FieldValidation::Warn {
        edited.warnings.extend(findings);
    }
    if recorded {
        patch::scale::take_back(target.kind, &scale, &mut edited.object);
        edited.recorded = true;
    }
    Ok(edited)
}

/// A patch does not change what an object is.
fn check_own_type(kind: &Kind, object: &Value) -> Result<(), String> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, name) = (text("apiVersion"), text("kind"));
    if (version, name) == (kind.api_version().as_str(), &*kind.kind) {
        return Ok(());
    }
    Err(format!(
        "no kind {name:?} is registered for version {version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
    ))
}

/// A patch does not make another object of an object; an update that means another one is a conflict instead.
fn check_uid(target: Target<'_>, old: &Value, object: &Value) -> Result<(), ApiError> {
    let uid = meta::text(object, "uid");
    if uid.is_empty() || uid == meta::text(old, "uid") {
        return Ok(());
    }
    let message = format!("Invalid value: {uid:?}: field is immutable");
    let cause = Cause { reason: "FieldValueInvalid", field: "metadata.uid".to_owned(), message };
    Err(ApiError::invalid(&target.kind.group, &target.kind.kind, target.name, vec![cause]))
}

fn apply_patch(
    target: Target<'_>,
    kind: &Kind,
    sub: Option<Subresource>,
    old: &Value,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<(Value, Vec<String>), ApiError> {
    Ok(match patch {
        Patch::Json(body) => patch::json(old, body)?,
        Patch::Merge(body) => (patch::merge(old, body)?, Vec::new()),
        Patch::Strategic(body) => (patch::strategic(kind, old, body)?, Vec::new()),
        Patch::Apply(body) => (apply(target.kinds, kind, sub, Some(old), body, options)?, Vec::new()),
    })
}
