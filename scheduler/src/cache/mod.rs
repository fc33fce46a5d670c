//! What the control loops know: every object they plan over, decoded once, shared as `Arc`, kept current by one
//! watch per resource.
//!
//! In: watches of [`Objects`], and the results of our own writes ([`Client`]). Out: reads without waiting, and
//! change callbacks that only enqueue keys. Objects are without `metadata.managedFields`. A loop always reads its own writes: [`Client`] puts what it wrote
//! into the table before it returns, so a plan never counts on a pod that it just made being missing. Never:
//! writes on its own account.

mod client;
mod feed;
mod index;
mod table;

use std::sync::Arc;

use k8s_openapi::{
    Metadata,
    api::{
        apps::v1::{Deployment, ReplicaSet},
        coordination::v1::Lease,
        core::v1::{Endpoints, Namespace, Node, Pod, ReplicationController, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Serialize, de::DeserializeOwned};

pub(crate) use client::MetaExt;
pub use client::{Client, WriteError};
pub use table::{Change, Id, Table};

use crate::{
    model::{Object, ObjectError, Resource},
    objects::Objects,
    tasks::Tasks,
};

/// Decodes an object to be kept. The decoder does not know how long a list will be and leaves room for four items or
/// more, which is most of a pod; a copy has the room that it needs.
fn exact<T: Cached>(object: &Object) -> Result<T, ObjectError> {
    object.decode_bare::<T>().map(|value| T::clone(&value))
}

/// A kind that the cache keeps.
pub trait Cached:
    Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + Clone + Send + Sync + 'static
{
    /// Its resource.
    const RESOURCE: Resource;
    /// Whether its objects are bound to nodes, and are found by them.
    const IS_BOUND: bool = false;
    /// Its table.
    fn table(cache: &Cache) -> &Arc<Table<Self>>;
    /// The node that it is bound to.
    fn node(&self) -> Option<&str> {
        None
    }
}

macro_rules! cached {
    ($($field:ident: $kind:ty = $resource:expr $(, bound by $node:expr)?;)*) => {
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
            $(
                const IS_BOUND: bool = true;
                fn node(&self) -> Option<&str> {
                    let node: fn(&Self) -> Option<&str> = $node;
                    node(self)
                }
            )?
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
    pods: Pod = Resource::PODS, bound by |pod| pod.spec.as_ref()?.node_name.as_deref();
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
