use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    legacy,
    plan::{Plan, SLICE_SIZE, plan},
};
use crate::cache::Pod;

fn service(spec: &Value) -> Service {
    let mut all = json!({"clusterIP": "10.96.0.5", "selector": {"app": "web"},
        "ports": [{"name": "http", "port": 80, "targetPort": "http"}]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "default", "uid": "s", "labels": {"team": "a"}}, "spec": all,
    }))
    .unwrap()
}

fn pod(n: usize, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("p{n}"), "namespace": "default", "uid": format!("u{n}"),
            "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "hostname": format!("h{n}"), "subdomain": "web",
            "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
        "status": {"phase": "Running", "podIP": format!("10.1.{}.{}", n / 250, n % 250 + 1),
            "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]},
    }))
    .unwrap()
}

fn pods(range: std::ops::Range<usize>) -> Vec<Arc<Pod>> {
    range.map(|n| Arc::new(pod(n, true))).collect()
}

fn planned(service: &Service, pods: &[Arc<Pod>], current: &[Arc<EndpointSlice>]) -> Plan {
    plan(service, pods, current, &|_| Some("z1".to_owned()))
}

fn applied(mut current: Vec<Arc<EndpointSlice>>, plan: Plan, serial: &mut usize) -> Vec<Arc<EndpointSlice>> {
    let name = |s: &EndpointSlice| s.metadata.name.clone();
    current.retain(|s| !plan.delete.iter().any(|d| name(d) == name(s)));
    for slice in plan.update {
        let known = current.iter_mut().find(|s| name(s) == name(&slice)).unwrap();
        *known = Arc::new(slice);
    }
    for mut slice in plan.create {
        *serial += 1;
        slice.metadata.name = Some(format!("web-{serial}"));
        current.push(Arc::new(slice));
    }
    current
}

fn first(service: &Service, pods: &[Arc<Pod>]) -> Value {
    let plan = planned(service, pods, &[]);
    assert_eq!(plan.create.len(), 1);
    serde_json::to_value(&plan.create[0]).unwrap()
}

#[test]
fn a_ready_pod_is_an_endpoint_with_everything_that_names_it() {
    let slice = first(&service(&json!({})), &pods(1..2));
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "web");
    assert_eq!(slice["metadata"]["labels"]["team"], "a");
    assert_eq!(slice["metadata"]["generateName"], "web-");
    assert_eq!(slice["ports"], json!([{"name": "http", "port": 8080, "protocol": "TCP"}]));
    let endpoint = &slice["endpoints"][0];
    assert_eq!(endpoint["addresses"], json!(["10.1.0.2"]));
    assert_eq!(endpoint["conditions"], json!({"ready": true, "serving": true, "terminating": false}));
    assert_eq!(
        (&endpoint["hostname"], &endpoint["nodeName"], &endpoint["zone"]),
        (&json!("h1"), &json!("n1"), &json!("z1"))
    );
    assert_eq!(endpoint["targetRef"]["uid"], "u1");
}

#[test]
fn readiness_and_termination_show_in_the_conditions() {
    let mut leaving = pod(1, true);
    leaving.metadata.deletion_timestamp = serde_json::from_str("\"2026-01-01T00:00:00Z\"").unwrap();
    let pods = [Arc::new(leaving), Arc::new(pod(2, false))];
    let slice = first(&service(&json!({})), &pods);
    assert_eq!(
        slice["endpoints"][0]["conditions"],
        json!({"ready": false, "serving": true, "terminating": true})
    );
    assert_eq!(slice["endpoints"][1]["conditions"]["ready"], false);
    let published = first(&service(&json!({"publishNotReadyAddresses": true})), &pods);
    assert_eq!(published["endpoints"][1]["conditions"]["ready"], true);
    let mut done = pod(3, true);
    done.status.as_mut().unwrap().phase = Some("Succeeded".to_owned());
    assert_eq!(first(&service(&json!({})), &[Arc::new(done)])["endpoints"], json!([]));
}

