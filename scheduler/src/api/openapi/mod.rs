//! OpenAPI documents: one version 3 document per group and version with an index of them, and one version 2
//! document of everything. kubectl explains fields, validates and finds its patch parameters by them.
//!
//! Built on first use from the kind table, the schemas of `k8s-openapi` and the merge facts; kept as bytes. The
//! same binary always serves the same bytes, so a hash of them makes the URLs in the index cacheable for ever.

mod extras;
mod paths;
mod roots;
mod schemas;
mod v2;

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{LazyLock, OnceLock},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::discovery::EXTRAS;
use crate::kinds::{self, KUBERNETES_VERSION};

/// A built document.
#[derive(Clone, Debug)]
pub struct Document {
    /// JSON.
    pub body: Bytes,
    /// Hash of the body, upper-case hexadecimal; quoted it is the ETag.
    pub hash: String,
    /// The body, compressed when somebody first took it so.
    packed: OnceLock<Bytes>,
}

impl Document {
    fn new(json: &Value) -> Self {
        let body = Bytes::from(json.to_string());
        let hash = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
        Self { body, hash, packed: OnceLock::new() }
    }

    /// The body in gzip.
    pub fn packed(&self) -> Bytes {
        let pack = || {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            // Writing into memory does not fail.
            let done = encoder.write_all(&self.body).and_then(|()| encoder.finish());
            done.unwrap_or_default().into()
        };
        self.packed.get_or_init(pack).clone()
    }
}

/// By path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`, `version`.
static DOCUMENTS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(|| {
    let all = schemas::all(extras::schemas());
    let extras = EXTRAS.iter().map(|extra| (extra.group, extra.version));
    let mut versions: Vec<(&str, &str)> =
        kinds::all().iter().map(|k| (k.group, k.version)).chain(extras).collect();
    versions.sort_unstable();
    versions.dedup();
    let versions =
        versions.into_iter().map(|(group, version)| (path_of(group, version), group_version(group, version)));
    versions.chain(roots::all()).map(|(path, paths)| (path, Document::new(&described(paths, &all)))).collect()
});

static INDEX: LazyLock<Document> = LazyLock::new(|| {
    let paths: Map<String, Value> = DOCUMENTS
        .iter()
        .map(|(path, document)| {
            let url = format!("/openapi/v3/{path}?hash={}", document.hash);
            (path.clone(), json!({"serverRelativeURL": url}))
        })
        .collect();
    Document::new(&json!({ "paths": paths }))
});

static V2: LazyLock<Document> =
    LazyLock::new(|| Document::new(&v2::document(&schemas::all(extras::schemas()))));

/// `/openapi/v3`.
pub fn index() -> &'static Document {
    &INDEX
}

/// `/openapi/v3/{path}`, where path is `api/v1`, `apis/{group}/{version}`, or one of those above them.
pub fn document(path: &str) -> Option<&'static Document> {
    DOCUMENTS.get(path)
}

/// The paths of all documents.
pub fn paths() -> impl Iterator<Item = &'static str> {
    DOCUMENTS.keys().map(String::as_str)
}

/// `/openapi/v2`, as JSON.
pub fn v2() -> &'static Document {
    &V2
}

/// The media type in which kubectl asks for version 2 (`@v1.0+protobuf`, later `.v1.0+protobuf`, follows).
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";

/// Version 2 in protobuf, with nothing in it but its `swagger: "2.0"`. kubectl asks for it only about a kind that
/// version 3 does not have; finding nothing, it goes on and says that there is no such kind.
pub const EMPTY_V2_PROTOBUF: &[u8] = b"\x0a\x032.0";

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn group_version(group: &str, version: &str) -> Map<String, Value> {
    let mut paths = roots::resources(group, version);
    for kind in kinds::all().iter().filter(|k| (k.group, k.version) == (group, version)) {
        paths.extend(paths::of_kind(kind));
    }
    for extra in EXTRAS.iter().filter(|e| (e.group, e.version) == (group, version)) {
        paths.extend(extras::paths(extra));
    }
    paths
}

/// The document of paths, with the schemas that they lead to.
fn described(paths: Map<String, Value>, all: &Map<String, Value>) -> Value {
    let paths = Value::Object(paths);
    let mut schemas = schemas::reachable(&paths, all);
    schemas::name_options(&paths, &mut schemas);
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": KUBERNETES_VERSION},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": {
            "type": "apiKey", "name": "authorization", "in": "header", "description": "Bearer Token authentication",
        }}},
    })
}

#[cfg(test)]
mod tests;
