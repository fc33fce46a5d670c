//! Deployments: ReplicaSets per template, moved from old to new as the strategy allows, with a history to go
//! back in.

mod model;
mod plan;
mod scale;
mod sets;
mod status;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::apps::v1::{Deployment, ReplicaSet},
    jiff::Timestamp,
};

use self::{
    model::{REVISION, made_from},
    plan::{Plan, collides, plan, refused},
};
use super::{
    owner::{Claim, adopted, claim, controller_of, controller_ref, released},
    runner::{Controller, Next, Queue, Runtime},
};
use crate::{
    cache::{Cache, Client, Id, MetaExt, Pod, WriteError},
    events::{Note, Recorder},
    model::LabelSelector,
    objects::{DeleteOptions, Objects},
};

const COMPONENT: &str = "deployment-controller";

struct Deployments {
    cache: Cache,
    client: Client,
    recorder: Recorder,
}

/// Starts the controller.
pub(super) fn start(objects: &Objects, cache: &Cache, recorder: &Recorder, runtime: &Runtime) {
    let queue = runtime.queue(Deployments::NAME);
    subscribe(cache, &queue);
    let client = Client::new(objects, cache, COMPONENT);
    runtime.spawn(Deployments { cache: cache.clone(), client, recorder: recorder.clone() }, &queue);
}

fn subscribe(cache: &Cache, queue: &Arc<Queue<Id>>) {
    let of_deployments = queue.clone();
    cache.deployments.on_change(move |change| {
        if let Some(deployment) = change.either() {
            of_deployments.add(Id::of(&deployment.metadata));
        }
    });
    let (of_sets, deployments) = (queue.clone(), cache.deployments.clone());
    cache.replica_sets.on_change(move |change| {
        for set in change.both() {
            let namespace = set.metadata.namespace_str();
            match controller_of(&set.metadata) {
                Some(owner) if owner.kind == "Deployment" => of_sets.add(Id::new(namespace, &owner.name)),
                Some(_) => {}
                None => {
                    let labels = set.metadata.labels.clone().unwrap_or_default();
                    let selects = |d: &Deployment| selector(d).is_some_and(|s| s.matches(&labels));
                    for deployment in deployments.selecting(namespace, &labels, selects) {
                        of_sets.add(Id::of(&deployment.metadata));
                    }
                }
            }
        }
    });
    // Recreate waits until the last old pod is gone; no set changes then.
    let (of_pods, sets) = (queue.clone(), cache.replica_sets.clone());
    cache.pods.on_change(move |change| {
        let (Some(pod), None) = (change.old, change.new) else { return };
        let set = controller_of(&pod.metadata)
            .and_then(|owner| sets.get(&Id::new(pod.metadata.namespace_str(), &owner.name)));
        if let Some(owner) = set.as_deref().and_then(|s| controller_of(&s.metadata)) {
            of_pods.add(Id::new(pod.metadata.namespace_str(), &owner.name));
        }
    });
}

fn selector(deployment: &Deployment) -> Option<LabelSelector> {
    LabelSelector::from_object(&deployment.spec.selector).ok()
}

impl Controller for Deployments {
    type Key = Id;
    const NAME: &'static str = "deployment";

    async fn reconcile(&self, key: &Id) -> Result<Next, WriteError> {
        let Some(deployment) = self.cache.deployments.get(key) else { return Ok(Next::Done) };
        let owned = self.claimed(&deployment).await?;
        let old_pods = self.old_pods(&deployment, &owned);
        let plan = plan(&deployment, &owned, old_pods, Timestamp::now());
        match self.apply(&deployment, &owned, plan).await {
            // It, or a set of it, was deleted meanwhile: the deletion brings the key back if need be.
            Err(error) if error.is_not_found() => Ok(Next::Done),
            other => other,
        }
    }

    fn all(&self) -> Vec<Id> {
        self.cache.deployments.all().iter().map(|d| Id::of(&d.metadata)).collect()
    }
}