#[test]
fn a_named_port_is_resolved_pod_by_pod() {
    let mut other = pod(2, true);
    let spec = Arc::make_mut(other.spec.as_mut().unwrap());
    spec.containers[0].ports.as_mut().unwrap()[0].container_port = 9090;
    let plan = planned(&service(&json!({})), &[Arc::new(pod(1, true)), Arc::new(other)], &[]);
    let ports: BTreeSet<_> = plan.create.iter().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    assert_eq!(ports, BTreeSet::from([8080, 9090]));
}

#[test]
fn a_service_without_endpoints_keeps_one_empty_slice() {
    let (service, mut serial) = (service(&json!({"clusterIP": "None"})), 0);
    let slices = applied(Vec::new(), planned(&service, &pods(1..2), &[]), &mut serial);
    let labels = slices[0].metadata.labels.as_ref().unwrap();
    assert!(labels.contains_key("service.kubernetes.io/headless"));
    let plan = planned(&service, &[], &slices);
    assert!(plan.delete.is_empty() && plan.update.len() == 1);
    let slices = applied(slices, plan, &mut serial);
    let rest = planned(&service, &[], &slices);
    assert!(rest.create.is_empty() && rest.update.is_empty() && rest.delete.is_empty());
}

#[test]
fn one_change_rewrites_one_slice() {
    let (service, mut serial) = (service(&json!({})), 0);
    let mut all = pods(0..250);
    let slices = applied(Vec::new(), planned(&service, &all, &[]), &mut serial);
    assert_eq!(slices.len(), 3);
    all[130] = Arc::new(pod(130, false));
    let plan = planned(&service, &all, &slices);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
    // A pod that comes fills the place of the one that goes.
    all.remove(7);
    all.push(Arc::new(pod(300, true)));
    let slices = applied(slices, plan, &mut serial);
    let plan = planned(&service, &all, &slices);
    assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
}

#[test]
fn older_clients_see_ready_and_unready_addresses_apart() {
    let pods = [Arc::new(pod(1, true)), Arc::new(pod(2, false))];
    let endpoints = legacy::endpoints(&service(&json!({})), &pods, None);
    let value = serde_json::to_value(&endpoints).unwrap();
    assert_eq!(value["subsets"][0]["addresses"][0]["ip"], "10.1.0.2");
    assert_eq!(value["subsets"][0]["notReadyAddresses"][0]["ip"], "10.1.0.3");
    assert_eq!(value["subsets"][0]["ports"][0]["port"], 8080);
    assert_eq!(legacy::endpoints(&service(&json!({})), &pods, Some(&endpoints)), endpoints);
    assert_eq!(legacy::endpoints(&service(&json!({})), &[], Some(&endpoints)).subsets, None);
    let label = "service.kubernetes.io/headless";
    let headless = legacy::endpoints(&service(&json!({"clusterIP": "None"})), &pods, Some(&endpoints));
    assert_eq!(headless.metadata.labels.as_ref().unwrap()[label], "");
    let again = legacy::endpoints(&service(&json!({})), &pods, Some(&headless));
    assert!(!again.metadata.labels.unwrap().contains_key(label));
}

proptest! {
    #[test]
    fn slices_hold_exactly_the_pods_and_then_rest(
        rounds in proptest::collection::vec(proptest::collection::btree_set(0_usize..400, 0..300), 1..5),
    ) {
        let (service, mut serial, mut slices) = (service(&json!({})), 0, Vec::new());
        for round in rounds {
            let pods: Vec<_> = round.iter().map(|n| Arc::new(pod(*n, true))).collect();
            let plan = planned(&service, &pods, &slices);
            slices = applied(slices, plan, &mut serial);
            let mut seen = Vec::new();
            for slice in &slices {
                let endpoints = slice.endpoints.as_ref().unwrap();
                prop_assert!(endpoints.len() <= SLICE_SIZE);
                seen.extend(endpoints.iter().map(|e| e.target_ref.clone().unwrap().uid.unwrap()));
            }
            seen.sort();
            let mut wanted: Vec<_> = round.iter().map(|n| format!("u{n}")).collect();
            wanted.sort();
            prop_assert_eq!(seen, wanted);
            let rest = planned(&service, &pods, &slices);
            prop_assert!(rest.create.is_empty() && rest.update.is_empty() && rest.delete.is_empty());
        }
    }
}
