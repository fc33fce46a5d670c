//! The documents of paths that are no resources: what discovery and the version answer.

use serde_json::{Map, Value, json};

use super::{path_of, schemas::reference};
use crate::{
    api::{discovery, issuer},
    kinds::Catalogue,
};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const VERSIONS: &str = "get available API versions";

/// Documents by path below `/openapi/v3/`, each with its paths.
pub(super) fn all(kinds: &Catalogue) -> Vec<(String, Map<String, Value>)> {
    let mut out = vec![
        root("api", "core", VERSIONS, "getCoreAPIVersions", &meta("APIVersions")),
        root("apis", "apis", VERSIONS, "getAPIVersions", &meta("APIGroupList")),
    ];
    for (group, _) in discovery::group_versions(kinds) {
        let id = format!("get{}APIGroup", title(short(group)));
        let (path, what) = (format!("apis/{group}"), "get information of a group");
        out.push(root(&path, short(group), what, &id, &meta("APIGroup")));
    }
    let what = "get the version information for this server";
    let info = "io.k8s.apimachinery.pkg.version.Info";
    let content = json!({"application/json": {"schema": reference(info)}});
    out.push(item("version", "version", what, "getCodeVersion", &content));
    out.extend([
        item(
            issuer::CONFIGURATION,
            "WellKnown",
            "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'",
            "getServiceAccountIssuerOpenIDConfiguration",
            &json!({"application/json": {"schema": {"type": "string"}}}),
        ),
        item(
            issuer::KEYS,
            "openid",
            "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)",
            "getServiceAccountIssuerOpenIDKeyset",
            &json!({issuer::KEY_SET: {"schema": {"type": "string"}}}),
        ),
    ]);
    out
}

/// The path of a version's own list of resources.
pub(super) fn resources(group: &str, version: &str) -> Map<String, Value> {
    let tag = format!("{}_{version}", short(group));
    let id = format!("get{}{}APIResources", title(short(group)), title(version));
    root(&path_of(group, version), &tag, "get available resources", &id, &meta("APIResourceList")).1
}

fn root(path: &str, tag: &str, what: &str, id: &str, response: &str) -> (String, Map<String, Value>) {
    const PRODUCED: [&str; 3] =
        ["application/json", "application/vnd.kubernetes.protobuf", "application/yaml"];
    let schema = json!({"schema": reference(response)});
    let content: Map<String, Value> =
        PRODUCED.into_iter().map(|media| (media.to_owned(), schema.clone())).collect();
    item(path, tag, what, id, &content.into())
}

fn item(path: &str, tag: &str, what: &str, id: &str, content: &Value) -> (String, Map<String, Value>) {
    let get = json!({
        "tags": [tag],
        "description": what,
        "operationId": id,
        "responses": {"200": {"description": "OK", "content": content}, "401": {"description": "Unauthorized"}},
    });
    let mut paths = Map::new();
    paths.insert(format!("/{path}/"), json!({ "get": get }));
    (path.to_owned(), paths)
}

fn meta(name: &str) -> String {
    format!("{META}.{name}")
}

/// What upstream calls a group in tags and operations.
fn short(group: &str) -> &str {
    match group.split('.').next().unwrap_or_default() {
        "" => "core",
        first => first,
    }
}

fn title(word: &str) -> String {
    format!("{}{}", word[..1].to_uppercase(), &word[1..])
}
