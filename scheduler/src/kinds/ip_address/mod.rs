//! IPAddresses: an address that somebody has, under its own name. Services have theirs so; whoever makes one by hand
//! keeps its address from them.

use std::{borrow::Cow, net::IpAddr};

use k8s_openapi::api::networking::v1::IPAddress;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules,
    json::text,
    kind::texts,
    print::{NAME, NONE, column, name},
    validate::{Path, Problems, addresses, meta, names},
};
use crate::model::Cause;

/// The label that names the family of an address.
pub(crate) const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// The label that names who keeps an address.
pub(crate) const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// Who keeps those of services.
pub(crate) const ALLOCATOR: &str = "ipallocator.k8s.io";

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["ip"]),
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<IPAddress>(Addresses)
    }
}

// Without an age: upstream's rows have one, for which it has no column.
const COLUMNS: &[Column] = &[NAME, column("ParentRef", "string", "=networking.v1.IPAddressSpec.parentRef")];

struct Addresses;

impl Rules for Addresses {
    fn validate(&self, address: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut problems = Problems::default();
        meta::object_meta(address, name_complaints, &mut problems);
        let parent = &address["spec"]["parentRef"];
        let path = Path::new("spec").field("parentRef");
        check_parent(parent, &path, &mut problems);
        if let Some(old) = old {
            meta::object_meta_update(address, old, &mut problems);
            if *parent != old["spec"]["parentRef"] {
                // As upstream, which does not show the parent.
                problems.invalid(&path, Value::Null, "field is immutable");
            }
        }
        problems.into_causes()
    }

    fn cells(&self, address: &Value, _: i64) -> Vec<Value> {
        vec![name(address), json!(shown(&address["spec"]["parentRef"]))]
    }
}

fn name_complaints(name: &str) -> Vec<String> {
    addresses::canonical_complaint(name).into_iter().collect()
}

fn check_parent(parent: &Value, path: &Path, problems: &mut Problems) {
    if parent.is_null() {
        return problems.required(path, "");
    }
    let group = text(parent, "group");
    if !group.is_empty() {
        problems.all(&path.field("group"), group, names::dns_subdomain(group));
    }
    for (field, needed) in [("resource", true), ("name", true), ("namespace", false)] {
        let (value, path) = (text(parent, field), path.field(field));
        if !value.is_empty() {
            problems.all(&path, value, names::path_segment(value));
        } else if needed {
            problems.required(&path, "");
        }
    }
}

/// `services/default/web`
fn shown(parent: &Value) -> String {
    if parent.is_null() {
        return NONE.to_owned();
    }
    let part = |field| text(parent, field);
    let mut shown = part("resource").to_lowercase();
    if !part("group").is_empty() {
        shown = format!("{shown}.{}", part("group").to_lowercase());
    }
    if !part("namespace").is_empty() {
        shown = format!("{shown}/{}", part("namespace"));
    }
    format!("{shown}/{}", part("name"))
}

/// The family of an address, as labels and services name it.
pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The object that says that a service has `address`.
pub(crate) fn of_service(address: IpAddr, namespace: &str, service: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {FAMILY: family(address), MANAGED_BY: ALLOCATOR},
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": service}},
    })
}

/// The service that an object is of, by namespace and name; `None` when it is something else's.
pub(crate) fn service(object: &Value) -> Option<(&str, &str)> {
    let parent = &object["spec"]["parentRef"];
    let is_service = text(parent, "group").is_empty() && text(parent, "resource") == "services";
    is_service.then(|| (text(parent, "namespace"), text(parent, "name")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(name: &str, spec: &Value, old: Option<&Value>) -> String {
        let object = |spec: &Value| json!({"metadata": {"name": name}, "spec": spec});
        let causes = Addresses.validate(&object(spec), old.map(object).as_ref());
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    // What is expected is what the real API server answers.
    #[test]
    fn its_name_is_an_address_in_its_one_form() {
        let spec = json!({"parentRef": {"resource": "services", "name": "x"}});
        for (name, expected) in [
            ("10.0.0.1", ""),
            ("fd00::1", ""),
            ("10.0.0.01", "must not have leading 0s"),
            ("a", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
            ("FD00::1", "must be in canonical form (\"fd00::1\")"),
            ("fd00:0::1", "must be in canonical form (\"fd00::1\")"),
            ("::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address"),
        ] {
            let expected = match expected {
                "" => String::new(),
                why => format!("metadata.name: Invalid value: {name:?}: {why}"),
            };
            assert_eq!(told(name, &spec, None), expected);
        }
    }

    #[test]
    fn it_has_a_parent_and_keeps_it() {
        let problem = |spec: Value| told("10.0.0.1", &spec, None);
        assert_eq!(problem(json!({})), "spec.parentRef: Required value");
        assert_eq!(
            problem(json!({"parentRef": {}})),
            "spec.parentRef.resource: Required value; spec.parentRef.name: Required value"
        );
        let odd = json!({"group": "g", "resource": "a/b", "namespace": "%", "name": ".."});
        assert_eq!(
            problem(json!({"parentRef": odd})),
            "spec.parentRef.resource: Invalid value: \"a/b\": may not contain '/'; spec.parentRef.name: Invalid value: \
             \"..\": may not be '..'; spec.parentRef.namespace: Invalid value: \"%\": may not contain '%'"
        );
        let of = |name: &str| json!({"parentRef": {"resource": "services", "name": name}});
        assert_eq!(told("10.0.0.1", &of("a"), Some(&of("a"))), "");
        assert_eq!(
            told("10.0.0.1", &of("a"), Some(&of("b"))),
            "spec.parentRef: Invalid value: null: field is immutable"
        );
    }

    #[test]
    fn the_address_of_a_service_is_valid_and_names_it() {
        let made = of_service("fd00::1".parse().unwrap(), "default", "web");
        assert!(Addresses.validate(&made, None).is_empty());
        assert_eq!(service(&made), Some(("default", "web")));
        assert_eq!(made["metadata"]["labels"][FAMILY], "IPv6");
        let other = json!({"spec": {"parentRef": {"group": "g", "resource": "services", "name": "web"}}});
        assert_eq!(service(&other), None);
    }
}
