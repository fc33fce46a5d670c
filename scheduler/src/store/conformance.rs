//! One suite for every store.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde_json::{Value, json};

use super::{
    Change, Draft, Expect, Keyring, Layout, MemoryStore, OpenError, Scan, SqliteStore, Store, StoreError,
    sqlite::SqliteOptions,
};
use crate::model::{Key, Object, Paths, Resource, Revision};

pub(super) fn layout() -> Layout {
    let none = Paths::default;
    Layout(vec![
        (Resource::PODS, ["spec.nodeName".into()].into()),
        (Resource::CONFIG_MAPS, none()),
        (Resource::SECRETS, none()),
        (Resource::NODES, none()),
    ])
}

pub(super) fn open(dir: &Path) -> Result<SqliteStore, OpenError> {
    let keys = Keyring::open(&dir.join("secrets.key"), false).unwrap();
    let path = dir.join("gantry.db");
    SqliteStore::open(SqliteOptions {
        path: &path,
        layout: layout(),
        seldom: vec![Resource::EVENTS],
        sealed: vec![Resource::SECRETS],
        keys,
        upgrade: |_, _| {},
    })
}

pub(super) fn sqlite(dir: &Path) -> SqliteStore {
    open(dir).unwrap()
}

pub(super) fn key(name: &str) -> Key {
    Key::namespaced(Resource::CONFIG_MAPS, "default", name)
}

pub(super) fn put(key: &Key, data: &Value, expect: Expect) -> Change {
    let value = json!({"metadata": {"name": &*key.name, "namespace": key.namespace_str()}, "data": data});
    Change::Put { draft: Draft::new(key.clone(), &value, &Default::default()).unwrap(), expect }
}

async fn commit_one(store: &dyn Store, change: Change) -> Arc<Object> {
    store.commit(vec![change]).await.unwrap().remove(0)
}

fn scan(namespace: Option<&str>, at: Option<Revision>) -> Scan {
    Scan {
        resource: Resource::CONFIG_MAPS,
        namespace: namespace.map(Into::into),
        after: None,
        at,
        limit: None,
        with: Vec::new(),
    }
}

fn names(objects: &[Arc<Object>]) -> Vec<&str> {
    objects.iter().map(|o| &*o.key.name).collect()
}

async fn conformance(store: Arc<dyn Store>) {
    reads_see_writes_and_bytes_carry_the_revision(&*store).await;
    preconditions_hold(&*store).await;
    a_batch_is_all_or_nothing(&*store).await;
    scans_are_ordered_scoped_and_go_back_in_time(&*store).await;
    a_watch_has_every_change_in_order(&*store).await;
    compaction_ends_old_watches(&*store).await;
    concurrent_compare_and_swap_loses_nothing(store).await;
}

async fn reads_see_writes_and_bytes_carry_the_revision(store: &dyn Store) {
    let before = store.revision();
    let written = commit_one(store, put(&key("a"), &json!({"k": "v"}), Expect::Absent)).await;
    assert!(written.revision > before);
    assert_eq!(store.revision(), written.revision);
    let read = store.get(&key("a")).unwrap();
    assert_eq!(read.json, written.json);
    let value: Value = read.decode().unwrap();
    assert_eq!(value["metadata"]["resourceVersion"], json!(written.revision.to_string()));
    assert_eq!(value["data"]["k"], "v");
    assert!(store.get(&key("b")).is_none());
    let gone = commit_one(store, Change::Delete { key: key("a"), expect: written.revision }).await;
    assert!(gone.revision > written.revision);
    let last: Value = gone.decode().unwrap();
    assert_eq!(last["metadata"]["resourceVersion"], json!(gone.revision.to_string()));
    assert!(store.get(&key("a")).is_none());
}

