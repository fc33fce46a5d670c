//! What the control loops know: every object they plan over, decoded once, shared as `Arc`, kept current by one
//! watch per resource.
//!
//! In: watches of [`Objects`], and the results of our own writes ([`Client`]). Out: reads without waiting, and
//! change callbacks that only enqueue keys. Objects are without `metadata.managedFields`, and pods share
//! what is equal. A loop always reads its own writes: [`Client`] puts what it wrote into the table before it returns, so
//! a plan never counts on a pod that it just made being missing. Never: writes on its own account.

mod client;
mod feed;
mod index;
mod pod;
mod table;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    Metadata,
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{Endpoints, Namespace, Node, ReplicationController, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use serde::Serialize;

pub(crate) use client::MetaExt;
pub use client::{Client, WriteError};
pub use index::{Found, Selects};
pub use pod::Pod;
pub use table::{Change, Id, Table};

use crate::{
    model::{Object, ObjectError, Resource},
    objects::Objects,
    tasks::Tasks,
};

/// Names the service that a slice belongs to.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is written whole, and what the cache keeps of it.
pub trait Written: Metadata<Ty = ObjectMeta> + Serialize {
    /// What is kept.
    type Kept: Cached;
}

/// How an object is kept.
pub trait Kept: Metadata<Ty = ObjectMeta> + Clone + Send + Sync + 'static {
    /// What the objects of a table share.
    type Shared: Default + Send + Sync;
    /// Reads a stored object to be kept.
    fn read(object: &Object, shared: &Self::Shared) -> Result<Self, ObjectError>;
    /// By what it is found.
    fn found_by(&self) -> Found<'_> {
        Found::default()
    }
}

/// A kind that the cache keeps.
pub trait Cached: Kept {
    /// Its resource.
    const RESOURCE: Resource;
    /// Its table.
    fn table(cache: &Cache) -> &Arc<Table<Self>>;
}

macro_rules! whole {
    ($($kind:ty $(, $by:expr)?;)*) => {
        $(impl Kept for $kind {
            type Shared = ();
            // The decoder does not know how long a list will be and leaves room for four items or more, which is most of
            // an object; a copy has the room that it needs.
            fn read(object: &Object, (): &()) -> Result<Self, ObjectError> {
                object.decode_bare::<Self>().map(|value| Self::clone(&value))
            }
            $(fn found_by(&self) -> Found<'_> {
                let by: fn(&Self) -> Found<'_> = $by;
                by(self)
            })?
        }

        impl Written for $kind {
            type Kept = Self;
        })*
    };
}

whole! {
    Namespace;
    Node;
    Service, |service| of_map(service.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
    Endpoints;
    EndpointSlice, |slice| {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME));
        Found { service: service.map(String::as_str), ..Found::default() }
    };
    ServiceAccount;
    Lease;
    Deployment, |deployment| of_selector(&deployment.spec.selector);
    ReplicaSet, |set| Found { as_orphan: true, ..of_selector(&set.spec.selector) };
    ReplicationController, |set| of_map(set.spec.as_ref().and_then(|spec| spec.selector.as_ref()));
}

/// Whom a plain map selects: nobody when it is empty.
fn of_map(selector: Option<&BTreeMap<String, String>>) -> Found<'_> {
    let first = selector.and_then(BTreeMap::first_key_value);
    let selects = first.map_or(Selects::Nobody, |(key, value)| Selects::With(key, value));
    Found { selects, ..Found::default() }
}

fn of_selector(selector: &LabelSelector) -> Found<'_> {
    let first = selector.match_labels.as_ref().and_then(BTreeMap::first_key_value);
    let selects = first.map_or(Selects::Some, |(key, value)| Selects::With(key, value));
    Found { selects, ..Found::default() }
}

macro_rules! cached {
    ($($field:ident: $kind:ty = $resource:expr;)*) => {
        /// One table per kind. Cheap to clone.
        #[derive(Clone, Default)]
        pub struct Cache {
            $(#[doc = concat!("All objects of ", stringify!($kind), ".")] pub $field: Arc<Table<$kind>>,)*
        }

        $(impl Cached for $kind {
            const RESOURCE: Resource = $resource;
            fn table(cache: &Cache) -> &Arc<Table<Self>> {
                &cache.$field
            }
        })*

        impl Cache {
            /// Starts the watches, all of them essential.
            pub fn start(&self, objects: &Objects, tasks: &Tasks) {
                $(tasks.essential(
                    concat!("cache of ", stringify!($field)),
                    feed::run(objects.clone(), self.$field.clone()),
                );)*
            }

            /// Waits until every table has seen everything that was stored when its watch began.
            pub async fn synced(&self) {
                $(self.$field.synced().await;)*
            }

            /// Whether [`Cache::synced`] would return at once.
            pub fn is_synced(&self) -> bool {
                $(self.$field.is_synced())&&*
            }
        }
    };
}

cached! {
    namespaces: Namespace = Resource::NAMESPACES;
    nodes: Node = Resource::NODES;
    pods: Pod = Resource::PODS;
    services: Service = Resource::SERVICES;
    endpoints: Endpoints = Resource::ENDPOINTS;
    slices: EndpointSlice = Resource::ENDPOINT_SLICES;
    service_accounts: ServiceAccount = Resource::SERVICE_ACCOUNTS;
    leases: Lease = Resource::LEASES;
    deployments: Deployment = Resource::DEPLOYMENTS;
    replica_sets: ReplicaSet = Resource::REPLICA_SETS;
    replication_controllers: ReplicationController = Resource::REPLICATION_CONTROLLERS;
}

#[cfg(test)]
mod tests;
