//! The sources of volumes: what each must say.
//!
//! In: one source with its defaults. Out: what is wrong. Sources that left upstream's tree are checked as they always
//! were: manifests that name them are still stored.

use serde_json::Value;

use super::{
    super::paths::{no_backsteps, relative},
    claim, files, projected,
};
use crate::kinds::{
    json::{items, members, text},
    quantity::Quantity,
    validate::{Path, Problems, names},
};

/// In upstream's order, which is that of its refusals.
pub(super) const SOURCES: [Source; 30] = [
    Source::new("emptyDir", &[], empty_dir),
    Source::new("hostPath", &["path"], host_path),
    Source::new("gitRepo", &["repository"], |source, path, problems| {
        relative(text(source, "directory"), &path.field("directory"), problems);
    }),
    Source { shown_at: "persistentDisk", ..Source::new("gcePersistentDisk", &["pdName"], partition) },
    Source::new("awsElasticBlockStore", &["volumeID"], partition),
    Source::new("secret", &["secretName"], keys),
    Source::new("nfs", &["server", "path"], |source, path, problems| {
        if !text(source, "path").starts_with('/') {
            problems.invalid(&path.field("path"), text(source, "path"), "must be an absolute path");
        }
    }),
    Source::new("iscsi", &["targetPortal", "iqn"], iscsi),
    Source::new("glusterfs", &["endpoints", "path"], nothing),
    Source::new("flocker", &[], flocker),
    Source::new("persistentVolumeClaim", &["claimName"], nothing),
    Source::new("rbd", &["monitors", "image"], nothing),
    Source::new("cinder", &["volumeID"], secret_name),
    Source { refused_at: "cephFS", ..Source::new("cephfs", &["monitors"], nothing) },
    Source::new("quobyte", &[], quobyte),
    Source { refused_at: "downwarAPI", ..Source::new("downwardAPI", &[], downward) },
    Source::new("fc", &[], fibre_channel),
    Source::new("flexVolume", &["driver"], flex),
    Source::new("configMap", &["name"], keys),
    Source::new("azureFile", &["secretName", "shareName"], nothing),
    Source::new("vsphereVolume", &["volumePath"], nothing),
    Source::new("photonPersistentDisk", &["pdID"], nothing),
    Source::new("portworxVolume", &["volumeID"], nothing),
    Source::new("azureDisk", &["diskName", "diskURI"], azure_disk),
    Source::new("storageos", &["volumeName"], storage_os),
    Source::new("projected", &[], projected::check),
    Source::new("scaleIO", &["gateway", "system", "volumeName"], nothing),
    Source::new("csi", &["driver"], csi),
    Source::new("ephemeral", &["volumeClaimTemplate"], |source, path, problems| {
        if source["volumeClaimTemplate"].is_object() {
            claim::check(&source["volumeClaimTemplate"], &path.field("volumeClaimTemplate"), problems);
        }
    }),
    Source::new("image", &["reference"], |source, path, problems| {
        let policies = ["Always", "IfNotPresent", "Never"];
        problems.one_of(&path.field("pullPolicy"), text(source, "pullPolicy"), &policies);
    }),
];

const HOST_PATH_TYPES: [&str; 8] =
    ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

type Check = fn(&Value, &Path, &mut Problems);

/// One kind of source.
pub(super) struct Source {
    /// Its field.
    pub field: &'static str,
    /// Texts, lists and objects that must be there.
    pub required: &'static [&'static str],
    /// Everything else.
    pub rest: Check,
    /// The field as upstream's refusals spell it.
    pub shown_at: &'static str,
    /// The same for the refusal of a second source.
    pub refused_at: &'static str,
}

