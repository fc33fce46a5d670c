//! Bodies that are of another type than the object: what upstream refuses of them, and that a refusal changes nothing.

use super::*;

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn refused(f: &Fixture, method: Method, uri: &str, body: &str, code: u16) -> String {
    let (status, answer) = f.ask(method, uri, body).await;
    assert_eq!(status.as_u16(), code, "{body}: {answer}");
    answer["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_deletion_whose_options_do_not_decode_deletes_nothing() {
    let f = Fixture::new().await;
    f.make("x").await;
    let one = format!("{CONFIG_MAPS}/x");
    for (body, code, words) in [
        (
            r#"{"dryRun":"All"}"#,
            400,
            "json: cannot unmarshal string into Go struct field DeleteOptions.dryRun of type []string",
        ),
        (
            r#"{"preconditions":{"uid":5}}"#,
            400,
            "json: cannot unmarshal number into Go struct field Preconditions.preconditions.uid of type types.UID",
        ),
        (
            r#"{"preconditions":"x"}"#,
            400,
            "json: cannot unmarshal string into Go struct field DeleteOptions.preconditions of type v1.Preconditions",
        ),
        (
            r#"{"propagationPolicy":5}"#,
            400,
            "json: cannot unmarshal number into Go struct field DeleteOptions.propagationPolicy of type v1.DeletionPropagation",
        ),
        (
            r#"{"orphanDependents":"true"}"#,
            400,
            "json: cannot unmarshal string into Go struct field DeleteOptions.orphanDependents of type bool",
        ),
        (
            r#"{"gracePeriodSeconds":1.5}"#,
            400,
            "json: cannot unmarshal number 1.5 into Go struct field DeleteOptions.gracePeriodSeconds of type int64",
        ),
        (
            r#"{"kind":"Pod","apiVersion":"v1"}"#,
            400,
            r#"no kind "Pod" is registered for version "v1" in scheme "pkg/runtime/scheme.go:111""#,
        ),
        (
            r#"{"dryRun":["x"]}"#,
            422,
            r#"DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["x"]: supported values: "All""#,
        ),
        (
            r#"{"ignoreStoreReadErrorWithClusterBreakingPotential":true}"#,
            409,
            "Operation cannot be fulfilled on configmaps \"x\": StorageError: invalid object, Code: 4, Key: /registry/configmaps/default/x, ResourceVersion: 0, AdditionalErrorMsg: unsafe deletion is not allowed because the object is decodable from storage",
        ),
    ] {
        assert_eq!(refused(&f, Method::DELETE, &one, body, code).await, words);
        if code == 400 {
            assert_eq!(refused(&f, Method::DELETE, CONFIG_MAPS, body, code).await, words);
        }
    }
    let empty = refused(&f, Method::DELETE, &format!("{one}?propagationPolicy="), "", 422).await;
    assert!(empty.contains("Unsupported value: \"\""), "{empty}");
    let stale = refused(&f, Method::DELETE, &one, r#"{"preconditions":{"uid":"zz"}}"#, 409).await;
    assert!(
        stale.starts_with(
            "Operation cannot be fulfilled on ConfigMap \"x\": the UID in the precondition (zz)"
        ),
        "{stale}"
    );
    assert_eq!(f.get(&one).await.0, StatusCode::OK, "still there");
    for harmless in [
        r#"{"kind":"DeleteOptions","apiVersion":"apps/v1"}"#,
        r#"{"apiVersion":"v2"}"#,
        "null",
        r#"{"more":1}"#,
    ] {
        assert_eq!(f.ask(Method::DELETE, &one, harmless).await.0, StatusCode::OK, "{harmless}");
        f.make("x").await;
    }
}

#[tokio::test]
async fn a_scale_is_one_of_the_object_in_the_path() {
    let f = Fixture::new().await;
    let labels = json!({"a": "b"});
    let body = json!({"metadata": {"name": "sz"}, "spec": {"replicas": 3, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    f.ask(Method::POST, DEPLOYMENTS, &body.to_string()).await;
    let scale = format!("{DEPLOYMENTS}/sz/scale");
    for (body, words) in [
        ("{}", "the name of the object (sz based on URL) was undeterminable: name must be provided"),
        (
            r#"{"metadata":{"name":"other"}}"#,
            "the name of the object (other) does not match the name on the URL (sz)",
        ),
        (
            r#"{"metadata":{"name":"sz","namespace":"zz"}}"#,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (
            r#"{"kind":"Deployment","apiVersion":"apps/v1"}"#,
            "Deployment in version \"v1\" cannot be handled as a Scale: converting (v1.Deployment) to (autoscaling.Scale): unknown conversion",
        ),
        (
            r#"{"kind":"Scale","apiVersion":"autoscaling/v2"}"#,
            "Scale in version \"v2\" cannot be handled as a Scale: no kind \"Scale\" is registered for version \"autoscaling/v2\" in scheme \"pkg/runtime/scheme.go:111\"",
        ),
    ] {
        assert_eq!(refused(&f, Method::PUT, &scale, body, 400).await, words);
    }
    let unknown = r#"{"metadata":{"name":"sz"},"spec":{"replicas":2,"zz":1}}"#;
    let strict = refused(&f, Method::PUT, &format!("{scale}?fieldValidation=Strict"), unknown, 400).await;
    assert!(strict.ends_with("strict decoding error: unknown field \"spec.zz\""), "{strict}");
    let merge = |body: &str| request(Method::PATCH, &scale, "application/merge-patch+json", body);
    for (body, code) in [
        (r#"{"metadata":{"name":"other"}}"#, 400),
        (r#"{"metadata":{"namespace":"other"}}"#, 400),
        (r#"{"kind":"Deployment"}"#, 422),
    ] {
        let (status, answer) = parsed(f.send(merge(body)).await).await;
        assert_eq!(status.as_u16(), code, "{body}: {answer}");
    }
    assert_eq!(f.get(&scale).await.1["spec"]["replicas"], 3, "refusals change nothing");
    let warned = f.send(request(Method::PUT, &scale, "application/json", unknown)).await;
    assert_eq!(warned.headers()[header::WARNING], "299 - \"unknown field \\\"spec.zz\\\"\"");
    assert_eq!(f.get(&scale).await.1["spec"]["replicas"], 2);
}

#[tokio::test]
async fn an_eviction_and_a_binding_are_of_the_pod_in_the_path() {
    let f = Fixture::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    f.ask(Method::POST, PODS, &pod.to_string()).await;
    let (eviction, binding) = (format!("{PODS}/p/eviction"), format!("{PODS}/p/binding"));
    let node = r#""target":{"name":"n1"}"#;
    for (uri, kind, rest) in [(&eviction, "Eviction", ""), (&binding, "Binding", node)] {
        let with = |metadata: &str| match rest {
            "" => format!("{{{metadata}}}"),
            rest if metadata.is_empty() => format!("{{{rest}}}"),
            rest => format!("{{{metadata},{rest}}}"),
        };
        let other = format!("name in URL does not match name in {kind} object");
        assert_eq!(refused(&f, Method::POST, uri, &with(""), 400).await, other);
        assert_eq!(refused(&f, Method::POST, uri, &with(r#""metadata":{"name":"q"}"#), 400).await, other);
        let foreign =
            refused(&f, Method::POST, uri, &with(r#""metadata":{"name":"p","namespace":"zz"}"#), 400).await;
        assert!(foreign.starts_with("the namespace of the provided object"), "{foreign}");
        let typed = refused(
            &f,
            Method::POST,
            uri,
            &with(r#""kind":"Pod","apiVersion":"v1","metadata":{"name":"p"}"#),
            400,
        )
        .await;
        assert!(typed.ends_with("unknown conversion"), "{typed}");
        let strict = format!("{uri}?fieldValidation=Strict");
        refused(&f, Method::POST, &strict, &with(r#""metadata":{"name":"p"},"zz":1"#), 400).await;
    }
    refused(
        &f,
        Method::POST,
        &eviction,
        r#"{"metadata":{"name":"p"},"deleteOptions":{"dryRun":["x"]}}"#,
        422,
    )
    .await;
    for (target, words) in [
        (
            r#"{"name":"Bad Name"}"#,
            "target.name: Invalid value: \"Bad Name\": a lowercase RFC 1123 subdomain",
        ),
        (
            r#"{"name":"n1","kind":"Pod"}"#,
            "target.kind: Unsupported value: \"Pod\": supported values: \"Node\", \"<empty>\"",
        ),
        ("{}", "target.name: Required value"),
    ] {
        let body = format!(r#"{{"metadata":{{"name":"p"}},"target":{target}}}"#);
        let found = refused(&f, Method::POST, &binding, &body, 500).await;
        assert!(found.starts_with(words), "{found}");
    }
    let pod = f.get(&format!("{PODS}/p")).await.1;
    assert_eq!(pod["spec"].get("nodeName"), None, "neither bound nor gone");
    let stale = r#"{"metadata":{"name":"p","resourceVersion":"1"},"target":{"name":"n1"}}"#;
    let stale = refused(&f, Method::POST, &binding, stale, 409).await;
    assert!(stale.contains("Precondition failed: ResourceVersion in precondition: 1"), "{stale}");
    let said =
        r#"{"metadata":{"name":"p","labels":{"l":"1"},"annotations":{"a":"2"}},"target":{"name":"n1"}}"#;
    assert_eq!(f.ask(Method::POST, &binding, said).await.0, StatusCode::CREATED);
    let pod = f.get(&format!("{PODS}/p")).await.1;
    assert_eq!(
        (&pod["metadata"]["labels"]["l"], &pod["metadata"]["annotations"]["a"]),
        (&json!("1"), &json!("2"))
    );
    assert_eq!(pod["metadata"]["generation"], 1);
    let beta = r#"{"kind":"Eviction","apiVersion":"policy/v1beta1","metadata":{"name":"p"}}"#;
    assert_eq!(f.ask(Method::POST, &eviction, beta).await.0, StatusCode::CREATED);
    let pod = f.get(&format!("{PODS}/p")).await.1;
    assert!(pod["metadata"]["deletionTimestamp"].is_string(), "{pod}");
}
