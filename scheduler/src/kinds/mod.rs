//! The kind table: everything the generic REST machine needs to know of a kind, as one row. Adding a kind is
//! adding a row (and its validation), never a handler. Rows are pure: no IO, no clock, no store.

mod base;
mod bodies;
mod cluster;
mod config;
pub mod decode;
mod endpoints;
mod events;
mod fields;
mod ingress;
mod json;
pub mod pod;
mod print;
pub mod quantity;
mod replication;
mod runtime_class;
pub mod schema;
pub(crate) mod service;
mod table;
mod validate;
pub mod wire;
mod workload;

use serde_json::Value;

use crate::model::{Cause, Resource};
pub use bodies::{body_of, check_binding};
pub use fields::unset_field;
pub use print::{SCALE_COLUMNS, description, scale_cells};
pub(crate) use validate::addresses::{meant_address, meant_range};

/// The version of Kubernetes whose types and behaviour we follow.
pub const KUBERNETES_VERSION: &str = "v1.37.0";

/// The annotation that makes an IngressClass the one of Ingresses that name none.
pub const DEFAULT_CLASS: &str = "ingressclass.kubernetes.io/is-default-class";

/// Every kind, in the order of discovery.
pub fn all() -> &'static [Kind] {
    table::KINDS
}

/// The kind stored under `resource`. Never a view.
pub fn by_resource(resource: Resource) -> Option<&'static Kind> {
    all().iter().find(|k| k.resource == resource && k.view.is_none())
}

/// The kind served at `/apis/{group}/{version}/{plural}` (`/api/{version}/{plural}` for the empty group).
pub fn by_path(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.group == group && k.version == version && k.plural == plural)
}

/// The kind that objects name themselves after.
pub fn by_gvk(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    all().iter().find(|k| k.group == group && k.version == version && k.kind == kind)
}

/// The row that serves what `kind` serves at another version, and how an object becomes one of it.
pub fn in_version(kind: &Kind, version: &str) -> Option<(&'static Kind, impl Fn(&Value) -> Value)> {
    let other = all().iter().find(|k| k.resource == kind.resource && k.api_version() == version)?;
    let (from, to) =
        (kind.view.as_ref().map(|view| view.to_stored), other.view.as_ref().map(|view| view.from_stored));
    Some((other, move |object: &Value| {
        let stored = from.map(|from| from(object));
        let stored = stored.as_ref().unwrap_or(object);
        to.map_or_else(|| stored.clone(), |to| to(stored))
    }))
}

/// Brings an object, as an earlier version stored it, into the form that one has which is stored today: with today's
/// defaults, and with all that it always shows. What is in this form already stays as it is.
pub fn upgrade(resource: Resource, object: &mut Value) {
    let Some(kind) = by_resource(resource) else { return };
    (kind.defaults)(object);
    schema::complete(kind.definition, object);
    schema::settle(kind.definition, object);
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

/// Whether objects live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// Once per cluster.
    Cluster,
}

/// Subresources with a path of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: writes touch status (and metadata that status writers own) only.
    Status,
    /// `scale`: an autoscaling/v1 Scale view of the object.
    Scale,
    /// `pods/binding`
    Binding,
    /// `pods/log`
    Log,
    /// `pods/exec`
    Exec,
    /// `pods/attach`
    Attach,
    /// `pods/portforward`
    PortForward,
    /// `pods/proxy`, `services/proxy`, `nodes/proxy`: what comes after it in the path is the backend's.
    Proxy,
    /// `pods/eviction`
    Eviction,
    /// `namespaces/finalize`
    Finalize,
}

impl Subresource {
    /// As it is in paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
            Self::Eviction => "eviction",
            Self::Finalize => "finalize",
        }
    }
}

/// A column of the server-side table that `kubectl get` prints.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: &'static str,
    /// OpenAPI format, mostly empty; `name` for the name column.
    pub format: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    /// Help text.
    pub description: &'static str,
}

