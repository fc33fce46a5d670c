//! What the loops do with a kind that comes while they run, also when its objects are there already.

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::{
    tests::{Cluster, cluster, options, until},
    upgrade_tests::{copied, open, started},
};
use crate::{
    kinds::demo::{gadget, gadgets},
    model::{FieldSelector, Reason, Resource},
    objects::{DeleteOptions, Patch, Selection, WatchEvent},
};

#[tokio::test]
async fn a_kind_that_comes_owns_and_is_owned_and_goes_with_its_namespace() {
    let c = cluster().await;
    let orphan = json!({"metadata": {"name": "early", "ownerReferences": [{"apiVersion": "demo.gantry.dev/v2",
        "kind": "Gadget", "name": "never", "uid": "0"}]}});
    c.create(Resource::CONFIG_MAPS, Some("default"), orphan).await;
    c.objects.serve(gadget(&[])).unwrap();
    // Nobody could say before that its owner is none.
    until("the object without an owner goes", async || {
        c.get(Resource::CONFIG_MAPS, Some("default"), "early").await.is_none().then_some(())
    })
    .await;

    let owner = c.create(gadgets(), Some("default"), json!({"metadata": {"name": "g"}})).await;
    let uid = &owner["metadata"]["uid"];
    let owned = json!({"metadata": {"name": "owned", "ownerReferences": [{"apiVersion": "demo.gantry.dev/v1beta1",
        "kind": "Gadget", "name": "g", "uid": uid}]}});
    c.create(Resource::CONFIG_MAPS, Some("default"), owned.clone()).await;
    let mut inner = owned;
    inner["metadata"]["name"] = json!("inner");
    c.create(gadgets(), Some("default"), inner).await;
    c.delete(gadgets(), Some("default"), "g").await;
    until("what a gadget owned goes with it", async || {
        let left = c.get(Resource::CONFIG_MAPS, Some("default"), "owned").await.is_some()
            || c.get(gadgets(), Some("default"), "inner").await.is_some();
        (!left).then_some(())
    })
    .await;

    c.create(Resource::NAMESPACES, None, json!({"metadata": {"name": "shop"}})).await;
    c.create(gadgets(), Some("shop"), json!({"metadata": {"name": "g"}})).await;
    c.objects
        .delete(Resource::NAMESPACES, None, "shop", &DeleteOptions::default(), &options())
        .await
        .unwrap();
    until("the namespace goes with its gadgets", async || {
        c.get(Resource::NAMESPACES, None, "shop").await.is_none().then_some(())
    })
    .await;
    assert!(c.get(gadgets(), Some("shop"), "g").await.is_none());
}

fn owned_by(name: &str, uid: &Value) -> Value {
    json!([{"apiVersion": "demo.gantry.dev/v2", "kind": "Gadget", "name": name, "uid": uid}])
}

/// Gadgets in two namespaces, what they own, and what one owns that there never was.
async fn furnished(c: &Cluster) {
    c.objects.serve(gadget(&[])).unwrap();
    let owner = c.create(gadgets(), Some("default"), json!({"metadata": {"name": "owner"}})).await;
    let owned = owned_by("owner", &owner["metadata"]["uid"]);
    let meta = |name: &str, owners: &Value| json!({"metadata": {"name": name, "ownerReferences": owners}});
    c.create(gadgets(), Some("default"), meta("owned", &owned)).await;
    c.create(Resource::CONFIG_MAPS, Some("default"), meta("owned", &owned)).await;
    let old = json!({"metadata": {"name": "old"}, "spec": {"size": 7}});
    c.create(gadgets(), Some("default"), old).await;
    c.create(Resource::NAMESPACES, None, json!({"metadata": {"name": "shop"}})).await;
    c.create(gadgets(), Some("shop"), json!({"metadata": {"name": "inside"}})).await;
}

