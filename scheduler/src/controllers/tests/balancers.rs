//! Addresses of load balancers, given and taken back.

use super::*;

#[tokio::test]
async fn load_balancers_get_addresses_until_there_are_none() {
    let cluster = cluster().await;
    let service = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}})
    };
    let ip = async |name: &str| {
        let found = cluster.get(Resource::SERVICES, Some("default"), name).await?;
        found["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    let mut given = Vec::new();
    for name in ["a", "b"] {
        cluster.create(Resource::SERVICES, Some("default"), service(name)).await;
        given.push(until("address", async || ip(name).await).await);
    }
    given.sort();
    assert_eq!(given, ["192.0.2.10", "192.0.2.9"]);
    cluster.create(Resource::SERVICES, Some("default"), service("c")).await;
    until("told", async || {
        let list = cluster.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap();
        let texts: Vec<Value> = list.items.iter().map(|e| e.decode().unwrap()).collect();
        texts.iter().any(|e| e["reason"] == "SyncLoadBalancerFailed").then_some(())
    })
    .await;
    assert_eq!(ip("c").await, None);
}

#[tokio::test]
async fn an_address_that_somebody_else_gave_stays() {
    let cluster = cluster().await;
    let status = json!({"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
    let ip = async |name: &str| {
        let found = cluster.get(Resource::SERVICES, Some("default"), name).await?;
        found["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    let service = |name: &str, spec: Value| {
        let mut service = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
        service["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        service
    };
    let theirs = service("theirs", json!({"type": "LoadBalancer", "loadBalancerClass": "acme.io/lb"}));
    cluster.create(Resource::SERVICES, Some("default"), theirs).await;
    cluster.patch(Resource::SERVICES, "theirs", Some(Subresource::Status), status).await;
    // Our own comes and goes meanwhile: the controller has looked.
    let own = service("own", json!({"type": "LoadBalancer"}));
    cluster.create(Resource::SERVICES, Some("default"), own).await;
    until("own address", async || ip("own").await).await;
    cluster.patch(Resource::SERVICES, "own", None, json!({"spec": {"type": "ClusterIP"}})).await;
    until("own address gone", async || ip("own").await.is_none().then_some(())).await;
    assert_eq!(ip("theirs").await.as_deref(), Some("203.0.113.1"));
}
