//! Services and IPAddresses say the same: what a service has without an IPAddress gets one, and what no service has goes.
//!
//! In: a service or an IPAddress that has changed, as it is stored by now. Out: IPAddresses that are made and deleted, and
//! events in upstream's words. Never: a change of a service, or of an IPAddress that somebody keeps for another purpose.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::{
    api::core::v1::ObjectReference,
    jiff::{SignedDuration, Timestamp},
};
use serde_json::Value;

use super::plan::{self, Fault, Leftover};
use crate::{
    cache::{Cache, Client, Id, WriteError},
    controllers::runner::{Controller, Next},
    events::{Note, Record, Recorder, Severity},
    kinds::{ip_address, service::families, service_cidr},
    model::{ApiError, Key, Object, Reason, Resource},
    objects::{DeleteOptions, Selection},
};

pub(super) const COMPONENT: &str = "ipallocator-repair-controller";
/// An IPAddress may be there this long before its service, as upstream.
const GRACE: SignedDuration = SignedDuration::from_secs(60);

pub(super) struct Repair {
    pub(super) cache: Cache,
    pub(super) client: Client,
    pub(super) recorder: Recorder,
}

impl Controller for Repair {
    /// A service, or without a namespace an IPAddress.
    type Key = Id;
    const NAME: &'static str = "service_addresses";
    // One at a time: two services may have the same address.
    const WORKERS: usize = 1;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        match key.scope() {
            Some(namespace) => self.service(namespace, &key.name).await,
            None => self.address(&key.name).await,
        }
    }

    fn all(&self) -> Vec<Id> {
        self.cache.services.all().iter().map(|service| Id::of(&service.metadata)).collect()
    }
}

impl Repair {
    /// As it is stored: the cache may be behind, and an IPAddress made for a service that has gone would be left.
    fn read(&self, key: &Key) -> Result<Option<Value>, WriteError> {
        let stored = self.client.objects().stored(key);
        stored.map(|object| object.decode::<Value>()).transpose().map_err(WriteError::from)
    }

    /// Whether a service has the address; nothing when there is no such service.
    fn has(&self, address: &str, namespace: &str, name: &str) -> Option<bool> {
        let service = self.read(&Key::namespaced(Resource::SERVICES, namespace, name)).ok()??;
        let all = families::addresses(&service["spec"]);
        Some(all.iter().any(|own| own.to_string() == address))
    }

    async fn service(&self, namespace: &str, name: &str) -> Result<Next, WriteError> {
        let Some(service) = self.read(&Key::namespaced(Resource::SERVICES, namespace, name))? else {
            return Ok(Next::Done);
        };
        for address in families::addresses(&service["spec"]) {
            let object = self.read(&key_of(address))?;
            let has = |namespace: &str, name: &str| self.has(&address.to_string(), namespace, name);
            // Whoever is in order is in a range, too: they are not listed for each.
            let fault = plan::of_service((namespace, name), address, true, object.as_ref(), has);
            if fault.is_none() {
                continue;
            }
            let in_range = self.in_range(address).await?;
            if let Some(fault) = plan::of_service((namespace, name), address, in_range, object.as_ref(), has)
            {
                self.mend((namespace, name), address, fault, object.is_some()).await?;
            }
        }
        Ok(Next::Done)
    }

    async fn in_range(&self, address: IpAddr) -> Result<bool, WriteError> {
        let all = self.client.objects().list(Resource::SERVICE_CIDRS, &Selection::default()).await?.items;
        let mut nets = all
            .iter()
            .filter_map(|range| range.decode::<Value>().ok())
            .flat_map(|range| service_cidr::ranges(&range));
        Ok(nets.any(|net| service_cidr::holds(&net, address)))
    }

