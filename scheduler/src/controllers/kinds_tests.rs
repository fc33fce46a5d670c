//! What the loops do with a kind that comes while they run.

use serde_json::json;

use super::tests::{cluster, options, until};
use crate::{
    kinds::demo::{gadget, gadgets},
    model::Resource,
    objects::DeleteOptions,
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
