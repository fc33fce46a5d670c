//! Where in a JSON text a value stands. Only asked for a refusal: what was parsed has forgotten it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Step;

/// The offset of the value at `steps`; that of the last value on the way that is there. Of a field that comes several
/// times the last counts, as for everybody.
pub(super) fn offset(source: &[u8], steps: &[Step]) -> usize {
    let Ok(whole) = serde_json::from_slice::<&RawValue>(source) else { return 0 };
    let mut value = whole;
    for step in steps {
        let below = match step {
            Step::Field(name) => serde_json::from_str::<Fields<'_>>(value.get())
                .ok()
                .and_then(|fields| fields.0.into_iter().rfind(|(field, _)| field == name))
                .map(|(_, value)| value),
            Step::Item(index) => serde_json::from_str::<Vec<&RawValue>>(value.get())
                .ok()
                .and_then(|items| items.get(*index).copied()),
        };
        match below {
            Some(below) => value = below,
            None => break,
        }
    }
    value.get().as_ptr().addr() - source.as_ptr().addr()
}

/// The fields of an object as they stand in the text.
struct Fields<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut out = Vec::new();
                while let Some(name) = access.next_key::<String>()? {
                    out.push((name, access.next_value()?));
                }
                Ok(Fields(out))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_the_text() {
        let source = br#" {"b": [1, {"a\u002eb": true}], "a": 2, "a": 3}"#;
        let at = |steps: &[Step]| {
            let from = offset(source, steps);
            char::from(source[from])
        };
        let field = |name: &str| Step::Field(name.to_owned());
        assert_eq!(at(&[]), '{');
        assert_eq!(at(&[field("b"), Step::Item(1), field("a.b")]), 't');
        assert_eq!(at(&[field("a")]), '3');
        assert_eq!(at(&[field("b"), Step::Item(7)]), '[');
    }
}