impl Source {
    const fn new(field: &'static str, required: &'static [&'static str], rest: Check) -> Self {
        Self { field, required, rest, shown_at: field, refused_at: field }
    }
}

fn nothing(_: &Value, _: &Path, _: &mut Problems) {}

fn empty_dir(source: &Value, path: &Path, problems: &mut Problems) {
    let limit = text(source, "sizeLimit");
    if limit.parse::<Quantity>().is_ok_and(|q| q.is_negative()) {
        problems.forbidden(&path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(source: &Value, path: &Path, problems: &mut Problems) {
    let host = text(source, "path");
    if host.is_empty() {
        return;
    }
    no_backsteps(host, &path.field("path"), problems);
    let ty = text(source, "type");
    if !HOST_PATH_TYPES.contains(&ty) {
        problems.unsupported(&path.field("type"), ty, &HOST_PATH_TYPES);
    }
}

fn partition(source: &Value, path: &Path, problems: &mut Problems) {
    if let Some(number) = source["partition"].as_i64().filter(|n| !(0..=255).contains(n)) {
        // As upstream: 0 is accepted, whatever the sentence says.
        problems.invalid(&path.field("partition"), number, "must be between 1 and 255, inclusive");
    }
}

fn keys(source: &Value, path: &Path, problems: &mut Problems) {
    files::mode(&source["defaultMode"], &path.field("defaultMode"), problems);
    files::owner(&source["defaultUser"], &path.field("defaultUser"), problems);
    files::keys(&source["items"], &path.field("items"), problems);
}

fn downward(source: &Value, path: &Path, problems: &mut Problems) {
    files::mode(&source["defaultMode"], &path.field("defaultMode"), problems);
    files::owner(&source["defaultUser"], &path.field("defaultUser"), problems);
    files::facts(&source["items"], path, problems);
}

fn secret_name(source: &Value, path: &Path, problems: &mut Problems) {
    if source["secretRef"].is_object() && text(&source["secretRef"], "name").is_empty() {
        problems.required(&path.field("secretRef").field("name"), "");
    }
}

fn iscsi(source: &Value, path: &Path, problems: &mut Problems) {
    let name = text(source, "iqn");
    if !name.is_empty() {
        iscsi_name(name, &path.field("iqn"), problems);
    }
    lun(&source["lun"], &path.field("lun"), problems);
    let with_secret = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if with_secret && !source["secretRef"].is_object() {
        problems.required(&path.field("secretRef"), "");
    }
    if let Some(initiator) = source["initiatorName"].as_str() {
        iscsi_name(initiator, &path.field("initiatorname"), problems);
    }
}

/// Names begin with `iqn`, `eui` or `naa`, which says how they go on.
fn iscsi_name(name: &str, path: &Path, problems: &mut Problems) {
    let legal = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => is_number_name(name, 16),
        Some("naa") => is_number_name(name, 32),
        _ => return problems.invalid(path, name, "must be valid format starting with iqn, eui, or naa"),
    };
    if !legal {
        problems.invalid(path, name, "must be valid format");
    }
}

/// `iqn.2001-04.com.example:storage.kube.sys1.xyz`; upstream's pattern may begin anywhere in the text.
fn is_iqn(name: &str) -> bool {
    name.match_indices("iqn.").any(|(at, prefix)| is_iqn_tail(&name[at + prefix.len()..]))
}

/// `2001-04.com.example:storage`
fn is_iqn_tail(text: &str) -> bool {
    let digits = |part: &str, count: usize| part.len() == count && part.bytes().all(|b| b.is_ascii_digit());
    let Some((year, rest)) = text.split_once('-') else { return false };
    let Some((month, rest)) = rest.split_once('.') else { return false };
    // The colon that parts the two may be any: the authority has none, so the first.
    let Some((authority, own)) = rest.split_once(':') else { return false };
    let in_authority = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    let in_own = |c: char| !matches!(c, ',' | ';' | '*' | '&' | '$' | '|') && !is_space(c);
    digits(year, 4)
        && digits(month, 2)
        && !authority.is_empty()
        && authority.chars().all(in_authority)
        && !own.is_empty()
        && own.chars().all(in_own)
}

/// White space as patterns know it.
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\u{c}')
}

/// `eui.` or `naa.`, where any character stands for the dot, and so many letters and digits.
fn is_number_name(name: &str, length: usize) -> bool {
    let mut chars = name.chars().skip(3);
    let separated = chars.next().is_some_and(|c| c != '\n');
    let rest: Vec<char> = chars.collect();
    separated && rest.len() == length && rest.iter().all(char::is_ascii_alphanumeric)
}

fn lun(value: &Value, path: &Path, problems: &mut Problems) {
    problems.in_range(path, value.as_i64().unwrap_or_default(), 0, 255);
}

/// The initiator's name is made of the volume's name and the portal.
pub(super) fn iscsi_initiator(volume: &Value, path: &Path, problems: &mut Problems) {
    let (source, name) = (&volume["iscsi"], text(volume, "name"));
    if source["initiatorName"].is_string() && name.len() + 1 + text(source, "targetPortal").len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if \
                   iscsi.initiatorName is specified.";
        problems.invalid(&path.field("name"), name, why);
    }
}

fn flocker(source: &Value, path: &Path, problems: &mut Problems) {
    let (name, id) = (text(source, "datasetName"), text(source, "datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => problems.required(path, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let why = "datasetName and datasetUUID can not be specified simultaneously";
            problems.invalid(path, "resource", why);
        }
        _ => {}
    }
    if name.contains('/') {
        problems.invalid(&path.field("datasetName"), name, "must not contain '/'");
    }
}

fn quobyte(source: &Value, path: &Path, problems: &mut Problems) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    let (registry, at) = (text(source, "registry"), path.field("registry"));
    if registry.is_empty() {
        problems.required(&at, PAIRS);
    } else if text(source, "tenant").len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        problems.required(&path.field("tenant"), why);
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            problems.invalid(&at, registry, PAIRS);
        }
    }
    if text(source, "volume").is_empty() {
        problems.required(&path.field("volume"), "");
    }
}

