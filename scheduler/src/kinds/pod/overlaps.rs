//! Files of one volume that would lie upon each other. In: the volumes of a pod. Out: upstream's warnings.

use serde_json::{Value, json};

use crate::{
    kinds::json::{items, members, text},
    model::go,
};

/// A file, and the source it comes from where a volume has several.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn new(path: &str, source: &str) -> Self {
        Self { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
    }

    fn shown(&self) -> String {
        let path = go::quote(&self.path);
        if self.source.is_empty() { path } else { format!("{path} ({})", self.source) }
    }

    /// The same place, or one within the other.
    fn meets(&self, other: &Self) -> bool {
        let (own, theirs) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty()
            && !other.path.is_empty()
            && (own.starts_with(&theirs) || theirs.starts_with(&own))
    }
}

/// Adds the warnings about `volumes`.
pub(super) fn check(volumes: &Value, out: &mut Vec<String>) {
    for volume in items(volumes) {
        let name = go::quote(text(volume, "name"));
        for (kind, source) in members(volume) {
            let what = match kind.as_str() {
                "configMap" => format!("ConfigMap {}", go::quote(text(source, "name"))),
                "secret" => format!("Secret {}", go::quote(text(source, "secretName"))),
                "downwardAPI" => "DownwardAPI".to_owned(),
                _ => continue,
            };
            let files = listed(source, "");
            out.extend(
                collisions(files).map(|two| format!("volume {name} ({what}): overlapping paths: {two}")),
            );
        }
        let mut files = Vec::new();
        for source in items(&volume["projected"]["sources"]) {
            if *source == json!({}) {
                out.push(format!("volume {name} (Projected) has no sources provided"));
            }
            files.extend(projected(source));
        }
        let found = collisions(files);
        out.extend(found.map(|two| format!("volume {name} (Projected): overlapping paths: {two}")));
    }
}

fn listed(source: &Value, from: &str) -> Vec<File> {
    items(&source["items"]).iter().map(|item| File::new(text(item, "path"), from)).collect()
}

fn projected(source: &Value) -> Vec<File> {
    let named = |what: &str, source: &Value| format!("{what} {}", go::quote(text(source, "name")));
    let Some((kind, source)) = members(source).next() else { return Vec::new() };
    match kind.as_str() {
        "configMap" => listed(source, &named("ConfigMap", source)),
        "secret" => listed(source, &named("Secret", source)),
        "downwardAPI" => listed(source, "DownwardAPI"),
        "serviceAccountToken" => vec![File::new(text(source, "path"), "ServiceAccountToken")],
        "clusterTrustBundle" => {
            let field = if source["name"].is_null() { "signerName" } else { "name" };
            let from = format!("ClusterTrustBundle {}", go::quote(text(source, field)));
            vec![File::new(text(source, "path"), &from)]
        }
        "podCertificate" => [
            ("certificateChainPath", "PodCertificate chain"),
            ("keyPath", "PodCertificate key"),
            ("credentialBundlePath", "PodCertificate credential bundle"),
        ]
        .into_iter()
        .filter(|(field, _)| !text(source, field).is_empty())
        .map(|(field, from)| File::new(text(source, field), from))
        .collect(),
        _ => Vec::new(),
    }
}

fn collisions(files: Vec<File>) -> impl Iterator<Item = String> {
    (0..files.len()).flat_map(move |index| {
        let (before, file) = (&files[..index], &files[index]);
        let met = before.iter().filter(|other| file.meets(other));
        met.map(|other| format!("{} with {}", file.shown(), other.shown())).collect::<Vec<_>>()
    })
}
