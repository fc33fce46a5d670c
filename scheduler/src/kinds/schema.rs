//! The Kubernetes types as data: which fields each type has, of what type they are, and how its lists and maps
//! merge. Strict decoding, strategic merge and server-side apply walk objects along it.
//!
//! In: the JSON schemas of `k8s-openapi`, the merge facts in `schema/list-facts.txt` and the presence facts of
//! `presence`. Built once, on first use, and never changed.

mod presence;
mod structural;

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    sync::{Arc, LazyLock, OnceLock},
};

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

use k8s_openapi::{
    api::{authentication, authorization, autoscaling, core, policy},
    apimachinery::pkg::{apis::meta::v1 as meta, version},
};

pub use presence::{Presence, complete, drop_empties, settle};

/// The type of a field, list item or map value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// Text holding base64.
    Bytes,
    /// An instant in RFC 3339, whole seconds.
    Time,
    /// An instant in RFC 3339 with microseconds.
    MicroTime,
    /// An integer of 32 bits.
    Int32,
    /// An integer of 64 bits.
    Int64,
    /// A floating-point number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A port or share: a number or text.
    IntOrString,
    /// A resource quantity: text or a number.
    Quantity,
    /// An object of this type.
    Object(ObjectType),
    /// A list.
    List(Box<Type>),
    /// Free keys, values of one type.
    Map(Box<Type>),
    /// Anything at all.
    Any,
}

/// The type of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectType {
    /// One of the published types.
    Published(Published),
    /// One that its kind brought along, with the name that it is published under.
    Own(Arc<(String, Definition)>),
}

/// A published type by its name, and where it is once somebody has looked: every walk over an object asks at each of its
/// parts, and the names of hundreds of types differ in their last letters only.
#[derive(Clone)]
pub struct Published {
    name: Cow<'static, str>,
    found: OnceLock<Option<&'static Definition>>,
}

impl PartialEq for Published {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Published {}

impl fmt::Debug for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl ObjectType {
    /// The published type of this name.
    pub const fn published(name: &'static str) -> Self {
        Self::named(Cow::Borrowed(name))
    }

    /// As [`ObjectType::published`], of a name that was made.
    pub const fn named(name: Cow<'static, str>) -> Self {
        Self::Published(Published { name, found: OnceLock::new() })
    }

    /// `io.k8s.api.core.v1.PodSpec`
    pub fn name(&self) -> &str {
        match self {
            Self::Published(published) => &published.name,
            Self::Own(own) => &own.0,
        }
    }

    /// What is known of it; `None` of a published name that no kind reaches.
    pub fn definition(&self) -> Option<&Definition> {
        match self {
            Self::Published(published) => {
                *published.found.get_or_init(|| schema().definition(&published.name))
            }
            Self::Own(own) => Some(&own.1),
        }
    }
}

/// How server-side apply merges a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// As a whole.
    #[default]
    Atomic,
    /// By value.
    Set,
    /// By the values of these fields.
    Map(Vec<String>),
}

/// One field of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its type.
    pub ty: Type,
    /// For lists: how server-side apply merges them.
    pub list: ListKind,
    /// Objects and maps: owned and replaced as a whole by server-side apply.
    pub atomic: bool,
    /// Strategic merge: lists are merged (by `merge_key`, or by value without one) rather than replaced.
    pub merge: bool,
    /// Strategic merge: `$retainKeys` applies.
    pub retain_keys: bool,
    /// Strategic merge: the field that tells items apart.
    pub merge_key: Option<String>,
    /// What the type itself says that an absent field means.
    pub default: Option<Value>,
    /// What it means that the field is not there.
    pub presence: Presence,
    /// An empty list or map is told from absence until the object is stored: something refuses what is there.
    pub kept_empty: bool,
}

/// An object type.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definition {
    /// By JSON name.
    pub fields: BTreeMap<String, Field>,
    /// The fields that an object always shows, as they look when nobody set them.
    pub shown: Vec<(String, Value)>,
    /// Owned and replaced as a whole by server-side apply.
    pub atomic: bool,
}

/// All types that the kinds reach.
#[derive(Debug)]
pub struct Schema {
    definitions: BTreeMap<String, Definition>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let mut schema = Schema::from_json(&definitions());
    schema.add_facts();
    presence::add_facts(&mut schema);
    schema
});

