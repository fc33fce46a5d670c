//! Validation of projected volumes: ConfigMaps, Secrets, facts, tokens, trust bundles and certificates in one tree.

use std::collections::BTreeSet;

use serde_json::Value;

use super::files;
use crate::kinds::{
    json::{items, members, text},
    validate::{Path, Problems, names, selectors},
};

const KEY_TYPES: [&str; 6] = ["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
/// The longest that any signer's certificate may live: 91 days.
const MAX_LIFE: i64 = 91 * 24 * 60 * 60;
/// The longest for the signers of the project itself: a day.
const MAX_LIFE_OF_OWN: i64 = 24 * 60 * 60;
/// `<domain of 253>/<namespace of 63>.<name of 253>`
const MAX_SIGNER: usize = 253 + 1 + 253 + 63 + 1;

/// The paths that the sources of a volume have taken, and where a conflict is told.
struct Taken<'a> {
    paths: BTreeSet<&'a str>,
    at: &'a Path,
}

impl<'a> Taken<'a> {
    /// `shown` is what the refusal names.
    fn take(&mut self, path: &'a str, shown: &str, problems: &mut Problems) {
        if !self.paths.insert(path) {
            problems.invalid(self.at, shown, "conflicting duplicate paths");
        }
    }
}

/// A `projected` source.
pub(super) fn check(source: &Value, path: &Path, problems: &mut Problems) {
    files::mode(&source["defaultMode"], &path.field("defaultMode"), problems);
    files::owner(&source["defaultUser"], &path.field("defaultUser"), problems);
    let mut taken = Taken { paths: BTreeSet::new(), at: path };
    for (index, part) in items(&source["sources"]).iter().enumerate() {
        let at = path.field("sources").index(index);
        let mut found = 0;
        for (kind, check) in PARTS.iter().filter(|(kind, _)| part[*kind].is_object()) {
            found += 1;
            check(&part[*kind], &at.field(kind), &mut taken, problems);
        }
        if found > 1 {
            problems.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

type Check = for<'a> fn(&'a Value, &Path, &mut Taken<'a>, &mut Problems);

const PARTS: [(&str, Check); 6] = [
    ("secret", keys),
    ("configMap", keys),
    ("downwardAPI", facts),
    ("serviceAccountToken", token),
    ("clusterTrustBundle", trust_bundle),
    ("podCertificate", certificate),
];

fn keys<'a>(part: &'a Value, path: &Path, taken: &mut Taken<'a>, problems: &mut Problems) {
    let name = text(part, "name");
    if name.is_empty() {
        problems.required(&path.field("name"), "");
    }
    files::keys(&part["items"], &path.field("items"), problems);
    for target in items(&part["items"]).iter().map(|item| text(item, "path")).filter(|p| !p.is_empty()) {
        taken.take(target, name, problems);
    }
}

fn facts<'a>(part: &'a Value, path: &Path, taken: &mut Taken<'a>, problems: &mut Problems) {
    files::facts(&part["items"], path, problems);
    for target in items(&part["items"]).iter().map(|item| text(item, "path")).filter(|p| !p.is_empty()) {
        taken.take(target, target, problems);
    }
}

fn token<'a>(part: &'a Value, path: &Path, taken: &mut Taken<'a>, problems: &mut Problems) {
    let at = path.field("expirationSeconds");
    match part["expirationSeconds"].as_i64() {
        None => problems.required(&at, ""),
        Some(seconds) if seconds < 600 => {
            problems.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
        }
        Some(seconds) if seconds > 1 << 32 => {
            problems.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        Some(_) => {}
    }
    // As upstream: told of the volume, not of the source.
    let at = taken.at.field("path");
    match text(part, "path") {
        "" => problems.required(&at, ""),
        target => files::file(target, &at, problems),
    }
    files::owner(&part["user"], &path.field("user"), problems);
}

fn trust_bundle<'a>(part: &'a Value, path: &Path, taken: &mut Taken<'a>, problems: &mut Problems) {
    match (part["name"].as_str(), part["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            let why = "only one of name and signerName may be used";
            problems.invalid_of(path, "ClusterTrustBundleProjection", part, why);
        }
        (Some(name), None) => bundle_by_name(name, part, path, problems),
        (None, Some(signer)) => {
            if signer.is_empty() {
                problems.required(&path.field("signerName"), "must be a valid signer name");
            }
            signer_name(signer, &path.field("signerName"), problems);
            selectors::label_selector(&part["labelSelector"], &path.field("labelSelector"), problems);
        }
        (None, None) => problems.required(path, "either name or signerName must be specified"),
    }
    let target = text(part, "path");
    if target.is_empty() {
        problems.required(&path.field("path"), "");
    }
    files::owner(&part["user"], &path.field("user"), problems);
    files::file(target, &path.field("path"), problems);
    taken.take(target, target, problems);
}

