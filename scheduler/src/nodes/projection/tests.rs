//! What is sent to which node, and when.

mod cost;
mod model;
mod services;

use std::collections::BTreeSet;

use gantry_proto::node::v1 as pb;
use k8s_openapi::api::core::v1::ServiceSpec;
use serde_json::{Value, json};

use super::{
    cluster::peer_key,
    item::{Parts, ToAll},
    services::slice_key,
    *,
};
use crate::model::{Key, Resource, Revision};

fn object(resource: Resource, name: &str, json: &Value) -> Arc<Object> {
    let uid = json["metadata"]["uid"].as_str().unwrap_or("").into();
    Arc::new(Object { uid, ..Object::plain(Key::namespaced(resource, "default", name), json) })
}

fn no_class(_: &str) -> Option<String> {
    None
}

/// A service with its endpoints, as an agent makes it of the parts.
fn whole(service: &Service, slices: &[EndpointSlice], announcers: &BTreeSet<NodeName>) -> pb::Service {
    let slices: Vec<_> = slices.iter().map(compile::slice).collect();
    gantry_proto::joined(compile::service(service, slices.iter(), announcers), slices.iter())
}

fn no_node(_: &str, _: Option<Revision>) -> Option<NodeFacts> {
    None
}

fn name(text: &str) -> Name {
    Name::new("default", text)
}

#[test]
fn a_resume_across_forgotten_removals_asks_for_a_snapshot() {
    let mut projection = Projection::default();
    projection.service(&name("first"), Service::default());
    projection.flush();
    let old = projection.generation();
    for i in 0..=view::TOMBSTONES {
        let service = name(&format!("s{i}"));
        projection.service(&service, Service::default());
        projection.flush();
        projection.service_gone(&service);
        projection.flush();
    }
    assert!(projection.since("n0", Form::Apart, old).is_none());
    let since = |generation| projection.since("n0", Form::Apart, generation);
    assert!(since(projection.generation()).is_some_and(|items| items.is_empty()));
    assert!(since(projection.generation() + 1).is_none(), "a generation from the future");
}

#[test]
fn a_secret_is_sent_before_its_pod_and_as_soon_as_it_exists() {
    let mut projection = Projection::default();
    let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": "n0", "containers": [],
        "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "late"}}]}},
            {"name": "w", "secret": {"secretName": "early"}}]}});
    projection.shared(SharedKind::Secret, &name("early"), &"{}".into());
    projection.pod(&object(Resource::PODS, "p", &pod), no_class, no_node).unwrap();
    let kinds: Vec<_> = projection.flush().into_iter().map(|(_, i)| (i.key.kind, i.key.name.name)).collect();
    assert_eq!(kinds, [(ItemKind::Secret, "early".into()), (ItemKind::Pod, "p".into())]);

    projection.shared(SharedKind::Secret, &name("late"), &"{}".into());
    let late = projection.flush();
    assert_eq!(late[0].0, Audience::One("n0".into()));
    assert_eq!(&*late[0].1.key.name.name, "late");
}

#[test]
fn a_node_is_told_the_handler_that_a_class_names() {
    let mut projection = Projection::default();
    let handler_of = |class: &str| (class == "gvisor").then(|| "runsc".to_owned());
    for (class, expected) in [("gvisor", "runsc"), ("gone", "gone")] {
        let pod = json!({"metadata": {"name": "p", "uid": class},
            "spec": {"nodeName": "n0", "containers": [], "runtimeClassName": class}});
        projection.pod(&object(Resource::PODS, "p", &pod), handler_of, no_node).unwrap();
        let sent = projection.flush();
        let Body::Json(json) = &sent.last().unwrap().1.body else { panic!("{sent:?}") };
        let sent: Value = serde_json::from_slice(json).unwrap();
        assert_eq!(sent["spec"]["runtimeClassName"], expected);
    }
}

