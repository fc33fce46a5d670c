//! Forms and media types of answers, and the paths that they are had at.

use super::*;

async fn accept(f: &Fixture, uri: &str, accept: &str) -> (StatusCode, String, Vec<u8>) {
    let request = Request::get(uri).header(header::ACCEPT, accept).body(Body::empty()).unwrap();
    let response = f.send(request).await;
    let media = response.headers()[header::CONTENT_TYPE].to_str().unwrap().to_owned();
    let status = response.status();
    (status, media, to_bytes(response.into_body(), usize::MAX).await.unwrap().to_vec())
}

#[tokio::test]
async fn objects_begin_with_their_kind_and_items_have_none() {
    let f = Fixture::new().await;
    f.make("a").await;
    let (_, _, one) = accept(&f, &format!("{CONFIG_MAPS}/a"), "application/json").await;
    assert!(one.starts_with(b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\","));
    let (_, _, list) = accept(&f, CONFIG_MAPS, "application/json").await;
    assert!(list.starts_with(b"{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\","));
    let list: Value = serde_json::from_slice(&list).unwrap();
    let item = list["items"][0].as_object().unwrap();
    assert!(!item.contains_key("kind") && !item.contains_key("apiVersion") && item.contains_key("metadata"));
}

#[tokio::test]
async fn yaml_and_protobuf_are_answered_when_nothing_else_is_taken() {
    let f = Fixture::new().await;
    f.make("a").await;
    let (status, media, body) = accept(&f, CONFIG_MAPS, "application/yaml").await;
    assert_eq!((status, media.as_str()), (StatusCode::OK, "application/yaml"));
    let yaml: Value = serde_saphyr::from_str(std::str::from_utf8(&body).unwrap()).unwrap();
    assert_eq!(yaml["items"][0]["metadata"]["name"], "a");
    let protobuf = "application/vnd.kubernetes.protobuf";
    let (status, media, body) = accept(&f, &format!("{CONFIG_MAPS}/a"), protobuf).await;
    assert_eq!((status, media.as_str()), (StatusCode::OK, protobuf));
    assert_eq!(crate::kinds::wire::decode(&body).unwrap()["metadata"]["name"], "a");
    let (status, media, body) = accept(&f, &format!("{CONFIG_MAPS}/b"), protobuf).await;
    assert_eq!((status, media.as_str()), (StatusCode::NOT_FOUND, protobuf));
    assert!(body.starts_with(b"k8s\0"), "a failure too");
    let (status, _, body) = accept(&f, CONFIG_MAPS, "text/html").await;
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .starts_with("406: Not Acceptable\n\nAvailable representations: ")
    );
}

#[tokio::test]
async fn a_form_that_does_not_fit_is_not_acceptable() {
    let f = Fixture::new().await;
    f.make("a").await;
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let (status, _, body) = accept(&f, CONFIG_MAPS, partial).await;
    assert_eq!(status, StatusCode::NOT_ACCEPTABLE);
    let refused: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        refused["message"],
        "you requested PartialObjectMetadata, but the requested object is a list (*core.ConfigMapList)"
    );
    assert_eq!(accept(&f, &format!("{CONFIG_MAPS}/a"), partial).await.0, StatusCode::OK);
}

#[tokio::test]
async fn paths_are_decoded_and_old_watches_are_served() {
    let f = Fixture::new().await;
    f.make("a").await;
    let (status, found) = f.get("/api/v1/namespaces/d%65fault/configmaps/%61").await;
    assert_eq!((status, &found["metadata"]["name"]), (StatusCode::OK, &json!("a")));
    let request = request(Method::GET, "/api/v1/watch/namespaces/default/configmaps/a", "", "");
    let mut events = Events::of(f.send(request).await);
    assert_eq!(events.kind_and_name().await, ("ADDED".to_owned(), "a".to_owned()));
    let (_, paths) = f.get("/").await;
    assert!(paths["paths"].as_array().unwrap().contains(&json!("/apis/apps/v1")));
    let (status, media, _) = accept(&f, "/nothing", "*/*").await;
    assert_eq!((status, media.as_str()), (StatusCode::NOT_FOUND, "text/plain; charset=utf-8"));
}

