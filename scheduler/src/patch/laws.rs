//! Laws that patches obey whatever the objects are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{kinds, model::Resource};

fn deployment() -> &'static Kind {
    kinds::builtin().by_resource(Resource::DEPLOYMENTS).unwrap()
}

fn writer<'a>(manager: &'a str) -> Writer<'a> {
    Writer { manager, subresource: None, now: "2026-01-01T00:00:00Z", kinds: kinds::builtin() }
}

/// Parts of a Deployment in any combination: labels, replicas, containers with images, environment and ports.
fn config() -> impl Strategy<Value = Value> {
    let word = || prop::sample::select(vec!["a", "b", "c"]);
    let labels = prop::collection::btree_map(word(), word(), 0..3);
    let env = || prop::collection::btree_map(word(), word(), 0..3);
    // Each number has its protocol: a strategic patch knows ports by their number alone.
    let port = || (1_u16..4).prop_map(|number| (number, if number == 2 { "UDP" } else { "TCP" }));
    let ports = || prop::collection::btree_set(port(), 0..3);
    let container = (prop::option::of(word()), env(), ports());
    let containers = prop::collection::btree_map(word(), container, 0..3);
    (labels, prop::option::of(0_u32..5), containers).prop_map(|(labels, replicas, containers)| {
        let mut spec = Map::new();
        if let Some(replicas) = replicas {
            spec.insert("replicas".to_owned(), replicas.into());
        }
        let containers: Vec<Value> =
            containers.into_iter().map(|(name, parts)| container_of(name, &parts)).collect();
        if !containers.is_empty() {
            spec.insert("template".to_owned(), json!({"spec": {"containers": containers}}));
        }
        let mut out = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}});
        if !labels.is_empty() {
            out["metadata"]["labels"] = json!(labels);
        }
        if !spec.is_empty() {
            out["spec"] = spec.into();
        }
        out
    })
}

type ContainerParts = (
    Option<&'static str>,
    BTreeMap<&'static str, &'static str>,
    std::collections::BTreeSet<(u16, &'static str)>,
);

fn container_of(name: &str, (image, env, ports): &ContainerParts) -> Value {
    let mut out = json!({"name": name});
    if let Some(image) = image {
        out["image"] = json!(image);
    }
    if !env.is_empty() {
        out["env"] = env.iter().map(|(n, v)| json!({"name": n, "value": v})).collect();
    }
    if !ports.is_empty() {
        out["ports"] = ports.iter().map(|(n, p)| json!({"containerPort": n, "protocol": p})).collect();
    }
    out
}

/// The object without its bookkeeping, as it would be stored.
fn bare(object: &Value) -> Value {
    let mut object = managed::comparable(deployment(), object);
    kinds::decode::decode(deployment(), &mut object).unwrap();
    managed::comparable(deployment(), &object)
}

/// The object with the items of keyed lists in the order of their keys, so that only content is compared.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), sorted(v))).collect::<Map<_, _>>().into(),
        Value::Array(list) => {
            let mut list: Vec<Value> = list.iter().map(sorted).collect();
            list.sort_by_key(ToString::to_string);
            list.into()
        }
        scalar => scalar.clone(),
    }
}

proptest! {
    #[test]
    fn a_strategic_patch_of_nothing_changes_nothing(object in config()) {
        prop_assert_eq!(strategic(deployment(), &object, &json!({})).unwrap(), object);
    }

    #[test]
    fn a_strategic_patch_with_the_object_itself_changes_nothing(object in config()) {
        prop_assert_eq!(strategic(deployment(), &object, &object).unwrap(), object);
    }

    #[test]
    fn a_strategic_patch_twice_is_a_strategic_patch_once(object in config(), patch in config()) {
        let once = strategic(deployment(), &object, &patch).unwrap();
        prop_assert_eq!(strategic(deployment(), &once, &patch).unwrap(), once);
    }

    #[test]
    fn after_an_apply_the_object_says_what_was_applied(live in config(), wanted in config()) {
        let live = apply(deployment(), None, &live, &writer("a"), false).unwrap();
        let out = apply(deployment(), Some(&live), &wanted, &writer("b"), true).unwrap();
        let again = strategic(deployment(), &bare(&out), &wanted).unwrap();
        prop_assert_eq!(sorted(&bare(&again)), sorted(&bare(&out)), "merging what was applied adds nothing");
    }

    #[test]
    fn applying_twice_changes_nothing(live in config(), wanted in config()) {
        let live = apply(deployment(), None, &live, &writer("a"), false).unwrap();
        let once = apply(deployment(), Some(&live), &wanted, &writer("b"), true).unwrap();
        let twice = apply(deployment(), Some(&once), &wanted, &writer("b"), false).unwrap();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn a_sole_applier_always_gets_exactly_what_it_applies(first in config(), second in config()) {
        let live = apply(deployment(), None, &first, &writer("a"), false).unwrap();
        let out = apply(deployment(), Some(&live), &second, &writer("a"), false).unwrap();
        prop_assert_eq!(sorted(&bare(&out)), sorted(&bare(&second)));
    }

    #[test]
    fn an_applier_that_withdraws_leaves_what_others_applied(base in config(), more in config()) {
        let live = apply(deployment(), None, &base, &writer("a"), false).unwrap();
        // What both say alike is shared, the rest is taken over and goes with the one who took it.
        let both = apply(deployment(), Some(&live), &more, &writer("b"), true).unwrap();
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}});
        let out = apply(deployment(), Some(&both), &nothing, &writer("b"), false).unwrap();
        let back = apply(deployment(), Some(&out), &base, &writer("a"), true).unwrap();
        prop_assert_eq!(sorted(&bare(&back)), sorted(&bare(&base)));
    }

    #[test]
    fn what_is_the_same_need_not_be_compared(
        live in config(), wanted in config(), more in config(),
        parts in prop::sample::select(vec![&["metadata"][..], &["spec"], &["metadata", "spec"]]),
    ) {
        let kind = deployment();
        let live = apply(kind, None, &live, &writer("a"), false).unwrap();
        let live = apply(kind, Some(&live), &more, &writer("b"), true).unwrap();
        // Of what nobody has applied a field nothing is recorded, whatever is written.
        prop_assume!(live["metadata"].get("managedFields").is_some());
        // Some of the object is changed, the rest is as it was.
        let mut new = live.clone();
        for field in parts {
            if let Some(Value::Object(wanted)) = wanted.get(field)
                && let Some(parts) = new[field].as_object_mut()
            {
                parts.extend(wanted.clone());
            }
        }
        let sent = take_managed_fields(&mut new);
        let mut whole = new.clone();
        kinds::schema::complete(&kind.ty, &mut whole);
        let mut managers = managed::Managers::of(&live);
        managers.update(kind, &managed::comparable(kind, &live), &whole, &writer("c"));
        managers.store(&mut whole);
        let of_parts = record_update(kind, Some(&live), sent, &new, |_| {}, &writer("c"));
        prop_assert_eq!(of_parts, take_managed_fields(&mut whole));
    }
}
