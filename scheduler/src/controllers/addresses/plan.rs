//! What is to be done about a range that is going, about the address of a service and about an IPAddress: pure.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use crate::kinds::{ip_address, service_cidr};

/// The ranges of one ServiceCIDR.
pub(super) struct Named {
    /// Its name.
    pub(super) name: String,
    /// They.
    pub(super) nets: Vec<IpNet>,
}

/// Whether each range of the ServiceCIDR `name` is within one of another.
pub(super) fn covered(name: &str, all: &[Named]) -> bool {
    let own =
        all.iter().find(|range| range.name == name).map(|range| range.nets.as_slice()).unwrap_or_default();
    let others = all.iter().filter(|range| range.name != name).flat_map(|range| &range.nets);
    own.iter().all(|net| others.clone().any(|other| other.contains(net)))
}

/// Whether the ServiceCIDR `name`, and no other, holds `address`.
pub(super) fn needed_for(name: &str, all: &[Named], address: IpAddr) -> bool {
    let holds = |range: &Named| range.nets.iter().any(|net| service_cidr::holds(net, address));
    let mut holders = all.iter().filter(|range| holds(range));
    holders.next().is_some_and(|range| range.name == name) && holders.next().is_none()
}

/// What is wrong with the address of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// No range holds it.
    OutOfRange,
    /// No IPAddress says whose it is.
    NotAllocated,
    /// The IPAddress is of somebody who does not have the address.
    WrongReference,
    /// Another service has it.
    Shared,
    /// The IPAddress does not bear the labels of one that is kept for a service.
    WrongLabels,
}

/// Looks at the address of the service `of`: its IPAddress, and what is told of the service that is named there: whether
/// it has the address; nothing when it is not there.
pub(super) fn of_service(
    of: (&str, &str),
    address: IpAddr,
    in_range: bool,
    object: Option<&Value>,
    has: impl Fn(&str, &str) -> Option<bool>,
) -> Option<Fault> {
    if !in_range {
        return Some(Fault::OutOfRange);
    }
    let Some(object) = object else { return Some(Fault::NotAllocated) };
    let Some(named) = ip_address::service(object) else { return Some(Fault::WrongReference) };
    if named != of {
        let shared = has(named.0, named.1) == Some(true);
        return Some(if shared { Fault::Shared } else { Fault::WrongReference });
    }
    let label = |name: &str| object["metadata"]["labels"][name].as_str();
    let right = label(ip_address::FAMILY) == Some(ip_address::family(address)) && is_ours(object);
    (!right).then_some(Fault::WrongLabels)
}

/// Whether an IPAddress is kept for a service, and not for whom somebody made it.
pub(super) fn is_ours(object: &Value) -> bool {
    object["metadata"]["labels"][ip_address::MANAGED_BY] == ip_address::ALLOCATOR
}

/// Why an IPAddress that is kept for services has no right to be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leftover {
    /// It is not of a service.
    Changed,
    /// Its service is not there.
    Leaked,
    /// Its service does not have the address.
    WrongReference,
}

/// Looks at an IPAddress.
pub(super) fn of_address(object: &Value, has: impl Fn(&str, &str) -> Option<bool>) -> Option<Leftover> {
    if !is_ours(object) {
        return None;
    }
    let Some((namespace, name)) = ip_address::service(object) else { return Some(Leftover::Changed) };
    match has(namespace, name) {
        None => Some(Leftover::Leaked),
        Some(false) => Some(Leftover::WrongReference),
        Some(true) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn named(name: &str, nets: &[&str]) -> Named {
        Named { name: name.to_owned(), nets: nets.iter().map(|net| net.parse().unwrap()).collect() }
    }

    #[test]
    fn a_range_is_needed_for_what_no_other_holds() {
        let all = [named("a", &["10.0.0.0/24"]), named("b", &["10.0.0.0/25"]), named("c", &["10.1.0.0/24"])];
        assert!(covered("b", &all) && !covered("a", &all) && !covered("c", &all));
        let needed = |name: &str, address: &str| needed_for(name, &all, address.parse().unwrap());
        assert!(!needed("a", "10.0.0.5") && !needed("b", "10.0.0.5"), "two hold it");
        assert!(needed("a", "10.0.0.200") && needed("c", "10.1.0.1"));
        assert!(needed("a", "10.0.0.127"), "the last address of the smaller range is not in it");
        assert!(!needed("c", "10.1.0.255") && !needed("c", "10.9.9.9"));
        let twins = [named("a", &["10.0.0.0/24"]), named("b", &["10.0.0.0/24"])];
        assert!(covered("a", &twins) && covered("b", &twins));
        let dual = [named("a", &["10.0.0.0/24", "fd00::/64"]), named("b", &["10.0.0.0/8"])];
        assert!(!covered("a", &dual), "its other half is not");
    }

    #[test]
    fn the_address_of_a_service_is_its_own() {
        let address: IpAddr = "10.0.0.5".parse().unwrap();
        let object = ip_address::of_service(address, "default", "web");
        let nobody = |_: &str, _: &str| None;
        let judged = |of: (&str, &str), object: Option<&Value>| of_service(of, address, true, object, nobody);
        let web = ("default", "web");
        assert_eq!(judged(web, Some(&object)), None);
        assert_eq!(judged(web, None), Some(Fault::NotAllocated));
        assert_eq!(of_service(web, address, false, Some(&object), nobody), Some(Fault::OutOfRange));
        assert_eq!(judged(("default", "other"), Some(&object)), Some(Fault::WrongReference));
        let has = |_: &str, _: &str| Some(true);
        assert_eq!(of_service(("default", "other"), address, true, Some(&object), has), Some(Fault::Shared));
        let mut foreign = object.clone();
        foreign["spec"]["parentRef"]["group"] = json!("example.com");
        assert_eq!(judged(web, Some(&foreign)), Some(Fault::WrongReference));
        let mut bare = object;
        bare["metadata"]["labels"][ip_address::FAMILY] = json!("IPv6");
        assert_eq!(judged(web, Some(&bare)), Some(Fault::WrongLabels));
    }

    #[test]
    fn an_address_without_its_service_is_a_leftover() {
        let object = ip_address::of_service("10.0.0.5".parse().unwrap(), "default", "web");
        assert_eq!(of_address(&object, |_, _| Some(true)), None);
        assert_eq!(of_address(&object, |_, _| Some(false)), Some(Leftover::WrongReference));
        assert_eq!(of_address(&object, |_, _| None), Some(Leftover::Leaked));
        let mut theirs = object.clone();
        theirs["metadata"]["labels"] = json!({});
        assert_eq!(of_address(&theirs, |_, _| None), None, "whoever made it keeps it");
        let mut changed = object;
        changed["spec"]["parentRef"]["resource"] = json!("gateways");
        assert_eq!(of_address(&changed, |_, _| Some(true)), Some(Leftover::Changed));
    }
}
