//! What kubectl looks for in the documents.

use std::sync::LazyLock;

use serde_json::Value;

use super::*;

/// The documents of the kinds that are built in.
static DOCUMENTS: LazyLock<Arc<Documents>> =
    LazyLock::new(|| OpenApi::default().of(&crate::registry::Registry::default().current()));

fn document(path: &str) -> Option<&'static Arc<Document>> {
    DOCUMENTS.document(path)
}

fn parsed(path: &str) -> Value {
    serde_json::from_slice(&document(path).unwrap().body).unwrap()
}

#[test]
fn the_index_links_every_document_by_its_hash() {
    let index: Value = serde_json::from_slice(&DOCUMENTS.index().body).unwrap();
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap();
    assert_eq!(url, format!("/openapi/v3/apis/apps/v1?hash={}", document("apis/apps/v1").unwrap().hash));
    assert!(index["paths"].as_object().unwrap().contains_key("api/v1"));
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(node: &Value, schemas: &Map<String, Value>) {
        match node {
            Value::Object(map) => {
                if let Some(name) = map.get("$ref").and_then(Value::as_str) {
                    let name = name.rsplit('/').next().unwrap();
                    assert!(schemas.contains_key(name), "{name}");
                    assert_eq!(map.len(), 1, "nothing stands beside a reference: {node}");
                }
                map.values().for_each(|v| check(v, schemas));
            }
            Value::Array(list) => list.iter().for_each(|v| check(v, schemas)),
            _ => {}
        }
    }
    for path in DOCUMENTS.by_path.keys() {
        let document = parsed(path);
        let schemas = document["components"]["schemas"].as_object().unwrap();
        assert!(!schemas.is_empty() || path.contains("openid"), "{path}");
        check(&document, schemas);
    }
}

#[test]
fn kubectl_finds_field_validation_on_patches() {
    let document = parsed("apis/apps/v1");
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], "Deployment");
    let names: Vec<&str> =
        patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dryRun", "fieldManager", "fieldValidation", "force"]);
}

#[test]
fn schemas_carry_kinds_and_merge_facts() {
    let document = parsed("api/v1");
    let schemas = &document["components"]["schemas"];
    let gvk = &schemas["io.k8s.api.core.v1.Pod"]["x-kubernetes-group-version-kind"][0];
    assert_eq!((gvk["kind"].as_str(), gvk["version"].as_str()), (Some("Pod"), Some("v1")));
    let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    let spec = &schemas["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.PodSpec");
    assert!(spec["description"].as_str().unwrap().starts_with("Specification of the desired behavior"));
}

#[test]
fn schemas_say_what_upstreams_say() {
    let document = parsed("api/v1");
    let schema = |name: &str| document["components"]["schemas"][format!("io.k8s.api.core.v1.{name}")].clone();
    assert_eq!(
        schema("AttachedVolume")["required"],
        json!(["name", "devicePath"]),
        "in the order of the type"
    );
    assert_eq!(schema("ConfigMapEnvSource")["required"], Value::Null);
    let profile = schema("AppArmorProfile");
    assert_eq!(profile["properties"]["type"]["default"], "");
    assert_eq!(profile["properties"]["type"]["enum"], json!(["Localhost", "RuntimeDefault", "Unconfined"]));
    assert!(profile["x-kubernetes-unions"].is_array());
    assert_eq!(schema("ServiceSpec")["properties"]["ipFamilies"]["items"]["enum"][1], "IPv4");
    let options = parsed("apis/apps/v1");
    let options =
        &options["components"]["schemas"]["io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"][schemas::GVK];
    assert_eq!((&options[0]["group"], &options[1]["group"]), (&json!(""), &json!("apps")));
}

#[test]
fn what_is_no_resource_is_described_too() {
    for (path, schema) in [
        ("api", "io.k8s.apimachinery.pkg.apis.meta.v1.APIVersions"),
        ("apis", "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup"),
        ("apis/apps", "io.k8s.apimachinery.pkg.apis.meta.v1.APIGroup"),
        ("apis/apps/v1", "io.k8s.apimachinery.pkg.apis.meta.v1.APIResourceList"),
        ("version", "io.k8s.apimachinery.pkg.version.Info"),
    ] {
        let document = parsed(path);
        assert!(document["paths"][format!("/{path}/")]["get"]["operationId"].is_string(), "{path}");
        assert!(document["components"]["schemas"][schema].is_object(), "{path}");
    }
}

#[test]
fn operation_ids_are_distinct() {
    for path in DOCUMENTS.by_path.keys() {
        let document = parsed(path);
        let mut seen = BTreeSet::new();
        for item in document["paths"].as_object().unwrap().values() {
            for operation in item.as_object().unwrap().values().filter(|o| o.is_object()) {
                let id = operation["operationId"].as_str().unwrap();
                assert!(seen.insert(id.to_owned()), "{id}");
            }
        }
        assert!(!seen.is_empty());
    }
}

#[test]
fn version_2_has_plain_references() {
    let document: Value = serde_json::from_slice(&DOCUMENTS.v2().body).unwrap();
    let spec = &document["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert_eq!(spec["$ref"], "#/definitions/io.k8s.api.core.v1.PodSpec");
    let create = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
    let body = create["parameters"].as_array().unwrap().last().unwrap();
    assert_eq!(
        (body["in"].as_str(), body["schema"]["$ref"].as_str()),
        (Some("body"), Some("#/definitions/io.k8s.api.core.v1.Pod"))
    );
}

#[test]
fn what_is_not_stored_is_described_too() {
    for (path, definition, kind) in [
        (
            "apis/authentication.k8s.io/v1",
            "io.k8s.api.authentication.v1.SelfSubjectReview",
            "SelfSubjectReview",
        ),
        (
            "apis/authorization.k8s.io/v1",
            "io.k8s.api.authorization.v1.SelfSubjectAccessReview",
            "SelfSubjectAccessReview",
        ),
        (
            "apis/authorization.k8s.io/v1",
            "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
            "LocalSubjectAccessReview",
        ),
        ("apis/metrics.k8s.io/v1beta1", "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics", "PodMetrics"),
    ] {
        let document = parsed(path);
        let schema = &document["components"]["schemas"][definition];
        assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], kind, "{path}");
        assert!(document["paths"].as_object().unwrap().keys().all(|p| p.starts_with("/apis/")), "{path}");
    }
}

#[test]
fn documents_are_compressed_once() {
    use std::io::Read as _;
    let document = document("apis/apps/v1").unwrap();
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&*document.packed()).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, document.body);
    assert_eq!(document.packed().as_ptr(), document.packed().as_ptr());
}

#[test]
fn the_values_of_an_enumeration_are_explained() {
    let document = parsed("api/v1");
    let field = |definition: &str, field: &str| {
        document["components"]["schemas"][format!("io.k8s.api.core.v1.{definition}")]["properties"][field]
            .clone()
    };
    let policy = field("PodSpec", "restartPolicy");
    let values = " Possible enum values: - `\"Always\"` - `\"Never\"` - `\"OnFailure\"`";
    let words = policy["description"].as_str().unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.ends_with(values), "{words}");
    let protocol = field("ContainerPort", "protocol");
    assert!(
        protocol["description"].as_str().unwrap().ends_with("`\"UDP\"` is the UDP protocol."),
        "{protocol}"
    );
    let plain = field("PodSpec", "nodeName");
    assert!(!plain["description"].as_str().unwrap().contains("enum"), "{plain}");
}
