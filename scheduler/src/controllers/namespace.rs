//! Namespaces: what every one has from the start, and the end of one: its content goes first.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use serde_json::json;

use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, Id, MetaExt, WriteError},
    kinds::{self, Scope, Subresource},
    model::{ApiError, Reason, Resource},
    objects::{DeleteOptions, Objects, Propagation, Selection},
};

const COMPONENT: &str = "namespace-controller";
/// How often the content of an ending namespace is looked at when no event says that it went.
const AGAIN: Duration = Duration::from_millis(500);
/// The ConfigMap that tells pods which authority to trust.
const ROOT_CA: &str = "kube-root-ca.crt";

struct Namespaces {
    cache: Cache,
    client: Client,
    ca_pem: Arc<str>,
}

/// Starts the controller. `ca_pem` is the cluster's certificate authority.
pub(super) fn start(objects: &Objects, cache: &Cache, runtime: &Runtime, ca_pem: Arc<str>) {
    let queue: Arc<Queue<Id>> = runtime.queue(Namespaces::NAME);
    let of_namespaces = queue.clone();
    cache.namespaces.on_change(move |change| {
        if let Some(namespace) = change.new {
            of_namespaces.add(Id::of(&namespace.metadata));
        }
    });
    // The last pod to go lets its namespace go; an account that was deleted comes back.
    let (of_pods, namespaces) = (queue.clone(), cache.namespaces.clone());
    cache.pods.on_change(move |change| {
        if let (Some(pod), None) = (change.old, change.new) {
            let id = Id::new("", pod.metadata.namespace_str());
            if namespaces.get(&id).is_some_and(|n| n.metadata.deleting()) {
                of_pods.add(id);
            }
        }
    });
    let of_accounts = queue.clone();
    cache.service_accounts.on_change(move |change| {
        if let (Some(account), None) = (change.old, change.new) {
            of_accounts.add(Id::new("", account.metadata.namespace_str()));
        }
    });
    let client = Client::new(objects, cache, COMPONENT);
    runtime.spawn(Namespaces { cache: cache.clone(), client, ca_pem }, &queue);
}

impl Controller for Namespaces {
    type Key = Id;
    const NAME: &'static str = "namespace";

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(namespace) = self.cache.namespaces.get(key) else { return Ok(Next::Done) };
        if namespace.metadata.deleting() {
            return self.end(&namespace).await;
        }
        self.furnish(&key.name).await?;
        Ok(Next::Done)
    }

    fn all(&self) -> Vec<Id> {
        self.cache.namespaces.all().iter().map(|n| Id::of(&n.metadata)).collect()
    }
}

