//! Binding many pods at once: one commit for all of them. The outcome for each pod is that of the `binding` subresource;
//! what a binding does not touch was valid before and is not looked at again.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::json;

use super::{
    Objects, WriteOptions,
    admission::{Checked, Operation, Request, Undo},
    body,
    many::{Prepared, Writes},
    row, subresources,
    target::Target,
    update::decode,
};
use crate::{
    kinds::Subresource,
    model::{ApiError, Object, Resource},
    store::{Change, Expect},
};

/// One pod and its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The pod's namespace.
    pub namespace: Arc<str>,
    /// The pod's name.
    pub name: Arc<str>,
    /// Only this pod: a later one of the same name is another one.
    pub uid: Arc<str>,
    /// Where it is to run.
    pub node: Arc<str>,
}

impl Objects {
    /// Binds all of `bindings` and answers for each, in their order. One that is refused does not keep the others from
    /// being bound. Each pod is named once.
    pub async fn bind_all(
        &self,
        bindings: &[Binding],
        options: &WriteOptions,
    ) -> Vec<Result<Arc<Object>, ApiError>> {
        self.write_all(&Bindings { objects: self, options }, bindings).await
    }

    /// The change that binds one pod, on top of what is stored now.
    async fn bound(
        &self,
        binding: &Binding,
        options: &WriteOptions,
        undo: &mut Undo,
    ) -> Result<Prepared<Arc<Object>>, ApiError> {
        let kinds = self.kinds();
        let kind = &**row(&kinds, Resource::PODS)?;
        let (namespace, name) = (Some(&*binding.namespace), &*binding.name);
        let sub = Some(Subresource::Binding);
        let target = Target { kinds: &kinds, kind, namespace, name, sub };
        let stored = self.stored(&target.key());
        let current = stored.ok_or_else(|| ApiError::not_found(kind.resource, name))?;
        let old = decode(&current)?;
        let mut new = old.clone();
        let body = json!({"metadata": {"uid": &*binding.uid}, "target": {"name": &*binding.node}});
        subresources::bind(target, &mut new, &body)?;
        self.mutate(Request {
            operation: Operation::Update,
            kind,
            subresource: sub,
            namespace,
            name,
            object: &mut new,
            old: Some(&old),
            actor: &options.actor,
            dry_run: false,
            objects: self,
            undo,
        })
        .await?;
        let write = Checked {
            operation: Operation::Update,
            kind,
            subresource: sub,
            namespace,
            name,
            object: Some(&new),
            old: Some(&old),
            actor: &options.actor,
            dry_run: false,
            objects: self,
        };
        let batch = self.validate(write).await?;
        let draft = body::draft(kind, target.key(), &new)?;
        let own = Box::new(Change::Put { draft, expect: Expect::At(current.revision) });
        Ok(Prepared::Store { own, batch })
    }
}

struct Bindings<'a> {
    objects: &'a Objects,
    options: &'a WriteOptions,
}

#[async_trait]
impl Writes for Bindings<'_> {
    type Item = Binding;
    type Answer = Arc<Object>;

    async fn prepare(&self, binding: &Binding, undo: &mut Undo) -> Result<Prepared<Arc<Object>>, ApiError> {
        self.objects.bound(binding, self.options, undo).await
    }

    fn answer(&self, object: Arc<Object>, _: bool) -> Arc<Object> {
        object
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{model::Reason, objects::Selection};

    async fn objects(pods: &[&str]) -> (Objects, Vec<Binding>) {
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let options = WriteOptions::controller("test");
        let mut bindings = Vec::new();
        for name in pods {
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
                "spec": {"containers": [{"name": "c", "image": "i"}]}});
            let made = objects.create(Resource::PODS, Some("default"), pod, &options).await.unwrap();
            bindings.push(Binding {
                namespace: "default".into(),
                name: (*name).into(),
                uid: made.object.uid.clone(),
                node: format!("node-of-{name}").into(),
            });
        }
        (objects, bindings)
    }

    #[tokio::test]
    async fn one_commit_binds_many_as_the_subresource_binds_one() {
        let (objects, bindings) = objects(&["a", "b", "one"]).await;
        let options = WriteOptions::controller("default-scheduler");
        let before = objects.revision();
        let bound = objects.bind_all(&bindings[..2], &options).await;
        assert!(bound.iter().all(Result::is_ok), "{bound:?}");
        assert_eq!(objects.revision().0, before.0 + 2);
        let one = &bindings[2];
        let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "one", "uid": &*one.uid},
            "target": {"kind": "Node", "name": &*one.node}});
        let sub = Some(Subresource::Binding);
        objects.update(Resource::PODS, Some("default"), "one", sub, body, &options).await.unwrap();
        let list = objects.list(Resource::PODS, &Selection::default()).await.unwrap();
        let plain = |object: &Object| {
            let text = String::from_utf8(object.json.to_vec()).unwrap();
            let mut value: Value =
                serde_json::from_str(&text.replace("node-of-one", "n").replace("node-of-a", "n")).unwrap();
            for field in ["uid", "resourceVersion", "creationTimestamp", "name", "managedFields"] {
                value["metadata"].as_object_mut().unwrap().remove(field);
            }
            value["status"]["conditions"][0].as_object_mut().unwrap().remove("lastTransitionTime");
            value
        };
        assert_eq!(plain(&list.items[0]), plain(&list.items[2]));
        assert_eq!(list.items[1].fields.get("spec.nodeName"), Some("node-of-b"));
    }

    #[tokio::test]
    async fn a_pod_that_cannot_be_bound_does_not_keep_the_others_from_it() {
        let (objects, mut bindings) = objects(&["a", "again", "other", "z"]).await;
        let options = WriteOptions::controller("default-scheduler");
        let first = objects.bind_all(&bindings[1..2], &options).await;
        assert!(first[0].is_ok());
        bindings[2].uid = "another".into();
        bindings.insert(0, Binding { name: "missing".into(), ..bindings[0].clone() });
        let outcomes = objects.bind_all(&bindings, &options).await;
        let reasons: Vec<Option<Reason>> =
            outcomes.iter().map(|o| o.as_ref().err().map(|e| e.reason)).collect();
        let expected = [Some(Reason::NotFound), None, Some(Reason::Conflict), Some(Reason::Conflict), None];
        assert_eq!(reasons, expected);
    }

    #[tokio::test]
    async fn a_pod_that_changes_meanwhile_is_bound_as_it_is_then() {
        let names: Vec<String> = (0..20).map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (objects, bindings) = objects(&names).await;
        let options = WriteOptions::controller("default-scheduler");
        let label = async {
            for name in &names {
                let label = crate::objects::Patch::Merge(json!({"metadata": {"labels": {"seen": "yes"}}}));
                objects.patch(Resource::PODS, Some("default"), name, None, label, &options).await.unwrap();
            }
        };
        let (bound, ()) = tokio::join!(objects.bind_all(&bindings, &options), label);
        assert!(bound.iter().all(Result::is_ok), "{bound:?}");
        let list = objects.list(Resource::PODS, &Selection::default()).await.unwrap();
        for object in &list.items {
            assert!(object.labels.contains_key("seen") && object.fields.get("spec.nodeName").is_some());
        }
    }
}
