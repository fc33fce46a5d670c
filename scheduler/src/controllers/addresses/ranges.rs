//! The life of a ServiceCIDR: held from its first moment, ready, and let go when no address needs it any more.

use std::{net::IpAddr, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::plan::{self, Named};
use crate::{
    admission::Promises,
    cache::{Client, WriteError},
    controllers::runner::{Controller, Next},
    kinds::{
        Subresource, ip_address,
        service_cidr::{self, FINALIZER, READY},
    },
    model::{ApiError, Key, Object, Reason, Resource},
    objects::{Patch, Selection, meta},
};

pub(super) const COMPONENT: &str = "service-cidr-controller";
/// How soon a write that was promised an address is looked for again.
const PROMISED_AGAIN: Duration = Duration::from_millis(100);
const IS_READY: &str = "Kubernetes Service CIDR is ready";
const IN_USE: &str =
    "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";

pub(super) struct Ranges {
    pub(super) client: Client,
    pub(super) promises: Promises,
}

impl Controller for Ranges {
    type Key = Arc<str>;
    const NAME: &'static str = "service_cidr";
    // One at a time: two that cover each other must not both go.
    const WORKERS: usize = 1;

    async fn reconcile(&self, name: &Arc<str>) -> Result<Next, WriteError> {
        let key = Key::cluster(Resource::SERVICE_CIDRS, name);
        let Some(stored) = self.client.objects().stored(&key) else { return Ok(Next::Done) };
        let object: Value = stored.decode()?;
        let done = if stored.deleting { self.end(&object).await } else { self.keep(&object).await };
        match done {
            Err(error) if error.reason == Reason::NotFound => Ok(Next::Done),
            other => Ok(other?),
        }
    }

    fn all(&self) -> Vec<Arc<str>> {
        // They are few, and each change of one has all of them looked at.
        Vec::new()
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn is_held(object: &Value) -> bool {
    object["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|one| one == FINALIZER))
}

impl Ranges {
    async fn keep(&self, object: &Value) -> Result<Next, ApiError> {
        if !is_held(object) {
            self.patch(object, json!({"metadata": {"finalizers": [FINALIZER]}})).await?;
        }
        self.say(object, "True", "", IS_READY).await?;
        Ok(Next::Done)
    }

    /// Its deletion is stored: no write that begins now is given an address of it.
    async fn end(&self, object: &Value) -> Result<Next, ApiError> {
        if !is_held(object) {
            return Ok(Next::Done);
        }
        // First what was promised before, then what is stored: whatever goes from the one to the other is seen.
        let promised = service_cidr::ranges(object).iter().any(|range| self.promises.within(range));
        if self.is_needed(name(object)).await? {
            self.say(object, "False", "Terminating", IN_USE).await?;
            return Ok(Next::Done);
        }
        if promised {
            return Ok(Next::After(PROMISED_AGAIN));
        }
        let gone = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        self.patch(object, gone).await?;
        Ok(Next::Done)
    }

    /// Whether a service would be left with an address of no range.
    async fn is_needed(&self, name: &str) -> Result<bool, ApiError> {
        let objects = self.client.objects();
        let ranges = objects.list(Resource::SERVICE_CIDRS, &Selection::default()).await?.items;
        let all: Vec<Named> = ranges.iter().filter_map(|range| named(range)).collect();
        if plan::covered(name, &all) {
            return Ok(false);
        }
        let addresses = objects.list(Resource::IP_ADDRESSES, &Selection::default()).await?.items;
        let needs = |address: &Arc<Object>| {
            let ours = address.labels.get(ip_address::MANAGED_BY);
            let ours = ours.is_some_and(|by| by == ip_address::ALLOCATOR);
            let parsed = address.key.name.parse::<IpAddr>();
            ours && parsed.is_ok_and(|address| plan::needed_for(name, &all, address))
        };
        Ok(addresses.iter().any(needs))
    }

    async fn say(&self, object: &Value, status: &str, reason: &str, message: &str) -> Result<(), ApiError> {
        let same =
            |now: &Value| now["status"] == status && now["reason"] == reason && now["message"] == message;
        if service_cidr::condition(object).is_some_and(same) {
            return Ok(());
        }
        let condition = json!({
            "type": READY, "status": status, "reason": reason, "message": message, "lastTransitionTime": meta::now(),
        });
        let body = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name(object)},
            "status": {"conditions": [condition]},
        });
        self.write(object, Some(Subresource::Status), Patch::Apply(body)).await
    }

    async fn patch(&self, object: &Value, patch: Value) -> Result<(), ApiError> {
        self.write(object, None, Patch::Strategic(patch)).await
    }

    async fn write(&self, object: &Value, sub: Option<Subresource>, patch: Patch) -> Result<(), ApiError> {
        let (objects, options) = (self.client.objects(), self.client.options());
        objects.patch(Resource::SERVICE_CIDRS, None, name(object), sub, patch, options).await.map(drop)
    }
}

/// The ranges of an object; one that does not decode has none.
fn named(object: &Object) -> Option<Named> {
    let value = object.decode::<Value>().ok()?;
    Some(Named { name: object.key.name.to_string(), nets: service_cidr::ranges(&value) })
}