impl Namespaces {
    /// The default account and the authority's certificate.
    async fn furnish(&self, name: &str) -> Result<(), WriteError> {
        let account = Id::new(name, "default");
        if self.cache.service_accounts.get(&account).is_none() {
            let metadata = ObjectMeta {
                name: Some("default".to_owned()),
                namespace: Some(name.to_owned()),
                ..ObjectMeta::default()
            };
            let account = ServiceAccount { metadata, ..ServiceAccount::default() };
            ignore(self.client.create(&account).await.map(|_| ()))?;
        }
        let objects = self.client.objects();
        if objects.get(Resource::CONFIG_MAPS, Some(name), ROOT_CA).await.is_err() {
            let body = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": ROOT_CA, "annotations": {"kubernetes.io/description":
                    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                     endpoints such as the internal service IP or kubernetes.default.svc. No other usage is \
                     guaranteed across distributions of Kubernetes clusters."}},
                "data": {"ca.crt": &*self.ca_pem},
            });
            let options = self.client.options();
            let created = objects.create(Resource::CONFIG_MAPS, Some(name), body, options).await;
            ignore(created.map(|_| ()).map_err(WriteError::from))?;
        }
        Ok(())
    }

    async fn end(&self, namespace: &Namespace) -> Result<Next, WriteError> {
        let mut left = Left::default();
        for kind in kinds::all().iter().filter(|k| k.scope == Scope::Namespaced) {
            self.empty(namespace.metadata.name_str(), kind.resource, &mut left).await?;
        }
        if !left.counts.is_empty() {
            self.report(namespace, &left).await?;
            return Ok(Next::After(AGAIN));
        }
        let mut done = namespace.clone();
        if let Some(finalizers) = done.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != "kubernetes");
        }
        let body = serde_json::to_value(&done)
            .map_err(|source| WriteError::Encode { id: Id::of(&namespace.metadata), source })?;
        let (objects, name) = (self.client.objects(), namespace.metadata.name_str());
        let sub = Some(Subresource::Finalize);
        match objects.update(Resource::NAMESPACES, None, name, sub, body, self.client.options()).await {
            Err(error) if error.reason == Reason::NotFound => Ok(Next::Done),
            other => other.map(|_| Next::Done).map_err(WriteError::from),
        }
    }

    /// Deletes everything of one kind and counts what stays for now.
    async fn empty(&self, namespace: &str, resource: Resource, left: &mut Left) -> Result<(), ApiError> {
        let objects = self.client.objects();
        let selection = Selection { namespace: Some(namespace.into()), ..Selection::default() };
        let list = objects.list(resource, &selection).await?;
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        for object in &list.items {
            let name = &object.key.name;
            let gone = if object.deleting {
                false
            } else {
                let removed =
                    objects.remove(resource, Some(namespace), name, &options, self.client.options()).await;
                match removed {
                    Ok(removed) => removed.gone,
                    Err(error) if error.reason == Reason::NotFound => true,
                    Err(error) => return Err(error),
                }
            };
            if !gone {
                *left.counts.entry(resource.0).or_default() += 1;
                for finalizer in finalizers(object) {
                    *left.finalizers.entry(finalizer).or_default() += 1;
                }
            }
        }
        Ok(())
    }

    async fn report(&self, namespace: &Namespace, left: &Left) -> Result<(), WriteError> {
        let old = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let conditions = left.conditions(&old);
        if conditions == old {
            return Ok(());
        }
        let mut changed = namespace.clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        match self.client.update_status(&changed).await {
            // The namespace changed: the next pass tells.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

fn finalizers(object: &crate::model::Object) -> Vec<String> {
    #[derive(serde::Deserialize)]
    struct Only {
        metadata: ObjectMeta,
    }
    object.decode::<Only>().ok().and_then(|o| o.metadata.finalizers).unwrap_or_default()
}

/// A namespace that ends meanwhile needs nothing; what is there already is fine.
fn ignore(result: Result<(), WriteError>) -> Result<(), WriteError> {
    match result {
        Err(e) if e.is_already_exists() || e.is_namespace_ending() || e.is_not_found() => Ok(()),
        other => other,
    }
}

/// What keeps a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    counts: BTreeMap<&'static str, usize>,
    finalizers: BTreeMap<String, usize>,
}

impl Left {
    fn conditions(&self, old: &[NamespaceCondition]) -> Vec<NamespaceCondition> {
        let counts: Vec<_> =
            self.counts.iter().map(|(r, n)| format!("{} has {n} resource instances", dotted(r))).collect();
        let holders: Vec<_> =
            self.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
        let remaining = format!("Some resources are remaining: {}", counts.join(", "));
        let held = format!("Some content in the namespace has finalizers remaining: {}", holders.join(", "));
        let none_held = "All content successfully deleted, may be waiting on finalization".to_owned();
        [
            ("NamespaceContentRemaining", !counts.is_empty(), "SomeResourcesRemain", remaining),
            (
                "NamespaceFinalizersRemaining",
                !holders.is_empty(),
                if holders.is_empty() { "ContentHasNoFinalizers" } else { "SomeFinalizersRemain" },
                if holders.is_empty() { none_held } else { held },
            ),
        ]
        .into_iter()
        .map(|(type_, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let known = old.iter().find(|c| c.type_ == type_ && c.status == status);
            NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: known
                    .and_then(|c| c.last_transition_time.clone())
                    .or_else(|| Some(Time(Timestamp::now()))),
            }
        })
        .collect()
    }
}

/// `pods.` for the core group and `deployments.apps`, as upstream writes them.
fn dotted(resource: &str) -> String {
    if resource.contains('.') { resource.to_owned() } else { format!("{resource}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_say_what_is_left_and_keep_their_times() {
        let mut left = Left::default();
        left.counts.insert("pods", 2);
        left.finalizers.insert("example.org/hold".to_owned(), 1);
        let first = left.conditions(&[]);
        assert_eq!(
            first[0].message.as_deref(),
            Some("Some resources are remaining: pods. has 2 resource instances")
        );
        assert_eq!(first[1].reason.as_deref(), Some("SomeFinalizersRemain"));
        assert_eq!(left.conditions(&first), first);
    }
}
