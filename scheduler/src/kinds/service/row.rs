//! The row of Services.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::Service;
use serde_json::Value;

use super::{print, validate, warnings};
use crate::{
    kinds::{Kind, Rules, Subresource, base::keep_status, kind::texts},
    model::Cause,
};

/// The row.
pub(in crate::kinds) fn kind() -> Kind {
    Kind {
        short_names: texts(["svc"]),
        categories: texts(["all"]),
        subresources: vec![Subresource::Status, Subresource::Proxy],
        fields: ["spec.clusterIP".into(), "spec.type".into()].into(),
        create_on_update: true,
        columns: Cow::Borrowed(print::COLUMNS),
        ..Kind::published::<Service>(Services)
    }
}

struct Services;

impl Rules for Services {
    fn defaults(&self, service: &mut Value) {
        super::defaults(service);
    }

    fn prepare_create(&self, service: &mut Value) {
        super::prepare_create(service);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
        super::prepare_update(new, old);
    }

    /// What a Service is given of addresses and families comes from the server's pools, not from its type.
    fn owned_if_named(&self) -> &'static [&'static str] {
        &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"]
    }

    fn validate(&self, service: &Value, old: Option<&Value>) -> Vec<Cause> {
        validate::service(service, old)
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        validate::status(new, old)
    }

    fn warnings(&self, service: &Value) -> Vec<String> {
        warnings::warnings(service)
    }

    fn update_warnings(&self, new: &Value, _: &Value) -> Vec<String> {
        warnings::warnings(new)
    }

    fn status_warnings(&self, service: &Value) -> Vec<String> {
        warnings::ingress_addresses(service)
    }

    fn cells(&self, service: &Value, now: i64) -> Vec<Value> {
        print::cells(service, now)
    }
}
