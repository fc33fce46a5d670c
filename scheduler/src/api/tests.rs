//! The API as a client sees it, without and with TLS.

use axum::body::{Body, to_bytes};
use futures::StreamExt as _;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use super::*;
use crate::access::{Certified, Connection};

mod connections;
mod forms;
mod kinds;
mod limits;
mod own_bodies;
mod sockets;
mod tls;

/// The API over an empty store in memory.
struct Fixture {
    api: Arc<Api>,
    objects: Objects,
    stop: CancellationToken,
}

impl Fixture {
    async fn new() -> Self {
        Self::over(Objects::in_memory(Vec::new()).await.unwrap(), None)
    }

    async fn with(in_flight: InFlight) -> Self {
        Self::made_of(Objects::in_memory(Vec::new()).await.unwrap(), None, in_flight)
    }

    fn over(objects: Objects, connect: Option<Arc<dyn Connect>>) -> Self {
        Self::made_of(objects, connect, InFlight::default())
    }

    fn made_of(objects: Objects, connect: Option<Arc<dyn Connect>>, in_flight: InFlight) -> Self {
        let stop = CancellationToken::new();
        let (_, ready) = ready_watch::channel(true);
        let parts = Parts {
            objects: objects.clone(),
            connect,
            computed: Vec::new(),
            server: "127.0.0.1:6443".to_owned(),
            ready,
            measures: Arc::default(),
            in_flight,
            stop: stop.clone(),
        };
        Self { api: Api::new(parts, &mut Registry::default()), objects, stop }
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.api.clone().handle(connection(Some(Actor::controller("test"))), request).await
    }

    async fn ask(&self, method: Method, uri: &str, body: &str) -> (StatusCode, Value) {
        let request = request(method, uri, "application/json", body);
        parsed(self.send(request).await).await
    }

    async fn get(&self, uri: &str) -> (StatusCode, Value) {
        self.ask(Method::GET, uri, "").await
    }

    async fn make(&self, name: &str) -> Value {
        let body = json!({"metadata": {"name": name, "labels": {"name": name}}, "data": {"k": "v"}});
        let (status, made) = self.ask(Method::POST, CONFIG_MAPS, &body.to_string()).await;
        assert_eq!(status, StatusCode::CREATED, "{made}");
        made
    }
}

/// A connection with a certificate of somebody, or none.
fn connection(actor: Option<Actor>) -> Arc<Connection> {
    let until = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    let certificate = actor.map(|actor| Certified { actor, until });
    Arc::new(Connection { peer: "192.0.2.1:40000".parse().unwrap(), certificate })
}

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn request(method: Method, uri: &str, media: &str, body: &str) -> Request<Body> {
    let builder = Request::builder().method(method).uri(uri).header(header::CONTENT_TYPE, media);
    builder.header(header::USER_AGENT, "test/1").body(Body::from(body.to_owned())).unwrap()
}

async fn parsed(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&bytes).unwrap())
}

/// Reads watch events as they come.
struct Events(axum::body::BodyDataStream, Vec<u8>);

impl Events {
    fn of(response: Response) -> Self {
        assert_eq!(response.status(), StatusCode::OK);
        Self(response.into_body().into_data_stream(), Vec::new())
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.1.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.1.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            self.1.extend(self.0.next().await?.unwrap());
        }
    }

    async fn kind_and_name(&mut self) -> (String, String) {
        let event = self.next().await.unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("").to_owned();
        (event["type"].as_str().unwrap().to_owned(), name)
    }
}

#[tokio::test]
async fn nobody_gets_in_without_an_identity() {
    let f = Fixture::new().await;
    for (uri, code) in [
        ("/api/v1/secrets", 401),
        ("/api", 401),
        ("/openapi/v3", 401),
        ("/no/such/path", 401),
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/version", 200),
    ] {
        let request = request(Method::GET, uri, "", "");
        let response = f.api.clone().handle(connection(None), request).await;
        assert_eq!(response.status().as_u16(), code, "{uri}");
    }
    let node = Actor::new("system:node:n1", ["system:nodes"]);
    let request = request(Method::GET, "/api/v1/namespaces/default/secrets", "", "");
    let (status, body) = parsed(f.api.clone().handle(connection(Some(node)), request).await).await;
    assert_eq!((status, &body["reason"]), (StatusCode::FORBIDDEN, &json!("Forbidden")));
}

