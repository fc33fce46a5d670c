//! What the generic REST machine needs to know of a kind: its names, its type, its paths and columns as data, and what
//! is special about its objects behind the trait [`Rules`]. Owns nothing else: which kinds there are is
//! [`super::Catalogue`]'s affair.

use std::{any::TypeId, borrow::Cow, sync::Arc};

use k8s_openapi::ClusterResourceScope;
use schemars::JsonSchema;
use serde_json::Value;

use super::schema::ObjectType;
use crate::model::{Cause, Paths, Resource};

/// A name that is known when we are built, or that came about later.
pub type Text = Cow<'static, str>;

/// Names that are known when we are built.
pub(super) fn texts<const N: usize>(names: [&'static str; N]) -> Vec<Text> {
    names.map(Cow::Borrowed).into()
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
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: Text,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: Text,
    /// OpenAPI format, mostly empty; `name` for the name column.
    pub format: Text,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    /// Help text. One that begins with `=` names a field of a published type, whose description it is.
    pub description: Text,
}

/// How objects of a kind become those of the version that is stored, and back: over whole objects.
pub trait Conversion: Send + Sync {
    /// From the stored form to this kind's.
    fn to_shown(&self, object: &Value) -> Value;
    /// From this kind's form to the stored one.
    fn to_stored(&self, object: &Value) -> Value;
}

/// What is special about the objects of a kind. All of it is pure, and all but the cells may be left out.
#[expect(unused_variables, reason = "the names of parameters say what they are")]
pub trait Rules: Send + Sync {
    /// Fills in what upstream fills in when a client leaves it out.
    fn defaults(&self, object: &mut Value) {}

    /// Called on create between defaults and admission: drops what a client may not set (status, ...).
    fn prepare_create(&self, new: &mut Value) {}

    /// Called on update of the main resource: carries over what a client may not change (status), before validation.
    fn prepare_update(&self, new: &mut Value, old: &Value) {}

    /// The same for a write of `status`.
    fn prepare_status(&self, new: &mut Value, old: &Value) {}

    /// Fields of the spec that their defaults make nobody the owner of: only who names one owns it.
    fn owned_if_named(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether an update changes what `metadata.generation` counts: mostly the spec.
    fn counts(&self, new: &Value, old: &Value) -> bool {
        wish_changed(new, old)
    }

    /// Validates the whole object; `old` is there on update. Empty when valid.
    fn validate(&self, new: &Value, old: Option<&Value>) -> Vec<Cause> {
        Vec::new()
    }

    /// Validates what a write of `status` or `finalize` made.
    fn validate_sub(&self, sub: Subresource, new: &Value, old: &Value) -> Vec<Cause> {
        Vec::new()
    }

    /// Warnings shown by kubectl (`Warning:` header) about a legal object.
    fn warnings(&self, new: &Value) -> Vec<String> {
        Vec::new()
    }

    /// The same about a new object as its client meant it: with defaults, before anything is prepared.
    fn early_warnings(&self, new: &Value) -> Vec<String> {
        Vec::new()
    }

    /// The same for an update.
    fn update_warnings(&self, new: &Value, old: &Value) -> Vec<String> {
        Vec::new()
    }

    /// The same about what a write of `status` made.
    fn status_warnings(&self, new: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Cells of one object in the order of the kind's columns; `now` in Unix seconds, for ages.
    fn cells(&self, object: &Value, now: i64) -> Vec<Value>;
}

/// Everything but what describes the object and what was observed.
fn wish_changed(new: &Value, old: &Value) -> bool {
    fn wish(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
        let fields = object.as_object().into_iter().flatten();
        fields.filter(|(name, _)| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata" | "status"))
    }
    wish(new).ne(wish(old))
}

/// One kind at one version.
#[derive(Clone)]
pub struct Kind {
    /// Storage identity: the same for all versions.
    pub resource: Resource,
    /// API group, empty for core.
    pub group: Text,
    /// API version: `v1`.
    pub version: Text,
    /// `Pod`
    pub kind: Text,
    /// `pods`
    pub plural: Text,
    /// `pod`
    pub singular: Text,
    /// `po`
    pub short_names: Vec<Text>,
    /// `all`
    pub categories: Vec<Text>,
    /// Namespaced or not.
    pub scope: Scope,
    /// Paths below the object.
    pub subresources: Vec<Subresource>,
    /// The type of its objects.
    pub ty: ObjectType,
    /// What OpenAPI says of the type, where it is not one of the published ones.
    pub described: Option<Arc<Value>>,
    /// Fields a field selector may use besides `metadata.name` and `metadata.namespace`, with their JSON path; `a|b` is
    /// the first of them that is not empty.
    pub fields: Paths,
    /// Other names of fields in field selectors, each with the indexed path that it means.
    pub labels: Vec<(Text, Text)>,
    /// Whether `metadata.generation` counts changes, beginning with 1.
    pub generation: bool,
    /// What a write of `status` leaves as it was, as paths.
    pub status_keeps: &'static [&'static [&'static str]],
    /// Whether a `PUT` of an object that is not there makes it.
    pub create_on_update: bool,
    /// Whether upstream answers its readers from a cache, which does not page and waits for versions to come.
    pub cached: bool,
    /// Whether a `PUT` must name the `resourceVersion` that it replaces.
    pub revision_on_update: bool,
    /// Set for a version that is not the one stored. Defaults, preparation, validation and table cells all see the
    /// stored form.
    pub view: Option<Arc<dyn Conversion>>,
    /// Whether a deletion that does not say otherwise leaves the dependents behind.
    pub orphans: bool,
    /// What to use instead, for kubectl to show with every answer.
    pub deprecated: Option<Text>,
    /// Table columns.
    pub columns: Cow<'static, [Column]>,
    /// What is special about it.
    pub rules: Arc<dyn Rules>,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kind").field("group", &self.group).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Kind {
    /// A kind of the published type `T`, which brings its names, its scope and its fields.
    pub(super) fn published<T>(rules: impl Rules + 'static) -> Self
    where
        T: k8s_openapi::Resource + JsonSchema,
        T::Scope: 'static,
    {
        let cluster = TypeId::of::<T::Scope>() == TypeId::of::<ClusterResourceScope>();
        Self {
            resource: Resource::named(T::URL_PATH_SEGMENT, T::GROUP),
            group: T::GROUP.into(),
            version: T::VERSION.into(),
            kind: T::KIND.into(),
            plural: T::URL_PATH_SEGMENT.into(),
            singular: T::KIND.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: if cluster { Scope::Cluster } else { Scope::Namespaced },
            subresources: Vec::new(),
            ty: ObjectType::named(T::schema_name()),
            described: None,
            fields: Paths::default(),
            labels: Vec::new(),
            generation: false,
            status_keeps: &[&["spec"]],
            create_on_update: false,
            cached: true,
            revision_on_update: false,
            view: None,
            orphans: false,
            deprecated: None,
            columns: Cow::Borrowed(&[]),
            rules: Arc::new(rules),
        }
    }

    /// `v1` or `apps/v1`, as objects spell it.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone().into_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// Whether it is served in this version of this group.
    pub fn is_of(&self, group: &str, version: &str) -> bool {
        self.group == group && self.version == version
    }

    /// Whether it is the version that is stored.
    pub fn is_stored(&self) -> bool {
        self.view.is_none()
    }

    /// Whether the kind has this subresource.
    pub fn has(&self, sub: Subresource) -> bool {
        self.subresources.contains(&sub)
    }
}
