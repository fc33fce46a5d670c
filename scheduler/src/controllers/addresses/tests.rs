//! Ranges and repairs over the real object machine, in memory.

use std::sync::atomic::{AtomicBool, Ordering};

use prometheus_client::registry::Registry;
use tokio::sync::Notify;

use super::*;
use crate::{
    admission::{ServiceAddresses, ServiceRanges},
    controllers::{runner::RunnerMetrics, tests::until},
    kinds::service_cidr::FINALIZER,
    model::Key,
    objects::{
        Admission, DeleteOptions, WriteOptions,
        admission::{Batch, Checked},
    },
    tasks::Tasks,
};

struct World {
    objects: Objects,
}

/// Has the write of a service wait just before it is stored.
#[derive(Default)]
struct Gate {
    shut: AtomicBool,
    arrived: Notify,
    open: Notify,
}

struct Held(Arc<Gate>);

#[async_trait::async_trait]
impl Admission for Held {
    async fn validate(&self, write: Checked<'_>, _: &mut Batch) -> Result<(), ApiError> {
        if write.kind.resource == Resource::SERVICES && self.0.shut.swap(false, Ordering::SeqCst) {
            self.0.arrived.notify_one();
            self.0.open.notified().await;
        }
        Ok(())
    }
}

async fn world(gate: &Arc<Gate>) -> World {
    let (cache, tasks) = (Cache::default(), Tasks::default());
    let ranges = ServiceRanges {
        addresses: "10.96.0.0/28".parse().unwrap(),
        ports: 30000..=32767,
        dns: "10.96.0.10".parse().unwrap(),
    };
    let plugin = ServiceAddresses::new(ranges, &cache);
    let promises = plugin.promises();
    let objects = Objects::in_memory(vec![Arc::new(plugin), Arc::new(Held(gate.clone()))]).await.unwrap();
    let runtime = Runtime {
        cache: cache.clone(),
        tasks: tasks.clone(),
        metrics: RunnerMetrics::new(&mut Registry::default()),
    };
    let recorder = Recorder::start(&objects, &tasks);
    start(&objects, &cache, &recorder, &runtime, promises);
    cache.start(&objects, &tasks);
    let world = World { objects };
    world.range("kubernetes", &["10.96.0.0/28"]).await;
    world
}

fn options() -> WriteOptions {
    WriteOptions::controller("test")
}

impl World {
    async fn range(&self, name: &str, cidrs: &[&str]) {
        let body = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
        self.objects.create(Resource::SERVICE_CIDRS, None, body, &options()).await.unwrap();
        until("the range is held and ready", async || {
            let range = self.get(Resource::SERVICE_CIDRS, name)?;
            let ready = range["status"]["conditions"][0]["status"] == "True";
            (ready && range["metadata"]["finalizers"] == json!([FINALIZER])).then_some(())
        })
        .await;
    }

    async fn service(&self, name: &str, address: &str) -> Result<Value, ApiError> {
        let spec = json!({"clusterIP": address, "ports": [{"port": 80}]});
        let body = json!({"metadata": {"name": name}, "spec": spec});
        let made = self.objects.create(Resource::SERVICES, Some("default"), body, &options()).await?;
        Ok(made.object.decode().unwrap())
    }

    async fn delete(&self, resource: Resource, name: &str) {
        let namespace = (resource == Resource::SERVICES).then_some("default");
        self.objects.remove(resource, namespace, name, &DeleteOptions::default(), &options()).await.unwrap();
    }

    fn get(&self, resource: Resource, name: &str) -> Option<Value> {
        let namespace = (resource == Resource::SERVICES).then_some("default");
        Some(self.objects.stored(&Key::scoped(resource, namespace, name))?.decode().unwrap())
    }

    async fn gone(&self, resource: Resource, name: &str) {
        until("it goes", async || self.get(resource, name).is_none().then_some(())).await;
    }

    async fn blocked(&self, name: &str) {
        until("the range says what keeps it", async || {
            let range = self.get(Resource::SERVICE_CIDRS, name).expect("it is needed");
            let ready = &range["status"]["conditions"][0];
            (ready["status"] == "False" && ready["reason"] == "Terminating").then_some(())
        })
        .await;
    }

