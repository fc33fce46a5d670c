//! ReplicaSets and ReplicationControllers: as many pods of a template as asked for.

mod kind;
mod plan;
mod rank;

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use futures::future::join_all;
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::ReplicationController},
    jiff::Timestamp,
};
use serde_json::json;

use self::{
    kind::Replicated,
    plan::{Failure, Plan, batches, plan, pod_of, status, wanted},
};
use super::{
    owner::{adopted, controller_of, controller_ref, released},
    runner::{Controller, Next, Queue, Runtime},
};
use crate::{
    cache::{Cache, Client, Id, MetaExt, Pod, WriteError},
    events::{Note, Recorder},
    model::LabelSelector,
    objects::{DeleteOptions, Objects},
};

/// The controller of one kind.
struct Sets<K> {
    cache: Cache,
    client: Client,
    recorder: Recorder,
    kind: PhantomData<K>,
}

/// Starts the controllers of both kinds.
pub(super) fn start(objects: &Objects, cache: &Cache, recorder: &Recorder, runtime: &Runtime) {
    start_one::<ReplicaSet>(objects, cache, recorder, runtime);
    start_one::<ReplicationController>(objects, cache, recorder, runtime);
}

fn start_one<K: Replicated>(objects: &Objects, cache: &Cache, recorder: &Recorder, runtime: &Runtime) {
    let queue = runtime.queue(Sets::<K>::NAME);
    subscribe::<K>(cache, &queue);
    let client = Client::new(objects, cache, K::COMPONENT);
    let sets = Sets::<K> { cache: cache.clone(), client, recorder: recorder.clone(), kind: PhantomData };
    runtime.spawn(sets, &queue);
}

fn subscribe<K: Replicated>(cache: &Cache, queue: &Arc<Queue<Id>>) {
    let of_sets = queue.clone();
    K::table(cache).on_change(move |change| {
        if let Some(set) = change.either() {
            of_sets.add(Id::of(set.metadata()));
        }
    });
    let (of_pods, sets) = (queue.clone(), K::table(cache).clone());
    cache.pods.on_change(move |change| {
        for pod in change.both() {
            let namespace = pod.metadata.namespace_str();
            match controller_of(&pod.metadata) {
                Some(owner) if owner.kind == K::KIND => of_pods.add(Id::new(namespace, &owner.name)),
                Some(_) => {}
                // An orphan: whoever selects it may want it.
                None => {
                    let selects = |set: &K| set.selector().is_some_and(|s| s.matches(&pod.labels));
                    for set in sets.selecting(namespace, &pod.labels, selects) {
                        of_pods.add(Id::of(set.metadata()));
                    }
                }
            }
        }
    });
}

impl<K: Replicated> Controller for Sets<K> {
    type Key = Id;
    const NAME: &'static str = K::NAME;
    const WORKERS: usize = 4;

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(set) = K::table(&self.cache).get(key) else { return Ok(Next::Done) };
        let Some(selector) = set.selector() else { return Ok(Next::Done) };
        let candidates = self.candidates(&set, &selector);
        // Who is to go is told by where all of them are; nobody goes while there are no more than wanted.
        let may_shrink = candidates.len() > wanted(&set.as_set());
        let related = if may_shrink { self.related(&set) } else { Vec::new() };
        let plan = plan(&set.as_set(), &selector, &candidates, &related, now());
        self.claim(&set, &plan).await?;
        let (mut owned, failure) = self.scale(&set, plan).await;
        // What was just deleted or changed is already in the cache: count the present, not the plan's past.
        owned.retain_mut(|pod| match self.cache.pods.get(&Id::of(&pod.metadata)) {
            Some(current) if current.metadata.uid == pod.metadata.uid => {
                *pod = current;
                true
            }
            _ => false,
        });
        let next = self.report(&set, &owned, failure.as_ref().map(|(f, _)| f)).await?;
        match failure {
            Some((_, error)) => Err(error),
            None => Ok(next),
        }
    }

    fn all(&self) -> Vec<Id> {
        K::table(&self.cache).all().iter().map(|s| Id::of(s.metadata())).collect()
    }
}