#[tokio::test]
async fn an_object_lives_from_create_to_delete() {
    let f = Fixture::new().await;
    let made = f.make("a").await;
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(f.get(&path).await, (StatusCode::OK, made.clone()));
    let mut changed = made.clone();
    changed["data"]["k"] = json!("w");
    let (status, updated) = f.ask(Method::PUT, &path, &changed.to_string()).await;
    assert_eq!((status, &updated["data"]["k"]), (StatusCode::OK, &json!("w")));
    let (status, conflict) = f.ask(Method::PUT, &path, &made.to_string()).await;
    assert_eq!((status, &conflict["reason"]), (StatusCode::CONFLICT, &json!("Conflict")));
    let (status, gone) = f.ask(Method::DELETE, &path, "").await;
    assert_eq!((status, &gone["status"]), (StatusCode::OK, &json!("Success")));
    assert_eq!(gone["details"], json!({"name": "a", "kind": "configmaps", "uid": made["metadata"]["uid"]}));
    let (status, missing) = f.get(&path).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(
        missing,
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 404,
            "reason": "NotFound", "message": "configmaps \"a\" not found",
            "details": {"name": "a", "kind": "configmaps"}})
    );
}

#[tokio::test]
async fn all_four_patches_and_no_others_are_taken() {
    let f = Fixture::new().await;
    f.make("a").await;
    let path = format!("{CONFIG_MAPS}/a");
    for (media, body) in [
        ("application/json-patch+json", r#"[{"op": "add", "path": "/data/j", "value": "1"}]"#),
        ("application/merge-patch+json", r#"{"data": {"m": "1"}}"#),
        ("application/strategic-merge-patch+json", r#"{"data": {"s": "1"}}"#),
    ] {
        let (status, answer) = parsed(f.send(request(Method::PATCH, &path, media, body)).await).await;
        assert_eq!(status, StatusCode::OK, "{media}: {answer}");
    }
    let apply = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {y: '1'}\n";
    let uri = format!("{path}?fieldManager=me");
    let response = f.send(request(Method::PATCH, &uri, "application/apply-patch+yaml", apply)).await;
    let (status, last) = parsed(response).await;
    assert_eq!(status, StatusCode::OK, "{last}");
    assert_eq!(last["data"], json!({"k": "v", "j": "1", "m": "1", "s": "1", "y": "1"}));
    let without = f.send(request(Method::PATCH, &path, "application/apply-patch+yaml", apply)).await;
    assert!(parsed(without).await.1["message"].as_str().unwrap().contains("fieldManager"));
    let response = f.send(request(Method::PATCH, &path, "application/json", "{}")).await;
    assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    let new = "{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {\"name\": \"b\"}}";
    let uri = format!("{CONFIG_MAPS}/b?fieldManager=me");
    let response = f.send(request(Method::PATCH, &uri, "application/apply-patch+yaml", new)).await;
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn unknown_and_repeated_fields_warn_or_are_refused() {
    let f = Fixture::new().await;
    let body = r#"{"metadata": {"name": "a"}, "dta": {}, "data": {"k": "1", "k": "2"}}"#;
    let uri = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let (status, refused) = f.ask(Method::POST, &uri, body).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(
        refused["message"],
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: \
         unknown field \"dta\", duplicate field \"data.k\""
    );
    let response = f.send(request(Method::POST, CONFIG_MAPS, "application/json", body)).await;
    let warnings: Vec<_> = response.headers().get_all(header::WARNING).iter().collect();
    assert_eq!(warnings, ["299 - \"unknown field \\\"dta\\\"\"", "299 - \"duplicate field \\\"data.k\\\"\""]);
    let (status, made) = parsed(response).await;
    assert_eq!((status, made.get("dta")), (StatusCode::CREATED, None));
}

#[tokio::test]
async fn lists_come_in_pages_and_forms() {
    let f = Fixture::new().await;
    for name in ["a", "b", "c"] {
        f.make(name).await;
    }
    let (_, first) = f.get(&format!("{CONFIG_MAPS}?limit=2")).await;
    assert_eq!((&first["kind"], first["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 2));
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = f.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!(rest["items"][0]["metadata"]["name"], "c");
    assert!(rest["metadata"].get("continue").is_none());
    let (_, selected) =
        f.get("/api/v1/configmaps?labelSelector=name%20in%20(a,c)&fieldSelector=metadata.name!%3Da").await;
    assert_eq!(selected["items"].as_array().unwrap().len(), 1);
    let (status, wrong) = f.get("/api/v1/configmaps?fieldSelector=data.k%3Dv").await;
    assert_eq!(
        (status, &wrong["message"]),
        (
            StatusCode::BAD_REQUEST,
            &json!(
                "\"data.k\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
            )
        )
    );
    for (accept, kind) in [
        ("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "Table"),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "PartialObjectMetadataList"),
    ] {
        let request = Request::get(CONFIG_MAPS).header(header::ACCEPT, accept).body(Body::empty()).unwrap();
        assert_eq!(parsed(f.send(request).await).await.1["kind"], kind);
    }
    let (_, gone) = f.ask(Method::DELETE, &format!("{CONFIG_MAPS}?labelSelector=name!%3Db"), "").await;
    assert_eq!(gone["items"].as_array().unwrap().len(), 2);
    assert_eq!(f.get(CONFIG_MAPS).await.1["items"][0]["metadata"]["name"], "b");
}

#[tokio::test]
async fn a_watch_goes_on_from_a_list_without_gap() {
    let f = Fixture::new().await;
    f.make("a").await;
    let (_, list) = f.get(CONFIG_MAPS).await;
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap();
    f.make("b").await;
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion={revision}");
    let mut events = Events::of(f.send(request(Method::GET, &uri, "", "")).await);
    assert_eq!(events.kind_and_name().await, ("ADDED".to_owned(), "b".to_owned()));
    f.ask(Method::DELETE, &format!("{CONFIG_MAPS}/a"), "").await;
    let gone = events.next().await.unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["metadata"]["resourceVersion"], f.objects.revision().to_string());
    f.stop.cancel();
    assert!(events.next().await.is_none(), "the stop ends watches");
}

#[tokio::test]
async fn a_watch_can_start_with_everything_and_say_when_that_is_complete() {
    let f = Fixture::new().await;
    f.make("a").await;
    let uri = format!(
        "{CONFIG_MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = Events::of(f.send(request(Method::GET, &uri, "", "")).await);
    assert_eq!(events.kind_and_name().await, ("ADDED".to_owned(), "a".to_owned()));
    let bookmark = events.next().await.unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let (status, refused) = f.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_after_its_time_and_bookmarks_while_it_is_quiet() {
    let f = Fixture::new().await;
    let uri = format!("{CONFIG_MAPS}?watch=1&timeoutSeconds=40&allowWatchBookmarks=true&resourceVersion=1");
    let mut events = Events::of(f.send(request(Method::GET, &uri, "", "")).await);
    let started = tokio::time::Instant::now();
    let bookmark = events.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["resourceVersion"], f.objects.revision().to_string());
    assert!(events.next().await.is_none());
    assert_eq!(started.elapsed().as_secs(), 40);
}

#[tokio::test]
async fn an_expired_version_is_an_error_event() {
    let f = Fixture::new().await;
    f.make("a").await;
    let mut slow = Events::of(
        f.send(request(Method::GET, &format!("{CONFIG_MAPS}?watch=1&resourceVersion=1"), "", "")).await,
    );
    // More than the history holds: a watcher that has not read meanwhile has fallen behind.
    for i in 0..3 {
        let patch = crate::objects::Patch::Merge(json!({"data": {"k": i.to_string()}}));
        let options = crate::objects::WriteOptions::controller("test");
        let resource = Resource::CONFIG_MAPS;
        f.objects.patch(resource, Some("default"), "a", None, patch, &options).await.unwrap();
    }
    f.objects.forget_history();
    let mut last = None;
    while let Some(event) = slow.next().await {
        last = Some(event);
    }
    let last = last.unwrap();
    assert_eq!((&last["type"], &last["object"]["code"]), (&json!("ERROR"), &json!(410)));
    let uri = format!("{CONFIG_MAPS}?watch=1&resourceVersion=1");
    let mut late = Events::of(f.send(request(Method::GET, &uri, "", "")).await);
    assert_eq!(late.next().await.unwrap()["object"]["reason"], "Expired");
    assert!(late.next().await.is_none());
}

#[tokio::test]
async fn the_caller_can_ask_who_they_are_and_what_they_may() {
    let f = Fixture::new().await;
    let (status, who) = f.ask(Method::POST, "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(who["status"]["userInfo"]["username"], "system:controller:test");
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let asked = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    let (_, may) = f.ask(Method::POST, path, &asked.to_string()).await;
    assert_eq!((&may["status"]["allowed"], &may["spec"]), (&json!(true), &asked["spec"]));
    let spec = json!({"user": "eve", "resourceAttributes": {"verb": "get", "resource": "pods", "namespace": "shop"}});
    let asked = json!({"spec": spec}).to_string();
    let group = "/apis/authorization.k8s.io/v1";
    for at in ["subjectaccessreviews", "namespaces/shop/localsubjectaccessreviews"] {
        let (status, may) = f.ask(Method::POST, &format!("{group}/{at}"), &asked).await;
        assert_eq!((status, &may["status"]["allowed"]), (StatusCode::CREATED, &json!(false)), "{may}");
        assert_eq!(may["spec"], spec);
    }
    for at in ["localsubjectaccessreviews", "namespaces/shop/subjectaccessreviews"] {
        assert_eq!(f.ask(Method::POST, &format!("{group}/{at}"), &asked).await.0, StatusCode::NOT_FOUND);
    }
    let (status, refused) =
        f.ask(Method::POST, path, r#"{"spec": {"resourceAttributes": {"verb": 1}}}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let request = Request::post(path).header(header::ACCEPT, table).body(Body::from(asked)).unwrap();
    assert_eq!(f.send(request).await.status(), StatusCode::NOT_ACCEPTABLE, "a review has no table");
}

#[tokio::test]
async fn kinds_of_a_later_issue_are_refused_clearly() {
    let f = Fixture::new().await;
    let (status, body) = f.ask(Method::POST, "/apis/apps/v1/namespaces/default/statefulsets", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("does not serve statefulsets of apps/v1"), "{message}");
    let (status, _) = f.ask(Method::PUT, CONFIG_MAPS, "{}").await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn an_eviction_deletes_the_pod_and_a_binding_assigns_it() {
    let f = Fixture::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pods = "/api/v1/namespaces/default/pods";
    let (status, made) = f.ask(Method::POST, pods, &pod.to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{made}");
    let binding = r#"{"metadata": {"name": "p"}, "target": {"name": "n1"}}"#;
    let (status, _) = f.ask(Method::POST, &format!("{pods}/p/binding"), binding).await;
    assert_eq!(status, StatusCode::CREATED);
    let (status, again) = f.ask(Method::POST, &format!("{pods}/p/binding"), binding).await;
    assert_eq!(status, StatusCode::CONFLICT, "{again}");
    let bindings = "/api/v1/namespaces/default/bindings";
    let (status, again) = f.ask(Method::POST, bindings, binding).await;
    assert_eq!(status, StatusCode::CONFLICT, "{again}");
    let (status, unnamed) = f.ask(Method::POST, bindings, r#"{"target": {"name": "n1"}}"#).await;
    assert_eq!((status, &unnamed["message"]), (StatusCode::BAD_REQUEST, &json!("Name parameter required.")));
    let other = json!({"metadata": {"name": "q"}, "spec": pod["spec"]});
    f.ask(Method::POST, pods, &other.to_string()).await;
    let binding = r#"{"metadata": {"name": "q"}, "target": {"name": "n2"}}"#;
    let (status, bound) = f.ask(Method::POST, bindings, binding).await;
    assert_eq!((status, &bound["status"]), (StatusCode::CREATED, &json!("Success")), "{bound}");
    assert_eq!(f.get(&format!("{pods}/q")).await.1["spec"]["nodeName"], "n2");
    let eviction = r#"{"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": 0}}"#;
    let (status, _) = f.ask(Method::POST, &format!("{pods}/p/eviction"), eviction).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(f.get(&format!("{pods}/p")).await.0, StatusCode::NOT_FOUND);
}
