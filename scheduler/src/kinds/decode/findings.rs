//! What strict validation finds in a JSON body, in the order of the document, as upstream lists it: fields that come
//! twice and fields that the type does not have. Only read again for a body in which something was found.

use std::{cell::RefCell, collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::kinds::{Kind, schema::Type};

/// Upstream names this many and drops the rest.
const MOST: usize = 100;

/// All findings of a body of this kind.
pub fn findings(kind: &Kind, body: &[u8]) -> Vec<String> {
    let ty = Type::Object(kind.ty.clone());
    let found = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    // A body that does not parse was refused before anybody asks for its findings.
    let _ = Node { ty: &ty, path: String::new(), found: &found }.deserialize(&mut deserializer);
    found.into_inner()
}

struct Node<'a> {
    ty: &'a Type,
    path: String,
    found: &'a RefCell<Vec<String>>,
}

impl Node<'_> {
    fn below(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn find(&self, what: &str, path: &str) {
        let finding = format!("{what} field {path:?}");
        let mut found = self.found.borrow_mut();
        if found.len() < MOST && !found.contains(&finding) {
            found.push(finding);
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.ty {
            Type::Object(_) | Type::Map(_) | Type::List(_) | Type::Any => deserializer.deserialize_any(self),
            _ => deserializer.deserialize_ignored_any(IgnoredAny).map(drop),
        }
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let item = match self.ty {
            Type::List(item) => item,
            _ => &Type::Any,
        };
        let mut index = 0;
        while access
            .next_element_seed(Node { ty: item, path: format!("{}[{index}]", self.path), found: self.found })?
            .is_some()
        {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        let definition = match self.ty {
            Type::Object(of) => of.definition(),
            _ => None,
        };
        let mut seen = HashSet::new();
        while let Some(name) = access.next_key::<String>()? {
            let path = self.below(&name);
            let field = definition.map(|definition| definition.fields.get(&name));
            if let Some(None) = field {
                self.find("unknown", &path);
                access.next_value::<IgnoredAny>()?;
                continue;
            }
            if !seen.insert(name) {
                self.find("duplicate", &path);
            }
            let ty = match (field.flatten(), self.ty) {
                (Some(field), _) => &field.ty,
                (None, Type::Map(values)) => values,
                (None, _) => &Type::Any,
            };
            access.next_value_seed(Node { ty, path, found: self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kinds::builtin, model::Resource};

    #[test]
    fn findings_come_in_the_order_of_the_document() {
        let body = br#"{"kind": "Pod", "zzz": {"a": 1, "a": 2}, "metadata": {"labels": {"k": "1", "k": "2"}, "b": 1},
            "spec": {"containers": [{"name": "c", "imag": "i", "name": "d", "imag": "j"}]}, "kind": "Pod"}"#;
        let expected = [
            "unknown field \"zzz\"",
            "duplicate field \"metadata.labels.k\"",
            "unknown field \"metadata.b\"",
            "unknown field \"spec.containers[0].imag\"",
            "duplicate field \"spec.containers[0].name\"",
            "duplicate field \"kind\"",
        ];
        assert_eq!(findings(builtin().by_resource(Resource::PODS).unwrap(), body), expected);
    }
}
