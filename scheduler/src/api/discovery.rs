//! Discovery: which groups, versions and resources the API serves, in the legacy form and in the aggregated one
//! that kubectl asks for by its Accept header. Made from the kind table, so a kind is listed exactly when it is
//! served.

use std::{cmp::Reverse, collections::BTreeMap};

use serde_json::{Value, json};

use super::negotiate::Clause;
use crate::{
    kinds::{Catalogue, Kind, Scope, Subresource},
    model::Resource,
};

/// A resource without stored objects, served by code of its own.
pub(super) struct Extra {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    singular: &'static str,
    pub(super) kind: &'static str,
    /// Name of the OpenAPI definition.
    pub(super) definition: &'static str,
    pub(super) scope: Scope,
    pub(super) verbs: &'static [&'static str],
}

/// All of them.
pub(super) const EXTRAS: [Extra; 8] = [
    Extra {
        group: "",
        version: "v1",
        plural: "bindings",
        singular: "binding",
        kind: "Binding",
        definition: "io.k8s.api.core.v1.Binding",
        scope: Scope::Namespaced,
        verbs: &["create"],
    },
    Extra {
        group: "authentication.k8s.io",
        version: "v1",
        plural: "selfsubjectreviews",
        singular: "selfsubjectreview",
        kind: "SelfSubjectReview",
        definition: "io.k8s.api.authentication.v1.SelfSubjectReview",
        scope: Scope::Cluster,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectaccessreviews",
        singular: "selfsubjectaccessreview",
        kind: "SelfSubjectAccessReview",
        definition: "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
        scope: Scope::Cluster,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "selfsubjectrulesreviews",
        singular: "selfsubjectrulesreview",
        kind: "SelfSubjectRulesReview",
        definition: "io.k8s.api.authorization.v1.SelfSubjectRulesReview",
        scope: Scope::Cluster,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "subjectaccessreviews",
        singular: "subjectaccessreview",
        kind: "SubjectAccessReview",
        definition: "io.k8s.api.authorization.v1.SubjectAccessReview",
        scope: Scope::Cluster,
        verbs: &["create"],
    },
    Extra {
        group: "authorization.k8s.io",
        version: "v1",
        plural: "localsubjectaccessreviews",
        singular: "localsubjectaccessreview",
        kind: "LocalSubjectAccessReview",
        definition: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
        scope: Scope::Namespaced,
        verbs: &["create"],
    },
    Extra {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural: "nodes",
        singular: "",
        kind: "NodeMetrics",
        definition: "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics",
        scope: Scope::Cluster,
        verbs: &["get", "list"],
    },
    Extra {
        group: "metrics.k8s.io",
        version: "v1beta1",
        plural: "pods",
        singular: "",
        kind: "PodMetrics",
        definition: "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics",
        scope: Scope::Namespaced,
        verbs: &["get", "list"],
    },
];

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The form that a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `APIGroupList` and `APIResourceList`.
    Legacy,
    /// `APIGroupDiscoveryList`, of this version of `apidiscovery.k8s.io`.
    Aggregated(&'static str),
}

impl Form {
    /// The aggregated form that a clause of an `Accept` header asks for.
    pub(super) fn of(clause: &Clause<'_>) -> Option<Self> {
        let wanted = (clause.parameter("g"), clause.parameter("as"));
        if wanted != ("apidiscovery.k8s.io", "APIGroupDiscoveryList") {
            return None;
        }
        AGGREGATED.into_iter().find(|version| *version == clause.parameter("v")).map(Self::Aggregated)
    }

    /// What stands behind the media type of an answer in this form.
    pub(super) fn parameters(self) -> Option<String> {
        match self {
            Self::Legacy => None,
            Self::Aggregated(version) => {
                Some(format!(";g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList"))
            }
        }
    }
}

/// The versions of the aggregated form.
const AGGREGATED: [&str; 1] = ["v2"];

/// `/api`; `server` is the address that clients reach us at, `10.0.0.1:6443`.
pub fn core(kinds: &Catalogue, form: Form, server: &str) -> Value {
    match form {
        Form::Legacy => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server}],
        }),
        Form::Aggregated(version) => aggregated(kinds, version, &[("", vec!["v1"])]),
    }
}