#[test]
fn a_node_is_not_told_its_own_words() {
    let mut projection = Projection::default();
    let mut pod = json!({"metadata": {"name": "p", "uid": "u", "resourceVersion": "1", "managedFields": [{}]},
        "spec": {"nodeName": "n0", "containers": [], "readinessGates": [{"conditionType": "example.com/up"}]}});
    projection.pod(&object(Resource::PODS, "p", &pod), no_class, no_node).unwrap();
    let sent = projection.flush();
    let Body::Json(json) = &sent[0].1.body else { panic!("{sent:?}") };
    assert!(!String::from_utf8_lossy(json).contains("managedFields"));

    pod["metadata"]["resourceVersion"] = json!("2");
    pod["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    projection.pod(&object(Resource::PODS, "p", &pod), no_class, no_node).unwrap();
    assert!(projection.flush().is_empty());

    // Somebody else's condition that a readiness gate waits for is news.
    pod["status"]["conditions"] = json!([{"type": "example.com/up", "status": "True"}]);
    projection.pod(&object(Resource::PODS, "p", &pod), no_class, no_node).unwrap();
    assert_eq!(projection.flush().len(), 1);
}

#[test]
fn what_all_nodes_are_told_is_encoded_once_for_live_sessions_and_for_snapshots() {
    use gantry_proto::node::v1::scheduler_message::Kind;

    use crate::nodes::convert::update;

    let mut projection = Projection::default();
    projection.service(&name("web"), Service::default());
    let facts = NodeFacts {
        addresses: vec!["192.0.2.1".into()],
        pod_cidrs: vec!["10.1.0.0/24".into()],
        announces: true,
        ..NodeFacts::default()
    };
    projection.node(&"n9".into(), facts);
    let own = |(to, _): &(Audience, Item)| *to == Audience::One("n9".into());
    let live = projection.flush();
    assert!(own(&live[0]), "a node is told of itself, and nobody else is");
    let bytes = |item: &Item| match update(item).kind {
        Some(Kind::Update(bytes)) => bytes,
        other => panic!("{other:?}"),
    };
    let live: Vec<_> = live.iter().filter(|told| !own(told)).map(|(_, item)| bytes(item)).collect();
    assert_eq!(live.len(), 3, "the peer, and the service in either form");
    for (node, form) in [("n0", Form::Apart), ("n1", Form::Apart), ("n2", Form::Whole)] {
        for item in projection.snapshot(node, form) {
            let again = bytes(&item);
            assert!(
                live.iter().any(|first| std::ptr::eq(first.as_ptr(), again.as_ptr()) && *first == again),
                "{item:?}"
            );
        }
    }
    // Another state is another update.
    let service = Service {
        spec: Some(ServiceSpec { cluster_ip: Some("10.0.0.1".into()), ..Default::default() }),
        ..Default::default()
    };
    projection.service(&name("web"), service);
    let changed = projection.flush();
    assert!(changed.iter().all(|(_, item)| live.iter().all(|first| *first != bytes(item))));
    assert_eq!(changed.len(), 2);
}

#[test]
fn a_node_is_told_of_itself_before_a_pod_that_was_bound_by_it() {
    let mut projection = Projection::default();
    let facts = |own: &'static str, revision| NodeFacts {
        own: Bytes::from_static(own.as_bytes()),
        revision: Revision(revision),
        ..NodeFacts::default()
    };
    projection.node(&"n0".into(), facts("old", 1));
    projection.flush();
    let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"nodeName": "n0", "containers": []}});
    let newer = |node: &str, known| {
        assert_eq!((node, known), ("n0", Some(Revision(1))));
        Some(facts("new", 3))
    };
    projection.pod(&object(Resource::PODS, "p", &pod), no_class, newer).unwrap();
    let told = |items: Vec<(Audience, Item)>| -> Vec<_> {
        items.into_iter().map(|(_, item)| (item.key.kind, item.body)).collect()
    };
    let sent = told(projection.flush());
    assert_eq!(sent[0], (ItemKind::Node, Body::Json("new".into())));
    assert_eq!((sent.len(), sent[1].0), (2, ItemKind::Pod));
    // What the watch says later is older, and what is as it was is no news.
    projection.node(&"n0".into(), facts("older", 2));
    projection.node(&"n0".into(), facts("new", 4));
    assert_eq!(told(projection.flush()), []);
    // Agents of the version before as well: they keep it, and say that they do not know what it is.
    for form in [Form::Apart, Form::Whole] {
        let first = &projection.snapshot("n0", form)[0];
        assert_eq!((first.key.kind, &first.body), (ItemKind::Node, &Body::Json("new".into())));
    }
    assert!(projection.snapshot("n1", Form::Apart).iter().all(|item| item.key.kind != ItemKind::Node));
    projection.node_gone(&"n0".into());
    assert_eq!(told(projection.flush()), [(ItemKind::Node, Body::Removed)]);
}
