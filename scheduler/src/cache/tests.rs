use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Service, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use serde_json::json;

use super::{Cached, Id, MetaExt as _, Pod, Table};
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
fn pods_are_found_by_their_node_and_their_owner() {
    let table = Table::<Pod>::default();
    let on = |name: &str, uid: &str, owner: Option<&str>, node: Option<&str>| {
        let mut pod = (*pod(name, uid, owner)).clone();
        pod.node_name = node.map(Into::into);
        Arc::new(pod)
    };
    table.observe(&on("a", "1", None, None), Revision(1));
    table.observe(&on("b", "2", Some("set"), Some("n1")), Revision(2));
    assert_eq!(names(&table.on_node("n1")), ["b"]);
    table.observe(&on("a", "1", Some("set"), Some("n1")), Revision(3));
    assert_eq!(names(&table.controlled_by("set")), ["a", "b"]);
    assert_eq!(names(&table.on_node("n1")), ["a", "b"]);
    table.observe(&on("b", "2", None, Some("n2")), Revision(4));
    assert_eq!(names(&table.on_node("n1")), ["a"]);
    table.observe_deleted(&on("a", "1", Some("set"), Some("n1")), Revision(5));
    assert!(table.on_node("n1").is_empty() && table.controlled_by("set").is_empty());
    assert_eq!(table.nodes(), [Arc::from("n2")]);
}

fn names<T: Cached>(objects: &[Arc<T>]) -> Vec<&str> {
    objects.iter().map(|object| object.metadata().name_str()).collect()
}

#[test]
fn a_selector_is_held_against_each_set_of_labels_and_not_against_each_pod() {
    let table = Table::<Pod>::default();
    let labelled = |name: &str, app: &str| {
        let mut pod = (*pod(name, name, None)).clone();
        pod.labels = Arc::new([("app".to_owned(), app.to_owned())].into());
        Arc::new(pod)
    };
    for n in 0..100 {
        let app = if n % 2 == 0 { "web" } else { "db" };
        table.observe(&labelled(&format!("p{n:02}"), app), Revision(n));
    }
    let asked = AtomicUsize::new(0);
    let find = |app: &str| {
        table.labelled("default", |labels| {
            asked.fetch_add(1, Ordering::Relaxed);
            labels["app"] == app
        })
    };
    let found = find("web");
    assert_eq!((found.len(), asked.load(Ordering::Relaxed)), (50, 2));
    assert_eq!(names(&found)[..3], ["p00", "p02", "p04"]);
    assert!(table.labelled("elsewhere", |_| true).is_empty());
    table.observe(&labelled("p00", "db"), Revision(200));
    assert_eq!((find("web").len(), find("db").len()), (49, 51));
    for n in 1..100 {
        table.observe_deleted(&labelled(&format!("p{n:02}"), ""), Revision(300));
    }
    asked.store(0, Ordering::Relaxed);
    assert_eq!((names(&find("db")), asked.load(Ordering::Relaxed)), (vec!["p00"], 1));
}

#[test]
fn pods_that_have_a_controller_are_no_candidates_of_others() {
    let table = Table::<Pod>::default();
    for n in 0..100 {
        table.observe(&pod(&format!("p{n:02}"), &n.to_string(), Some("set")), Revision(n));
    }
    table.observe(&pod("orphan", "o", None), Revision(200));
    let before = table.given();
    assert_eq!(names(&table.unowned("default", |_| true)), ["orphan"]);
    assert_eq!(table.given() - before, 1, "no look at those that are somebody's");
    assert_eq!(table.labelled("default", |_| true).len(), 101);
    table.observe(&pod("orphan", "o", Some("set")), Revision(201));
    table.observe(&pod("p00", "0", None), Revision(202));
    assert_eq!(names(&table.unowned("default", |_| true)), ["p00"]);
    assert!(
        table.unowned("elsewhere", |_| true).is_empty() && table.unowned("default", |_| false).is_empty()
    );
}

#[test]
fn only_those_are_asked_who_can_select_a_pod_with_these_labels() {
    let (services, sets) = (Table::<Service>::default(), Table::<ReplicaSet>::default());
    for n in 0..100u64 {
        let service = json!({"metadata": {"name": format!("s{n:02}"), "namespace": "default"},
            "spec": {"selector": {"app": format!("a{}", n / 2), "tier": "front"}}});
        services.observe(&Arc::new(serde_json::from_value(service).unwrap()), Revision(n));
    }
    let everybody = json!({"metadata": {"name": "open", "namespace": "default"}, "spec": {"selector": {}}});
    services.observe(&Arc::new(serde_json::from_value(everybody).unwrap()), Revision(200));
    for (name, selector) in [
        ("words", json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]})),
        ("mine", json!({"matchLabels": {"app": "a7"}})),
        ("other", json!({"matchLabels": {"app": "a8"}})),
    ] {
        let set = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"selector": selector}});
        sets.observe(&Arc::new(serde_json::from_value(set).unwrap()), Revision(1));
    }
    let labels = [("app", "a7"), ("zone", "z")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let asked = AtomicUsize::new(0);
    let found = services.selecting("default", &labels, |_| {
        asked.fetch_add(1, Ordering::Relaxed);
        true
    });
    assert_eq!((names(&found), asked.load(Ordering::Relaxed)), (vec!["s14", "s15"], 2));
    assert_eq!(names(&sets.selecting("default", &labels, |_| true)), ["mine", "words"]);
    assert_eq!(names(&sets.orphans("default")), ["mine", "other", "words"]);
    assert!(sets.selecting("elsewhere", &labels, |_| true).is_empty());
}

#[test]
fn finished_pods_are_found_without_a_look_at_the_others() {
    let table = Table::<Pod>::default();
    let in_phase = |name: &str, phase: &str| {
        let pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name},
            "spec": {"containers": []}, "status": {"phase": phase}});
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    table.observe(&in_phase("a", "Running"), Revision(1));
    table.observe(&in_phase("b", "Failed"), Revision(2));
    assert_eq!(names(&table.finished()), ["b"]);
    table.observe(&in_phase("a", "Succeeded"), Revision(3));
    assert_eq!(names(&table.finished()), ["a", "b"]);
    table.observe_deleted(&in_phase("b", "Failed"), Revision(4));
    assert_eq!(names(&table.finished()), ["a"]);
}

#[test]
fn slices_are_found_by_their_service() {
    let slices = Table::<EndpointSlice>::default();
    for (name, service) in [("a-1", "a"), ("a-2", "a"), ("b-1", "b")] {
        let slice = json!({"metadata": {"name": name, "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "endpoints": []});
        slices.observe(&Arc::new(serde_json::from_value(slice).unwrap()), Revision(1));
    }
    assert_eq!(names(&slices.of_service(&id("a"))), ["a-1", "a-2"]);
    assert!(slices.of_service(&Id::new("elsewhere", "a")).is_empty());
}
