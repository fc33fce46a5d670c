//! Namespaces: what every one has from the start, and the end of one: its content goes first.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use serde_json::json;

use super::runner::{Controller, Next, Queue, Runtime};
use crate::{
    cache::{Cache, Client, Id, MetaExt, Pod, WriteError},
    kinds::{Catalogue, Scope, Subresource},
    model::{ApiError, Key, Object, Reason, Resource},
    objects::{DeleteOptions, GROUP, Objects, Propagation, Selection},
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
    runtime.tasks.essential("kinds of namespaces", kinds_come(objects.clone(), cache.clone(), queue.clone()));
    let client = Client::new(objects, cache, COMPONENT);
    runtime.spawn(Namespaces { cache: cache.clone(), client, ca_pem }, &queue);
}

/// What an ending namespace waits for may be a kind that comes. Cancel-safe: it keeps nothing.
async fn kinds_come(objects: Objects, cache: Cache, queue: Arc<Queue<Id>>) {
    let mut kinds = objects.registry().follow();
    while kinds.changed().await.is_ok() {
        for namespace in cache.namespaces.all().iter().filter(|namespace| namespace.metadata.deleting()) {
            queue.add(Id::of(&namespace.metadata));
        }
    }
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

    /// Pods go first: until the last of them has ended, everything that they may use stays.
    async fn end(&self, namespace: &Namespace) -> Result<Next, WriteError> {
        let mut left = Left::default();
        let name = namespace.metadata.name_str();
        // Before the kinds are looked at: one that comes in between is then in both, and never in neither.
        let unserved = self.client.objects().unserved(Some(name));
        self.empty(namespace, Resource::PODS, &mut left).await;
        if left.is_empty() {
            let kinds = self.client.objects().kinds();
            let others = kinds.stored().filter(|kind| kind.scope == Scope::Namespaced);
            for kind in others.filter(|kind| kind.resource != Resource::PODS) {
                self.empty(namespace, kind.resource, &mut left).await;
            }
        }
        left.unserved = unserved.into_iter().collect();
        let told = namespace.status.as_ref().is_some_and(|status| status.conditions.is_some());
        if !left.is_empty() || told || is_held(namespace) {
            self.report(namespace, &left).await?;
        }
        if !left.is_empty() {
            let only_unserved = left.counts.is_empty() && left.failures.is_empty();
            // Somebody has to serve those first, which is told.
            return Ok(if only_unserved { Next::Done } else { Next::After(AGAIN) });
        }
        self.finalize(namespace).await
    }

    /// Nothing is left in it: as far as we are concerned it may go.
    async fn finalize(&self, namespace: &Namespace) -> Result<Next, WriteError> {
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

    /// Deletes everything of one kind and counts what stays for now, and why.
    async fn empty(&self, namespace: &Namespace, resource: Resource, left: &mut Left) {
        if let Err(error) = self.try_empty(namespace, resource, left).await {
            left.failures.insert(error.to_string());
        }
    }

    async fn try_empty(
        &self,
        namespace: &Namespace,
        resource: Resource,
        left: &mut Left,
    ) -> Result<(), ApiError> {
        let (objects, name) = (self.client.objects(), namespace.metadata.name_str());
        let selection = Selection { namespace: Some(name.into()), ..Selection::default() };
        let list = objects.list(resource, &selection).await?;
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
        let (mut stay, mut outcome) = (Vec::new(), Ok(()));
        let (going, present): (Vec<_>, Vec<_>) = list.items.into_iter().partition(|object| object.deleting);
        stay.extend(going);
        for group in present.chunks(GROUP) {
            let keys: Vec<Key> = group.iter().map(|object| object.key.clone()).collect();
            let removed = objects.remove_all(&keys, &options, self.client.options()).await;
            for (object, removed) in group.iter().zip(removed) {
                let gone = match removed {
                    Ok(removed) => removed.gone,
                    Err(error) if error.reason == Reason::NotFound => true,
                    Err(error) => {
                        outcome = Err(error);
                        false
                    }
                };
                if !gone {
                    stay.push(object.clone());
                }
            }
        }
        let mut held = false;
        for object in &stay {
            let finalizers = finalizers(object);
            held |= !finalizers.is_empty();
            left.add(resource, finalizers);
        }
        outcome?;
        // What neither a finalizer nor the time that pods are given explains should have gone.
        if !stay.is_empty() && !held && !in_time(namespace, &stay) {
            left.failures.insert(unexpected(&self.client.objects().kinds(), name, resource));
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

fn finalizers(object: &Object) -> Vec<String> {
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

/// Whether it stays after its content has gone.
fn is_held(namespace: &Namespace) -> bool {
    let others = namespace.spec.iter().flat_map(|spec| spec.finalizers.iter().flatten());
    others.chain(namespace.metadata.finalizers.iter().flatten()).any(|finalizer| finalizer != "kubernetes")
}

/// Whether pods among `stay` may still be ending: the longest time that one of them is given, from the deletion of
/// the namespace on.
fn in_time(namespace: &Namespace, stay: &[Arc<Object>]) -> bool {
    let pods =
        stay.iter().filter(|o| o.key.resource == Resource::PODS).filter_map(|o| o.decode::<Pod>().ok());
    let grace = pods
        .filter(|pod| !pod.is_finished())
        .filter_map(|pod| pod.spec?.termination_grace_period_seconds)
        .max()
        .unwrap_or(0);
    let since = namespace.metadata.deletion_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
    Timestamp::now().duration_since(since).as_secs() < grace
}

fn unexpected(kinds: &Catalogue, namespace: &str, resource: Resource) -> String {
    let group_version = kinds
        .by_resource(resource)
        .map(|kind| format!("{}/{}, Resource={}", kind.group, kind.version, kind.plural));
    format!(
        "unexpected items still remain in namespace: {namespace} for gvr: {}",
        group_version.unwrap_or_else(|| resource.to_string())
    )
}

/// What keeps a namespace.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    counts: BTreeMap<&'static str, usize>,
    finalizers: BTreeMap<String, usize>,
    failures: BTreeSet<String>,
    /// Nobody may delete what nobody knows the kind of: a finalizer may be its, or more of it elsewhere.
    unserved: BTreeMap<Resource, usize>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.counts.is_empty() && self.failures.is_empty() && self.unserved.is_empty()
    }

    fn add(&mut self, resource: Resource, finalizers: Vec<String>) {
        *self.counts.entry(resource.0).or_default() += 1;
        for finalizer in finalizers {
            *self.finalizers.entry(finalizer).or_default() += 1;
        }
    }

    /// Upstream's five, in upstream's words; each with what it says when all is well, and when it is not.
    fn conditions(&self, old: &[NamespaceCondition]) -> Vec<NamespaceCondition> {
        let unserved = self.unserved.iter().map(|(resource, count)| (resource.0, count));
        let counts = self.counts.iter().map(|(resource, count)| (*resource, count)).chain(unserved);
        let counts: Vec<_> =
            counts.map(|(r, n)| format!("{} has {n} resource instances", dotted(r))).collect();
        let unknown = (!self.unserved.is_empty()).then(|| {
            let names: Vec<_> = self.unserved.keys().map(|resource| resource.0).collect();
            let (count, names) = (names.len(), names.join(", "));
            format!(
                "Discovery failed for some groups, {count} failing: no kind is served at present of {names}"
            )
        });
        let holders: Vec<_> =
            self.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
        let failures = Vec::from_iter(self.failures.iter().map(String::as_str)).join(", ");
        let failed = (!self.failures.is_empty()).then(|| {
            let count = self.failures.len();
            format!("Failed to delete all resource types, {count} remaining: {failures}")
        });
        let remaining =
            (!counts.is_empty()).then(|| format!("Some resources are remaining: {}", counts.join(", ")));
        let held = (!holders.is_empty()).then(|| {
            format!("Some content in the namespace has finalizers remaining: {}", holders.join(", "))
        });
        let five = [
            (
                "NamespaceDeletionDiscoveryFailure",
                ("ResourcesDiscovered", "All resources successfully discovered"),
                "DiscoveryFailed",
                unknown,
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
                "GroupVersionParsingFailed",
                None,
            ),
            (
                "NamespaceDeletionContentFailure",
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
                "ContentDeletionFailed",
                failed,
            ),
            (
                "NamespaceContentRemaining",
                ("ContentRemoved", "All content successfully removed"),
                "SomeResourcesRemain",
                remaining,
            ),
            (
                "NamespaceFinalizersRemaining",
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
                "SomeFinalizersRemain",
                held,
            ),
        ];
        let mut all = old.to_vec();
        for (type_, (well, all_is_well), ill, message) in five {
            let status = if message.is_some() { "True" } else { "False" };
            let known = all.iter().position(|c| c.type_ == type_);
            let since = known.and_then(|at| {
                let known = all.get(at).filter(|c| c.status == status)?;
                known.last_transition_time.clone()
            });
            let condition = NamespaceCondition {
                type_: type_.to_owned(),
                status: status.to_owned(),
                reason: Some(if message.is_some() { ill } else { well }.to_owned()),
                message: Some(message.unwrap_or_else(|| all_is_well.to_owned())),
                last_transition_time: since.or_else(|| Some(Time(Timestamp::now()))),
            };
            match known {
                Some(at) => all[at] = condition,
                None => all.push(condition),
            }
        }
        all
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
        left.add(Resource::PODS, vec!["example.org/hold".to_owned()]);
        left.add(Resource::PODS, Vec::new());
        let first = left.conditions(&[]);
        let told = |conditions: &[NamespaceCondition]| -> Vec<String> {
            let line = |c: &NamespaceCondition| {
                format!("{} {} {}", c.type_, c.reason.as_deref().unwrap(), c.message.as_deref().unwrap())
            };
            conditions.iter().filter(|c| c.status == "True").map(line).collect()
        };
        assert_eq!(first.len(), 5);
        assert_eq!(
            told(&first),
            [
                "NamespaceContentRemaining SomeResourcesRemain Some resources are remaining: pods. has 2 resource \
                 instances",
                "NamespaceFinalizersRemaining SomeFinalizersRemain Some content in the namespace has finalizers \
                 remaining: example.org/hold in 1 resource instances",
            ]
        );
        assert_eq!(left.conditions(&first), first);
        let failed = Left {
            failures: [unexpected(crate::kinds::builtin(), "shop", Resource::PODS)].into(),
            ..Left::default()
        };
        let after = failed.conditions(&first);
        assert_eq!(
            told(&after),
            [
                "NamespaceDeletionContentFailure ContentDeletionFailed Failed to delete all resource types, 1 remaining: \
              unexpected items still remain in namespace: shop for gvr: /v1, Resource=pods"
            ]
        );
        assert_eq!(after[3].reason.as_deref(), Some("ContentRemoved"));
    }
}
