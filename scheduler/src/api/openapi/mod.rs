//! OpenAPI documents: one version 3 document per group and version with an index of them, and one version 2
//! document of everything. kubectl explains fields, validates and finds its patch parameters by them.
//!
//! Built on first use from the kinds that are served, the schemas of `k8s-openapi` and the merge facts; kept as bytes.
//! The same kinds always make the same bytes, so a hash of them makes the URLs in the index cacheable for ever.

mod extras;
mod paths;
mod roots;
mod schemas;
mod v2;

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::discovery::EXTRAS;
use crate::kinds::{Catalogue, KUBERNETES_VERSION, Kind};

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

/// The documents about the kinds that are served. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct OpenApi {
    built: Arc<Mutex<Option<Arc<Documents>>>>,
}

impl OpenApi {
    /// Those of a catalogue, built when it is another than the last time. What did not change since then is not built
    /// again. Takes long enough to delay other tasks.
    pub fn of(&self, kinds: &Arc<Catalogue>) -> Arc<Documents> {
        let mut built = self.built.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = built.as_ref().filter(|known| Arc::ptr_eq(&known.kinds, kinds)) {
            return known.clone();
        }
        let next = Arc::new(Documents::new(kinds, built.as_deref()));
        *built = Some(next.clone());
        next
    }
}

/// The documents of one catalogue.
#[derive(Debug)]
pub struct Documents {
    kinds: Arc<Catalogue>,
    /// By path below `/openapi/v3/`: `api/v1`, `apis/apps/v1`, `version`.
    by_path: BTreeMap<String, Arc<Document>>,
    index: Arc<Document>,
    /// Built when somebody asks: few do.
    v2: OnceLock<Arc<Document>>,
}

impl Documents {
    fn new(kinds: &Arc<Catalogue>, before: Option<&Self>) -> Self {
        let all = LazyCell::new(|| schemas::all(kinds, extras::schemas()));
        let mut by_path = BTreeMap::new();
        for (group, version) in group_versions(kinds) {
            let path = path_of(group, version);
            let known = before
                .filter(|before| same(&before.kinds, kinds, group, version))
                .and_then(|before| before.by_path.get(&path).cloned());
            let build = || Arc::new(Document::new(&described(paths_of(kinds, group, version), &all)));
            by_path.insert(path, known.unwrap_or_else(build));
        }
        for (path, paths) in roots::all(kinds) {
            let known = before.and_then(|before| before.by_path.get(&path).cloned());
            by_path.insert(path, known.unwrap_or_else(|| Arc::new(Document::new(&described(paths, &all)))));
        }
        let links: Map<String, Value> = by_path
            .iter()
            .map(|(path, document)| {
                let url = format!("/openapi/v3/{path}?hash={}", document.hash);
                (path.clone(), json!({"serverRelativeURL": url}))
            })
            .collect();
        let index = Arc::new(Document::new(&json!({ "paths": links })));
        Self { kinds: kinds.clone(), by_path, index, v2: OnceLock::new() }
    }

    /// `/openapi/v3`.
    pub fn index(&self) -> &Arc<Document> {
        &self.index
    }

    /// `/openapi/v3/{path}`, where path is `api/v1`, `apis/{group}/{version}`, or one of those above them.
    pub fn document(&self, path: &str) -> Option<&Arc<Document>> {
        self.by_path.get(path)
    }

    /// `/openapi/v2`, as JSON.
    pub fn v2(&self) -> Arc<Document> {
        let build = || {
            let schemas = schemas::all(&self.kinds, extras::schemas());
            Arc::new(Document::new(&v2::document(&self.kinds, &schemas)))
        };
        self.v2.get_or_init(build).clone()
    }
}

/// The paths of all documents below `/openapi/v3/`.
pub fn paths(kinds: &Catalogue) -> Vec<String> {
    let versions = group_versions(kinds).into_iter().map(|(group, version)| path_of(group, version));
    versions.chain(roots::all(kinds).into_iter().map(|(path, _)| path)).collect()
}

/// Whether there is a document at a path below `/openapi/v3/`.
pub fn is_document(kinds: &Catalogue, path: &str) -> bool {
    paths(kinds).iter().any(|known| known == path)
}

fn group_versions(kinds: &Catalogue) -> BTreeSet<(&str, &str)> {
    let extras = EXTRAS.iter().map(|extra| (extra.group, extra.version));
    kinds.all().iter().map(|kind| (&*kind.group, &*kind.version)).chain(extras).collect()
}

/// Whether the kinds of a version are the same in both.
fn same(one: &Catalogue, other: &Catalogue, group: &str, version: &str) -> bool {
    let of = |kinds: &Catalogue| -> Vec<*const Kind> {
        kinds.all().iter().filter(|kind| kind.is_of(group, version)).map(Arc::as_ptr).collect()
    };
    of(one) == of(other)
}

/// The media type in which kubectl asks for version 2 (`@v1.0+protobuf`, later `.v1.0+protobuf`, follows).
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2";

/// Version 2 in protobuf, with nothing in it but its `swagger: "2.0"`. kubectl asks for it only about a kind that
/// version 3 does not have; finding nothing, it goes on and says that there is no such kind.
pub const EMPTY_V2_PROTOBUF: &[u8] = b"\x0a\x032.0";

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn paths_of(kinds: &Catalogue, group: &str, version: &str) -> Map<String, Value> {
    let mut paths = roots::resources(group, version);
    for kind in kinds.all().iter().filter(|kind| kind.is_of(group, version)) {
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
