//! Deployments and ReplicaSets.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::{Family, labels, owners};

/// All metrics of Deployments.
pub(super) fn deployments(all: &[Arc<Deployment>]) -> Vec<Family> {
    let mut families = [
        Family::gauge("kube_deployment_metadata_generation", "The generation that was asked for"),
        Family::gauge("kube_deployment_status_observed_generation", "The generation that was looked at"),
        Family::gauge("kube_deployment_spec_replicas", "Pods asked for"),
        Family::gauge("kube_deployment_spec_paused", "Whether a deployment is paused"),
        Family::gauge("kube_deployment_status_replicas", "Pods there are"),
        Family::gauge("kube_deployment_status_replicas_ready", "Pods that are ready"),
        Family::gauge("kube_deployment_status_replicas_available", "Pods that are available"),
        Family::gauge("kube_deployment_status_replicas_unavailable", "Pods that are missing"),
        Family::gauge("kube_deployment_status_replicas_updated", "Pods of the newest template"),
    ];
    for deployment in all {
        let (meta, spec) = (&deployment.metadata, &deployment.spec);
        let status = deployment.status.clone().unwrap_or_default();
        let count = |value: Option<i32>| f64::from(value.unwrap_or(0));
        let values = [
            meta.generation.unwrap_or(0) as f64,
            status.observed_generation.unwrap_or(0) as f64,
            count(spec.replicas),
            f64::from(spec.paused.unwrap_or(false)),
            count(status.replicas),
            count(status.ready_replicas),
            count(status.available_replicas),
            count(status.unavailable_replicas),
            count(status.updated_replicas),
        ];
        for (family, value) in families.iter_mut().zip(values) {
            family.add(labels(meta, "deployment", &[]), value);
        }
    }
    families.into()
}

/// All metrics of ReplicaSets.
pub(super) fn replica_sets(all: &[Arc<ReplicaSet>]) -> Vec<Family> {
    let mut owner = Family::gauge("kube_replicaset_owner", "Who owns a replica set");
    let mut wanted = Family::gauge("kube_replicaset_spec_replicas", "Pods asked for");
    let mut replicas = Family::gauge("kube_replicaset_status_replicas", "Pods there are");
    let mut ready = Family::gauge("kube_replicaset_status_ready_replicas", "Pods that are ready");
    for set in all {
        let meta = &set.metadata;
        let own = || labels(meta, "replicaset", &[]);
        for owned in owners(meta) {
            owner.add(own().into_iter().chain(owned).collect(), 1.0);
        }
        let status = set.status.as_ref();
        let spec = set.spec.replicas;
        wanted.add(own(), f64::from(spec.unwrap_or(0)));
        replicas.add(own(), f64::from(status.map_or(0, |s| s.replicas)));
        ready.add(own(), f64::from(status.and_then(|s| s.ready_replicas).unwrap_or(0)));
    }
    vec![owner, wanted, replicas, ready]
}
