//! Requests and limits: of containers, of the pod as a whole, and how the two agree. Also `overhead` and the claims
//! of devices.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use super::each_container;
use crate::kinds::{
    json::{ensure, items, member_mut, members, text},
    quantity::Quantity,
    validate::{
        Path, Problems, names,
        resources::{comes_whole, is_counted, is_extended, is_native},
    },
};

const HUGE_PAGES: &str = "hugepages-";
/// Unprefixed names that are measured and mean something somewhere, though not in a container.
const MEASURED: [&str; 11] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "storage",
    "requests.storage",
];

/// Which names a list of resources may have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Container,
    Pod,
}

/// `resources` of a container; `claims` are the names of the pod's claims.
pub(super) fn container(resources: &Value, claims: &BTreeSet<&str>, path: &Path, problems: &mut Problems) {
    requirements(resources, Holder::Container, path, problems);
    used_claims(&resources["claims"], claims, &path.field("claims"), problems);
}

/// What a pod costs beside its containers, as it says itself or as its RuntimeClass does: limits in all but name.
pub(in crate::kinds) fn overhead(overhead: &Value, path: &Path, problems: &mut Problems) {
    if overhead.is_object() {
        listed(overhead, Holder::Container, &path.field("limits"), problems);
        needs_cpu_or_memory(&[overhead], path, problems);
    }
}

/// `resources` of a pod as a whole.
pub(super) fn pod(spec: &Value, path: &Path, problems: &mut Problems) {
    let (resources, path) = (&spec["resources"], path.field("resources"));
    if !resources.is_object() {
        return;
    }
    if spec["os"]["name"] == "windows" {
        return problems.forbidden(&path, "may not be set for a windows pod");
    }
    if !resources["claims"].is_null() {
        problems.forbidden(&path.field("claims"), "claims may not be set for Resources at pod-level");
    }
    requirements(resources, Holder::Pod, &path, problems);
    used_claims(&resources["claims"], &claim_names(spec), &path.field("claims"), problems);
    consistency(spec, &path, problems);
}

/// The claims that containers may use.
pub(super) fn claim_names(spec: &Value) -> BTreeSet<&str> {
    items(&spec["resourceClaims"]).iter().map(|claim| text(claim, "name")).filter(|n| !n.is_empty()).collect()
}

/// `resourceClaims` of a pod.
pub(super) fn claims(claims: &Value, is_static: bool, path: &Path, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for (index, claim) in items(claims).iter().enumerate() {
        if is_static {
            problems.forbidden(&Path::new(""), "static pods do not support resource claims");
            continue;
        }
        let path = path.index(index);
        let name = text(claim, "name");
        if name.is_empty() {
            problems.required(&path.field("name"), "");
        } else if !seen.insert(name) {
            problems.duplicate(&path.field("name"), name);
        } else {
            problems.all(&path.field("name"), name, names::dns_label(name));
        }
        let sources = ["resourceClaimName", "resourceClaimTemplateName"].map(|f| (f, claim[f].as_str()));
        match sources.iter().filter(|(_, name)| name.is_some()).count() {
            0 => {
                let why = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                problems.invalid_of(&path, "PodResourceClaim", claim, why);
            }
            1 => {}
            _ => {
                let why =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                problems.invalid_of(&path, "PodResourceClaim", claim, why);
            }
        }
        for (field, name) in sources {
            if let Some(name) = name {
                problems.all(&path.field(field), name, names::dns_subdomain(name));
            }
        }
    }
}

/// `claims` of a container: each names a claim of the pod, or one request of it, once.
fn used_claims(claims: &Value, known: &BTreeSet<&str>, path: &Path, problems: &mut Problems) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (index, claim) in items(claims).iter().enumerate() {
        let (path, name, request) = (path.index(index), text(claim, "name"), text(claim, "request"));
        if name.is_empty() {
            problems.required(&path, "");
            continue;
        }
        if seen.contains(name) {
            problems.duplicate(&path, name);
        } else {
            let key = if request.is_empty() { name.to_owned() } else { format!("{name}/{request}") };
            if !request.is_empty() {
                problems.all(&path.field("request"), request, names::dns_label(request));
            }
            let part = format!("{name}/");
            if seen.contains(&key) || (request.is_empty() && seen.iter().any(|s| s.starts_with(&part))) {
                problems.duplicate(&path, key.as_str());
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let list: Vec<&str> = known.iter().copied().collect();
            let why =
                if list.is_empty() { " which is empty".to_owned() } else { format!(": {}", list.join(", ")) };
            problems.not_found_in(
                &path,
                name,
                &format!("must be one of the names in pod.spec.resourceClaims{why}"),
            );
        }
    }
}

fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str().and_then(|text| text.parse().ok())
}

fn requirements(resources: &Value, holder: Holder, path: &Path, problems: &mut Problems) {
    let (limits, requests) = (&resources["limits"], &resources["requests"]);
    listed(limits, holder, &path.field("limits"), problems);
    let request_path = path.field("requests");
    for (name, request) in members(requests) {
        one(name, request, holder, &request_path.key(name), problems);
        agrees(name, request, &limits[name], path, problems);
        if name.starts_with(HUGE_PAGES) {
            divisible(name, request, &request_path.key(name), problems);
        }
    }
    needs_cpu_or_memory(&[limits, requests], path, problems);
}

/// The limits.
fn listed(limits: &Value, holder: Holder, path: &Path, problems: &mut Problems) {
    for (name, limit) in members(limits) {
        let path = path.key(name);
        one(name, limit, holder, &path, problems);
        if name.starts_with(HUGE_PAGES) {
            divisible(name, limit, &path, problems);
        }
    }
}

fn one(name: &str, value: &Value, holder: Holder, path: &Path, problems: &mut Problems) {
    resource_name(name, holder, path, problems);
    let Some(amount) = quantity(value) else { return };
    if amount.is_negative() {
        problems.invalid(path, value.clone(), "must be greater than or equal to 0");
    }
    if comes_whole(name) && !amount.is_whole() {
        problems.invalid(path, value.clone(), "must be an integer");
    }
}

