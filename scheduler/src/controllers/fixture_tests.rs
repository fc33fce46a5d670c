//! A database that the daemons of an earlier version wrote, opened by today's, under today's loops.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::{
    Settings,
    tests::{Cluster, cluster_with, deployment, options, until},
    upgrade_tests::{Row, open, rows},
};
use crate::{
    kinds::Subresource,
    model::Resource,
    objects::{Patch, Selection},
};

/// What is said in `old` is said in `new`, which may say more: defaults.
fn says(old: &Value, new: &Value) -> bool {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => old.iter().all(|(name, value)| {
            name == "resourceVersion" || new.get(name).map_or(value.is_null(), |new| says(value, new))
        }),
        (Value::Array(old), Value::Array(new)) => {
            old.len() == new.len() && old.iter().zip(new).all(|(old, new)| says(old, new))
        }
        (old, new) => old == new,
    }
}

/// Waits until the loops of namespaces, garbage, deployments, replica sets, replication controllers, services and their
/// endpoints have come to what was made after they began: what they have not touched then they do not touch.
async fn looked_at(c: &Cluster) {
    c.create(Resource::NAMESPACES, None, json!({"metadata": {"name": "probe"}})).await;
    let orphan = json!({"metadata": {"name": "orphan", "ownerReferences": [
        {"apiVersion": "v1", "kind": "Pod", "name": "never", "uid": "0"}]}});
    c.create(Resource::CONFIG_MAPS, Some("probe"), orphan).await;
    c.create(Resource::DEPLOYMENTS, Some("probe"), deployment(0)).await;
    let controller = json!({"metadata": {"name": "web"}, "spec": {"replicas": 0, "selector": {"app": "other"},
        "template": {"metadata": {"labels": {"app": "other"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    c.create(Resource::REPLICATION_CONTROLLERS, Some("probe"), controller).await;
    let service = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "None", "selector": {"app": "web"},
        "ports": [{"port": 80}]}});
    c.create(Resource::SERVICES, Some("probe"), service).await;
    until("the loops have come to the probes", async || {
        let observed =
            |object: Value| object["status"]["observedGeneration"] == object["metadata"]["generation"];
        let done = observed(c.get(Resource::DEPLOYMENTS, Some("probe"), "web").await?)
            && observed(c.get(Resource::REPLICATION_CONTROLLERS, Some("probe"), "web").await?)
            && c.count(Resource::REPLICA_SETS, "probe").await == 1
            && c.count(Resource::ENDPOINT_SLICES, "probe").await == 1
            && c.count(Resource::SERVICE_ACCOUNTS, "probe").await == 1
            && c.get(Resource::CONFIG_MAPS, Some("probe"), "orphan").await.is_none();
        done.then_some(())
    })
    .await;
}

/// The database of a cluster with two nodes, deployments with their replica sets and pods, services of all types with
/// their endpoints, config maps and service accounts, as the daemons of 5110dc5 wrote it. There is no
/// ReplicationController and no Secret in it: what becomes of those is not held here.
#[tokio::test]
async fn a_database_of_an_earlier_version_is_served_whole_and_no_loop_touches_it() {
    let dir = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/controllers/fixtures/5110dc5/gantry.db");
    let path = dir.path().join("gantry.db");
    fs::copy(from, &path).unwrap();
    let rows = rows(&Connection::open(&path).unwrap());
    let objects = open(dir.path());
    let find = async |row: &Row| {
        let namespace = Some(&*row.namespace).filter(|namespace| !namespace.is_empty());
        objects.get(Resource::parse(&row.resource), namespace, &row.name).await.unwrap()
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in &rows {
        let object = find(row).await;
        assert_eq!(object.revision.0, row.revision, "{}", object.key);
        let served: Value = object.decode().unwrap();
        assert!(says(&row.body, &served), "{}:\n{}\n{served}", object.key, row.body);
        *counts.entry(&row.resource).or_default() += 1;
    }
    assert_eq!(objects.unserved(None), []);
    for kind in objects.kinds().stored() {
        let listed = objects.list(kind.resource, &Selection::default()).await.unwrap().items.len();
        assert_eq!(listed, counts.remove(kind.resource.0).unwrap_or(0), "{}", kind.resource);
    }
    assert!(counts.is_empty(), "{counts:?}");

    // As that cluster was configured. Nobody renews the leases of its nodes here.
    let c = cluster_with(
        objects.clone(),
        Settings {
            pod_range: "10.210.0.0/16".parse().unwrap(),
            load_balancer_pool: vec!["10.110.0.128/26".parse().unwrap()],
            lease: Duration::from_secs(3600),
            node_prefix: 24,
            ca_pem: "-----BEGIN CERTIFICATE-----".into(),
        },
    );
    looked_at(&c).await;
    for row in &rows {
        let now = find(row).await;
        // What a loop makes of other objects may tell more by now, such as that a service is headless.
        if row.resource.starts_with("endpoint") {
            let mut old = row.body.clone();
            drop(old["metadata"].as_object_mut().unwrap().remove("managedFields"));
            let now: Value = now.decode().unwrap();
            assert!(says(&old, &now), "{}:\n{old}\n{now}", row.name);
        } else {
            assert_eq!(now.revision.0, row.revision, "{} {}/{}", row.resource, row.namespace, row.name);
        }
    }
    for row in rows.iter().filter(|row| row.resource == "pods") {
        let status = Patch::Strategic(json!({"status": {"message": "told"}}));
        let (namespace, sub) = (Some(&*row.namespace), Some(Subresource::Status));
        let stored =
            objects.patch(Resource::PODS, namespace, &row.name, sub, status, &options()).await.unwrap();
        assert_eq!(stored.object.decode::<Value>().unwrap()["status"]["message"], "told");
    }
    for row in rows.iter().filter(|row| row.resource == "deployments.apps") {
        let touch = Patch::Strategic(json!({"spec": {"minReadySeconds": 1}}));
        let namespace = Some(&*row.namespace);
        objects.patch(Resource::DEPLOYMENTS, namespace, &row.name, None, touch, &options()).await.unwrap();
        until("the controller has looked at it", async || {
            let found = c.get(Resource::DEPLOYMENTS, namespace, &row.name).await?;
            (found["status"]["observedGeneration"] == found["metadata"]["generation"]).then_some(())
        })
        .await;
    }
    let sets = rows.iter().filter(|row| row.resource == "replicasets.apps").count();
    let all = objects.list(Resource::REPLICA_SETS, &Selection::default()).await.unwrap().items.len();
    assert_eq!(all, sets + 1, "that of the probe, and nothing that rolls out");
}