    async fn mend(
        &self,
        (namespace, name): (&str, &str),
        address: IpAddr,
        fault: Fault,
        is_there: bool,
    ) -> Result<(), WriteError> {
        let what = format!("Cluster IP [{}]: {address}", ip_address::family(address));
        let (reason, message) = match fault {
            Fault::OutOfRange => (
                "ClusterIPOutOfRange",
                format!("{what} is not within any configured Service CIDR; please recreate service"),
            ),
            Fault::NotAllocated => ("ClusterIPNotAllocated", format!("{what} is not allocated; repairing")),
            Fault::WrongReference | Fault::WrongLabels => (
                "ClusterIPNotAllocated",
                format!("{what} for Service {namespace}/{name} has a wrong reference or labels; repairing"),
            ),
            Fault::Shared => (
                "ClusterIPAlreadyAllocated",
                format!("{what} was assigned to multiple services; please recreate service"),
            ),
        };
        if let Some(service) = self.cache.services.get(&Id::new(namespace, name)) {
            self.recorder.note(&*service, COMPONENT, &Note::warning(reason, message));
        }
        if matches!(fault, Fault::OutOfRange | Fault::Shared) {
            return Ok(());
        }
        if is_there {
            self.delete(&address.to_string()).await?;
        }
        let body = ip_address::of_service(address, namespace, name);
        let (objects, options) = (self.client.objects(), self.client.options());
        objects.create(Resource::IP_ADDRESSES, None, body, options).await?;
        // A service that went meanwhile did not see it to take it along.
        if self.has(&address.to_string(), namespace, name) != Some(true) {
            self.delete(&address.to_string()).await?;
        }
        Ok(())
    }

    async fn address(&self, name: &str) -> Result<Next, WriteError> {
        let key = Key::cluster(Resource::IP_ADDRESSES, name);
        let Some(stored) = self.client.objects().stored(&key) else { return Ok(Next::Done) };
        let object: Value = stored.decode()?;
        if let Some(of) = ip_address::service(&object)
            && self.has(name, of.0, of.1) == Some(true)
            && let Ok(address) = name.parse()
        {
            // Mostly it is the right one, which nothing more is read for.
            return match plan::of_service(of, address, true, Some(&object), |_, _| None) {
                None => Ok(Next::Done),
                Some(_) => self.service(of.0, of.1).await,
            };
        }
        let leftover = plan::of_address(&object, |namespace, service| self.has(name, namespace, service));
        let Some(leftover) = leftover else { return Ok(Next::Done) };
        if leftover == Leftover::Leaked
            && let Some(wait) = young(&object)
        {
            return Ok(Next::After(wait));
        }
        self.tell(&stored, &object, leftover);
        self.delete(name).await?;
        Ok(Next::Done)
    }

    fn tell(&self, stored: &Object, object: &Value, leftover: Leftover) {
        let name = &stored.key.name;
        let (namespace, service) = ip_address::service(object).unwrap_or_default();
        let (reason, message) = match leftover {
            Leftover::Changed => (
                "IPAddressNotAllocated",
                format!(
                    "IPAddress {name} appears to have been modified, not referencing a Service: cleaning up"
                ),
            ),
            Leftover::Leaked => (
                "IPAddressNotAllocated",
                format!(
                    "IPAddress: {name} for Service {namespace}/{service} appears to have leaked: cleaning up"
                ),
            ),
            Leftover::WrongReference => (
                "IPAddressWrongReference",
                format!(
                    "IPAddress: {name} for Service {namespace}/{service} has a wrong reference; cleaning up"
                ),
            ),
        };
        self.recorder.publish(Record {
            about: ObjectReference {
                api_version: Some("networking.k8s.io/v1".to_owned()),
                kind: Some("IPAddress".to_owned()),
                name: Some(name.to_string()),
                uid: Some(stored.uid.to_string()),
                ..ObjectReference::default()
            },
            severity: Severity::Warning,
            reason: reason.to_owned(),
            message,
            component: COMPONENT.to_owned(),
            host: None,
            time: Timestamp::now(),
        });
    }

    async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let (objects, options) = (self.client.objects(), self.client.options());
        let deleted =
            objects.remove(Resource::IP_ADDRESSES, None, name, &DeleteOptions::default(), options).await;
        match deleted {
            Err(error) if error.reason == Reason::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

fn key_of(address: IpAddr) -> Key {
    Key::cluster(Resource::IP_ADDRESSES, &address.to_string())
}

/// How much longer the IPAddress may wait for its service; nothing when that is over.
fn young(object: &Value) -> Option<Duration> {
    let made: Timestamp = object["metadata"]["creationTimestamp"].as_str()?.parse().ok()?;
    let left = GRACE - made.duration_until(Timestamp::now());
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_address_without_its_service_is_given_a_minute() {
        let made = |ago: i64| {
            let at = Timestamp::from_second(Timestamp::now().as_second() - ago).unwrap();
            young(&json!({"metadata": {"creationTimestamp": at.to_string()}}))
        };
        assert!(
            made(0).is_some_and(|wait| wait <= Duration::from_secs(60) && wait > Duration::from_secs(30))
        );
        assert!(made(30).is_some_and(|wait| wait <= Duration::from_secs(30)));
        assert_eq!(made(61), None);
        assert_eq!(young(&json!({"metadata": {}})), None);
    }
}
