//! Classes that other objects name: a pod gets what its RuntimeClass adds to it, an Ingress that names no class gets
//! the default one.

use async_trait::async_trait;
use k8s_openapi::api::{networking::v1::IngressClass, node::v1::RuntimeClass};
use serde_json::{Map, Value};

use crate::{
    kinds::{DEFAULT_CLASS, quantity::Quantity},
    model::{ApiError, Key, Resource},
    objects::{
        Objects, Selection,
        admission::{Admission, Batch, Checked, Operation, Request},
    },
};

/// Pods and their RuntimeClasses: upstream's plugin of that name.
#[derive(Debug)]
pub struct RuntimeClasses;

#[async_trait]
impl Admission for RuntimeClasses {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let created = request.operation == Operation::Create && request.subresource.is_none();
        if request.kind.resource != Resource::PODS || !created {
            return Ok(());
        }
        let forbidden = |why: &str| ApiError::forbidden(Resource::PODS, request.name, why);
        let Some(spec) = request.object.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let class = class_of(spec.get("runtimeClassName"), request.objects).map_err(|why| forbidden(&why))?;
        let overhead = class.overhead.map(|overhead| overhead.pod_fixed.unwrap_or_default());
        let overhead = overhead.map(|fixed| fixed.into_iter().map(|(name, amount)| (name, amount.0.into())));
        set_overhead(spec, overhead.map(Iterator::collect)).map_err(forbidden)?;
        let Some(scheduling) = class.scheduling else { return Ok(()) };
        let labels = scheduling.node_selector.into_iter().flatten();
        merge_selector(spec, labels).map_err(|why| forbidden(&why))?;
        let added = scheduling.tolerations.unwrap_or_default();
        let added = added.iter().filter_map(|toleration| serde_json::to_value(toleration).ok());
        merge_tolerations(spec, added.collect());
        Ok(())
    }

    async fn validate(&self, new: Checked<'_>, _: &mut Batch) -> Result<(), ApiError> {
        let created = new.operation == Operation::Create && new.subresource.is_none();
        let Some(spec) = new.object.map(|object| &object["spec"]).filter(|spec| !spec["overhead"].is_null())
        else {
            return Ok(());
        };
        if new.kind.resource != Resource::PODS || !created {
            return Ok(());
        }
        let forbidden = |why: &str| ApiError::forbidden(Resource::PODS, new.name, why);
        let class = class_of(spec.get("runtimeClassName"), new.objects).map_err(|why| forbidden(&why))?;
        if class.overhead.is_some() {
            return Ok(());
        }
        Err(forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
    }
}

/// The class that a pod names; one that asks for nothing when it names none.
fn class_of(name: Option<&Value>, objects: &Objects) -> Result<RuntimeClass, String> {
    let Some(name) = name.and_then(Value::as_str) else { return Ok(RuntimeClass::default()) };
    let stored = objects.stored(&Key::cluster(Resource::RUNTIME_CLASSES, name));
    let found = stored.and_then(|class| class.decode().ok());
    found.ok_or_else(|| format!("pod rejected: RuntimeClass {name:?} not found"))
}

/// Gives the pod the overhead of its class; one of its own must say the same. One that no class gives it is refused
/// after validation, which may have better words.
fn set_overhead(
    spec: &mut Map<String, Value>,
    of_class: Option<Map<String, Value>>,
) -> Result<(), &'static str> {
    let own = spec.get("overhead").and_then(Value::as_object);
    match (of_class, own) {
        (None, _) => Ok(()),
        (Some(of_class), Some(own)) if !own.is_empty() && !same_amounts(&of_class, own) => {
            Err("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
        }
        (Some(of_class), _) => {
            spec.insert("overhead".to_owned(), of_class.into());
            Ok(())
        }
    }
}

fn same_amounts(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let amount = |value: &Value| value.as_str().and_then(|text| text.parse::<Quantity>().ok());
    let same = |(name, value): (&String, &Value)| {
        b.get(name).is_some_and(|other| {
            other == value || (amount(value).is_some() && amount(value) == amount(other))
        })
    };
    a.len() == b.len() && a.iter().all(same)
}

fn merge_selector(
    spec: &mut Map<String, Value>,
    labels: impl Iterator<Item = (String, String)>,
) -> Result<(), String> {
    let mut selector = spec.get("nodeSelector").and_then(Value::as_object).cloned().unwrap_or_default();
    for (key, wanted) in labels {
        if let Some(own) = selector.get(&key).and_then(Value::as_str).filter(|own| *own != wanted) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {own}"
            ));
        }
        selector.insert(key, wanted.into());
    }
    if !selector.is_empty() {
        spec.insert("nodeSelector".to_owned(), selector.into());
    }
    Ok(())
}

