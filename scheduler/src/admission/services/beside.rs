//! The IPAddresses that come and go with the addresses of a service.
//!
//! In: a service before and after a write. Out: what is stored in the same commit. Never: an IPAddress that is not of
//! this service goes.

use serde_json::Value;

use crate::{
    kinds::{ip_address, service::families},
    model::{ApiError, Key, Resource},
    objects::{
        WriteOptions,
        admission::{Batch, Checked},
    },
};

/// Who writes them, as upstream.
const WRITER: &str = "kube-apiserver";

/// Adds to `batch` what the write changes of the addresses of its service.
pub(super) fn follow(write: Checked<'_>, batch: &mut Batch) -> Result<(), ApiError> {
    let of = |service: Option<&Value>| {
        service.map(|service| families::addresses(&service["spec"])).unwrap_or_default()
    };
    let (old, new) = (of(write.old), of(write.object));
    let namespace = write.namespace.unwrap_or_default();
    for address in new.iter().filter(|address| !old.contains(address)) {
        let body = ip_address::of_service(*address, namespace, write.name);
        let options = WriteOptions::controller(WRITER);
        batch.create(write.objects, Resource::IP_ADDRESSES, None, body, &options)?;
    }
    for address in old.iter().filter(|address| !new.contains(address)) {
        let key = Key::cluster(Resource::IP_ADDRESSES, &address.to_string());
        let Some(stored) = write.objects.stored(&key) else { continue };
        // One that does not decode is nobody's that we know.
        let Ok(object) = stored.decode::<Value>() else { continue };
        if ip_address::service(&object) == Some((namespace, write.name)) {
            batch.remove(&stored);
        }
    }
    Ok(())
}
