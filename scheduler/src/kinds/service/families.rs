//! Addresses, families and the family policy of a Service: the three say the same thing at different lengths.
//!
//! In: the spec as a client wants it and as it was. Out: the families that follow from it, or what does not fit
//! together. The cluster has IPv4 alone; the two-family wishes that upstream takes on such a cluster are taken.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::{Value, json};

use super::rules::{has_cluster_ip, is_headless};
use crate::{
    kinds::{
        json::{items, text},
        validate::{Path, Problems, addresses},
    },
    model::Cause,
};

const FAMILIES: [&str; 2] = ["IPv4", "IPv6"];
const POLICIES: [&str; 3] = ["PreferDualStack", "RequireDualStack", "SingleStack"];
/// The families that the cluster has addresses of.
const OURS: [&str; 1] = ["IPv4"];
const STAYS: &str = "may not change once set";

fn list<'a>(spec: &'a Value, field: &str) -> Vec<&'a str> {
    items(&spec[field]).iter().filter_map(Value::as_str).collect()
}

fn family(ip: &str) -> &'static str {
    if addresses::parse(ip).is_some_and(|ip| ip.is_ipv6()) || ip.contains(':') { "IPv6" } else { "IPv4" }
}

/// A list as Go prints one that may be nil.
fn shown(spec: &Value, field: &str) -> Value {
    spec.get(field).cloned().unwrap_or_default()
}

/// What does not fit together; `before` on update.
pub(super) fn related(spec: &Value, before: Option<&Value>, path: &Path, problems: &mut Problems) {
    if !has_cluster_ip(spec) {
        return;
    }
    let (one, ips, families) = (text(spec, "clusterIP"), list(spec, "clusterIPs"), list(spec, "ipFamilies"));
    let ips_path = path.field("clusterIPs");
    match ips.first() {
        None if !one.is_empty() => problems.required(&ips_path, ""),
        Some(_) if one.is_empty() => {
            let why = "must be empty when `clusterIP` is not specified";
            problems.invalid(&ips_path, shown(spec, "clusterIPs"), why);
        }
        Some(first) if *first != one => {
            problems.invalid(&ips_path, shown(spec, "clusterIPs"), "first value must match `clusterIP`");
        }
        _ => {}
    }
    known_families(&families, &path.field("ipFamilies"), problems);
    let policy = text(spec, "ipFamilyPolicy");
    if !spec["ipFamilyPolicy"].is_null() && !POLICIES.contains(&policy) {
        problems.unsupported(&path.field("ipFamilyPolicy"), policy, &POLICIES);
    }
    if !valid_ips(spec, before, &ips, &ips_path, problems) {
        return;
    }
    if ips.len() > 1 && ips.iter().map(|ip| family(ip)).collect::<BTreeSet<_>>().len() < ips.len() {
        let why = "may specify no more than one IP for each IP family";
        problems.invalid(&ips_path, shown(spec, "clusterIPs"), why);
    }
    if !is_headless(spec) {
        for (index, (ip, wanted)) in ips.iter().zip(&families).enumerate() {
            if FAMILIES.contains(wanted) && family(ip) != *wanted {
                let why = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
                problems.invalid(&ips_path.index(index), *ip, why);
            }
        }
    }
}

fn known_families(families: &[&str], path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, family) in families.iter().enumerate() {
        if !FAMILIES.contains(family) {
            problems.unsupported(&path.index(index), family, &FAMILIES);
        }
        if !seen.insert(*family) {
            problems.duplicate(&path.index(index), *family);
        }
    }
}

fn valid_ips(
    spec: &Value,
    before: Option<&Value>,
    ips: &[&str],
    path: &Path,
    problems: &mut Problems,
) -> bool {
    let known = before.map(|before| list(before, "clusterIPs")).unwrap_or_default();
    let mut valid = true;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && *ip == "None" {
            if ips.len() > 1 {
                valid = false;
                let why = "'None' must be the first and only value";
                problems.invalid(path, shown(spec, "clusterIPs"), why);
            }
            continue;
        }
        valid &= addresses::legacy_ip(ip, &known, &path.index(index), problems);
    }
    if ips.len() > 2 {
        problems.invalid(path, shown(spec, "clusterIPs"), "may only hold up to 2 values");
    }
    valid
}

/// The address of a service is a promise to its clients.
pub(super) fn address_stays(spec: &Value, before: &Value, path: &Path, problems: &mut Problems) {
    let external = !has_cluster_ip(spec) || !has_cluster_ip(before);
    if external || (is_headless(spec) && is_headless(before)) {
        return;
    }
    let (old, new, path) = (list(before, "clusterIPs"), list(spec, "clusterIPs"), path.field("clusterIPs"));
    let mut changed = |index: usize, why: &str| {
        problems.invalid(&path.index(index), shown(spec, "clusterIPs"), why);
    };
    if old.len() == new.len() {
        for (index, _) in old.iter().zip(&new).enumerate().filter(|(_, (was, is))| was != is) {
            changed(index, STAYS);
        }
    } else if new.is_empty() {
        changed(0, "primary clusterIP can not be unset");
    } else if !old.is_empty() && old[0] != new[0] {
        changed(0, STAYS);
    }
}

