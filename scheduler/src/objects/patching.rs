//! Patches and field ownership: the calls into the pure functions of [`crate::patch`].

use serde_json::Value;

use super::{
    Patch, WriteOptions, create, meta, subresources,
    update::{Edited, Target},
};
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Reason},
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
        let view = subresources::scale(old);
        let view = apply_patch(target.kind, None, &view, patch, options)?;
        return subresources::merge(target, old, &view);
    }
    let recorded = matches!(patch, Patch::Apply(_));
    let mut object = apply_patch(target.kind, target.sub, old, patch, options)?;
    create::check_type(target.kind, &mut object)?;
    let changed = ["name", "namespace"].iter().find(|f| meta::text(&object, f) != meta::text(old, f));
    if let Some(field) = changed {
        let (was, is) = (meta::text(old, field), meta::text(&object, field));
        let message =
            format!("the {field} of the object ({is}) does not match the {field} on the URL ({was})");
        return Err(ApiError::new(Reason::BadRequest, message));
    }
    let warnings = create::check_fields(target.kind, &mut object, options)?;
    Ok(Edited { object, warnings, recorded })
}

fn apply_patch(
    kind: &'static Kind,
    sub: Option<Subresource>,
    old: &Value,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    Ok(match patch {
        Patch::Json(body) => patch::json(old, body)?,
        Patch::Merge(body) => patch::merge(old, body)?,
        Patch::Strategic(body) => patch::strategic(kind, old, body)?,
        Patch::Apply(body) => apply(kind, sub, Some(old), body, options)?,
    })
}

/// Server-side apply onto `live`, or of a new object.
pub(super) fn apply(
    kind: &'static Kind,
    sub: Option<Subresource>,
    live: Option<&Value>,
    body: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let now = meta::now();
    let writer = writer(sub, options, &now);
    Ok(patch::apply(kind, live, body, &writer, options.force)?)
}

/// Records in `metadata.managedFields` who wrote what.
pub(super) fn record_write(
    kind: &'static Kind,
    old: Option<&Value>,
    new: &mut Value,
    sub: Option<Subresource>,
    options: &WriteOptions,
) {
    let now = meta::now();
    patch::record_update(kind, old, new, &writer(sub, options, &now));
}

fn writer<'a>(sub: Option<Subresource>, options: &'a WriteOptions, now: &'a str) -> patch::Writer<'a> {
    let subresource = match sub {
        Some(Subresource::Status) => Some("status"),
        Some(Subresource::Scale) => Some("scale"),
        // Upstream records the others as writes of the object.
        _ => None,
    };
    patch::Writer { manager: &options.manager, subresource, now }
}