#[tokio::test]
async fn a_scale_has_a_table() {
    let f = Fixture::new().await;
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}},
        "template": template}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    assert_eq!(f.ask(Method::POST, path, &deployment.to_string()).await.0, StatusCode::CREATED);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let (_, _, body) = accept(&f, &format!("{path}/d/scale"), table).await;
    let table: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(table["columnDefinitions"][1]["name"], "Desired");
    assert_eq!((&table["rows"][0]["cells"][0], &table["rows"][0]["cells"][1]), (&json!("d"), &json!(2)));
}

#[tokio::test]
async fn an_expired_list_goes_on_with_another_token() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c"] {
        f.make(name).await;
    }
    let (_, first) = f.get(&format!("{CONFIG_MAPS}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    f.make("bb").await;
    f.objects.forget_history();
    let (status, expired) = f.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!((status, &expired["reason"]), (StatusCode::GONE, &json!("Expired")));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = f.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    let names: Vec<&str> =
        rest["items"].as_array().unwrap().iter().map(|i| i["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "bb"], "the newest state behind the first page");
    assert_ne!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn groups_that_nobody_knows_have_no_pages() {
    let f = Fixture::new().await;
    let json = "application/json";
    for path in ["/apis/nope", "/apis/nope/v1", "/apis/nope/v1/namespaces/a/things/b"] {
        let (status, media, body) = accept(&f, path, json).await;
        assert_eq!((status, media.as_str()), (StatusCode::NOT_FOUND, "text/plain; charset=utf-8"), "{path}");
        assert_eq!(body, b"404 page not found\n");
    }
    // A group of Kubernetes that comes later is told so, and an unknown version of a known group is a `Status` too.
    for path in ["/apis/batch/v1/namespaces/a/jobs", "/apis/apps/v9/namespaces/a/deployments"] {
        let (status, media, _) = accept(&f, path, json).await;
        assert_eq!((status, media.as_str()), (StatusCode::NOT_FOUND, json), "{path}");
    }
    let (status, _, body) = accept(&f, "/api/v1/watch", json).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.ends_with(b"unable to determine kind and namespace from url, /api/v1/watch\n"));
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert_eq!(accept(&f, "/apis", aggregated).await.0, StatusCode::OK);
    assert_eq!(accept(&f, "/apis/", aggregated).await.0, StatusCode::NOT_ACCEPTABLE);
}

#[tokio::test]
async fn a_bookmark_shows_what_every_object_of_its_kind_does() {
    let f = Fixture::new().await;
    for (path, expected) in [
        ("/api/v1/pods", json!({"spec": {"containers": null}, "status": {}})),
        ("/api/v1/nodes", json!({"spec": {}})),
        (CONFIG_MAPS, json!({})),
    ] {
        let uri = format!(
            "{path}?watch=1&timeoutSeconds=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        );
        let mut events = Events::of(f.send(request(Method::GET, &uri, "", "")).await);
        let bookmark = events.next().await.unwrap();
        for (part, value) in expected.as_object().unwrap() {
            assert_eq!(&bookmark["object"][part], value, "{path}");
        }
    }
}

#[tokio::test]
async fn a_row_is_made_once_however_many_watch() {
    let f = Fixture::new().await;
    let made = f.make("a").await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion={version}");
    let mut watchers = Vec::new();
    for _ in 0..20 {
        let request = Request::get(&uri).header(header::ACCEPT, table).body(Body::empty()).unwrap();
        watchers.push(Events::of(f.send(request).await));
    }
    for n in 0..2 {
        let body = format!("{{\"data\": {{\"k\": \"{n}\"}}}}");
        let patch =
            request(Method::PATCH, &format!("{CONFIG_MAPS}/a"), "application/merge-patch+json", &body);
        assert_eq!(f.send(patch).await.status(), StatusCode::OK, "{body}");
    }
    for watcher in &mut watchers {
        for first in [true, false] {
            let event = watcher.next().await.unwrap();
            assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("MODIFIED"), &json!("Table")));
            assert_eq!(event["object"]["columnDefinitions"].is_array(), first);
            let rows = event["object"]["rows"].as_array().unwrap();
            assert_eq!((rows.len(), &rows[0]["cells"][0]), (1, &json!("a")));
            assert_eq!(rows[0]["object"]["kind"], "PartialObjectMetadata");
            let version = &rows[0]["object"]["metadata"]["resourceVersion"];
            assert_eq!(&event["object"]["metadata"]["resourceVersion"], version);
        }
    }
    // Two changes, and ages are told in seconds, of which another may have begun.
    assert!((2..=8).contains(&f.api.rows.made()), "{} rows made", f.api.rows.made());
}