/// How a kind that is stored in another kind's form is shown: both ways, over whole objects.
pub struct View {
    /// From the stored form to this kind's.
    pub from_stored: fn(&Value) -> Value,
    /// From this kind's form to the stored one.
    pub to_stored: fn(&Value) -> Value,
}

/// One kind.
pub struct Kind {
    /// Storage identity.
    pub resource: Resource,
    /// API group, empty for core.
    pub group: &'static str,
    /// API version: `v1`.
    pub version: &'static str,
    /// `Pod`
    pub kind: &'static str,
    /// `pods`
    pub plural: &'static str,
    /// `pod`
    pub singular: &'static str,
    /// `po`
    pub short_names: &'static [&'static str],
    /// `all`
    pub categories: &'static [&'static str],
    /// Namespaced or not.
    pub scope: Scope,
    /// Paths below the object.
    pub subresources: &'static [Subresource],
    /// Name of the OpenAPI definition: `io.k8s.api.core.v1.Pod`.
    pub definition: &'static str,
    /// Fields a field selector may use besides `metadata.name` and `metadata.namespace`, with their JSON path; `a|b` is
    /// the first of them that is not empty.
    pub fields: &'static [&'static str],
    /// Other names of fields in field selectors, each with the indexed path that it means.
    pub labels: &'static [(&'static str, &'static str)],
    /// Whether `metadata.generation` counts changes, beginning with 1.
    pub generation: bool,
    /// Whether an update changes what `metadata.generation` counts, given (new, old): mostly the spec.
    pub counts: fn(&Value, &Value) -> bool,
    /// What a write of `status` leaves as it was, as paths.
    pub status_keeps: &'static [&'static [&'static str]],
    /// Whether a `PUT` of an object that is not there makes it.
    pub create_on_update: bool,
    /// Whether upstream answers its readers from a cache, which does not page and waits for versions to come.
    pub cached: bool,
    /// Whether a `PUT` must name the `resourceVersion` that it replaces.
    pub revision_on_update: bool,
    /// Set for a kind that shows objects stored as another (`events.k8s.io` over core events). Defaults,
    /// preparation, validation and table cells all see the stored form.
    pub view: Option<View>,
    /// Fills in what upstream fills in when a client leaves it out.
    pub defaults: fn(&mut Value),
    /// Called on create between defaults and admission: drops what a client may not set (status, ...).
    pub prepare_create: fn(&mut Value),
    /// Called on update of the main resource with (new, old): carries over what a client may not change
    /// (status), before validation.
    pub prepare_update: fn(&mut Value, &Value),
    /// The same for a write of `status`.
    pub prepare_status: fn(&mut Value, &Value),
    /// Validates the whole object; `old` is there on update. Empty when valid.
    pub validate: fn(&Value, Option<&Value>) -> Vec<Cause>,
    /// Validates what a write of `status` or `finalize` made, given (subresource, new, old).
    pub validate_sub: fn(Subresource, &Value, &Value) -> Vec<Cause>,
    /// Warnings shown by kubectl (`Warning:` header) about a legal object.
    pub warnings: fn(&Value) -> Vec<String>,
    /// The same about a new object as its client meant it: with defaults, before anything is prepared.
    pub early_warnings: fn(&Value) -> Vec<String>,
    /// The same for an update, given (new, old).
    pub update_warnings: fn(&Value, &Value) -> Vec<String>,
    /// The same about what a write of `status` made.
    pub status_warnings: fn(&Value) -> Vec<String>,
    /// Whether a deletion that does not say otherwise leaves the dependents behind.
    pub orphans: bool,
    /// What to use instead, for kubectl to show with every answer.
    pub deprecated: Option<&'static str>,
    /// Table columns.
    pub columns: &'static [Column],
    /// Cells of one object in the order of `columns`; the second argument is now, in Unix
    /// seconds, for ages.
    pub cells: fn(&Value, i64) -> Vec<Value>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kind").field("group", &self.group).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Kind {
    /// `v1` or `apps/v1`, as objects spell it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether the kind has this subresource.
    pub fn has(&self, sub: Subresource) -> bool {
        self.subresources.contains(&sub)
    }
}