fn bundle_by_name(name: &str, part: &Value, path: &Path, problems: &mut Problems) {
    let at = path.field("name");
    if name.is_empty() {
        problems.required(&at, "must be a valid object name");
    }
    // A bundle of a signer is named `<signer, with : for />:<name>`.
    let own = name.rsplit_once(':').map_or(name, |(_, own)| own);
    for complaint in names::dns_subdomain(own) {
        problems.invalid(&at, name, format!("not a valid clustertrustbundlename: {complaint}"));
    }
    if part["labelSelector"].is_object() {
        let why = "labelSelector must be unset if name is specified";
        let at = path.field("labelSelector");
        problems.invalid_of(&at, "metav1.LabelSelector", &part["labelSelector"], why);
    }
}

fn certificate<'a>(part: &'a Value, path: &Path, taken: &mut Taken<'a>, problems: &mut Problems) {
    let signer = text(part, "signerName");
    signer_name(signer, &path.field("signerName"), problems);
    user_annotations(&part["userAnnotations"], &path.field("userAnnotations"), problems);
    files::owner(&part["user"], &path.field("user"), problems);
    let kind = text(part, "keyType");
    if !KEY_TYPES.contains(&kind) {
        problems.unsupported(&path.field("keyType"), kind, &KEY_TYPES);
    }
    certificate_life(part, signer, &path.field("maxExpirationSeconds"), problems);
    let mut files = 0;
    for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
        let target = text(part, field);
        if !target.is_empty() {
            files += 1;
            files::file(target, &path.field(field), problems);
            taken.take(target, target, problems);
        }
    }
    if files == 0 {
        let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        problems.required(path, why);
    }
}

fn certificate_life(part: &Value, signer: &str, path: &Path, problems: &mut Problems) {
    let Some(seconds) = part["maxExpirationSeconds"].as_i64() else { return };
    if seconds < 3600 {
        problems.invalid(path, seconds, "if provided, maxExpirationSeconds must be >= 3600");
    }
    let domain = signer.split('/').next().unwrap_or_default();
    let own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    let most = if own { MAX_LIFE_OF_OWN } else { MAX_LIFE };
    if seconds > most {
        problems.invalid(path, seconds, format!("if provided, maxExpirationSeconds must be <= {most}"));
    }
}

fn user_annotations(annotations: &Value, path: &Path, problems: &mut Problems) {
    for (key, _) in members(annotations) {
        let key = key.to_lowercase();
        let complaints = names::qualified_name(&key);
        if key.is_empty() {
            problems.required(path, "");
        } else if complaints.is_empty() && !key.contains('/') {
            problems.invalid(path, key, "must be a domain-prefixed key (such as \"acme.io/foo\")");
        } else {
            problems.all(path, &key, complaints);
        }
    }
    crate::kinds::validate::meta::annotations_size(annotations, path, problems);
}

/// The name of a signer: `example.com/signer-name`.
fn signer_name(name: &str, path: &Path, problems: &mut Problems) {
    if name.is_empty() {
        return problems.required(path, "");
    }
    let Some((domain, rest)) = name.split_once('/').filter(|(_, rest)| !rest.contains('/')) else {
        let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return problems.invalid(path, name, why);
    };
    if domain.len() > 253 {
        problems.too_long(path, 253);
    }
    first_bad_label(domain, names::dns_label, path, problems);
    if !domain.contains('.') {
        problems.invalid(path, domain, "should be a domain with at least two segments separated by dots");
    }
    first_bad_label(rest, names::dns_subdomain, path, problems);
    if name.len() > MAX_SIGNER {
        problems.too_long(path, MAX_SIGNER);
    }
}

fn first_bad_label(part: &str, check: fn(&str) -> Vec<String>, path: &Path, problems: &mut Problems) {
    let bad =
        part.split('.').map(|label| (label, check(label))).find(|(_, complaints)| !complaints.is_empty());
    if let Some((label, complaints)) = bad {
        for complaint in complaints {
            problems.invalid(path, part, format!("validating label {label:?}: {complaint}"));
        }
    }
}
