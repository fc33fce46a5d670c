//! The types of bodies that are no stored objects: what subresources are written with. Each is decoded and checked like
//! any kind, and is served under none.

use serde_json::Value;

use super::{
    Kind, Subresource,
    base::BASE,
    json::text,
    validate::{Path, Problems, names},
};
use crate::model::{Cause, Resource};

static SCALE: Kind = Kind {
    resource: Resource("scales"),
    group: "autoscaling",
    kind: "Scale",
    definition: "io.k8s.api.autoscaling.v1.Scale",
    ..BASE
};

static BINDING: Kind = Kind {
    resource: Resource("bindings"),
    kind: "Binding",
    definition: "io.k8s.api.core.v1.Binding",
    ..BASE
};

static EVICTION: Kind = Kind {
    resource: Resource("evictions"),
    group: "policy",
    kind: "Eviction",
    definition: "io.k8s.api.policy.v1.Eviction",
    ..BASE
};

/// The type that a subresource is written with, where it is not that of the object.
pub fn body_of(sub: Subresource) -> Option<&'static Kind> {
    match sub {
        Subresource::Scale => Some(&SCALE),
        Subresource::Binding => Some(&BINDING),
        Subresource::Eviction => Some(&EVICTION),
        _ => None,
    }
}

/// What is wrong with the target of a Binding.
pub fn check_binding(binding: &Value) -> Vec<Cause> {
    let (mut problems, target, path) = (Problems::default(), &binding["target"], Path::new("target"));
    let kind = text(target, "kind");
    if !matches!(kind, "" | "Node") {
        problems.unsupported(&path.field("kind"), kind, &["Node", "<empty>"]);
    }
    match text(target, "name") {
        "" => problems.required(&path.field("name"), ""),
        name => {
            for why in names::dns_subdomain(name) {
                problems.invalid(&path.field("name"), name, why);
            }
        }
    }
    problems.into_causes()
}