/// `/apis`.
pub fn groups(kinds: &Catalogue, form: Form) -> Value {
    let groups = group_versions(kinds);
    match form {
        Form::Legacy => {
            let groups: Vec<Value> =
                groups.iter().map(|(name, versions)| described(name, versions)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        Form::Aggregated(version) => aggregated(kinds, version, &groups),
    }
}

/// `/apis/{group}`; `None` when there is no such group.
pub fn group(kinds: &Catalogue, name: &str) -> Option<Value> {
    let groups = group_versions(kinds);
    let (_, versions) = groups.iter().find(|(group, _)| *group == name)?;
    let mut out = described(name, versions);
    out["kind"] = "APIGroup".into();
    out["apiVersion"] = "v1".into();
    Some(out)
}

/// A group with its versions, of which the first is preferred.
fn described(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

/// `/api/v1` (empty group) and `/apis/{group}/{version}`; `None` when there is no such version.
pub fn resources(kinds: &Catalogue, group: &str, version: &str) -> Option<Value> {
    let mut resources: Vec<Value> = Vec::new();
    for kind in kinds.all().iter().filter(|kind| kind.is_of(group, version)) {
        resources.push(legacy_resource(kind));
        resources.extend(kind.subresources.iter().map(|sub| legacy_subresource(kind, *sub)));
    }
    resources.extend(EXTRAS.iter().filter(|e| (e.group, e.version) == (group, version)).map(|e| {
        json!({"name": e.plural, "singularName": e.singular, "namespaced": e.scope == Scope::Namespaced,
            "kind": e.kind, "verbs": e.verbs})
    }));
    if resources.is_empty() {
        return None;
    }
    sort(&mut resources, "name");
    let mut list = json!({"kind": "APIResourceList", "resources": resources});
    if group.is_empty() {
        // As upstream: the first version of all is older than the versions of lists.
        list["groupVersion"] = version.into();
    } else {
        list["apiVersion"] = "v1".into();
        list["groupVersion"] = format!("{group}/{version}").into();
    }
    Some(list)
}

fn sort(resources: &mut [Value], field: &str) {
    resources.sort_by(|a, b| a[field].as_str().cmp(&b[field].as_str()));
}

/// Whether a group is served, or is one of Kubernetes' own that comes later. Of all others upstream knows nothing at all.
pub(super) fn is_known(kinds: &Catalogue, group: &str) -> bool {
    ORDER.contains(&group) || group_versions(kinds).iter().any(|(served, _)| *served == group)
}

/// The order in which upstream lists its groups, by which clients choose between kinds of one name. Others follow.
const ORDER: [&str; 21] = [
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "storagemigration.k8s.io",
];

/// The named groups in upstream's order, each with its versions, the preferred one first.
pub fn group_versions(kinds: &Catalogue) -> Vec<(&str, Vec<&str>)> {
    let mut groups: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let kinds = kinds.all().iter().map(|kind| (&*kind.group, &*kind.version));
    for (group, version) in kinds.chain(EXTRAS.iter().map(|extra| (extra.group, extra.version))) {
        let versions = groups.entry(group).or_default();
        if !group.is_empty() && !versions.contains(&version) {
            versions.push(version);
        }
    }
    groups.remove("");
    let mut all: Vec<_> = groups.into_iter().collect();
    all.iter_mut()
        .for_each(|(_, versions)| versions.sort_by_cached_key(|version| Reverse(maturity(version))));
    all.sort_by_key(|(group, _)| ORDER.iter().position(|known| known == group).unwrap_or(ORDER.len()));
    all
}

/// Orders versions as upstream does: stable ones above betas above alphas, the higher number first; what is not written
/// so stands below, by its name.
fn maturity(version: &str) -> (u8, u64, u64, Reverse<String>) {
    let parsed = version.strip_prefix('v').and_then(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (major, stage) = (rest[..end].parse::<u64>().ok()?, &rest[end..]);
        let staged = |name: &str| stage.strip_prefix(name).and_then(|minor| minor.parse::<u64>().ok());
        match stage {
            "" => Some((3, major, 0)),
            _ => staged("beta")
                .map(|minor| (2, major, minor))
                .or_else(|| staged("alpha").map(|minor| (1, major, minor))),
        }
    });
    let (stage, major, minor) = parsed.unwrap_or_default();
    (stage, major, minor, Reverse(if stage == 0 { version.to_owned() } else { String::new() }))
}

fn verbs(kind: &Kind) -> Vec<&'static str> {
    // Namespaces go one by one: each takes its content along.
    let collection = kind.resource != Resource::NAMESPACES;
    VERBS.into_iter().filter(|verb| collection || *verb != "deletecollection").collect()
}

/// What a subresource is called, which (group, version, kind) it speaks and what can be done with it. An empty
/// kind is that of the object itself.
fn subresource(
    kind: &Kind,
    sub: Subresource,
) -> (&'static str, (&'static str, &'static str, &'static str), &'static [&'static str]) {
    let write: &[&str] = &["get", "patch", "update"];
    let connect: &[&str] = &["create", "get"];
    match sub {
        Subresource::Status => ("status", ("", "", ""), write),
        Subresource::Scale => ("scale", ("autoscaling", "v1", "Scale"), write),
        Subresource::Binding => ("binding", ("", "v1", "Binding"), &["create"]),
        Subresource::Log => ("log", ("", "", ""), &["get"]),
        Subresource::Exec => ("exec", ("", "v1", "PodExecOptions"), connect),
        Subresource::Attach => ("attach", ("", "v1", "PodAttachOptions"), connect),
        Subresource::PortForward => ("portforward", ("", "v1", "PodPortForwardOptions"), connect),
        Subresource::Proxy => {
            let options = match kind.resource {
                Resource::PODS => "PodProxyOptions",
                Resource::SERVICES => "ServiceProxyOptions",
                _ => "NodeProxyOptions",
            };
            ("proxy", ("", "v1", options), &["create", "delete", "get", "patch", "update"])
        }
        Subresource::Eviction => ("eviction", ("policy", "v1", "Eviction"), &["create"]),
        Subresource::Finalize => ("finalize", ("", "", ""), &["update"]),
    }
}

