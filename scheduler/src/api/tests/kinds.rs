//! Kinds beside those of upstream: one that is built in like them, and one that comes and goes while we run.

use super::*;
use crate::kinds::demo::{gadget, gadgets};

const WIDGETS: &str = "/apis/demo.gantry.dev/v1/namespaces/default/widgets";
const GADGETS: &str = "/apis/demo.gantry.dev/v2/namespaces/default/gadgets";
const NARROW: &str = "/apis/demo.gantry.dev/v1beta1/namespaces/default/gadgets";

async fn send_as(f: &Fixture, method: Method, uri: &str, media: &str, body: &Value) -> (StatusCode, Value) {
    parsed(f.send(request(method, uri, media, &body.to_string())).await).await
}

#[tokio::test]
async fn a_folder_and_a_line_are_a_kind() {
    let f = Fixture::new().await;
    let (status, made) =
        f.ask(Method::POST, WIDGETS, &json!({"metadata": {"name": "w"}, "spec": {}}).to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!((&made["spec"]["size"], &made["metadata"]["generation"]), (&json!(1), &json!(1)));
    let wrong = json!({"metadata": {"name": "w2"}, "spec": {"size": -1, "color": "red"}});
    let (status, refused) = f.ask(Method::POST, WIDGETS, &wrong.to_string()).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(refused["details"]["causes"][0]["field"], "spec.size");
    let strict = format!("{WIDGETS}?fieldValidation=Strict");
    let (_, refused) = f.ask(Method::POST, &strict, &wrong.to_string()).await;
    assert!(refused["message"].as_str().unwrap().contains("unknown field \"spec.color\""), "{refused}");
    let (_, list) = f.get("/apis/demo.gantry.dev/v1").await;
    let listed = |name: &str| list["resources"].as_array().unwrap().iter().any(|r| r["name"] == name);
    assert!(listed("widgets") && listed("widgets/status"), "{list}");
    let (_, document) = f.get("/openapi/v3/apis/demo.gantry.dev/v1").await;
    let size = &document["components"]["schemas"]["dev.gantry.demo.v1.WidgetSpec"]["properties"]["size"];
    assert_eq!(size["description"], "How large it is.");
}

#[tokio::test]
async fn a_kind_comes_while_we_run_is_served_in_its_versions_and_goes() {
    let f = Fixture::new().await;
    assert_eq!(f.get(GADGETS).await.0, StatusCode::NOT_FOUND);
    let (_, before) = f.get("/openapi/v3").await;
    f.objects.serve(gadget(&[])).unwrap();

    let body = json!({"metadata": {"name": "g"}, "spec": {"size": 3, "parts": []}});
    let (status, made) = f.ask(Method::POST, GADGETS, &body.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    assert_eq!(made["apiVersion"], "demo.gantry.dev/v2");
    assert_eq!(made["spec"]["parts"], json!([]), "what is empty stays");
    let (_, shown) = f.get(&format!("{NARROW}/g")).await;
    assert_eq!(
        (&shown["apiVersion"], &shown["spec"]["width"]),
        (&json!("demo.gantry.dev/v1beta1"), &json!(3))
    );
    let (_, found) = f.get(&format!("{GADGETS}?fieldSelector=spec.size%3D3")).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);

    let (_, group) = f.get("/apis/demo.gantry.dev").await;
    assert_eq!(group["preferredVersion"]["version"], "v2");
    let versions: Vec<&str> =
        group["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["v2", "v1", "v1beta1"]);
    let (_, index) = f.get("/openapi/v3").await;
    let url = |index: &Value, path: &str| index["paths"][path]["serverRelativeURL"].clone();
    assert!(url(&before, "apis/demo.gantry.dev/v2").is_null());
    assert_eq!(url(&before, "apis/apps/v1"), url(&index, "apis/apps/v1"));
    let (_, document) = f.get(url(&index, "apis/demo.gantry.dev/v2").as_str().unwrap()).await;
    assert!(document["components"]["schemas"]["dev.gantry.demo.v2.Gadget"].is_object());

    let mut events = Events::of(f.send(request(Method::GET, &format!("{GADGETS}?watch=1"), "", "")).await);
    assert_eq!(events.kind_and_name().await, ("ADDED".to_owned(), "g".to_owned()));
    let apply = format!("{NARROW}/g?fieldManager=m&force=true");
    let narrow = json!({"apiVersion": "demo.gantry.dev/v1beta1", "kind": "Gadget", "metadata": {"name": "g"},
        "spec": {"width": 4, "parts": [{"name": "a", "of": "x"}]}});
    let (status, applied) = send_as(&f, Method::PATCH, &apply, "application/apply-patch+yaml", &narrow).await;
    assert_eq!((status, &applied["spec"]["width"]), (StatusCode::OK, &json!(4)), "{applied}");
    assert_eq!(events.kind_and_name().await, ("MODIFIED".to_owned(), "g".to_owned()));
    let second = json!({"apiVersion": "demo.gantry.dev/v2", "kind": "Gadget", "metadata": {"name": "g"},
        "spec": {"parts": [{"name": "b", "of": "y"}]}});
    let other = format!("{GADGETS}/g?fieldManager=n");
    let (_, both) = send_as(&f, Method::PATCH, &other, "application/apply-patch+yaml", &second).await;
    assert_eq!(both["spec"]["parts"].as_array().map(Vec::len), Some(2), "lists merge by their keys: {both}");
    assert_eq!(both["metadata"]["generation"], 3);
    let (status, _) = send_as(
        &f,
        Method::PATCH,
        &format!("{GADGETS}/g"),
        "application/strategic-merge-patch+json",
        &json!({}),
    )
    .await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);

    let body = json!({"metadata": {"name": "old"}, "spec": {"size": 1}});
    assert_eq!(f.ask(Method::POST, GADGETS, &body.to_string()).await.0, StatusCode::CREATED);
    // Another field, and the same objects.
    f.objects.serve(gadget(&["color"])).unwrap();
    let merge = json!({"spec": {"color": "red"}});
    let (_, colored) =
        send_as(&f, Method::PATCH, &format!("{GADGETS}/g"), "application/merge-patch+json", &merge).await;
    assert_eq!((&colored["spec"]["color"], &colored["spec"]["size"]), (&json!("red"), &json!(4)));

    let (_, found) = f.get(&format!("{GADGETS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    // What was written before it could be selected by its color.
    let (_, found) = f.get(&format!("{GADGETS}?fieldSelector=spec.color%3D")).await;
    assert_eq!(found["items"][0]["metadata"]["name"], "old", "{found}");

    f.objects.registry().withdraw(gadgets()).unwrap();
    assert_eq!(f.get(GADGETS).await.0, StatusCode::NOT_FOUND);
    assert_eq!(f.get("/apis/demo.gantry.dev/v2").await.0, StatusCode::NOT_FOUND);
    assert_eq!(f.get(WIDGETS).await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_kind_takes_no_place_of_another() {
    let f = Fixture::new().await;
    let registry = f.objects.registry();
    let mut impostor = gadget(&[]);
    impostor.truncate(1);
    impostor[0].version = "v1".into();
    impostor[0].plural = "widgets".into();
    let refused = f.objects.serve(impostor).unwrap_err().to_string();
    assert_eq!(refused, "widgets is already served in demo.gantry.dev/v1");
    let mut stored_twice = gadget(&[]);
    stored_twice[1].view = None;
    let refused = f.objects.serve(stored_twice).unwrap_err().to_string();
    assert_eq!(refused, "one version of gadgets.demo.gantry.dev is stored, not 2");
    assert_eq!(registry.withdraw(Resource::PODS).unwrap_err().to_string(), "pods is built in");
    assert_eq!(f.get(GADGETS).await.0, StatusCode::NOT_FOUND);
}
