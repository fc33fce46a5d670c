//! Mirrors as a plan, and over the real object machine.

use serde_json::{Value, json};

use super::*;
use crate::{
    controllers::tests::{cluster, until},
    model::Resource,
};

fn service(spec: &Value) -> Service {
    serde_json::from_value(json!({"metadata": {"name": "db", "namespace": "default"}, "spec": spec})).unwrap()
}

fn endpoints(labels: &Value, subsets: &Value) -> Endpoints {
    serde_json::from_value(json!({
        "metadata": {"name": "db", "namespace": "default", "uid": "e", "labels": labels,
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "team": "a"}},
        "subsets": subsets,
    }))
    .unwrap()
}

fn subsets() -> Value {
    json!([{"addresses": [{"ip": "192.0.2.1"}, {"ip": "192.0.2.1"}, {"ip": "2001:db8::1"}],
        "notReadyAddresses": [{"ip": "192.0.2.2", "nodeName": "n1"}], "ports": [{"name": "sql", "port": 5432}]}])
}

fn wanted(service: &Service, endpoints: &Endpoints) -> Vec<EndpointSlice> {
    mirrored(Some(service), Some(endpoints)).into_values().collect()
}

#[test]
fn endpoints_become_a_slice_for_each_family_and_set_of_ports() {
    let (service, endpoints) = (service(&json!({})), endpoints(&json!({"app": "db"}), &subsets()));
    let slices = wanted(&service, &endpoints);
    assert_eq!(slices.len(), 2);
    let v4 = serde_json::to_value(&slices[0]).unwrap();
    assert_eq!(v4["addressType"], "IPv4");
    assert_eq!(
        v4["metadata"]["labels"],
        json!({"app": "db", "kubernetes.io/service-name": "db",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io"})
    );
    assert_eq!(v4["metadata"]["annotations"], json!({"team": "a"}));
    let owner = &v4["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Endpoints"), &json!("e")));
    assert_eq!(v4["ports"], json!([{"name": "sql", "port": 5432, "protocol": "TCP"}]));
    assert_eq!(
        v4["endpoints"],
        json!([{"addresses": ["192.0.2.1"], "conditions": {"ready": true, "serving": true}},
            {"addresses": ["192.0.2.2"], "conditions": {"ready": false, "serving": false}, "nodeName": "n1"}])
    );
    assert_eq!(slices[1].address_type, "IPv6");
}

#[test]
fn what_is_not_to_be_mirrored_is_not() {
    let all = endpoints(&json!({}), &subsets());
    assert!(wanted(&service(&json!({"selector": {"app": "db"}})), &all).is_empty(), "the selector's own");
    let skipped = endpoints(&json!({SKIP: "true"}), &subsets());
    assert!(wanted(&service(&json!({})), &skipped).is_empty());
    assert!(mirrored(None, Some(&all)).is_empty() && mirrored(Some(&service(&json!({}))), None).is_empty());
}

#[test]
fn a_plan_that_was_carried_out_is_empty_and_the_next_changes_what_differs() {
    let (service, all) = (service(&json!({})), endpoints(&json!({}), &subsets()));
    let desired = |e: &Endpoints| mirrored(Some(&service), Some(e));
    let made: Vec<Arc<EndpointSlice>> = plan(desired(&all), &[]).create.into_iter().map(Arc::new).collect();
    let again = plan(desired(&all), &made);
    assert!(again.create.is_empty() && again.update.is_empty() && again.delete.is_empty());
    let less = endpoints(
        &json!({}),
        &json!([{"addresses": [{"ip": "192.0.2.9"}], "ports": [{"name": "sql", "port": 5432}]}]),
    );
    let next = plan(desired(&less), &made);
    assert_eq!((next.create.len(), next.update.len(), next.delete.len()), (0, 1, 1));
    assert_eq!(plan(BTreeMap::new(), &made).delete.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn endpoints_kept_by_hand_are_mirrored_and_the_mirror_goes_with_them() {
    let cluster = cluster().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "db"},
        "spec": {"ports": [{"port": 5432}]}});
    cluster.create(Resource::SERVICES, Some("default"), service).await;
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "db"},
        "subsets": [{"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 5432}]}]});
    cluster.create(Resource::ENDPOINTS, Some("default"), endpoints).await;
    let mirrors = || {
        let mut slices = cluster.cache.slices.in_namespace("default");
        slices.retain(|slice| is_mirror(slice));
        slices
    };
    until("mirrored", async || (mirrors().len() == 1).then_some(())).await;
    cluster.delete(Resource::ENDPOINTS, Some("default"), "db").await;
    until("gone", async || mirrors().is_empty().then_some(())).await;
}