/// The pod's tolerations and these, without those that another one makes needless.
fn merge_tolerations(spec: &mut Map<String, Value>, added: Vec<Value>) {
    let mut all = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    all.extend(added);
    let mut merged: Vec<Value> = Vec::new();
    for (index, toleration) in all.iter().enumerate() {
        let later = all[index + 1..].iter().any(|other| other != toleration && covers(other, toleration));
        if !later && !merged.iter().any(|earlier| covers(earlier, toleration)) {
            merged.push(toleration.clone());
        }
    }
    if !merged.is_empty() {
        spec.insert("tolerations".to_owned(), merged.into());
    }
}

/// Whether `wide` tolerates everything that `narrow` does.
fn covers(wide: &Value, narrow: &Value) -> bool {
    if wide == narrow {
        return true;
    }
    let text = |toleration: &Value, field: &str| {
        toleration.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let seconds = |toleration: &Value| toleration.get("tolerationSeconds").and_then(Value::as_i64);
    let same = |field| text(wide, field) == text(narrow, field);
    let (operator, effect) = (text(wide, "operator"), text(wide, "effect"));
    let any_key = text(wide, "key").is_empty() && operator == "Exists";
    let as_long = match (seconds(wide), seconds(narrow)) {
        (Some(most), Some(asked)) => asked <= most,
        (Some(_), None) => false,
        (None, _) => true,
    };
    (same("key") || any_key)
        && (same("effect") || effect.is_empty())
        && (effect != "NoExecute" || as_long)
        && match operator.as_str() {
            "Exists" => true,
            "" | "Equal" => text(narrow, "operator") == "Equal" && same("value"),
            _ => false,
        }
}

/// Ingresses that name no class get the default one: the newest that is marked as such.
#[derive(Debug)]
pub struct DefaultIngressClass;

/// An Ingress of old names its class here.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

#[async_trait]
impl Admission for DefaultIngressClass {
    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), ApiError> {
        let created = request.operation == Operation::Create && request.subresource.is_none();
        if request.kind.resource != Resource::INGRESSES || !created {
            return Ok(());
        }
        let named = request.object.pointer("/spec/ingressClassName").is_some_and(|name| !name.is_null());
        let annotations = request.object.pointer("/metadata/annotations");
        if named || annotations.is_some_and(|all| all.get(CLASS_ANNOTATION).is_some()) {
            return Ok(());
        }
        let all = request.objects.list(Resource::INGRESS_CLASSES, &Selection::default()).await?;
        let classes = all.items.iter().filter_map(|class| class.decode::<IngressClass>().ok());
        let marked = classes.map(|class| class.metadata).filter(|meta| {
            meta.annotations
                .as_ref()
                .and_then(|all| all.get(DEFAULT_CLASS))
                .is_some_and(|mark| mark == "true")
        });
        // Of two of the same second the first by name.
        let newest = marked.max_by(|a, b| {
            let time = |meta: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta| {
                meta.creation_timestamp.as_ref().map(|t| t.0)
            };
            time(a).cmp(&time(b)).then_with(|| b.name.cmp(&a.name))
        });
        if let Some(name) = newest.and_then(|meta| meta.name)
            && let Some(spec) = request.object.get_mut("spec").and_then(Value::as_object_mut)
        {
            spec.insert("ingressClassName".to_owned(), name.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::objects::WriteOptions;

    async fn pod(class: Option<Value>, spec: Value) -> Result<Value, String> {
        let objects = Objects::in_memory(vec![Arc::new(RuntimeClasses)]).await.unwrap();
        let options = WriteOptions::controller("test");
        if let Some(mut class) = class {
            class["metadata"] = json!({"name": "gvisor"});
            class["handler"] = json!("runsc");
            objects.create(Resource::RUNTIME_CLASSES, None, class, &options).await.unwrap();
        }
        let mut body = json!({"metadata": {"name": "web"}, "spec": spec});
        body["spec"]["containers"] = json!([{"name": "web", "image": "web"}]);
        let written = objects.create(Resource::PODS, Some("default"), body, &options).await;
        written.map(|w| w.object.decode::<Value>().unwrap()["spec"].clone()).map_err(|e| e.message)
    }

    #[tokio::test]
    async fn a_pod_of_an_absent_class_is_refused() {
        let expected = "pods \"web\" is forbidden: pod rejected: RuntimeClass \"gvisor\" not found";
        assert_eq!(pod(None, json!({"runtimeClassName": "gvisor"})).await.unwrap_err(), expected);
        assert!(pod(Some(json!({})), json!({"runtimeClassName": "gvisor"})).await.is_ok());
    }

    #[tokio::test]
    async fn a_pod_costs_what_its_class_says() {
        let class = || Some(json!({"overhead": {"podFixed": {"cpu": "250m"}}}));
        let made = pod(class(), json!({"runtimeClassName": "gvisor"})).await.unwrap();
        assert_eq!(made["overhead"], json!({"cpu": "250m"}));
        let own = json!({"runtimeClassName": "gvisor", "overhead": {"cpu": "0.25"}});
        assert!(pod(class(), own).await.is_ok());
        let other = json!({"runtimeClassName": "gvisor", "overhead": {"cpu": "1"}});
        let said = pod(class(), other).await.unwrap_err();
        assert!(said.ends_with("Pod's Overhead doesn't match RuntimeClass's defined Overhead"), "{said}");
        for overhead in [json!({"cpu": "1"}), json!({})] {
            let said = pod(None, json!({ "overhead": overhead })).await.unwrap_err();
            let why = "Pod Overhead set without corresponding RuntimeClass defined Overhead";
            assert!(said.ends_with(why), "{said}");
        }
        let said = pod(None, json!({"overhead": {"k": "1"}})).await.unwrap_err();
        assert!(
            said.contains("spec.overhead.limits[k]: Invalid value"),
            "what is wrong in itself goes first: {said}"
        );
    }

    #[tokio::test]
    async fn a_pod_goes_where_its_class_sends_it() {
        let class = || {
            let tolerations = json!([{"key": "sandbox", "operator": "Exists"}]);
            Some(json!({"scheduling": {"nodeSelector": {"sandbox": "yes"}, "tolerations": tolerations}}))
        };
        let own = json!({"runtimeClassName": "gvisor", "nodeSelector": {"disk": "ssd"}, "tolerations": [
            {"key": "sandbox", "operator": "Exists", "effect": "NoSchedule"}, {"key": "own", "operator": "Exists"}]});
        let made = pod(class(), own).await.unwrap();
        assert_eq!(made["nodeSelector"], json!({"disk": "ssd", "sandbox": "yes"}));
        let expected =
            json!([{"key": "own", "operator": "Exists"}, {"key": "sandbox", "operator": "Exists"}]);
        assert_eq!(made["tolerations"], expected, "the wider toleration makes the narrower one needless");
        let other = json!({"runtimeClassName": "gvisor", "nodeSelector": {"sandbox": "no"}});
        assert_eq!(
            pod(class(), other).await.unwrap_err(),
            "pods \"web\" is forbidden: conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; \
             pod.spec.nodeSelector[sandbox] = no"
        );
    }

    #[tokio::test]
    async fn an_ingress_without_a_class_gets_the_default_one() {
        let objects = Objects::in_memory(vec![Arc::new(DefaultIngressClass)]).await.unwrap();
        let options = WriteOptions::controller("test");
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        let class_of = async |name: &str, mut extra: Value| {
            extra["metadata"]["name"] = json!(name);
            extra["spec"]["defaultBackend"] = backend.clone();
            let made = objects.create(Resource::INGRESSES, Some("default"), extra, &options).await.unwrap();
            made.object.decode::<Value>().unwrap()["spec"]["ingressClassName"].clone()
        };
        assert_eq!(class_of("before", json!({})).await, Value::Null);
        for (name, mark) in [("b", "true"), ("a", "true"), ("c", "false")] {
            let class = json!({"metadata": {"name": name, "annotations": {DEFAULT_CLASS: mark}},
                "spec": {"controller": "acme.io/x"}});
            objects.create(Resource::INGRESS_CLASSES, None, class, &options).await.unwrap();
        }
        assert!(["a", "b"].contains(&class_of("after", json!({})).await.as_str().unwrap()));
        assert_eq!(class_of("own", json!({"spec": {"ingressClassName": "own"}})).await, "own");
        let annotated = json!({"metadata": {"annotations": {CLASS_ANNOTATION: "nginx"}}});
        assert_eq!(class_of("old", annotated).await, Value::Null);
    }
}
