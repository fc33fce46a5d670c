//! Ranges as objects, and the IPAddresses beside services.

use serde_json::{Value, json};

use super::tests::{Cluster, address, cluster, service};
use crate::{
    cache::Id,
    kinds::ip_address,
    model::{ApiError, Key, Resource},
    objects::{DeleteOptions, Patch, WriteOptions},
};

fn options() -> WriteOptions {
    WriteOptions::controller("test")
}

impl Cluster {
    pub(super) fn owner(&self, address: &str) -> Option<Value> {
        let object = self.objects.stored(&Key::cluster(Resource::IP_ADDRESSES, address))?;
        Some(object.decode().unwrap())
    }

    pub(super) async fn reserve(&self, address: &str) -> Result<(), ApiError> {
        let parent = json!({"group": "example.com", "resource": "gateways", "name": "g"});
        let body = json!({"metadata": {"name": address}, "spec": {"parentRef": parent}});
        self.objects.create(Resource::IP_ADDRESSES, None, body, &options()).await.map(drop)
    }

    pub(super) async fn end_range(&self, name: &str) -> Result<(), ApiError> {
        let delete = DeleteOptions::default();
        self.objects.remove(Resource::SERVICE_CIDRS, None, name, &delete, &options()).await.map(drop)
    }

    /// Waits until a change of a service is known to whoever gives addresses.
    pub(super) async fn known(&self, name: &str, there: bool) {
        while self.cache.services.get(&Id::new("default", name)).is_some() != there {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn an_address_comes_and_goes_with_its_service_in_one_commit() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let before = cluster.objects.revision();
    let made = cluster.create("web", json!({})).await.unwrap();
    let own = address(&made);
    assert_eq!(cluster.objects.revision().0, before.0 + 2, "a service and an IPAddress, nothing else");
    let object = cluster.owner(&own).unwrap();
    assert_eq!(
        object["spec"],
        json!({"parentRef": {"resource": "services", "namespace": "default", "name": "web"}})
    );
    assert_eq!(
        object["metadata"]["labels"],
        json!({ip_address::FAMILY: "IPv4", ip_address::MANAGED_BY: "ipallocator.k8s.io"})
    );
    assert_eq!(object["metadata"]["managedFields"][0]["manager"], "kube-apiserver");
    assert!(object["metadata"]["uid"].as_str().is_some_and(|uid| !uid.is_empty()));

    let before = cluster.objects.revision();
    cluster.delete("web").await.unwrap();
    assert_eq!(cluster.objects.revision().0, before.0 + 2);
    assert!(cluster.owner(&own).is_none());
}

#[tokio::test]
async fn it_stays_as_long_as_something_holds_the_service() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let mut body = service("web", &json!({}));
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let made = cluster.objects.create(Resource::SERVICES, Some("default"), body, &options()).await.unwrap();
    let own = address(&made.object.decode().unwrap());
    cluster.delete("web").await.unwrap();
    assert!(cluster.owner(&own).is_some());
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    cluster
        .objects
        .patch(Resource::SERVICES, Some("default"), "web", None, release, &options())
        .await
        .unwrap();
    assert!(cluster.owner(&own).is_none());
}

#[tokio::test]
async fn a_service_that_needs_no_address_gives_it_up_at_once() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let own = address(&cluster.create("web", json!({"clusterIP": "10.96.0.9"})).await.unwrap());
    let external = json!({"type": "ExternalName", "externalName": "example.org"});
    cluster.update("web", external).await.unwrap();
    assert!(cluster.owner(&own).is_none());
    let back = cluster.update("web", json!({"type": "ClusterIP"})).await.unwrap();
    assert!(cluster.owner(&address(&back)).is_some());
    for (name, spec) in [
        ("headless", json!({"clusterIP": "None"})),
        ("external", json!({"type": "ExternalName", "externalName": "a.b"})),
    ] {
        let before = cluster.objects.revision();
        cluster.create(name, spec).await.unwrap();
        assert_eq!(cluster.objects.revision().0, before.0 + 1, "{name} has no address");
    }
}

#[tokio::test]
async fn all_services_of_a_namespace_take_their_addresses_along() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let mut owned = Vec::new();
    for n in 0..5 {
        owned.push(address(&cluster.create(&format!("s{n}"), json!({})).await.unwrap()));
    }
    let keys: Vec<Key> =
        (0..5).map(|n| Key::namespaced(Resource::SERVICES, "default", &format!("s{n}"))).collect();
    let deleted = cluster.objects.remove_all(&keys, &DeleteOptions::default(), &options()).await;
    for (key, outcome) in keys.iter().zip(&deleted) {
        let deleted = outcome.as_ref().unwrap();
        assert!(deleted.gone && deleted.object.key == *key, "each is answered for itself");
    }
    assert!(owned.iter().all(|own| cluster.owner(own).is_none()));
}

