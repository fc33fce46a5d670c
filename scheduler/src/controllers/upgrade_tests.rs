//! A database of an earlier version, with fewer defaults than today's, under today's loops.

use std::{fs, path::Path, sync::Arc};

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::tests::{Cluster, cluster_over, deployment, options, until};
use crate::{
    app::layout,
    kinds::{self, Subresource},
    model::Resource,
    objects::{Objects, Patch},
    store::{Keyring, SqliteOptions, SqliteStore},
};

/// The default that the earlier version did not have yet.
const NEW_DEFAULT: &str = "terminationMessagePolicy";

pub(super) fn open(dir: &Path) -> Objects {
    let store = SqliteStore::open(SqliteOptions {
        path: &dir.join("gantry.db"),
        layout: layout(),
        seldom: vec![Resource::EVENTS],
        sealed: vec![Resource::SECRETS],
        keys: Keyring::open(&dir.join("secrets.key"), false).unwrap(),
        upgrade: kinds::upgrade,
    });
    Objects::new(Arc::new(store.unwrap()), Vec::new())
}

/// A row of the table of objects.
pub(super) struct Row {
    pub(super) resource: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) revision: u64,
    pub(super) body: Value,
}

pub(super) fn rows(database: &Connection) -> Vec<Row> {
    let sql = "SELECT resource, namespace, name, revision, body FROM objects";
    let mut statement = database.prepare(sql).unwrap();
    let read = |row: &rusqlite::Row<'_>| {
        let body: Vec<u8> = row.get(4)?;
        Ok(Row {
            resource: row.get(0)?,
            namespace: row.get(1)?,
            name: row.get(2)?,
            revision: row.get::<_, i64>(3)?.cast_unsigned(),
            body: serde_json::from_slice(&body).unwrap(),
        })
    };
    statement.query_map([], read).unwrap().collect::<Result<_, _>>().unwrap()
}

/// What `dir` holds at this moment, as a crash would leave it, where `change` has changed what it says that it did; says
/// how many rows that were. The resource and the name come with each body.
pub(super) fn copied(dir: &Path, to: &Path, mut change: impl FnMut(&str, &str, &mut Value) -> bool) -> usize {
    for name in ["gantry.db", "gantry.db-wal", "secrets.key"] {
        fs::copy(dir.join(name), to.join(name)).unwrap();
    }
    let database = Connection::open(to.join("gantry.db")).unwrap();
    let mut changed = 0;
    for Row { resource, namespace, name, body: mut value, .. } in rows(&database) {
        if change(&resource, &name, &mut value) {
            changed += 1;
            let body = value.to_string().into_bytes();
            let sql = "UPDATE objects SET body = ?1 WHERE resource = ?2 AND namespace = ?3 AND name = ?4";
            database.execute(sql, params![body, resource, namespace, name]).unwrap();
        }
    }
    changed
}

fn forget(value: &mut Value) -> bool {
    match value {
        Value::Object(map) => {
            let here = map.remove(NEW_DEFAULT).is_some();
            map.values_mut().filter_map(|inner| forget(inner).then_some(())).count() > 0 || here
        }
        Value::Array(list) => list.iter_mut().filter_map(|inner| forget(inner).then_some(())).count() > 0,
        _ => false,
    }
}

pub(super) async fn started(objects: Objects) -> Cluster {
    let namespace = json!({"metadata": {"name": "default"}});
    if objects.get(Resource::NAMESPACES, None, "default").await.is_err() {
        objects.create(Resource::NAMESPACES, None, namespace, &options()).await.unwrap();
    }
    cluster_over(objects)
}

fn uids(cluster: &Cluster) -> Vec<String> {
    let mut uids: Vec<_> = cluster.active().iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
    uids.sort();
    uids
}

#[tokio::test]
async fn a_new_default_rolls_nothing_out_and_every_status_is_stored() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let cluster = started(open(before.path())).await;
    cluster.create(Resource::DEPLOYMENTS, Some("default"), deployment(3)).await;
    cluster.rolled_out("web:1", 3).await;
    let pods = uids(&cluster);
    let changed = copied(before.path(), after.path(), |_, _, body| forget(body));
    assert_eq!(changed, 5, "a Deployment, its ReplicaSet and three pods");

    let cluster = started(open(after.path())).await;
    until("the pods are known", async || (cluster.active().len() == 3).then_some(())).await;
    for pod in cluster.active() {
        assert_eq!(
            pod.spec.as_ref().unwrap().containers[0].termination_message_policy.as_deref(),
            Some("File")
        );
        let status = Patch::Strategic(json!({"status": {"message": "told by its node"}}));
        let (name, sub) = (pod.metadata.name.as_deref().unwrap(), Some(Subresource::Status));
        let stored = cluster
            .objects
            .patch(Resource::PODS, Some("default"), name, sub, status, &options())
            .await
            .unwrap();
        assert_eq!(stored.object.decode::<Value>().unwrap()["status"]["message"], "told by its node");
    }
    // Writes of the Deployment that leave its template alone: each stores it with the default.
    cluster
        .patch(Resource::DEPLOYMENTS, "web", None, json!({"metadata": {"labels": {"touched": "yes"}}}))
        .await;
    cluster.patch(Resource::DEPLOYMENTS, "web", None, json!({"spec": {"minReadySeconds": 1}})).await;
    until("the controller has looked at it", async || {
        let found = cluster.get(Resource::DEPLOYMENTS, Some("default"), "web").await?;
        (found["status"]["observedGeneration"] == found["metadata"]["generation"]).then_some(())
    })
    .await;
    assert_eq!(cluster.count(Resource::REPLICA_SETS, "default").await, 1, "nothing rolls out");
    assert_eq!(uids(&cluster), pods);
}
