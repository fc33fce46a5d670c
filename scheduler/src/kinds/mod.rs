//! The kinds: everything the generic REST machine needs to know of each. A built-in kind is a folder of its own and one
//! line of [`builtin`]; others come and go while we run ([`crate::registry`]). All of it is pure: no IO, no clock, no
//! store.

mod base;
mod bodies;
mod catalogue;
mod config_map;
pub mod decode;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod fields;
mod ingress;
mod ingress_class;
pub(crate) mod ip_address;
mod json;
mod kind;
mod lease;
mod namespace;
#[cfg(test)]
mod network_policy;
mod node;
pub mod pod;
mod pod_template;
mod print;
pub mod quantity;
mod replica_set;
mod replication_controller;
mod review;
mod runtime_class;
pub mod schema;
mod secret;
pub(crate) mod service;
mod service_account;
pub(crate) mod service_cidr;
mod validate;
pub mod wire;
mod workload;

#[cfg(test)]
pub(crate) mod demo;

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::{apps, coordination, core, discovery, events, networking, node as nodes};
use schemars::SchemaGenerator;
use serde_json::Value;

use crate::model::{Cause, Resource};
pub use bodies::{body_of, check_binding};
pub use catalogue::{Catalogue, Clash};
pub use fields::unset_field;
pub use kind::{Column, Conversion, Kind, Rules, Scope, Subresource, Text};
pub use print::{SCALE_COLUMNS, description, scale_cells};
pub use review::{Review, check_access};
pub(crate) use validate::addresses::{meant_address, meant_range};

/// The version of Kubernetes whose types and behaviour we follow.
pub const KUBERNETES_VERSION: &str = "v1.37.0";

/// The annotation that makes an IngressClass the one of Ingresses that name none.
pub const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Each line: what makes the row, and the published type of its objects.
macro_rules! kinds {
    ($($(#[$when:meta])* $row:path: $ty:ty,)*) => {
        static BUILTIN: LazyLock<Catalogue> = LazyLock::new(|| {
            let rows = vec![$($(#[$when])* Arc::new($row()),)*];
            // No input decides about this: that there is no clash is held by a test.
            Catalogue::new(rows).unwrap_or_default()
        });

        /// Has the types of the kinds, and all that they reach, described.
        fn describe(generator: &mut SchemaGenerator) {
            $($(#[$when])* let _ = generator.subschema_for::<$ty>();)*
        }
    };
}

// In the order of discovery.
kinds! {
    config_map::kind: core::v1::ConfigMap,
    endpoints::kind: core::v1::Endpoints,
    event::kind: core::v1::Event,
    namespace::kind: core::v1::Namespace,
    node::kind: core::v1::Node,
    pod::kind: core::v1::Pod,
    pod_template::kind: core::v1::PodTemplate,
    replication_controller::kind: core::v1::ReplicationController,
    secret::kind: core::v1::Secret,
    service_account::kind: core::v1::ServiceAccount,
    service::kind: core::v1::Service,
    deployment::kind: apps::v1::Deployment,
    replica_set::kind: apps::v1::ReplicaSet,
    lease::kind: coordination::v1::Lease,
    endpoint_slice::kind: discovery::v1::EndpointSlice,
    event::newer: events::v1::Event,
    ingress_class::kind: networking::v1::IngressClass,
    ingress::kind: networking::v1::Ingress,
    ip_address::kind: networking::v1::IPAddress,
    service_cidr::kind: networking::v1::ServiceCIDR,
    runtime_class::kind: nodes::v1::RuntimeClass,
    #[cfg(test)]
    network_policy::kind: networking::v1::NetworkPolicy,
    #[cfg(test)]
    demo::kind: demo::Widget,
}

/// The kinds that are always there.
pub fn builtin() -> &'static Catalogue {
    &BUILTIN
}

/// Brings an object of a built-in kind, as an earlier version stored it, into the form that one has which is stored
/// today: with today's defaults, and with all that it always shows. What is in this form already stays as it is, and so
/// does what is of no such kind.
pub fn upgrade(resource: Resource, object: &mut Value) {
    upgrade_in(&BUILTIN, resource, object);
}

/// The same for the kinds of a catalogue, also for objects that were stored in another version of them.
pub fn upgrade_in(kinds: &Catalogue, resource: Resource, object: &mut Value) {
    let Some(kind) = kinds.by_resource(resource) else { return };
    if let Some(view) = kinds.view_of(kind, object["apiVersion"].as_str().unwrap_or_default()) {
        *object = view.to_stored(object);
    }
    kind.rules.defaults(object);
    schema::complete(&kind.ty, object);
    schema::settle(&kind.ty, object);
}

/// What every new object is checked for after what its kind asks, whose words are better.
pub fn validate_create(new: &Value) -> Vec<Cause> {
    validate::meta::common_create(new)
}

/// What is wrong with `name` as a step of a path; nothing mostly.
pub fn path_segment(name: &str) -> Vec<String> {
    validate::names::path_segment(name)
}

/// What every update of any kind is checked for, before what its kind asks.
pub fn validate_update(new: &Value, old: &Value) -> Vec<Cause> {
    validate::meta::common_update(new, old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_kinds_clash() {
        let rows = builtin().all().to_vec();
        assert!(rows.len() >= 21, "{} kinds", rows.len());
        Catalogue::new(rows).unwrap();
    }
}