    async fn told(&self, reason: &str) {
        until(reason, async || {
            let events = self.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap().items;
            events.iter().any(|event| event.decode::<Value>().unwrap()["reason"] == reason).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_range_goes_when_nothing_needs_it() {
    let world = world(&Arc::default()).await;
    world.range("unused", &["10.200.0.0/24", "fd00::/64"]).await;
    world.delete(Resource::SERVICE_CIDRS, "unused").await;
    world.gone(Resource::SERVICE_CIDRS, "unused").await;

    world.range("used", &["10.200.0.0/24"]).await;
    world.service("far", "10.200.0.5").await.unwrap();
    world.delete(Resource::SERVICE_CIDRS, "used").await;
    world.blocked("used").await;
    let refused = world.service("late", "10.200.0.6").await.unwrap_err();
    assert!(refused.message.ends_with("does not match the current range"), "{refused}");
    world.delete(Resource::SERVICES, "far").await;
    world.gone(Resource::SERVICE_CIDRS, "used").await;
}

#[tokio::test]
async fn another_range_over_it_lets_it_go() {
    let world = world(&Arc::default()).await;
    world.service("web", "10.96.0.5").await.unwrap();
    world.delete(Resource::SERVICE_CIDRS, "kubernetes").await;
    world.blocked("kubernetes").await;
    world.range("wide", &["10.96.0.0/16"]).await;
    world.gone(Resource::SERVICE_CIDRS, "kubernetes").await;
    assert!(world.get(Resource::IP_ADDRESSES, "10.96.0.5").is_some());
    world.delete(Resource::SERVICE_CIDRS, "wide").await;
    world.blocked("wide").await;
}

#[tokio::test]
async fn an_address_that_somebody_reserved_holds_no_range() {
    let world = world(&Arc::default()).await;
    world.range("second", &["10.200.0.0/24"]).await;
    let parent = json!({"group": "example.com", "resource": "gateways", "name": "g"});
    let body = json!({"metadata": {"name": "10.200.0.5"}, "spec": {"parentRef": parent}});
    world.objects.create(Resource::IP_ADDRESSES, None, body, &options()).await.unwrap();
    world.delete(Resource::SERVICE_CIDRS, "second").await;
    world.gone(Resource::SERVICE_CIDRS, "second").await;
    assert!(world.get(Resource::IP_ADDRESSES, "10.200.0.5").is_some(), "whoever made it keeps it");
}

#[tokio::test]
async fn a_write_that_was_given_an_address_in_time_is_waited_for() {
    let gate = Arc::<Gate>::default();
    let world = Arc::new(world(&gate).await);
    world.range("second", &["10.200.0.0/24"]).await;
    gate.shut.store(true, Ordering::SeqCst);
    let writer = world.clone();
    let write = tokio::spawn(async move { writer.service("far", "10.200.0.5").await });
    gate.arrived.notified().await;
    world.delete(Resource::SERVICE_CIDRS, "second").await;
    // Another range is let go meanwhile: the controller has been at work, and this one is still there.
    world.range("third", &["10.201.0.0/24"]).await;
    world.delete(Resource::SERVICE_CIDRS, "third").await;
    world.gone(Resource::SERVICE_CIDRS, "third").await;
    assert!(world.get(Resource::SERVICE_CIDRS, "second").is_some());
    gate.open.notify_one();
    write.await.unwrap().unwrap();
    world.blocked("second").await;
    world.delete(Resource::SERVICES, "far").await;
    world.gone(Resource::SERVICE_CIDRS, "second").await;
}

#[tokio::test]
async fn an_address_that_somebody_deleted_comes_back() {
    let world = world(&Arc::default()).await;
    world.service("web", "10.96.0.5").await.unwrap();
    let before = world.get(Resource::IP_ADDRESSES, "10.96.0.5").unwrap();
    world.delete(Resource::IP_ADDRESSES, "10.96.0.5").await;
    world.service("thief", "10.96.0.5").await.unwrap_err();
    let back = until("it comes back", async || world.get(Resource::IP_ADDRESSES, "10.96.0.5")).await;
    assert_ne!(back["metadata"]["uid"], before["metadata"]["uid"]);
    assert_eq!(
        (&back["spec"], &back["metadata"]["labels"]),
        (&before["spec"], &before["metadata"]["labels"])
    );
    world.told("ClusterIPNotAllocated").await;
    world.delete(Resource::SERVICES, "web").await;
    assert!(world.get(Resource::IP_ADDRESSES, "10.96.0.5").is_none());
}

#[tokio::test]
async fn labels_come_back_and_foreign_claims_go() {
    let world = world(&Arc::default()).await;
    world.service("web", "10.96.0.5").await.unwrap();
    // What was to be looked at because of the creation has been looked at: another address of its kind has gone since.
    let orphan = ip_address::of_service("10.96.0.7".parse().unwrap(), "default", "web");
    world.objects.create(Resource::IP_ADDRESSES, None, orphan, &options()).await.unwrap();
    world.gone(Resource::IP_ADDRESSES, "10.96.0.7").await;
    let bare = crate::objects::Patch::Merge(json!({"metadata": {"labels": null}}));
    world.objects.patch(Resource::IP_ADDRESSES, None, "10.96.0.5", None, bare, &options()).await.unwrap();
    until("its labels come back", async || {
        let object = world.get(Resource::IP_ADDRESSES, "10.96.0.5")?;
        (object["metadata"]["labels"][ip_address::MANAGED_BY] == "ipallocator.k8s.io").then_some(())
    })
    .await;
    // One that looks like the allocator's, of a service that has another address, and of something that is none.
    let mut wrong = ip_address::of_service("10.96.0.6".parse().unwrap(), "default", "web");
    world.objects.create(Resource::IP_ADDRESSES, None, wrong.clone(), &options()).await.unwrap();
    world.gone(Resource::IP_ADDRESSES, "10.96.0.6").await;
    world.told("IPAddressWrongReference").await;
    wrong["spec"]["parentRef"]["resource"] = json!("gateways");
    world.objects.create(Resource::IP_ADDRESSES, None, wrong, &options()).await.unwrap();
    world.gone(Resource::IP_ADDRESSES, "10.96.0.6").await;
    world.told("IPAddressNotAllocated").await;
}
