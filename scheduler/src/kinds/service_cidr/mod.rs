//! ServiceCIDRs: the ranges that services get their addresses from.

use std::{borrow::Cow, net::IpAddr};

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::{Value, json};

use super::{
    Column, Kind, Rules, Subresource,
    base::{drop_status, keep_status},
    json::{items, text},
    print::{AGE, NAME, age, column, name},
    validate::{Path, Problems, addresses, meta, names, shapes},
};
use crate::model::Cause;

/// The range that comes from the configuration.
pub(crate) const DEFAULT: &str = "kubernetes";
/// Holds a range as long as addresses of it are in use.
pub(crate) const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// The condition that says whether new addresses are taken from a range.
pub(crate) const READY: &str = "Ready";

/// One range of each family at most.
const MOST: usize = 2;
const ONE_OF_EACH: &str =
    "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";

/// The row.
pub(super) fn kind() -> Kind {
    Kind {
        subresources: vec![Subresource::Status],
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<ServiceCIDR>(Ranges)
    }
}

const COLUMNS: &[Column] = &[NAME, column("CIDRs", "string", "=networking.v1.ServiceCIDRSpec.cidrs"), AGE];

struct Ranges;

impl Rules for Ranges {
    fn prepare_create(&self, range: &mut Value) {
        drop_status(range);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate(&self, range: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut problems = Problems::default();
        match old {
            None => {
                meta::object_meta(range, names::dns_subdomain, &mut problems);
                check(&range["spec"], &mut problems);
            }
            Some(old) => {
                meta::object_meta_update(range, old, &mut problems);
                check_change(&range["spec"], &old["spec"], &mut problems);
            }
        }
        problems.into_causes()
    }

    fn validate_sub(&self, _: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        let mut problems = Problems::default();
        meta::object_meta_update(new, old, &mut problems);
        problems.into_causes()
    }

    fn cells(&self, range: &Value, now: i64) -> Vec<Value> {
        vec![name(range), json!(texts(&range["spec"]).join(",")), age(range, now)]
    }
}

fn path() -> Path {
    Path::new("spec").field("cidrs")
}

fn texts(spec: &Value) -> Vec<&str> {
    items(&spec["cidrs"]).iter().map(|cidr| cidr.as_str().unwrap_or_default()).collect()
}

fn check(spec: &Value, problems: &mut Problems) {
    let (path, cidrs) = (path(), texts(spec));
    if cidrs.is_empty() {
        return problems.required(&path, "at least one CIDR required");
    }
    if cidrs.len() > MOST {
        let shown = shapes::print("ServiceCIDRSpec", spec);
        return problems.invalid_shown(&path, &shown, "may only hold up to 2 values");
    }
    for (index, cidr) in cidrs.iter().enumerate() {
        addresses::canonical_range(cidr, &path.index(index), problems);
    }
    if let [one, other] = cidrs[..]
        && let Some(family) = addresses::range_is_v6(one)
        && addresses::range_is_v6(other) == Some(family)
    {
        problems.invalid(&path, spec["cidrs"].clone(), ONE_OF_EACH);
    }
}

/// What is there stays; a range of the other family may be added.
fn check_change(spec: &Value, before: &Value, problems: &mut Problems) {
    let (path, new, old) = (path(), texts(spec), texts(before));
    let mut stays = |index: usize| {
        if new[index] != old[index] {
            problems.invalid(&path.index(index), new[index], "field is immutable");
        }
    };
    match (old.len(), new.len()) {
        (before, now) if before == now => (0..now).for_each(stays),
        (1, 2) => {
            stays(0);
            check(spec, problems);
        }
        _ => problems.invalid(&path, spec["cidrs"].clone(), "field is immutable"),
    }
}

/// The ranges that an object has.
pub(crate) fn ranges(object: &Value) -> Vec<IpNet> {
    texts(&object["spec"]).iter().filter_map(|cidr| cidr.parse().ok()).collect()
}

/// Whether new addresses may be taken from the ranges of an object. One of which nobody has said anything yet is as good
/// as one that is ready.
pub(crate) fn gives(object: &Value) -> bool {
    let said = condition(object).map(|condition| text(condition, "status") == "True");
    object["metadata"]["deletionTimestamp"].is_null() && said.unwrap_or(true)
}

/// The condition that says so.
pub(crate) fn condition(object: &Value) -> Option<&Value> {
    items(&object["status"]["conditions"]).iter().find(|condition| text(condition, "type") == READY)
}

/// Whether services can have `address` from `range`: its first address is nobody's, nor is the last of an IPv4 range.
pub(crate) fn holds(range: &IpNet, address: IpAddr) -> bool {
    let last = range.addr().is_ipv4() && range.broadcast() == address;
    range.contains(&address) && range.network() != address && !last
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(range: &Value, old: Option<&Value>) -> String {
        let causes = Ranges.validate(range, old);
        causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect::<Vec<_>>().join("; ")
    }

    fn of(cidrs: &Value) -> Value {
        json!({"metadata": {"name": "a"}, "spec": {"cidrs": cidrs}})
    }

    // What is expected is what the real API server answers.
    #[test]
    fn a_range_of_each_family_in_its_one_form() {
        for (cidrs, expected) in [
            (json!(["10.0.0.0/8"]), ""),
            (json!(["fd00::/32", "10.0.0.0/8"]), ""),
            (json!([]), "spec.cidrs: Required value: at least one CIDR required"),
            (
                json!(["10.0.0.0/8", "10.1.0.0/16", "fd00::/64"]),
                "spec.cidrs: Invalid value: {\"CIDRs\":[\"10.0.0.0/8\",\"10.1.0.0/16\",\"fd00::/64\"]}: may only hold up to 2 \
                 values",
            ),
            (
                json!(["10.0.0.0/8", "10.1.0.0/16"]),
                "spec.cidrs: Invalid value: [\"10.0.0.0/8\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP \
                 family, i.e 192.168.0.0/24 and 2001:db8::/64",
            ),
            (
                json!(["10.0.0.1/8"]),
                "spec.cidrs[0]: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
            ),
            (
                json!(["10.0.0.0/8", "x"]),
                "spec.cidrs[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!(["::ffff:10.0.0.0/104", "10.0.0.0/8"]),
                "spec.cidrs[0]: Invalid value: \"::ffff:10.0.0.0/104\": must not have an IPv4-mapped IPv6 address; spec.cidrs: \
                 Invalid value: [\"::ffff:10.0.0.0/104\",\"10.0.0.0/8\"]: may specify no more than one IP for each IP family, \
                 i.e 192.168.0.0/24 and 2001:db8::/64",
            ),
        ] {
            assert_eq!(told(&of(&cidrs), None), expected);
        }
    }

    #[test]
    fn ranges_stay_and_the_other_family_may_come() {
        let old = of(&json!(["10.200.0.0/24"]));
        for (cidrs, expected) in [
            (json!(["10.200.0.0/24"]), ""),
            (json!(["10.200.0.0/24", "fd00::/64"]), ""),
            (json!(["10.201.0.0/24"]), "spec.cidrs[0]: Invalid value: \"10.201.0.0/24\": field is immutable"),
            (
                json!(["10.201.0.0/24", "x"]),
                "spec.cidrs[0]: Invalid value: \"10.201.0.0/24\": field is immutable; spec.cidrs[1]: Invalid value: \"x\": \
                 must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (json!(null), "spec.cidrs: Invalid value: null: field is immutable"),
        ] {
            assert_eq!(told(&of(&cidrs), Some(&old)), expected);
        }
        let both = of(&json!(["10.200.0.0/24", "fd00::/64"]));
        assert_eq!(
            told(&old, Some(&both)),
            "spec.cidrs: Invalid value: [\"10.200.0.0/24\"]: field is immutable"
        );
    }

    #[test]
    fn the_ends_of_a_range_are_nobodys() {
        let holds = |range: &str, address: &str| holds(&range.parse().unwrap(), address.parse().unwrap());
        assert!(!holds("10.0.0.0/24", "10.0.0.0") && !holds("10.0.0.0/24", "10.0.0.255"));
        assert!(holds("10.0.0.0/24", "10.0.0.1") && holds("10.0.0.0/24", "10.0.0.254"));
        assert!(!holds("10.0.0.0/24", "10.0.1.1"));
        assert!(!holds("fd00::/120", "fd00::") && holds("fd00::/120", "fd00::ff"));
    }

    #[test]
    fn a_range_gives_until_it_is_said_to_end() {
        let mut range = of(&json!(["10.0.0.0/24"]));
        assert!(gives(&range));
        range["status"] = json!({"conditions": [{"type": "Ready", "status": "False"}]});
        assert!(!gives(&range));
        range["status"]["conditions"][0]["status"] = json!("True");
        assert!(gives(&range));
        range["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!gives(&range));
    }
}
