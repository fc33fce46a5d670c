//! Who owns which field: the calls into [`crate::patch`] that keep `metadata.managedFields` true.

use serde_json::Value;

use super::{WriteOptions, meta};
use crate::{
    kinds::{Kind, Subresource},
    model::{ApiError, Resource},
    patch,
};

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

/// Records in `metadata.managedFields` of `new` who wrote what. `new` is as the client meant it: decoded, before
/// anything is carried over from `old`, prepared or admitted. What the server alone changes afterwards nobody owns. Both
/// are in the form of the store; `kind` is the row that the client wrote to.
pub(super) fn record_write(
    kind: &'static Kind,
    old: Option<&Value>,
    new: &mut Value,
    sub: Option<Subresource>,
    options: &WriteOptions,
) {
    let mut meant = new.clone();
    (kind.defaults)(&mut meant);
    let mut shown = None;
    if let Some(view) = &kind.view {
        meant = (view.from_stored)(&meant);
        shown = old.map(view.from_stored);
    }
    let old = shown.as_ref().or(old);
    if kind.resource == Resource::SERVICES {
        forget_addresses(new, &mut meant);
    }
    let now = meta::now();
    patch::record_update(kind, old, &mut meant, &writer(sub, options, &now));
    meta::carry(new, &meant, "managedFields");
}

/// What a Service is given of addresses and families comes from the server's pools, not from its type: what the client
/// did not name is nobody's.
fn forget_addresses(sent: &Value, meant: &mut Value) {
    let Some(spec) = meant.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if sent.pointer("/spec").and_then(|spec| spec.get(field)).is_none() {
            spec.remove(field);
        }
    }
}

fn writer<'a>(sub: Option<Subresource>, options: &'a WriteOptions, now: &'a str) -> patch::Writer<'a> {
    let subresource = match sub {
        Some(Subresource::Status) => Some("status"),
        Some(Subresource::Scale) => Some("scale"),
        Some(Subresource::Finalize) => Some("finalize"),
        _ => None,
    };
    patch::Writer { manager: &options.manager, subresource, now }
}
