//! The types of bodies that are no stored objects: what subresources are written with. Each is decoded and checked like
//! any kind, and is served under none.

use std::sync::{Arc, LazyLock};

use k8s_openapi::api::{autoscaling::v1::Scale, core::v1::Binding, policy::v1::Eviction};
use serde_json::Value;

use super::{
    Kind, Rules, Subresource,
    json::text,
    validate::{Path, Problems, names},
};
use crate::model::Cause;

static SCALE: LazyLock<Arc<Kind>> = LazyLock::new(|| Arc::new(Kind::published::<Scale>(Body)));

static BINDING: LazyLock<Arc<Kind>> = LazyLock::new(|| Arc::new(Kind::published::<Binding>(Body)));

static EVICTION: LazyLock<Arc<Kind>> = LazyLock::new(|| Arc::new(Kind::published::<Eviction>(Body)));

/// What is written to a subresource is looked at by whoever writes it there.
pub(super) struct Body;

impl Rules for Body {
    fn cells(&self, _: &Value, _: i64) -> Vec<Value> {
        Vec::new()
    }
}

/// The type that a subresource is written with, where it is not that of the object.
pub fn body_of(sub: Subresource) -> Option<&'static Arc<Kind>> {
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
