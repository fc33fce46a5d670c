use serde_json::{Value, json};

use super::*;
use crate::objects::{DeleteOptions, Objects, WriteOptions};

pub(super) struct Cluster {
    pub(super) objects: Objects,
    pub(super) cache: Cache,
}

pub(super) async fn cluster(range: &str, ports: RangeInclusive<u16>) -> Cluster {
    let cache = Cache::default();
    let addresses: Ipv4Net = range.parse().unwrap();
    let dns = Ipv4Addr::from(u32::from(addresses.network()) + 10);
    let plugin = ServiceAddresses::new(ServiceRanges { addresses, ports, dns }, &cache);
    let objects = Objects::in_memory(vec![Arc::new(plugin)]).await.unwrap();
    cache.start(&objects, &crate::tasks::Tasks::default());
    let cluster = Cluster { objects, cache };
    cluster.range("kubernetes", &[range]).await;
    cluster
}

pub(super) fn service(name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    if spec.get("ports").is_none() {
        spec["ports"] = json!([{"port": 80}]);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

impl Cluster {
    pub(super) async fn range(&self, name: &str, cidrs: &[&str]) {
        let body = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        let options = WriteOptions::controller("test");
        self.objects.create(Resource::SERVICE_CIDRS, None, body, &options).await.unwrap();
    }

    pub(super) async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let (delete, options) = (DeleteOptions::default(), WriteOptions::controller("test"));
        self.objects.remove(Resource::SERVICES, Some("default"), name, &delete, &options).await.map(drop)
    }

    pub(super) async fn create(&self, name: &str, spec: Value) -> Result<Value, ApiError> {
        let options = WriteOptions::controller("test");
        let body = service(name, &spec);
        let written = self.objects.create(Resource::SERVICES, Some("default"), body, &options).await?;
        Ok(written.object.decode().unwrap())
    }

    pub(super) async fn update(&self, name: &str, spec: Value) -> Result<Value, ApiError> {
        let options = WriteOptions::controller("test");
        let body = service(name, &spec);
        let resource = Resource::SERVICES;
        let written = self.objects.update(resource, Some("default"), name, None, body, &options).await?;
        Ok(written.object.decode().unwrap())
    }
}

pub(super) fn address(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn addresses_are_unique_and_the_first_and_the_dns_address_stay_free() {
    let cluster = cluster("10.96.0.0/28", 30000..=32767).await;
    let mut seen = BTreeSet::new();
    for n in 0..12 {
        assert!(seen.insert(address(&cluster.create(&format!("s{n}"), json!({})).await.unwrap())));
    }
    assert!(!seen.contains("10.96.0.1") && !seen.contains("10.96.0.10") && !seen.contains("10.96.0.0"));
    let full = cluster.create("more", json!({})).await.unwrap_err();
    assert!(full.message.contains("range is full"), "{full}");
    // An address comes back when its service is gone.
    cluster.delete("s3").await.unwrap();
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
    assert!(foreign.message.ends_with("the provided network does not match the current range"), "{foreign}");
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
    // One number serves one service, whatever it carries there.
    let udp = json!([{"port": 80, "nodePort": 30001, "protocol": "UDP"}]);
    cluster.create("udp", json!({"type": "NodePort", "ports": udp})).await.unwrap_err();
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

fn node_ports(service: &Value) -> Vec<i64> {
    super::node_ports(&service["spec"])
}

#[tokio::test]
async fn tcp_and_udp_of_one_port_share_a_node_port() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let dns = json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"}, {"name": "m", "port": 9}]);
    let made = cluster.create("dns", json!({"type": "NodePort", "ports": dns})).await.unwrap();
    let ports = node_ports(&made);
    assert!(ports[0] == ports[1] && ports[0] != ports[2], "{ports:?}");
    let dns =
        json!([{"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP", "nodePort": 30053}]);
    let made = cluster.create("named", json!({"type": "NodePort", "ports": dns})).await.unwrap();
    assert_eq!(node_ports(&made), [30053, 30053]);
    // Another port may not have the number, in the same service neither.
    let two =
        json!([{"name": "a", "port": 1, "nodePort": 30099}, {"name": "b", "port": 2, "nodePort": 30099}]);
    cluster.create("two", json!({"type": "NodePort", "ports": two})).await.unwrap_err();
}

#[tokio::test]
async fn node_ports_of_a_load_balancer_stay_when_it_wants_no_more() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let made = cluster.create("lb", json!({"type": "LoadBalancer"})).await.unwrap();
    let mut spec = made["spec"].clone();
    spec["allocateLoadBalancerNodePorts"] = json!(false);
    let kept = cluster.update("lb", spec.clone()).await.unwrap();
    assert_eq!(node_ports(&kept), node_ports(&made));
    spec["ports"] = json!([{"port": 80}]);
    let freed = cluster.update("lb", spec).await.unwrap();
    assert!(node_ports(&freed).is_empty());
    let none = json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false});
    assert!(node_ports(&cluster.create("none", none).await.unwrap()).is_empty());
}

