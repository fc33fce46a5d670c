//! Who owns which field: the calls into [`crate::patch`] that keep `metadata.managedFields` true.

use serde_json::Value;

use super::{WriteOptions, meta};
use crate::{
    kinds::{Catalogue, Kind, Subresource},
    model::ApiError,
    patch,
};

/// Server-side apply onto `live`, or of a new object.
pub(super) fn apply(
    kinds: &Catalogue,
    kind: &Kind,
    sub: Option<Subresource>,
    live: Option<&Value>,
    body: &Value,
    options: &WriteOptions,
) -> Result<Value, ApiError> {
    let now = meta::now();
    let writer = writer(sub, options, &now, kinds);
    Ok(patch::apply(kind, live, body, &writer, options.force)?)
}

/// Records in `metadata.managedFields` of `new` who wrote what. `new` is as the client meant it: decoded, before
/// anything is carried over from `old`, prepared or admitted. What the server alone changes afterwards nobody owns. Both
/// are in the form of the store; `kind` is the row that the client wrote to.
pub(super) fn record_write(
    kinds: &Catalogue,
    kind: &Kind,
    old: Option<&Value>,
    new: &mut Value,
    sub: Option<Subresource>,
    options: &WriteOptions,
) {
    // They are often half of the object: neither copied nor converted.
    let sent = patch::take_managed_fields(new);
    let mut meant = new.clone();
    kind.rules.defaults(&mut meant);
    let mut shown = None;
    if let Some(view) = &kind.view {
        meant = view.to_shown(&meant);
        shown = old.map(|old| view.to_shown(old));
    }
    let old = shown.as_ref().or(old);
    kind.rules.disown(new, &mut meant);
    let now = meta::now();
    let managers = patch::record_update(kind, old, sent, meant, &writer(sub, options, &now, kinds));
    meta::put(new, "managedFields", managers);
}

fn writer<'a>(
    sub: Option<Subresource>,
    options: &'a WriteOptions,
    now: &'a str,
    kinds: &'a Catalogue,
) -> patch::Writer<'a> {
    let subresource = match sub {
        Some(Subresource::Status) => Some("status"),
        Some(Subresource::Scale) => Some("scale"),
        Some(Subresource::Finalize) => Some("finalize"),
        _ => None,
    };
    // As upstream, which loses the time of a write on the way from the Scale to the object.
    let now = if sub == Some(Subresource::Scale) { "" } else { now };
    patch::Writer { manager: &options.manager, subresource, now, kinds }
}
