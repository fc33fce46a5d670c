//! Types that a kind brings along, made from what OpenAPI says of them: structural schemas, as custom resources have
//! them. Out: types that decoding, merging and server-side apply walk like the published ones. Unlike those, an object
//! of such a type keeps what is empty, as upstream keeps it.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::{Definition, Field, ListKind, ObjectType, Presence, Type};

impl ObjectType {
    /// The type of whole objects, published under `name`. `apiVersion`, `kind` and `metadata` are in it, whatever the
    /// schema says of them.
    pub fn described(name: &str, schema: &Value) -> Self {
        let mut definition = definition(name, schema);
        for field in ["apiVersion", "kind"] {
            definition.fields.insert(field.to_owned(), Field::new(Type::String));
        }
        let metadata = ObjectType::published("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        definition.fields.insert("metadata".to_owned(), Field::new(Type::Object(metadata)));
        Self::Own(Arc::new((name.to_owned(), definition)))
    }
}

fn definition(name: &str, schema: &Value) -> Definition {
    let properties = schema["properties"].as_object().into_iter().flatten();
    let fields: BTreeMap<String, Field> = properties
        .map(|(field, schema)| (field.clone(), self::field(&format!("{name}.{field}"), schema)))
        .collect();
    Definition { fields, shown: Vec::new(), atomic: schema["x-kubernetes-map-type"] == "atomic" }
}

fn field(name: &str, schema: &Value) -> Field {
    let mut field = Field::new(of_schema(name, schema));
    field.presence = Presence::AsGiven;
    field.default = schema.get("default").cloned();
    field.atomic = schema["x-kubernetes-map-type"] == "atomic";
    field.list = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            ListKind::Map(keys.filter_map(Value::as_str).map(str::to_owned).collect())
        }
        _ => ListKind::Atomic,
    };
    field
}

fn of_schema(name: &str, schema: &Value) -> Type {
    if schema["x-kubernetes-int-or-string"] == true {
        return Type::IntOrString;
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "byte" => Type::Bytes,
        Some("string") => Type::String,
        Some("integer") if schema["format"] == "int32" => Type::Int32,
        Some("integer") => Type::Int64,
        Some("number") => Type::Number,
        Some("boolean") => Type::Boolean,
        Some("array") => Type::List(Box::new(of_schema(name, &schema["items"]))),
        Some("object") if schema["x-kubernetes-preserve-unknown-fields"] == true => Type::Any,
        Some("object") if schema["additionalProperties"].is_object() => {
            Type::Map(Box::new(of_schema(name, &schema["additionalProperties"])))
        }
        Some("object") => {
            Type::Object(ObjectType::Own(Arc::new((name.to_owned(), definition(name, schema)))))
        }
        _ => Type::Any,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_structural_schema_is_a_type() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "size": {"type": "integer", "format": "int32"},
            "port": {"x-kubernetes-int-or-string": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "parts": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "rest": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }}}});
        let made = ObjectType::described("dev.gantry.Thing", &schema);
        let whole = made.definition().unwrap();
        assert!(matches!(&whole.fields["metadata"].ty, Type::Object(ObjectType::Published(_))));
        let Type::Object(spec) = &whole.fields["spec"].ty else { panic!("{:?}", whole.fields["spec"]) };
        assert_eq!(spec.name(), "dev.gantry.Thing.spec");
        let fields = &spec.definition().unwrap().fields;
        assert_eq!((&fields["size"].ty, &fields["port"].ty), (&Type::Int32, &Type::IntOrString));
        assert_eq!(fields["labels"].ty, Type::Map(Box::new(Type::String)));
        assert_eq!(fields["rest"].ty, Type::Any);
        assert_eq!(fields["parts"].list, ListKind::Map(vec!["name".to_owned()]));
        assert!(matches!(&fields["parts"].ty, Type::List(item) if matches!(**item, Type::Object(_))));
    }
}
