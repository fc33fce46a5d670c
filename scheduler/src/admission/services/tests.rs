use serde_json::{Value, json};

use super::*;
use crate::objects::{DeleteOptions, Objects, WriteOptions};

struct Cluster {
    objects: Objects,
    cache: Cache,
}

async fn cluster(range: &str, ports: RangeInclusive<u16>) -> Cluster {
    let cache = Cache::default();
    let addresses: Ipv4Net = range.parse().unwrap();
    let dns = Ipv4Addr::from(u32::from(addresses.network()) + 10);
    let plugin = ServiceAddresses::new(ServiceRanges { addresses, ports, dns }, &cache);
    let objects = Objects::in_memory(vec![Arc::new(plugin)]).await.unwrap();
    cache.start(&objects, &crate::tasks::Tasks::default());
    Cluster { objects, cache }
}

fn service(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

impl Cluster {
    async fn create(&self, name: &str, spec: Value) -> Result<Value, ApiError> {
        let options = WriteOptions::controller("test");
        let body = service(name, &spec);
        let written = self.objects.create(Resource::SERVICES, Some("default"), body, &options).await?;
        Ok(written.object.decode().unwrap())
    }

    async fn update(&self, name: &str, spec: Value) -> Result<Value, ApiError> {
        let options = WriteOptions::controller("test");
        let body = service(name, &spec);
        let resource = Resource::SERVICES;
        let written = self.objects.update(resource, Some("default"), name, None, body, &options).await?;
        Ok(written.object.decode().unwrap())
    }
}

fn address(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn addresses_are_unique_and_the_first_and_the_dns_address_stay_free() {
    let cluster = cluster("10.96.0.0/28", 30000..=32767).await;
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..12 {
        assert!(seen.insert(address(&cluster.create(&format!("s{n}"), json!({})).await.unwrap())));
    }
    assert!(!seen.contains("10.96.0.1") && !seen.contains("10.96.0.10") && !seen.contains("10.96.0.0"));
    let full = cluster.create("more", json!({})).await.unwrap_err();
    assert!(full.message.contains("range is full"), "{full}");
    // An address comes back when its service is gone.
    let options = WriteOptions::controller("test");
    let delete = DeleteOptions::default();
    cluster.objects.delete(Resource::SERVICES, Some("default"), "s3", &delete, &options).await.unwrap();
    let mut gone = false;
    while !gone {
        tokio::task::yield_now().await;
        gone = cluster.cache.services.get(&Id::new("default", "s3")).is_none();
    }
    cluster.create("more", json!({})).await.unwrap();
}

#[tokio::test]
async fn a_taken_or_foreign_address_is_refused_in_upstreams_words() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    cluster.create("a", json!({"clusterIP": "10.96.0.7"})).await.unwrap();
    let taken = cluster.create("b", json!({"clusterIP": "10.96.0.7"})).await.unwrap_err();
    assert_eq!(
        taken.message,
        "Service \"b\" is invalid: spec.clusterIPs: Invalid value: [\"10.96.0.7\"]: \
         failed to allocate IP 10.96.0.7: provided IP is already allocated"
    );
    let foreign = cluster.create("b", json!({"clusterIP": "192.168.0.1"})).await.unwrap_err();
    assert!(foreign.message.contains("The range of valid IPs is 10.96.0.0/16"), "{foreign}");
    assert!(cluster.create("b", json!({"clusterIP": "10.96.0.10"})).await.is_err(), "the DNS address");
}

#[tokio::test]
async fn node_ports_are_given_kept_and_refused_when_taken() {
    let cluster = cluster("10.96.0.0/16", 30000..=30003).await;
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81, "nodePort": 30001}]);
    let made = cluster.create("a", json!({"type": "NodePort", "ports": ports})).await.unwrap();
    let given = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=30003).contains(&given) && given != 30001);
    let taken = cluster
        .create("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30001}]}))
        .await
        .unwrap_err();
    assert_eq!(
        taken.message,
        "Service \"b\" is invalid: spec.ports[0].nodePort: Invalid value: 30001: \
         provided port is already allocated"
    );
    let outside = cluster
        .create("b", json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]}))
        .await
        .unwrap_err();
    assert!(outside.message.ends_with("The range of valid ports is 30000-30003"), "{outside}");
    // The same number for another protocol is another port.
    let udp = json!([{"port": 80, "nodePort": 30001, "protocol": "UDP"}]);
    cluster.create("udp", json!({"type": "NodePort", "ports": udp})).await.unwrap();
    // An update as kubectl applies it names neither the address nor the port.
    let ports = json!([{"name": "a", "port": 80}]);
    let kept = cluster.update("a", json!({"type": "NodePort", "ports": ports})).await.unwrap();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], given);
    assert_eq!(address(&kept), address(&made));
}

#[tokio::test]
async fn headless_and_external_services_get_no_address() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let headless = cluster.create("h", json!({"clusterIP": "None"})).await.unwrap();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let external =
        cluster.create("e", json!({"type": "ExternalName", "externalName": "example.org"})).await.unwrap();
    assert!(external["spec"].get("clusterIP").is_none());
}

#[tokio::test]
async fn a_dry_run_promises_nothing() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let options = WriteOptions { dry_run: true, ..WriteOptions::controller("test") };
    let body = service("dry", &json!({"clusterIP": "10.96.0.9"}));
    cluster.objects.create(Resource::SERVICES, Some("default"), body, &options).await.unwrap();
    cluster.create("real", json!({"clusterIP": "10.96.0.9"})).await.unwrap();
}

#[tokio::test]
async fn what_a_failed_write_was_given_is_free_at_once() {
    let cluster = cluster("10.96.0.0/16", 30000..=30000).await;
    let wrong = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 70000}]});
    cluster.create("wrong", wrong).await.unwrap_err();
    let first = json!({"type": "NodePort", "clusterIP": "10.96.0.7", "ports": [{"port": 80}]});
    cluster.create("first", first).await.unwrap();
    // The name is taken: what the second of the name was given is free, what the first has is not.
    cluster.create("first", json!({"clusterIP": "10.96.0.8"})).await.unwrap_err();
    cluster.create("second", json!({"clusterIP": "10.96.0.8"})).await.unwrap();
    cluster.create("third", json!({"clusterIP": "10.96.0.7"})).await.unwrap_err();
}