const LIST_FACTS: &str = include_str!("../../schema/list-facts.txt");

/// The schema of every kind.
pub fn schema() -> &'static Schema {
    &SCHEMA
}

/// The JSON schemas of every type that the kinds reach, by name, as `k8s-openapi` gives them.
pub fn definitions() -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into());
    let mut generator = settings.into_generator();
    add_roots(&mut generator);
    generator.take_definitions(false)
}

fn add_roots(generator: &mut SchemaGenerator) {
    fn add<T: JsonSchema>(generator: &mut SchemaGenerator) {
        generator.subschema_for::<T>();
    }
    super::describe(generator);
    add::<core::v1::Binding>(generator);
    add::<autoscaling::v1::Scale>(generator);
    add::<policy::v1::Eviction>(generator);
    add::<authentication::v1::SelfSubjectReview>(generator);
    add::<authorization::v1::LocalSubjectAccessReview>(generator);
    add::<authorization::v1::SelfSubjectAccessReview>(generator);
    add::<authorization::v1::SelfSubjectRulesReview>(generator);
    add::<authorization::v1::SubjectAccessReview>(generator);
    add::<meta::DeleteOptions>(generator);
    add::<meta::Status>(generator);
    add::<meta::APIVersions>(generator);
    add::<meta::APIGroupList>(generator);
    add::<meta::APIResourceList>(generator);
    add::<version::Info>(generator);
}

impl Schema {
    /// The type with this name (`io.k8s.api.core.v1.PodSpec`).
    pub fn definition(&self, name: &str) -> Option<&Definition> {
        self.definitions.get(name)
    }

    /// The names of all types.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.definitions.keys().map(String::as_str)
    }

    fn from_json(json: &Map<String, Value>) -> Self {
        let mut definitions = BTreeMap::new();
        for (name, node) in json {
            let Some(properties) = node.get("properties").and_then(Value::as_object) else { continue };
            let fields =
                properties.iter().map(|(field, node)| (field.clone(), Field::new(type_of(node, json))));
            definitions
                .insert(name.clone(), Definition { fields: fields.collect(), ..Definition::default() });
        }
        Self { definitions }
    }

    /// Facts of types that no kind reaches are skipped.
    fn add_facts(&mut self) {
        for fact in facts() {
            let Some(definition) = self.definitions.get_mut(fact.definition) else { continue };
            match fact.field {
                None => definition.atomic = fact.words().any(|word| word == ("map", "atomic")),
                Some(field) => {
                    if let Some(field) = definition.fields.get_mut(field) {
                        fact.words().for_each(|word| field.add_fact(word));
                    }
                }
            }
        }
    }
}

/// One line of the merge facts.
#[derive(Clone, Copy, Debug)]
pub struct Fact {
    /// The type.
    pub definition: &'static str,
    /// Its field; `None` when the fact is about the type as a whole.
    pub field: Option<&'static str>,
    words: &'static str,
}

impl Fact {
    /// `("list", "map")`, `("keys", "name")`, ...
    pub fn words(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.words.split(' ').filter_map(|word| word.split_once('='))
    }
}

/// The merge facts; see `schema/facts.py`.
pub fn facts() -> impl Iterator<Item = Fact> {
    LIST_FACTS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let (definition, rest) = line.split_once(' ')?;
        let (field, words) = rest.split_once(' ')?;
        Some(Fact { definition, field: (field != "-").then_some(field), words })
    })
}

impl Field {
    /// The value by which an item without the field is told apart, where the field is a key of the list.
    pub fn key_default(&self) -> Option<&Value> {
        match &self.presence {
            Presence::Shown(zero) if !zero.is_null() => self.default.as_ref().or(Some(zero)),
            _ => self.default.as_ref(),
        }
    }

    fn new(ty: Type) -> Self {
        Self {
            ty,
            list: ListKind::Atomic,
            atomic: false,
            merge: false,
            retain_keys: false,
            merge_key: None,
            default: None,
            presence: Presence::Optional,
            kept_empty: false,
        }
    }