async fn preconditions_hold(store: &dyn Store) {
    let first = commit_one(store, put(&key("p"), &json!(1), Expect::Absent)).await;
    let again = store.commit(vec![put(&key("p"), &json!(2), Expect::Absent)]).await;
    assert!(
        matches!(again, Err(StoreError::Conflict { current: Some(c), .. }) if c.revision == first.revision)
    );
    let second = commit_one(store, put(&key("p"), &json!(2), Expect::At(first.revision))).await;
    let stale = store.commit(vec![put(&key("p"), &json!(3), Expect::At(first.revision))]).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let stale = store.commit(vec![Change::Delete { key: key("p"), expect: first.revision }]).await;
    assert!(matches!(stale, Err(StoreError::Conflict { .. })));
    let missing = store.commit(vec![Change::Delete { key: key("q"), expect: first.revision }]).await;
    assert!(matches!(missing, Err(StoreError::Conflict { current: None, .. })));
    assert_eq!(store.revision(), second.revision);
    commit_one(store, Change::Delete { key: key("p"), expect: second.revision }).await;
}

async fn a_batch_is_all_or_nothing(store: &dyn Store) {
    let before = store.revision();
    let batch =
        vec![put(&key("x"), &json!(1), Expect::Absent), put(&key("y"), &json!(1), Expect::At(before))];
    assert!(matches!(store.commit(batch).await, Err(StoreError::Conflict { key: k, .. }) if k == key("y")));
    assert_eq!(store.revision(), before);
    assert!(store.get(&key("x")).is_none());
    let batch = vec![put(&key("x"), &json!(1), Expect::Absent), put(&key("y"), &json!(1), Expect::Absent)];
    let written = store.commit(batch).await.unwrap();
    assert_eq!(written[0].revision.0 + 1, written[1].revision.0);
    let batch = written.iter().map(|o| Change::Delete { key: o.key.clone(), expect: o.revision }).collect();
    store.commit(batch).await.unwrap();
    assert!(store.commit(Vec::new()).await.unwrap().is_empty());
}

async fn scans_are_ordered_scoped_and_go_back_in_time(store: &dyn Store) {
    let other = Key::namespaced(Resource::CONFIG_MAPS, "other", "o");
    for name in ["c", "a", "b"] {
        commit_one(store, put(&key(name), &json!(0), Expect::Absent)).await;
    }
    commit_one(store, put(&other, &json!(0), Expect::Absent)).await;
    let all = store.scan(&scan(None, None), &|_| true).unwrap();
    assert_eq!(names(&all.items), ["a", "b", "c", "o"]);
    assert_eq!(all.revision, store.revision());
    assert_eq!(names(&store.scan(&scan(Some("default"), None), &|_| true).unwrap().items), ["a", "b", "c"]);
    let after = Scan { after: Some(key("a")), ..scan(Some("default"), None) };
    assert_eq!(names(&store.scan(&after, &|_| true).unwrap().items), ["b", "c"]);
    assert!(store.scan(&scan(Some("none"), None), &|_| true).unwrap().items.is_empty());
    let behind = Scan { after: Some(other), ..scan(Some("default"), None) };
    assert!(store.scan(&behind, &|_| true).unwrap().items.is_empty());

    let b = &all.items[1];
    commit_one(store, Change::Delete { key: b.key.clone(), expect: b.revision }).await;
    let a = &all.items[0];
    commit_one(store, put(&a.key, &json!(1), Expect::At(a.revision))).await;
    commit_one(store, put(&key("d"), &json!(1), Expect::Absent)).await;
    let past = store.scan(&scan(None, Some(all.revision)), &|_| true).unwrap();
    assert_eq!(past.revision, all.revision);
    assert!(past.items.iter().zip(&all.items).all(|(p, a)| p.json == a.json));
    assert_eq!(past.items.len(), all.items.len());
    let page = Scan { after: Some(key("a")), ..scan(Some("default"), Some(all.revision)) };
    assert_eq!(names(&store.scan(&page, &|_| true).unwrap().items), ["b", "c"]);
    let cut = store.scan(&Scan { limit: Some(1), ..page }, &|_| true).unwrap();
    assert_eq!((names(&cut.items), cut.rest), (vec!["b"], 1));
    let future = Revision(store.revision().0 + 1);
    assert!(matches!(store.scan(&scan(None, Some(future)), &|_| true), Err(StoreError::Future { .. })));
    for object in store.scan(&scan(None, None), &|_| true).unwrap().items {
        commit_one(store, Change::Delete { key: object.key.clone(), expect: object.revision }).await;
    }
}

