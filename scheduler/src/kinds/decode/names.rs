//! What Go's decoder calls the types of fields: by names that their JSON does not show (see `schema/gosource.py`). Only
//! asked for a refusal.

use std::{collections::HashMap, sync::LazyLock};

use crate::kinds::schema::{Type, schema};

const NAME_FACTS: &str = include_str!("../../../schema/name-facts.txt");

/// The name of a field's type, by type and field.
static NAMED: LazyLock<HashMap<(&'static str, &'static str), &'static str>> = LazyLock::new(|| {
    let lines =
        NAME_FACTS.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let fields = |(holder, words): (&'static str, &'static str)| {
        words
            .split(' ')
            .filter_map(move |word| word.split_once('='))
            .map(move |(field, name)| ((holder, field), name))
    };
    lines.flat_map(fields).collect()
});

/// The name of `ty`, which is that of a field of the type called `holder`, or of what is in its lists and maps.
pub(super) fn go_type(holder: &str, field: &str, ty: &Type) -> String {
    let declared = schema().definition(holder).and_then(|definition| definition.fields.get(field));
    let named = NAMED.get(&(holder, field));
    let named = declared.zip(named).and_then(|(declared, name)| within(&declared.ty, name, ty));
    named.map_or_else(|| plain(ty), str::to_owned)
}

/// The name of `wanted` where it is in a type with a name.
fn within<'a>(ty: &Type, name: &'a str, wanted: &Type) -> Option<&'a str> {
    match ty {
        ty if ty == wanted => Some(name),
        Type::List(item) => within(item, name.strip_prefix("[]")?, wanted),
        Type::Map(values) => within(values, name.strip_prefix("map[")?.split_once(']')?.1, wanted),
        _ => None,
    }
}

/// The name of a type that has none of its own.
fn plain(ty: &Type) -> String {
    match ty {
        Type::String => "string".to_owned(),
        Type::Bytes => "[]uint8".to_owned(),
        Type::Time => "v1.Time".to_owned(),
        Type::MicroTime => "v1.MicroTime".to_owned(),
        Type::Int32 => "int32".to_owned(),
        Type::Int64 => "int64".to_owned(),
        Type::Number => "float64".to_owned(),
        Type::Boolean => "bool".to_owned(),
        Type::IntOrString => "intstr.IntOrString".to_owned(),
        Type::Quantity => "resource.Quantity".to_owned(),
        Type::Object(of) => {
            let mut parts = of.name().rsplit('.');
            let name = parts.next().unwrap_or_default();
            format!("{}.{name}", parts.next().unwrap_or("v1"))
        }
        Type::List(item) => format!("[]{}", plain(item)),
        Type::Map(values) => format!("map[string]{}", plain(values)),
        Type::Any => "interface {}".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_that_of_a_field() {
        let mut known = 0;
        for (holder, field) in NAMED.keys() {
            if let Some(definition) = schema().definition(holder) {
                assert!(definition.fields.contains_key(*field), "{holder} {field}");
                known += 1;
            }
        }
        assert!(known > 100, "{known} of {}", NAMED.len());
    }
}