/// What may not be promised twice is requested as much as it is limited.
fn agrees(name: &str, request: &Value, limit: &Value, path: &Path, problems: &mut Problems) {
    let overcommits = is_native(name) && !name.starts_with(HUGE_PAGES);
    let (Some(wanted), Some(most)) = (quantity(request), quantity(limit)) else {
        if limit.is_null() && !overcommits {
            problems.required(&path.field("limits"), "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let how = match (overcommits, wanted.cmp(&most)) {
        (false, order) if order.is_ne() => "must be equal to",
        (_, order) if order.is_gt() => "must be less than or equal to",
        _ => return,
    };
    let why = format!("{how} {name} limit of {most}");
    problems.invalid(&path.field("requests"), request.clone(), why);
}

/// Huge pages come whole.
fn divisible(name: &str, value: &Value, path: &Path, problems: &mut Problems) {
    let Some(amount) = quantity(value) else { return };
    let page = name.strip_prefix(HUGE_PAGES).and_then(|size| size.parse::<Quantity>().ok());
    let page = page.filter(|page| page.is_whole() && page.value() > 0);
    if page.is_none_or(|page| amount.value() % page.value() != 0) {
        let why = format!("{amount} is not positive integer multiple of {name}");
        problems.invalid(path, value.clone(), why);
    }
}

fn needs_cpu_or_memory(lists: &[&Value], path: &Path, problems: &mut Problems) {
    let named = |wanted: fn(&str) -> bool| lists.iter().any(|l| members(l).any(|(name, _)| wanted(name)));
    if named(|name| name.starts_with(HUGE_PAGES)) && !named(|name| matches!(name, "cpu" | "memory")) {
        problems.forbidden(path, "HugePages require cpu or memory");
    }
}

fn resource_name(name: &str, holder: Holder, path: &Path, problems: &mut Problems) {
    let complaints = names::qualified_name(name);
    let well_formed = complaints.is_empty();
    problems.all(path, name, complaints);
    let plain = !name.contains('/');
    let (huge, quota) = (name.starts_with(HUGE_PAGES), name.starts_with("requests.hugepages-"));
    let standard = MEASURED.contains(&name) || is_counted(name) || huge || quota;
    if well_formed && plain && !standard {
        problems.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    match holder {
        Holder::Container if plain => {
            if !huge && !matches!(name, "cpu" | "memory" | "ephemeral-storage") {
                problems.invalid(path, name, "must be a standard resource for containers");
            }
        }
        Holder::Container => {
            if !is_native(name) && !is_extended(name) {
                problems.invalid(path, name, "doesn't follow extended resource name standard");
            }
        }
        Holder::Pod => {
            if well_formed && (!plain || standard) && !of_pods(name) {
                problems.unsupported(path, name, &["cpu", HUGE_PAGES, "memory"]);
            }
        }
    }
}

/// Whether a pod as a whole can have the resource.
fn of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with(HUGE_PAGES)
}

/// What the containers need together is within what the pod has.
fn consistency(spec: &Value, path: &Path, problems: &mut Problems) {
    let resources = &spec["resources"];
    for (name, sum) in together(spec, "requests") {
        let own = &resources["requests"][&name];
        if quantity(own).is_some_and(|own| sum > own) {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            problems.invalid(&path.field("requests").key(&name), own.clone(), why);
        }
    }
    for (name, sum) in together(spec, "limits").into_iter().filter(|(name, _)| name.starts_with(HUGE_PAGES)) {
        let own = &resources["limits"][&name];
        if quantity(own).is_some_and(|own| sum > own) {
            let why = format!("must be greater than or equal to aggregate container limits of {sum}");
            problems.invalid(&path.field("limits").key(&name), own.clone(), why);
        }
    }
    for (index, container) in items(&spec["containers"]).iter().enumerate() {
        for (name, limit) in members(&container["resources"]["limits"]) {
            let own = quantity(&resources["limits"][name]);
            if let (Some(limit), Some(own)) = (quantity(limit), own)
                && limit > own
            {
                let path = path.field("containers").index(index).key(name).field("limits");
                problems.invalid(
                    &path,
                    limit.to_string(),
                    format!("must be less than or equal to pod limits of {own}"),
                );
            }
        }
    }
}

type List = BTreeMap<String, Quantity>;

/// What all containers need at once at the most: sidecars stay while the init containers after them run.
fn together(spec: &Value, field: &str) -> List {
    let of = |container: &Value| -> List {
        let list = members(&container["resources"][field]);
        list.filter_map(|(name, value)| Some((name.clone(), quantity(value)?))).collect()
    };
    let add = |sum: &mut List, more: &List| {
        for (name, amount) in more {
            let before = sum.get(name).copied().filter(|q| !q.is_zero());
            sum.insert(name.clone(), before.map_or(*amount, |before| before.plus(*amount)));
        }
    };
    let raise = |most: &mut List, other: &List| {
        for (name, amount) in other {
            if most.get(name).is_none_or(|before| amount > before) {
                most.insert(name.clone(), *amount);
            }
        }
    };
    let (mut running, mut starting, mut sidecars) = (List::new(), List::new(), List::new());
    items(&spec["containers"]).iter().for_each(|container| add(&mut running, &of(container)));
    for container in items(&spec["initContainers"]) {
        let own = of(container);
        if container["restartPolicy"] == "Always" {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut needed = own;
            add(&mut needed, &sidecars);
            raise(&mut starting, &needed);
        }
    }
    raise(&mut running, &starting);
    running
}

/// Fills in what a new pod's own requests and limits leave out, from those of its containers, whose defaults are
/// there.
pub(super) fn fill_pod(spec: &mut Value) {
    let own = |spec: &Value, field: &str| members(&spec["resources"][field]).count() > 0;
    if !own(spec, "requests") && !own(spec, "limits") {
        return;
    }
    let (requests, limits) = (together(spec, "requests"), together(spec, "limits"));
    let everywhere = limited_everywhere(spec);
    let Some(resources) = spec.as_object_mut().and_then(|spec| member_mut(spec, "resources")) else { return };
    let set = |resources: &mut Map<String, Value>, field: &str, name: &str, amount: Quantity| {
        ensure(resources, field).entry(name).or_insert_with(|| amount.to_string().into());
    };
    let has = |resources: &Map<String, Value>, field: &str, name: &str| {
        resources.get(field).is_some_and(|list| !list[name].is_null())
    };
    for (name, amount) in limits.iter().filter(|(name, _)| name.starts_with(HUGE_PAGES)) {
        if !has(resources, "requests", name) {
            set(resources, "limits", name, *amount);
        }
    }
    for (name, amount) in requests.iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")) {
        set(resources, "requests", name, *amount);
    }
    let limited = resources.get("limits").cloned().unwrap_or_default();
    for (name, amount) in members(&limited).filter(|(name, _)| of_pods(name)) {
        if let Some(amount) = quantity(amount) {
            set(resources, "requests", name, amount);
        }
    }
    let requested = resources.get("requests").cloned().unwrap_or_default();
    for (name, request) in members(&requested).filter(|(name, _)| of_pods(name) && everywhere.contains(*name))
    {
        if let (Some(sum), Some(request)) = (limits.get(name), quantity(request)) {
            set(resources, "limits", name, request.max(*sum));
        }
    }
}

/// The resources that every container has a limit for.
fn limited_everywhere(spec: &Value) -> BTreeSet<String> {
    let mut common: Option<BTreeSet<String>> = None;
    each_container(spec, &Path::default(), |container, _| {
        let own = members(&container["resources"]["limits"]).map(|(name, _)| name.clone()).collect();
        common = Some(match common.take() {
            Some(before) => &before & &own,
            None => own,
        });
    });
    common.unwrap_or_default()
}
