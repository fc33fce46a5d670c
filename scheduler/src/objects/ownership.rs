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
    old: &Value,
    new: &mut Value,
    sub: Option<Subresource>,
    options: &WriteOptions,
) {
    // They are often half of the object: neither copied nor converted.
    let sent = patch::take_managed_fields(new);
    let now = meta::now();
    let writer = writer(sub, options, &now, kinds);
    let managers = match &kind.view {
        Some(view) => {
            let meant = view.to_shown(&meant(kind, new.clone()));
            patch::record_update(kind, Some(&view.to_shown(old)), sent, &meant, |_| {}, &writer)
        }
        None => {
            let unnamed = unnamed(kind, new);
            let mean = |new: &mut Value| {
                kind.rules.defaults(new);
                disown(new, &unnamed);
            };
            patch::record_update(kind, Some(old), sent, new, mean, &writer)
        }
    };
    meta::put(new, "managedFields", managers);
}

/// As [`record_write`] for a new object. One that is written in the form of the store has its defaults afterwards.
pub(super) fn record_creation(kinds: &Catalogue, kind: &Kind, new: &mut Value, options: &WriteOptions) {
    let sent = patch::take_managed_fields(new);
    let now = meta::now();
    let writer = writer(None, options, &now, kinds);
    let managers = match &kind.view {
        Some(view) => {
            let meant = view.to_shown(&meant(kind, new.clone()));
            patch::record_update(kind, None, sent, &meant, |_| {}, &writer)
        }
        None => {
            let unnamed = unnamed(kind, new);
            kind.rules.defaults(new);
            patch::record_update(kind, None, sent, new, |new| disown(new, &unnamed), &writer)
        }
    };
    meta::put(new, "managedFields", managers);
}

/// What a client meant that sent this.
fn meant(kind: &Kind, mut sent: Value) -> Value {
    let unnamed = unnamed(kind, &sent);
    kind.rules.defaults(&mut sent);
    disown(&mut sent, &unnamed);
    sent
}

/// The fields that nobody will own, for their client did not name them.
fn unnamed(kind: &Kind, sent: &Value) -> Vec<&'static str> {
    let spec = sent.get("spec");
    let named = |field: &str| spec.and_then(|spec| spec.get(field)).is_some();
    kind.rules.owned_if_named().iter().copied().filter(|field| !named(field)).collect()
}

fn disown(meant: &mut Value, unnamed: &[&str]) {
    let Some(spec) = meant.get_mut("spec").and_then(Value::as_object_mut) else { return };
    for field in unnamed {
        spec.remove(*field);
    }
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