#[tokio::test]
async fn whoever_makes_an_address_by_hand_keeps_it_from_services() {
    let cluster = cluster("10.96.0.0/29", 30000..=32767).await;
    cluster.reserve("10.96.0.5").await.unwrap();
    let refused = cluster.create("web", json!({"clusterIP": "10.96.0.5"})).await.unwrap_err();
    assert!(refused.message.ends_with("provided IP is already allocated"), "{refused}");
    // Of six, one is the API's and one is theirs; that of the name server is in no range so small.
    for n in 0..4 {
        let made = cluster.create(&format!("s{n}"), json!({})).await.unwrap();
        assert_ne!(address(&made), "10.96.0.5");
    }
    let full = cluster.create("more", json!({})).await.unwrap_err();
    assert!(full.message.ends_with("range is full"), "{full}");
    let gone = DeleteOptions::default();
    cluster.objects.remove(Resource::IP_ADDRESSES, None, "10.96.0.5", &gone, &options()).await.unwrap();
    assert_eq!(address(&cluster.create("more", json!({})).await.unwrap()), "10.96.0.5");
    // The address of a service is nobody else's either.
    cluster.reserve("10.96.0.5").await.unwrap_err();
}

#[tokio::test]
async fn what_is_not_of_a_service_does_not_go_with_it() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let own = address(&cluster.create("web", json!({})).await.unwrap());
    let gone = DeleteOptions::default();
    cluster.objects.remove(Resource::IP_ADDRESSES, None, &own, &gone, &options()).await.unwrap();
    cluster.reserve(&own).await.unwrap();
    cluster.delete("web").await.unwrap();
    assert_eq!(cluster.owner(&own).unwrap()["spec"]["parentRef"]["resource"], "gateways");
}

#[tokio::test]
async fn a_dry_run_leaves_no_address() {
    let cluster = cluster("10.96.0.0/16", 30000..=32767).await;
    let before = cluster.objects.revision();
    let dry = WriteOptions { dry_run: true, ..options() };
    let made = cluster
        .objects
        .create(Resource::SERVICES, Some("default"), service("web", &json!({})), &dry)
        .await
        .unwrap();
    let own = address(&made.object.decode().unwrap());
    assert!(cluster.owner(&own).is_none() && cluster.objects.revision() == before);
}

#[tokio::test]
async fn further_ranges_extend_the_first_until_they_end() {
    let cluster = cluster("10.96.0.0/29", 30000..=32767).await;
    let far = || json!({"clusterIP": "10.200.0.5"});
    cluster.create("far", far()).await.unwrap_err();
    cluster.range("second", &["10.200.0.0/29", "fd00::/64"]).await;
    cluster.create("far", far()).await.unwrap();
    for end in ["10.200.0.0", "10.200.0.7"] {
        let refused = cluster.create("end", json!({"clusterIP": end})).await.unwrap_err();
        assert!(refused.message.ends_with("does not match the current range"), "{refused}");
    }
    // Five left in each, whichever is asked first.
    for n in 0..10 {
        cluster.create(&format!("s{n}"), json!({})).await.unwrap();
    }
    assert!(cluster.create("more", json!({})).await.unwrap_err().message.ends_with("range is full"));

    cluster.end_range("second").await.unwrap();
    cluster.delete("far").await.unwrap();
    cluster.known("far", false).await;
    let refused = cluster.create("far", far()).await.unwrap_err();
    assert!(refused.message.ends_with("does not match the current range"), "{refused}");
    assert!(cluster.create("more", json!({})).await.unwrap_err().message.ends_with("range is full"));
    // What services have of it is theirs.
    let kept = cluster.update("s1", json!({"ports": [{"port": 81}]})).await.unwrap();
    assert!(cluster.owner(&address(&kept)).is_some());
}

#[tokio::test]
async fn a_range_that_is_not_ready_gives_no_addresses() {
    let cluster = cluster("10.96.0.0/29", 30000..=32767).await;
    cluster.range("second", &["10.200.0.0/29"]).await;
    let status = |ready: &str| json!({"status": {"conditions": [{"type": "Ready", "status": ready}]}});
    let say = async |ready: &str| {
        let (sub, patch) = (Some(crate::kinds::Subresource::Status), Patch::Merge(status(ready)));
        let name = "second";
        cluster.objects.patch(Resource::SERVICE_CIDRS, None, name, sub, patch, &options()).await.unwrap();
    };
    say("False").await;
    cluster.create("web", json!({"clusterIP": "10.200.0.5"})).await.unwrap_err();
    say("True").await;
    cluster.create("web", json!({"clusterIP": "10.200.0.5"})).await.unwrap();
}
