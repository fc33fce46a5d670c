//! Both forms of discovery, and what they list.

use super::*;
use crate::kinds::builtin;

#[test]
fn kubectls_accept_header_gets_the_aggregated_form() {
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
                  application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
    let forms: Vec<_> = crate::api::negotiate::clauses(accept).iter().map(Form::of).collect();
    assert_eq!(forms, [Some(Form::Aggregated("v2")), None, None]);
}

#[test]
fn core_lists_pods_with_their_subresources() {
    let list = resources(builtin(), "", "v1").unwrap();
    let resources = list["resources"].as_array().unwrap();
    let find = |name: &str| resources.iter().find(|r| r["name"] == name).unwrap();
    assert_eq!(find("pods")["shortNames"], json!(["po"]));
    assert_eq!(find("pods/eviction")["group"], "policy");
    assert_eq!(find("namespaces")["namespaced"], false);
    assert!(!find("namespaces")["verbs"].as_array().unwrap().contains(&json!("deletecollection")));
}

#[test]
fn both_forms_list_the_same_groups() {
    let legacy = groups(builtin(), Form::Legacy);
    let names: Vec<&str> =
        legacy["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    let aggregated = groups(builtin(), Form::Aggregated("v2"));
    let items = aggregated["items"].as_array().unwrap();
    assert_eq!(items.iter().map(|g| g["metadata"]["name"].as_str().unwrap()).collect::<Vec<_>>(), names);
    assert!(names.contains(&"apps") && names.contains(&"metrics.k8s.io"));
    let later = ["statefulsets", "horizontalpodautoscalers"];
    let text = aggregated.to_string();
    assert!(later.iter().all(|name| !text.contains(name)), "kinds of a later issue are not listed");
}

#[test]
fn scale_speaks_autoscaling() {
    let list = resources(builtin(), "apps", "v1").unwrap();
    let scale =
        list["resources"].as_array().unwrap().iter().find(|r| r["name"] == "deployments/scale").unwrap();
    assert_eq!((scale["group"].as_str(), scale["kind"].as_str()), (Some("autoscaling"), Some("Scale")));
    assert!(resources(builtin(), "apps", "v2").is_none() && group(builtin(), "nope").is_none());
}
