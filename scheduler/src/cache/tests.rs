use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::{
    api::core::v1::Pod,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};

use super::{Id, Table};
use crate::model::Revision;

fn pod(name: &str, uid: &str, owner: Option<&str>) -> Arc<Pod> {
    let owner_references = owner.map(|uid| {
        vec![OwnerReference { uid: uid.to_owned(), controller: Some(true), ..OwnerReference::default() }]
    });
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("default".to_owned()),
        uid: Some(uid.to_owned()),
        owner_references,
        ..ObjectMeta::default()
    };
    Arc::new(Pod { metadata, ..Pod::default() })
}

fn id(name: &str) -> Id {
    Id::new("default", name)
}

#[test]
fn a_write_of_ours_is_seen_at_once_and_its_echo_changes_nothing() {
    let table = Table::<Pod>::default();
    let changes = Arc::new(AtomicUsize::new(0));
    let count = changes.clone();
    table.on_change(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    table.wrote(&pod("a", "1", Some("rs")), Revision(5));
    assert_eq!(table.controlled_by("rs").len(), 1);
    table.observe(&pod("a", "1", Some("rs")), Revision(5));
    assert_eq!(changes.load(Ordering::Relaxed), 1);
    // An older state that the watch still had in flight does not win.
    table.wrote(&pod("a", "1", None), Revision(9));
    table.observe(&pod("a", "1", Some("rs")), Revision(7));
    assert!(table.controlled_by("rs").is_empty());
}

#[test]
fn the_answer_of_a_late_write_does_not_bring_back_what_was_deleted() {
    let table = Table::<Pod>::default();
    table.observe(&pod("a", "1", None), Revision(5));
    table.observe_deleted(&pod("a", "1", None), Revision(8));
    table.wrote(&pod("a", "1", None), Revision(6));
    assert!(table.get(&id("a")).is_none());
}

#[test]
fn what_our_delete_removed_stays_away_until_the_watch_agrees() {
    let table = Table::<Pod>::default();
    table.observe(&pod("a", "1", None), Revision(5));
    table.wrote_deleted(&id("a"), "1");
    table.observe(&pod("a", "1", None), Revision(6));
    assert!(table.get(&id("a")).is_none());
    // A new object of the same name is another one.
    table.wrote(&pod("a", "2", None), Revision(9));
    table.observe_deleted(&pod("a", "1", None), Revision(7));
    assert_eq!(table.get(&id("a")).unwrap().metadata.uid.as_deref(), Some("2"));
}

#[test]
fn a_fresh_list_drops_what_it_does_not_contain() {
    let table = Table::<Pod>::default();
    table.observe(&pod("a", "1", None), Revision(1));
    table.observe(&pod("b", "2", None), Revision(2));
    table.wrote(&pod("new", "3", None), Revision(12));
    assert!(!table.is_synced());
    table.retain(&HashSet::from([id("b")]), Revision(10));
    assert!(table.is_synced());
    let names: Vec<_> = table.all().iter().filter_map(|p| p.metadata.name.clone()).collect();
    assert_eq!(names, ["b", "new"]);
    assert_eq!(table.len(), 2);
}

#[test]
fn pods_are_found_by_their_node_their_owner_and_by_having_none() {
    let table = Table::<Pod>::default();
    let on = |name: &str, uid: &str, owner: Option<&str>, node: Option<&str>| {
        let mut pod = (*pod(name, uid, owner)).clone();
        pod.spec.get_or_insert_default().node_name = node.map(str::to_owned);
        Arc::new(pod)
    };
    let names = |pods: Vec<Arc<Pod>>| {
        let mut names: Vec<_> = pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect();
        names.sort();
        names
    };
    let namespace = pod("a", "1", None).metadata.namespace.clone().unwrap();
    table.observe(&on("a", "1", None, None), Revision(1));
    table.observe(&on("b", "2", Some("set"), Some("n1")), Revision(2));
    assert_eq!(
        (names(table.orphans(&namespace)), names(table.on_node("n1"))),
        (vec!["a".into()], vec!["b".into()])
    );
    table.observe(&on("a", "1", Some("set"), Some("n1")), Revision(3));
    assert!(table.orphans(&namespace).is_empty());
    assert_eq!(names(table.controlled_by("set")), ["a", "b"]);
    assert_eq!(names(table.on_node("n1")), ["a", "b"]);
    table.observe(&on("b", "2", None, Some("n2")), Revision(4));
    assert_eq!(
        (names(table.orphans(&namespace)), names(table.on_node("n1"))),
        (vec!["b".into()], vec!["a".into()])
    );
    table.observe_deleted(&on("a", "1", Some("set"), Some("n1")), Revision(5));
    assert!(table.on_node("n1").is_empty() && table.controlled_by("set").is_empty());
    assert_eq!(table.nodes(), [Arc::from("n2")]);
}