fn legacy_resource(kind: &Kind) -> Value {
    let mut out = json!({
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.scope == Scope::Namespaced,
        "kind": kind.kind,
        "verbs": verbs(kind),
    });
    for (name, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            out[name] = json!(list);
        }
    }
    out
}

fn legacy_subresource(kind: &Kind, sub: Subresource) -> Value {
    let (name, (group, version, response), verbs) = subresource(kind, sub);
    let mut out = json!({
        "name": format!("{}/{name}", kind.plural),
        "singularName": "",
        "namespaced": kind.scope == Scope::Namespaced,
        "kind": if response.is_empty() { &kind.kind } else { response },
        "verbs": verbs,
    });
    if !group.is_empty() {
        out["group"] = json!(group);
        out["version"] = json!(version);
    }
    out
}

fn aggregated(kinds: &Catalogue, form: &str, groups: &[(&str, Vec<&str>)]) -> Value {
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let mut metadata = json!({});
            if !group.is_empty() {
                metadata["name"] = json!(group);
            }
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let kinds = kinds.all().iter().filter(|kind| kind.is_of(group, version));
                    let extras = EXTRAS.iter().filter(|e| (e.group, e.version) == (*group, *version));
                    let mut resources: Vec<Value> = kinds
                        .map(|kind| aggregated_resource(kind))
                        .chain(extras.map(aggregated_extra))
                        .collect();
                    sort(&mut resources, "resource");
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{form}"),
        "metadata": {}, "items": items})
}

fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Namespaced => "Namespaced",
        Scope::Cluster => "Cluster",
    }
}

fn aggregated_resource(kind: &Kind) -> Value {
    // Group and version are only told where they are not those of the list.
    let response =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let own = response("", "", &kind.kind);
    let mut out = json!({
        "resource": kind.plural,
        "responseKind": own,
        "scope": scope_name(kind.scope),
        "singularResource": kind.singular,
        "verbs": verbs(kind),
    });
    for (name, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            out[name] = json!(list);
        }
    }
    let mut subresources: Vec<Value> = kind
        .subresources
        .iter()
        .map(|sub| {
            let (name, (group, version, response_kind), verbs) = subresource(kind, *sub);
            let response = match response_kind {
                "" => own.clone(),
                kind if group.is_empty() => response("", "", kind),
                kind => response(group, version, kind),
            };
            json!({"subresource": name, "responseKind": response, "verbs": verbs})
        })
        .collect();
    sort(&mut subresources, "subresource");
    if !subresources.is_empty() {
        out["subresources"] = subresources.into();
    }
    out
}

fn aggregated_extra(extra: &Extra) -> Value {
    json!({
        "resource": extra.plural,
        "responseKind": {"group": "", "version": "", "kind": extra.kind},
        "scope": scope_name(extra.scope),
        "singularResource": extra.singular,
        "verbs": extra.verbs,
    })
}

#[cfg(test)]
mod tests;