#[tokio::test]
async fn what_is_in_the_database_of_a_kind_that_comes_later_is_kept_told_and_served() {
    let (before, after) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    furnished(&started(open(before.path())).await).await;
    // As earlier versions of the kind stored it: without its default, and under its older name.
    let changed = copied(before.path(), after.path(), |resource, name, body| {
        match (resource, name) {
            ("gadgets.demo.gantry.dev", "owner") => drop(body.as_object_mut().unwrap().remove("spec")),
            ("gadgets.demo.gantry.dev", "old") => {
                body["apiVersion"] = json!("demo.gantry.dev/v1beta1");
                body["spec"] = json!({"width": 7});
            }
            ("configmaps", "owned") => {
                // Its owner has gone while nobody could say so.
                body["metadata"]["ownerReferences"] = owned_by("gone", &json!("0"));
            }
            _ => return false,
        }
        true
    });
    assert_eq!(changed, 3);

    let c = started(open(after.path())).await;
    assert_eq!(c.objects.unserved(None), [(gadgets(), 4)]);
    assert_eq!(c.objects.unserved(Some("shop")), [(gadgets(), 1)]);
    let all = Selection::default();
    assert_eq!(c.objects.list(gadgets(), &all).await.unwrap_err().reason, Reason::NotFound);
    c.delete(Resource::NAMESPACES, None, "shop").await;
    let told = until("the namespace says what keeps it", async || {
        let shop = c.get(Resource::NAMESPACES, None, "shop").await.expect("nothing of it may be lost");
        let conditions = shop["status"]["conditions"].as_array()?.clone();
        conditions
            .into_iter()
            .find(|c| c["type"] == "NamespaceDeletionDiscoveryFailure" && c["status"] == "True")
    })
    .await;
    assert_eq!(
        told["message"],
        "Discovery failed for some groups, 1 failing: no kind is served at present of gadgets.demo.gantry.dev"
    );
    assert!(c.get(Resource::CONFIG_MAPS, Some("default"), "owned").await.is_some(), "its owner may be there");

    c.objects.serve(gadget(&["color"])).unwrap();
    assert_eq!(c.objects.unserved(None), []);
    let size = |name: &'static str| {
        let objects = c.objects.clone();
        async move {
            let found: Value = objects.get(gadgets(), Some("default"), name).await.unwrap().decode().unwrap();
            (found["apiVersion"].clone(), found["spec"]["size"].clone())
        }
    };
    assert_eq!(size("owner").await, (json!("demo.gantry.dev/v2"), json!(1)), "with today's default");
    assert_eq!(size("old").await, (json!("demo.gantry.dev/v2"), json!(7)), "by today's name");
    let seven = Selection { fields: FieldSelector::parse("spec.size=7").unwrap(), ..Selection::default() };
    assert_eq!(c.objects.list(gadgets(), &seven).await.unwrap().items.len(), 1);
    let mut watch = c.objects.watch(gadgets(), seven, None).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Added(_)))));
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Bookmark(_)))));
    let patch = Patch::Merge(json!({"spec": {"color": "red"}}));
    c.objects.patch(gadgets(), Some("default"), "old", None, patch, &options()).await.unwrap();
    assert!(matches!(watch.next().await, Some(Ok(WatchEvent::Modified(_)))));

    until("what an owner left that is gone goes", async || {
        c.get(Resource::CONFIG_MAPS, Some("default"), "owned").await.is_none().then_some(())
    })
    .await;
    c.delete(gadgets(), Some("default"), "owner").await;
    until("what a gadget owned goes with it, and the namespace with its gadget", async || {
        let owned = c.get(gadgets(), Some("default"), "owned").await;
        let shop = c.get(Resource::NAMESPACES, None, "shop").await;
        (owned.is_none() && shop.is_none()).then_some(())
    })
    .await;
    assert!(c.get(gadgets(), Some("shop"), "inside").await.is_none());
    assert!(c.get(gadgets(), Some("default"), "old").await.is_some());
}
