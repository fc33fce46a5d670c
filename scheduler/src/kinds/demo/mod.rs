//! Demonstration kinds, in tests only. Widgets are built in, by this folder and one line of the list of kinds; Gadgets
//! come while we run, in two versions with a type of their own.

use std::{borrow::Cow, sync::Arc};

use k8s_openapi::NamespaceResourceScope;
use schemars::JsonSchema;
use serde_json::{Value, json};

use super::{
    Column, Conversion, Kind, Rules, Scope, Subresource,
    base::{drop_status, keep_status},
    json::{ensure, set_default},
    kind::texts,
    print::{AGE, NAME, age, column, integer, name},
    schema::ObjectType,
    validate::{Path, Problems, meta, names},
};
use crate::model::{Cause, Resource};

/// What a published type says of itself.
#[derive(JsonSchema)]
#[schemars(rename = "dev.gantry.demo.v1.Widget", rename_all = "camelCase")]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct Widget {
    #[schemars(with = "String")]
    api_version: Option<String>,
    #[schemars(with = "String")]
    kind: Option<String>,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    /// What is wished for.
    #[schemars(with = "WidgetSpec")]
    spec: Option<WidgetSpec>,
}

#[derive(JsonSchema)]
#[schemars(rename = "dev.gantry.demo.v1.WidgetSpec")]
#[expect(dead_code, reason = "only its schema is used")]
struct WidgetSpec {
    /// How large it is.
    #[schemars(with = "i32")]
    size: Option<i32>,
}

impl k8s_openapi::Resource for Widget {
    const API_VERSION: &'static str = "demo.gantry.dev/v1";
    const GROUP: &'static str = "demo.gantry.dev";
    const KIND: &'static str = "Widget";
    const VERSION: &'static str = "v1";
    const URL_PATH_SEGMENT: &'static str = "widgets";
    type Scope = NamespaceResourceScope;
}

/// The row of Widgets.
pub(super) fn kind() -> Kind {
    Kind {
        short_names: texts(["wi"]),
        subresources: vec![Subresource::Status],
        generation: true,
        columns: Cow::Borrowed(COLUMNS),
        ..Kind::published::<Widget>(Sized)
    }
}

const COLUMNS: &[Column] = &[NAME, column("Size", "integer", "How large it is."), AGE];

struct Sized;

impl Rules for Sized {
    fn defaults(&self, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            set_default(ensure(object, "spec"), "size", 1);
        }
    }

    fn prepare_create(&self, object: &mut Value) {
        drop_status(object);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        keep_status(new, old);
    }

    fn validate(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut problems = Problems::default();
        match old {
            None => meta::object_meta(object, names::dns_subdomain, &mut problems),
            Some(old) => meta::object_meta_update(object, old, &mut problems),
        }
        problems.not_negative(&Path::new("spec").field("size"), &object["spec"]["size"]);
        problems.into_causes()
    }

    fn cells(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![name(object), json!(integer(&object["spec"]["size"])), age(object, now)]
    }
}

/// The resource of Gadgets.
pub(crate) fn gadgets() -> Resource {
    Resource::named("gadgets", "demo.gantry.dev")
}

/// Gadgets: `v2` is stored, and `v1beta1` shows its size under another name. What it is made of grows with `fields`.
pub(crate) fn gadget(extra: &[&str]) -> Vec<Kind> {
    let row = |version: &'static str, size: &str, view: Option<Arc<dyn Conversion>>| {
        let mut spec = json!({size: {"type": "integer", "format": "int32"}});
        for field in extra {
            spec[*field] = json!({"type": "string"});
        }
        let parts = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "of": {"type": "string"}}}});
        spec["parts"] = parts;
        let described = json!({"type": "object", "properties": {"apiVersion": {"type": "string"}, "kind":
            {"type": "string"}, "metadata": {"type": "object"}, "spec": {"type": "object", "properties": spec}}});
        let name = format!("dev.gantry.demo.{version}.Gadget");
        Kind {
            resource: gadgets(),
            version: version.into(),
            kind: "Gadget".into(),
            plural: "gadgets".into(),
            singular: "gadget".into(),
            short_names: texts(["ga"]),
            scope: Scope::Namespaced,
            ty: ObjectType::described(&name, &described),
            described: Some(Arc::new(described)),
            fields: [Cow::Borrowed("spec.size")]
                .into_iter()
                .chain(extra.iter().map(|field| format!("spec.{field}").into()))
                .collect(),
            view,
            ..kind()
        }
    };
    vec![row("v2", "size", None), row("v1beta1", "width", Some(Arc::new(Narrow)))]
}

/// What is called size since was a width before.
struct Narrow;

impl Conversion for Narrow {
    fn to_shown(&self, object: &Value) -> Value {
        renamed(object, "v1beta1", "size", "width")
    }

    fn to_stored(&self, object: &Value) -> Value {
        renamed(object, "v2", "width", "size")
    }
}

fn renamed(object: &Value, version: &str, from: &str, to: &str) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = format!("demo.gantry.dev/{version}").into();
    if let Some(spec) = out["spec"].as_object_mut()
        && let Some(value) = spec.remove(from)
    {
        spec.insert(to.to_owned(), value);
    }
    out
}