#[tokio::test]
async fn a_local_load_balancer_has_a_port_for_health_checks() {
    let cluster = cluster("10.96.0.0/16", 30000..=30002).await;
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let made = cluster.create("lb", local.clone()).await.unwrap();
    let health = made["spec"]["healthCheckNodePort"].as_i64().unwrap();
    assert!((30000..=30002).contains(&health) && !node_ports(&made).contains(&health));
    assert_eq!(cluster.update("lb", local).await.unwrap()["spec"]["healthCheckNodePort"], health);
    // It is nobody else's, and free again once the policy is another.
    let taken = json!([{"port": 80, "nodePort": health}]);
    let wish = json!({"type": "NodePort", "ports": taken});
    cluster.create("other", wish.clone()).await.unwrap_err();
    let everywhere =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Cluster", "healthCheckNodePort": health});
    let updated = cluster.update("lb", everywhere).await.unwrap();
    assert!(updated["spec"].get("healthCheckNodePort").is_none());
    let id = Id::new("default", "lb");
    let policy = || cluster.cache.services.get(&id)?.spec.as_ref()?.external_traffic_policy.clone();
    while policy().as_deref() != Some("Cluster") {
        tokio::task::yield_now().await;
    }
    cluster.create("other", wish).await.unwrap();
}

#[tokio::test]
async fn a_service_leaves_what_another_type_or_affinity_needed() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let all = ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"];
    for (n, (from, to)) in all.iter().flat_map(|from| all.iter().map(move |to| (from, to))).enumerate() {
        let name = format!("s{n}");
        let mut first = json!({"type": from, "sessionAffinity": "ClientIP", "externalName": "a.b"});
        if *from == "LoadBalancer" {
            first["externalTrafficPolicy"] = "Local".into();
        }
        let mut spec = cluster.create(&name, first).await.unwrap()["spec"].clone();
        // As a client that read the service and changed the two fields alone.
        spec["type"] = json!(to);
        spec["sessionAffinity"] = "None".into();
        let changed = cluster.update(&name, spec).await;
        let changed = changed.unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
        let spec = &changed["spec"];
        assert!(spec.get("sessionAffinityConfig").is_none(), "{from} to {to}");
        assert_eq!(spec.get("clusterIP").is_some(), *to != "ExternalName", "{from} to {to}");
        assert_eq!(
            !node_ports(&changed).is_empty(),
            matches!(*to, "NodePort" | "LoadBalancer"),
            "{from} to {to}"
        );
        assert_eq!(
            spec.get("allocateLoadBalancerNodePorts").is_some(),
            *to == "LoadBalancer",
            "{from} to {to}"
        );
        let policy = spec.get("externalTrafficPolicy").is_some();
        assert_eq!(policy, matches!(*to, "NodePort" | "LoadBalancer"), "{from} to {to}");
    }
}

#[tokio::test]
async fn families_follow_the_address_and_what_the_cluster_has() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let families =
        |service: &Value| (service["spec"]["ipFamilyPolicy"].clone(), service["spec"]["ipFamilies"].clone());
    let plain = cluster.create("plain", json!({})).await.unwrap();
    assert_eq!(families(&plain), (json!("SingleStack"), json!(["IPv4"])));
    // Whoever keeps the endpoints of a headless service may list any family.
    let free = cluster.create("free", json!({"clusterIP": "None"})).await.unwrap();
    assert_eq!(families(&free), (json!("RequireDualStack"), json!(["IPv4", "IPv6"])));
    let bound = json!({"clusterIP": "None", "selector": {"a": "b"}});
    assert_eq!(
        families(&cluster.create("bound", bound).await.unwrap()),
        (json!("SingleStack"), json!(["IPv4"]))
    );
    for (wish, why) in [
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "this cluster is not configured for dual-stack services",
        ),
        (json!({"ipFamilies": ["IPv6"]}), "not configured on this cluster"),
        (json!({"clusterIPs": ["10.96.0.9"]}), "must be empty when `clusterIP` is not specified"),
        (json!({"clusterIP": "2001:db8::1"}), "IPv6 is not configured on this cluster"),
    ] {
        let refused = cluster.create("odd", wish).await.unwrap_err();
        assert!(refused.message.contains(why), "{refused}");
    }
    // An empty address in an update is no wish for another.
    let mut spec = plain["spec"].clone();
    spec["clusterIP"] = "".into();
    assert_eq!(address(&cluster.update("plain", spec.clone()).await.unwrap()), address(&plain));
    spec["clusterIP"] = "10.96.0.99".into();
    let moved = cluster.update("plain", spec).await.unwrap_err();
    assert!(moved.message.ends_with("may not change once set"), "{moved}");
}
