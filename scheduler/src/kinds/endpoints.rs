//! Endpoints and EndpointSlices.

use serde_json::Value;

use super::json::{items_mut, set_default};

/// What upstream fills in for Endpoints.
pub(super) fn defaults(endpoints: &mut Value) {
    let Some(endpoints) = endpoints.as_object_mut() else { return };
    for subset in items_mut(endpoints, "subsets") {
        for port in items_mut(subset, "ports") {
            set_default(port, "protocol", "TCP");
        }
    }
}

/// What upstream fills in for an EndpointSlice.
pub(super) fn slice_defaults(slice: &mut Value) {
    let Some(slice) = slice.as_object_mut() else { return };
    for port in items_mut(slice, "ports") {
        port.entry("name").or_insert_with(|| "".into());
        set_default(port, "protocol", "TCP");
    }
}