async fn a_watch_has_every_change_in_order(store: &dyn Store) {
    let start = store.revision();
    let mut live = store.watch(Resource::CONFIG_MAPS, start).unwrap();
    let made = commit_one(store, put(&key("w"), &json!(1), Expect::Absent)).await;
    let pod = Key::namespaced(Resource::PODS, "default", "unrelated");
    let pod = commit_one(store, put(&pod, &json!(1), Expect::Absent)).await;
    let changed = commit_one(store, put(&key("w"), &json!(2), Expect::At(made.revision))).await;
    let gone = commit_one(store, Change::Delete { key: key("w"), expect: changed.revision }).await;
    let expected = [made.revision, changed.revision, gone.revision];
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        seen.extend(live.next().await.unwrap());
    }
    assert_eq!(seen.iter().map(|e| e.revision()).collect::<Vec<_>>(), expected);
    assert!(seen[0].previous.is_none() && seen[1].previous.is_some() && seen[2].deleted);
    let mut resumed = store.watch(Resource::CONFIG_MAPS, made.revision).unwrap();
    assert_eq!(resumed.next().await.unwrap()[0].revision(), changed.revision);
    commit_one(store, Change::Delete { key: pod.key.clone(), expect: pod.revision }).await;
    assert!(live.ready().unwrap().is_empty());
    assert_eq!(live.reached(), store.revision(), "changes of other resources move the bookmark");
    let future = store.watch(Resource::CONFIG_MAPS, Revision(store.revision().0 + 1));
    assert!(matches!(future, Err(StoreError::Future { .. })));
}

async fn compaction_ends_old_watches(store: &dyn Store) {
    let start = store.revision();
    let mut slow = store.watch(Resource::CONFIG_MAPS, start).unwrap();
    let one = commit_one(store, put(&key("z"), &json!(1), Expect::Absent)).await;
    let two = commit_one(store, put(&key("z"), &json!(2), Expect::At(one.revision))).await;
    store.compact(one.revision);
    assert!(matches!(slow.next().await, Err(StoreError::Compacted { .. })));
    assert!(matches!(
        store.watch(Resource::CONFIG_MAPS, start),
        Err(StoreError::Compacted { oldest, .. }) if oldest == one.revision
    ));
    assert!(matches!(store.scan(&scan(None, Some(start)), &|_| true), Err(StoreError::Compacted { .. })));
    let mut kept = store.watch(Resource::CONFIG_MAPS, one.revision).unwrap();
    assert_eq!(kept.next().await.unwrap()[0].revision(), two.revision);
    commit_one(store, Change::Delete { key: key("z"), expect: two.revision }).await;
}

async fn concurrent_compare_and_swap_loses_nothing(store: Arc<dyn Store>) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 25;
    let counter = key("counter");
    commit_one(&*store, put(&counter, &json!(0), Expect::Absent)).await;
    let tasks: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (store, counter) = (store.clone(), counter.clone());
            tokio::spawn(async move {
                for _ in 0..ROUNDS {
                    loop {
                        let current = store.get(&counter).unwrap();
                        let count = current.decode::<Value>().unwrap()["data"].as_u64().unwrap();
                        let change = put(&counter, &json!(count + 1), Expect::At(current.revision));
                        match store.commit(vec![change]).await {
                            Ok(_) => break,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let last = store.get(&counter).unwrap();
    assert_eq!(last.decode::<Value>().unwrap()["data"], WRITERS * ROUNDS);
    let mut history = BTreeMap::new();
    let mut watcher = store.watch(Resource::CONFIG_MAPS, Revision(last.revision.0 - 10)).unwrap();
    for event in watcher.ready().unwrap() {
        history.insert(event.revision(), event.object.decode::<Value>().unwrap()["data"].as_u64().unwrap());
    }
    assert!(history.values().is_sorted());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_store_conforms() {
    conformance(Arc::new(MemoryStore::default())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_store_conforms() {
    let dir = tempfile::tempdir().unwrap();
    conformance(Arc::new(sqlite(dir.path()))).await;
}