impl<K: Replicated> Sets<K> {
    fn candidates(&self, set: &K, selector: &LabelSelector) -> Vec<Arc<Pod>> {
        let namespace = set.metadata().namespace_str();
        let mut pods = self.cache.pods.controlled_by(set.metadata().uid_str());
        pods.extend(self.cache.pods.unowned(namespace, |labels| selector.matches(labels)));
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        pods
    }

    fn related(&self, set: &K) -> Vec<Arc<Pod>> {
        let siblings = match controller_of(set.metadata()) {
            Some(owner) => K::table(&self.cache).controlled_by(&owner.uid),
            None => Vec::new(),
        };
        let uids: HashMap<&str, ()> = siblings.iter().map(|s| (s.metadata().uid_str(), ())).collect();
        let own = set.metadata().uid_str();
        let all = uids.keys().copied().chain((!uids.contains_key(own)).then_some(own));
        all.flat_map(|uid| self.cache.pods.controlled_by(uid)).collect()
    }

    async fn claim(&self, set: &K, plan: &Plan) -> Result<(), WriteError> {
        for pod in &plan.adopt {
            let owners = adopted(&pod.metadata, controller_ref(set));
            self.set_owners(pod, json!(owners)).await?;
        }
        for pod in &plan.release {
            let owners = released(&pod.metadata, set.metadata().uid_str());
            self.set_owners(pod, json!(owners)).await?;
        }
        Ok(())
    }

    async fn set_owners(&self, pod: &Pod, owners: serde_json::Value) -> Result<(), WriteError> {
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version,
            "ownerReferences": owners,
        }});
        match self.client.merge::<Pod>(&Id::of(&pod.metadata), None, patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// Creates and deletes; returns the pods there are now, and the first failure.
    async fn scale(&self, set: &K, plan: Plan) -> (Vec<Arc<Pod>>, Option<(Failure, WriteError)>) {
        let mut owned = plan.owned;
        owned.extend(plan.adopt);
        let mut failure = None;
        for batch in batches(plan.create) {
            let pod = pod_of(&set.as_set(), controller_ref(set));
            let results = join_all((0..batch).map(|_| self.client.create(&pod))).await;
            for result in results {
                match result {
                    Ok(pod) => {
                        let message = format!("Created pod: {}", pod.metadata.name_str());
                        self.note(set, &Note::normal("SuccessfulCreate", message));
                        owned.push(pod);
                    }
                    Err(error) if error.is_namespace_ending() => return (owned, None),
                    Err(error) => {
                        self.note(set, &Note::warning("FailedCreate", format!("Error creating: {error}")));
                        failure.get_or_insert_with(|| failed("FailedCreate", error));
                    }
                }
            }
            if failure.is_some() {
                break;
            }
        }
        let deletes = plan
            .delete
            .iter()
            .map(|pod| async move { (pod, self.client.delete(&**pod, DeleteOptions::default()).await) });
        for (pod, result) in join_all(deletes).await {
            let name = pod.metadata.name_str();
            match result {
                Ok(()) => self.note(set, &Note::normal("SuccessfulDelete", format!("Deleted pod: {name}"))),
                Err(error) => {
                    self.note(set, &Note::warning("FailedDelete", format!("Error deleting: {error}")));
                    failure.get_or_insert_with(|| failed("FailedDelete", error));
                }
            }
        }
        (owned, failure)
    }

    async fn report(
        &self,
        set: &K,
        owned: &[Arc<Pod>],
        failure: Option<&Failure>,
    ) -> Result<Next, WriteError> {
        let (status, next) = status(&set.as_set(), owned, failure, now());
        if set.status_differs(&status) {
            let mut changed = set.clone();
            changed.set_status(status);
            match self.client.update_status(&changed).await {
                Err(error) if error.is_not_found() => {}
                other => {
                    other?;
                }
            }
        }
        Ok(Next::after(next))
    }

    fn note(&self, set: &K, note: &Note) {
        self.recorder.note(set, K::COMPONENT, note);
    }
}

fn failed(reason: &'static str, error: WriteError) -> (Failure, WriteError) {
    (Failure { reason, message: error.to_string() }, error)
}

fn now() -> Timestamp {
    Timestamp::now()
}

#[cfg(test)]
mod tests;