    fn add_fact(&mut self, word: (&str, &str)) {
        match word {
            ("list", "set") => self.list = ListKind::Set,
            ("keys", keys) => self.list = ListKind::Map(keys.split(',').map(str::to_owned).collect()),
            ("map", "atomic") => self.atomic = true,
            ("patch", strategy) => {
                self.merge = strategy.split(',').any(|s| s == "merge");
                self.retain_keys = strategy.split(',').any(|s| s == "retainKeys");
            }
            ("key", key) => self.merge_key = Some(key.to_owned()),
            _ => {}
        }
    }
}

fn type_of(node: &Value, all: &Map<String, Value>) -> Type {
    if let Some(reference) = node.get("$ref").and_then(Value::as_str) {
        let name = reference.rsplit('/').next().unwrap_or(reference);
        return named_type(name, all);
    }
    match node.get("type").and_then(Value::as_str) {
        Some("string") => match node.get("format").and_then(Value::as_str) {
            Some("byte") => Type::Bytes,
            _ => Type::String,
        },
        Some("integer") => match node.get("format").and_then(Value::as_str) {
            Some("int32") => Type::Int32,
            _ => Type::Int64,
        },
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some("array") => Type::List(Box::new(node.get("items").map_or(Type::Any, |n| type_of(n, all)))),
        Some("object") => match node.get("additionalProperties") {
            Some(values) if values.is_object() => Type::Map(Box::new(type_of(values, all))),
            _ => Type::Any,
        },
        _ => Type::Any,
    }
}

fn named_type(name: &str, all: &Map<String, Value>) -> Type {
    match name.rsplit('.').next().unwrap_or(name) {
        "Quantity" => Type::Quantity,
        "IntOrString" => Type::IntOrString,
        "Time" => Type::Time,
        "MicroTime" => Type::MicroTime,
        _ => match all.get(name) {
            Some(node) if node.get("properties").is_some() => {
                Type::Object(ObjectType::named(name.to_owned().into()))
            }
            Some(node) => type_of(node, all),
            None => Type::Any,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(definition: &str, name: &str) -> Field {
        schema().definition(definition).unwrap().fields[name].clone()
    }

    #[test]
    fn types_come_from_the_published_schemas() {
        let spec = |name| field("io.k8s.api.core.v1.PodSpec", name).ty;
        assert_eq!(spec("nodeName"), Type::String);
        assert_eq!(spec("terminationGracePeriodSeconds"), Type::Int64);
        assert_eq!(spec("nodeSelector"), Type::Map(Box::new(Type::String)));
        assert_eq!(
            spec("containers"),
            Type::List(Box::new(Type::Object(ObjectType::published("io.k8s.api.core.v1.Container"))))
        );
        assert_eq!(field("io.k8s.api.core.v1.Secret", "data").ty, Type::Map(Box::new(Type::Bytes)));
        let limits = field("io.k8s.api.core.v1.ResourceRequirements", "limits").ty;
        assert_eq!(limits, Type::Map(Box::new(Type::Quantity)));
        assert_eq!(field("io.k8s.api.core.v1.HTTPGetAction", "port").ty, Type::IntOrString);
        assert_eq!(field("io.k8s.api.coordination.v1.LeaseSpec", "renewTime").ty, Type::MicroTime);
    }

    #[test]
    fn merge_facts_are_joined_to_the_types() {
        let ports = field("io.k8s.api.core.v1.Container", "ports");
        assert_eq!(ports.list, ListKind::Map(vec!["containerPort".into(), "protocol".into()]));
        assert_eq!((ports.merge, ports.merge_key.as_deref()), (true, Some("containerPort")));
        let volumes = field("io.k8s.api.core.v1.PodSpec", "volumes");
        assert!(volumes.merge && volumes.retain_keys);
        assert!(field("io.k8s.api.core.v1.ServiceSpec", "selector").atomic);
        assert!(schema().definition("io.k8s.api.core.v1.SecretKeySelector").unwrap().atomic);
        let finalizers = field("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers");
        assert_eq!((finalizers.list, finalizers.merge), (ListKind::Set, true));
    }

    #[test]
    fn every_fact_names_a_field_that_exists() {
        let mut joined = 0;
        for fact in facts() {
            if let (Some(definition), Some(field)) = (schema().definition(fact.definition), fact.field) {
                assert!(definition.fields.contains_key(field), "{fact:?}");
                joined += 1;
            }
        }
        assert!(joined > 50, "{joined} facts are about types that we serve");
    }
}
