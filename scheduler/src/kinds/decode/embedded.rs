//! Go's embedded structures: their fields are in the object that embeds them, but Go's decoder names the structure
//! in the path of a field all the same (`spec.volumes.VolumeSource.secret`). Only asked for a refusal.

use std::{collections::HashMap, sync::LazyLock};

use crate::kinds::{
    schema::{ObjectType, Type},
    wire,
};

/// The name of the structure that brings a field into a type, by type and field.
static EMBEDDED: LazyLock<HashMap<(&'static str, &'static str), &'static str>> =
    LazyLock::new(|| wire::embedded_fields().collect());

/// The path of `names` below an object of the type called `root`, with the structures on the way.
pub(super) fn path(root: &ObjectType, names: &[&str]) -> String {
    let mut out: Vec<&str> = Vec::with_capacity(names.len());
    let mut ty = Some(Type::Object(root.clone()));
    for name in names.iter().copied() {
        ty = match ty.map(item) {
            Some(Type::Object(holder)) => {
                out.extend(EMBEDDED.get(&(holder.name(), name)));
                holder.definition().and_then(|d| d.fields.get(name)).map(|field| field.ty.clone())
            }
            // The name is a key, which Go's decoder does not tell.
            Some(Type::Map(values)) => {
                ty = Some(*values);
                continue;
            }
            _ => None,
        };
        out.push(name);
    }
    out.join(".")
}

/// What is in a list.
fn item(ty: Type) -> Type {
    match ty {
        Type::List(items) => item(*items),
        other => other,
    }
}