/// And so is its family.
pub(super) fn families_stay(spec: &Value, before: &Value, path: &Path, problems: &mut Problems) {
    let external = !has_cluster_ip(spec) || !has_cluster_ip(before);
    if external || is_headless(spec) || is_headless(before) {
        return;
    }
    let (old, new, path) =
        (list(before, "ipFamilies"), list(spec, "ipFamilies"), path.field("ipFamilies").index(0));
    if old.len() == new.len() {
        for _ in old.iter().zip(&new).filter(|(was, is)| was != is) {
            problems.invalid(&path, shown(spec, "ipFamilies"), STAYS);
        }
    } else if let (Some(was), Some(is)) = (old.first(), new.first())
        && was != is
    {
        problems.invalid(&path, shown(spec, "clusterIPs"), STAYS);
    }
}

/// Fills in policy and families before addresses are given out; `before` on update.
pub(crate) fn fill(spec: &mut Value, before: Option<&Value>) -> Result<(), Vec<Cause>> {
    if !has_cluster_ip(spec) || before.is_some_and(|before| prefers_dual_as_before(spec, before)) {
        return Ok(());
    }
    let free = text(spec, "clusterIP") == "None" && no_selector(spec);
    if spec["ipFamilyPolicy"].is_null() {
        let known = before.map(|before| before["ipFamilyPolicy"].clone()).filter(|policy| !policy.is_null());
        // Whoever keeps the endpoints by hand may list any family.
        let policy = if free { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = known.unwrap_or_else(|| policy.into());
    }
    let (path, mut problems) = (Path::new("spec"), Problems::default());
    related(spec, before, &path, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_causes());
    }
    single_stack(spec, before, &path.field("ipFamilyPolicy"), &mut problems);
    infer(spec, &path, &mut problems);
    if !problems.is_empty() {
        return Err(problems.into_causes());
    }
    if free {
        free_families(spec);
        return Ok(());
    }
    if text(spec, "ipFamilyPolicy") == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        problems.invalid(&path.field("ipFamilyPolicy"), "RequireDualStack", why);
    }
    for (index, family) in list(spec, "ipFamilies").iter().enumerate() {
        if !OURS.contains(family) {
            let why = "not configured on this cluster";
            problems.invalid(&path.field("ipFamilies").index(index), *family, why);
        }
    }
    if !problems.is_empty() {
        return Err(problems.into_causes());
    }
    if list(spec, "ipFamilies").is_empty() {
        spec["ipFamilies"] = json!([OURS[0]]);
    }
    Ok(())
}

fn no_selector(spec: &Value) -> bool {
    spec["selector"].as_object().is_none_or(serde_json::Map::is_empty)
}

/// A service that would like two families and is not changed in any of this stays with what it got.
fn prefers_dual_as_before(spec: &Value, before: &Value) -> bool {
    let same = |field: &str| spec[field] == before[field];
    same("type")
        && has_cluster_ip(before)
        && [spec, before].into_iter().all(|spec| text(spec, "ipFamilyPolicy") == "PreferDualStack")
        && same("clusterIPs")
        && same("ipFamilies")
}

/// A policy of one family and two of anything do not go together.
fn single_stack(spec: &mut Value, before: Option<&Value>, path: &Path, problems: &mut Problems) {
    let single = text(spec, "ipFamilyPolicy") == "SingleStack";
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let count = items(&spec[field]).len();
        let before = before.map(|before| &before[field]);
        if single && count > 1 && before == Some(&spec[field]) {
            // The policy alone was changed: that is clear enough.
            spec[field] = json!([spec[field][0]]);
        } else if !single && count > 0 && before.is_some_and(|before| items(before).len() > count) {
            let why = format!("must be 'SingleStack' to release the secondary {what}");
            problems.invalid(path, spec["ipFamilyPolicy"].clone(), why);
        }
    }
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if single && items(&spec[field]).len() == 2 {
            let why =
                format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            problems.invalid(path, "SingleStack", why);
        }
    }
}

/// Families that the addresses tell.
fn infer(spec: &mut Value, path: &Path, problems: &mut Problems) {
    let mut families: Vec<String> = list(spec, "ipFamilies").into_iter().map(str::to_owned).collect();
    let told = families.len();
    for (index, ip) in list(spec, "clusterIPs").into_iter().enumerate().skip(told) {
        if ip == "None" {
            break;
        }
        let family = family(ip);
        if OURS.contains(&family) {
            families.push(family.to_owned());
        } else {
            let why = format!("{family} is not configured on this cluster");
            problems.invalid(&path.field("clusterIPs").index(index), shown(spec, "clusterIPs"), why);
        }
    }
    if families.len() > told {
        spec["ipFamilies"] = families.into();
    }
}

/// A headless service without a selector may have families that the cluster has not.
fn free_families(spec: &mut Value) {
    let mut families: Vec<String> = list(spec, "ipFamilies").into_iter().map(str::to_owned).collect();
    if families.is_empty() {
        families.push(OURS[0].to_owned());
    }
    if families.len() < 2 && text(spec, "ipFamilyPolicy") != "SingleStack" {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    spec["ipFamilies"] = families.into();
}

/// Whether the service is to be given an address: it is new, or was none of ours so far.
pub(crate) fn needs_address(spec: &Value, before: Option<&Value>) -> bool {
    has_cluster_ip(spec)
        && !before.is_some_and(has_cluster_ip)
        && items(&spec["clusterIPs"]).first().is_none_or(|first| first != "None")
}

/// An address as the allocator holds it.
pub(crate) fn parse(ip: &str) -> Option<IpAddr> {
    addresses::parse(ip)
}

/// The addresses that a service has.
pub(crate) fn addresses(spec: &Value) -> Vec<IpAddr> {
    if !has_cluster_ip(spec) {
        return Vec::new();
    }
    let mut all = list(spec, "clusterIPs");
    if all.is_empty() {
        all.push(text(spec, "clusterIP"));
    }
    all.into_iter().filter_map(parse).collect()
}