/// `host:port` or `[host]:port`; neither part is looked into.
fn is_host_and_port(pair: &str) -> bool {
    let (host, port) = match pair.strip_prefix('[') {
        Some(rest) => match rest.split_once("]:") {
            Some(parts) => parts,
            None => return false,
        },
        None => match pair.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return false,
            Some(parts) => parts,
            None => return false,
        },
    };
    !host.contains(['[', ']']) && !port.contains([':', '[', ']'])
}

fn fibre_channel(source: &Value, path: &Path, problems: &mut Problems) {
    let (names, ids) = (items(&source["targetWWNs"]), items(&source["wwids"]));
    let at = path.field("targetWWNs");
    if names.is_empty() && ids.is_empty() {
        problems.required(&at, "must specify either targetWWNs or wwids, but not both");
    }
    if !names.is_empty() && !ids.is_empty() {
        let why = "targetWWNs and wwids can not be specified simultaneously";
        problems.invalid(&at, names.to_vec(), why);
    }
    if !names.is_empty() {
        match &source["lun"] {
            Value::Null => {
                problems.required(&path.field("lun"), "lun is required if targetWWNs is specified");
            }
            number => lun(number, &path.field("lun"), problems),
        }
    }
}

fn flex(source: &Value, path: &Path, problems: &mut Problems) {
    for (key, _) in members(&source["options"]) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let namespace = format!(".{}", namespace.to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            problems.invalid(&path.field("options").key(key), key.as_str(), why);
        }
    }
}

fn azure_disk(source: &Value, path: &Path, problems: &mut Problems) {
    let mut one_of = |field: &str, known: &[&str]| {
        if let Some(value) = source[field].as_str().filter(|value| !known.contains(value)) {
            problems.unsupported(&path.field(field), value, known);
        }
    };
    one_of("cachingMode", &["None", "ReadOnly", "ReadWrite"]);
    one_of("kind", &["Dedicated", "Managed", "Shared"]);
    let Some(kind) = source["kind"].as_str() else { return };
    let (start, form) = if kind == "Managed" {
        let form =
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
        ("/subscriptions/", form)
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    let disk = text(source, "diskURI");
    if !disk.starts_with(start) {
        problems.unsupported(&path.field("diskURI"), disk, &[form]);
    }
}

fn storage_os(source: &Value, path: &Path, problems: &mut Problems) {
    for field in ["volumeName", "volumeNamespace"] {
        let name = text(source, field);
        if !name.is_empty() {
            problems.all(&path.field(field), name, names::dns_label(name));
        }
    }
    secret_name(source, path, problems);
}

fn csi(source: &Value, path: &Path, problems: &mut Problems) {
    let driver = text(source, "driver");
    if !driver.is_empty() {
        if driver.len() > 63 {
            problems.too_long(&path.field("driver"), 63);
        }
        problems.all(&path.field("driver"), driver, names::dns_subdomain(&driver.to_lowercase()));
    }
    if source["nodePublishSecretRef"].is_object() {
        match text(&source["nodePublishSecretRef"], "name") {
            "" => problems.required(&path.field("nodePublishSecretRef").field("name"), ""),
            // As upstream, which leaves a part of the path out here.
            name => problems.all(&path.field("name"), name, names::dns_subdomain(name)),
        }
    }
}