impl Deployments {
    async fn claimed(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, WriteError> {
        let Some(selector) = selector(deployment) else { return Ok(Vec::new()) };
        let (mut owned, none) = (Vec::new(), BTreeMap::new());
        let sets = &self.cache.replica_sets;
        let mut candidates = sets.controlled_by(deployment.metadata.uid_str());
        candidates.retain(|set| set.metadata.namespace == deployment.metadata.namespace);
        candidates.extend(sets.orphans(deployment.metadata.namespace_str()));
        candidates.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for set in candidates {
            let labels = set.metadata.labels.as_ref().unwrap_or(&none);
            let owners = match claim(&deployment.metadata, &selector, &set.metadata, labels) {
                Claim::Keep => {
                    owned.push(set);
                    continue;
                }
                Claim::Ignore => continue,
                Claim::Adopt => adopted(&set.metadata, controller_ref(deployment)),
                Claim::Release => released(&set.metadata, deployment.metadata.uid_str()),
            };
            let mut changed = (*set).clone();
            changed.metadata.owner_references = Some(owners);
            let changed = self.client.update(&changed).await?;
            if controller_of(&changed.metadata).is_some_and(|o| o.uid == deployment.metadata.uid_str()) {
                owned.push(changed);
            }
        }
        Ok(owned)
    }

    fn old_pods(&self, deployment: &Deployment, owned: &[Arc<ReplicaSet>]) -> bool {
        owned.iter().filter(|set| !made_from(set, &deployment.spec.template)).any(|set| {
            let pods: Vec<Arc<Pod>> = self.cache.pods.controlled_by(set.metadata.uid_str());
            pods.iter().any(|p| !p.is_finished())
        })
    }

    async fn apply(
        &self,
        deployment: &Deployment,
        owned: &[Arc<ReplicaSet>],
        plan: Plan,
    ) -> Result<Next, WriteError> {
        for set in &plan.update {
            self.client.update(set).await?;
        }
        if let Some(set) = &plan.create
            && let Err(error) = self.create(deployment, set).await
        {
            if error.is_namespace_ending() {
                return Ok(Next::Done);
            }
            let message = format!("Failed to create new replica set {:?}: {error}", set.metadata.name_str());
            self.recorder.note(deployment, COMPONENT, &Note::warning("ReplicaSetCreateError", message));
            let status = refused(deployment, owned, &error.to_string(), Timestamp::now());
            self.report(deployment, None, status).await?;
            return Err(error);
        }
        for set in &plan.delete {
            self.client.delete(set, DeleteOptions::default()).await?;
        }
        for note in &plan.notes {
            self.recorder.note(deployment, COMPONENT, note);
        }
        self.report(deployment, plan.revision, plan.status).await?;
        Ok(Next::after(plan.next))
    }

    /// Creates the new set. A set of that name that is another template's makes the next pass try another hash.
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<(), WriteError> {
        let error = match self.client.create(set).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is_already_exists() => error,
            Err(error) => return Err(error),
        };
        let known = self.cache.replica_sets.get(&Id::of(&set.metadata));
        if known.is_some_and(|other| collides(deployment, &other)) {
            let mut changed = deployment.clone();
            let status = changed.status.get_or_insert_default();
            status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
            self.client.update_status(&changed).await?;
        }
        Err(error)
    }

    async fn report(
        &self,
        deployment: &Deployment,
        revision: Option<String>,
        status: k8s_openapi::api::apps::v1::DeploymentStatus,
    ) -> Result<(), WriteError> {
        let mut current = deployment.clone();
        // Through the status, where an annotation is no wish for another generation.
        if let Some(revision) = revision {
            current.metadata.annotations.get_or_insert_default().insert(REVISION.to_owned(), revision);
        }
        current.status = Some(status);
        if current != *deployment {
            self.client.update_status(&current).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
