//! The pod's volumes with all content resolved, or the reason why one cannot be made yet. Reasons carry
//! upstream's text; what this node cannot provide at all says what to use instead.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    sync::Arc,
};

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, EmptyDirVolumeSource, HostPathVolumeSource, KeyToPath, ProjectedVolumeSource,
    Volume, VolumeProjection,
};

use super::{context::Context, fields, quantity::value, security::fs_group};
use crate::{
    model::{DesiredPod, ObservedPod, spec as pod},
    volumes::{FileContent, HostPathCheck, VolumeKind, VolumeSpec},
};

/// `defaultMode` of projected volumes.
const DEFAULT_MODE: i32 = 0o644;

type Files = BTreeMap<String, FileContent>;

/// One volume: ready to be made, or why not.
pub(super) type Resolved = Result<VolumeSpec, String>;

/// All volumes of the pod, by name.
pub(super) fn resolve(
    context: &Context<'_>,
    pod: &DesiredPod,
    seen: &ObservedPod,
) -> impl Iterator<Item = (String, Resolved)> {
    let spec = pod.pod.spec.as_ref();
    let names = spec.into_iter().flat_map(|spec| spec.volumes.iter().flatten());
    names.map(move |volume| (volume.name.clone(), one(context, pod, seen, volume)))
}

fn one(context: &Context<'_>, pod: &DesiredPod, seen: &ObservedPod, volume: &Volume) -> Resolved {
    let source = Source { context, pod, seen };
    let kind = if let Some(empty) = &volume.empty_dir {
        empty_dir(empty)
    } else if let Some(config_map) = &volume.config_map {
        let mode = config_map.default_mode.unwrap_or(DEFAULT_MODE);
        let optional = config_map.optional == Some(true);
        files(false, source.config_map(&config_map.name, config_map.items.as_deref(), mode, optional)?)
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        let mode = secret.default_mode.unwrap_or(DEFAULT_MODE);
        files(true, source.secret(name, secret.items.as_deref(), mode, secret.optional == Some(true))?)
    } else if let Some(downward) = &volume.downward_api {
        let mode = downward.default_mode.unwrap_or(DEFAULT_MODE);
        files(false, source.downward(downward.items.as_deref().unwrap_or_default(), mode)?)
    } else if let Some(projected) = &volume.projected {
        source.projected(projected)?
    } else if let Some(host_path) = &volume.host_path {
        self::host_path(host_path)?
    } else {
        return Err(unsupported(volume));
    };
    let fs_group = fs_group(&pod.pod);
    Ok(VolumeSpec { name: volume.name.clone(), digest: digest(&kind, fs_group), fs_group, kind })
}

fn digest(kind: &VolumeKind, fs_group: Option<u32>) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs_group.hash(&mut hasher);
    if let VolumeKind::Files { files, .. } = kind {
        for (path, file) in &**files {
            (path, &file.bytes, file.mode).hash(&mut hasher);
        }
    }
    hasher.finish()
}

fn files(secret: bool, files: Files) -> VolumeKind {
    VolumeKind::Files { secret, files: Arc::new(files) }
}

fn empty_dir(empty: &EmptyDirVolumeSource) -> VolumeKind {
    VolumeKind::EmptyDir {
        memory: empty.medium.as_deref() == Some("Memory"),
        size_limit: empty.size_limit.as_ref().and_then(value).filter(|limit| *limit > 0),
        mode: empty.mode.and_then(|mode| u32::try_from(mode).ok()).unwrap_or(0o777),
    }
}

fn host_path(source: &HostPathVolumeSource) -> Result<VolumeKind, String> {
    let check = match source.type_.as_deref().unwrap_or_default() {
        "" => HostPathCheck::Unset,
        "DirectoryOrCreate" => HostPathCheck::DirectoryOrCreate,
        "Directory" => HostPathCheck::Directory,
        "FileOrCreate" => HostPathCheck::FileOrCreate,
        "File" => HostPathCheck::File,
        "Socket" => HostPathCheck::Socket,
        "CharDevice" => HostPathCheck::CharDevice,
        "BlockDevice" => HostPathCheck::BlockDevice,
        other => return Err(format!("unknown hostPath type {other:?}")),
    };
    Ok(VolumeKind::HostPath { path: PathBuf::from(&source.path), check })
}

/// Says which kind it is (its field name) and what to do.
fn unsupported(volume: &Volume) -> String {
    let object = serde_json::to_value(volume).unwrap_or_default();
    let fields = object.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let kind = fields.into_iter().find(|key| *key != "name").unwrap_or("none").to_owned();
    format!(
        "volume kind {kind} is not supported by this node: use emptyDir, hostPath, configMap, secret, downwardAPI or projected"
    )
}

/// Where projected content comes from.
struct Source<'a> {
    context: &'a Context<'a>,
    pod: &'a DesiredPod,
    seen: &'a ObservedPod,
}

impl Source<'_> {
    fn config_map(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Files, String> {
        let Some(map) = self.context.config_map(&self.pod.name.namespace, name) else {
            return if optional { Ok(Files::new()) } else { Err(format!("configmap {name:?} not found")) };
        };
        let mut data: BTreeMap<&str, &[u8]> = BTreeMap::new();
        data.extend(map.data.iter().flatten().map(|(key, text)| (key.as_str(), text.as_bytes())));
        data.extend(map.binary_data.iter().flatten().map(|(key, bytes)| (key.as_str(), &bytes.0[..])));
        pick(&data, items, mode, optional)
            .map_err(|key| format!("configmap references non-existent config key: {key}"))
    }

    fn secret(
        &self,
        name: &str,
        items: Option<&[KeyToPath]>,
        mode: i32,
        optional: bool,
    ) -> Result<Files, String> {
        let Some(secret) = self.context.secret(&self.pod.name.namespace, name) else {
            return if optional { Ok(Files::new()) } else { Err(format!("secret {name:?} not found")) };
        };
        let data = secret.data.iter().flatten().map(|(key, bytes)| (key.as_str(), &bytes.0[..])).collect();
        pick(&data, items, mode, optional).map_err(|key| format!("references non-existent secret key: {key}"))
    }

    fn downward(&self, items: &[DownwardAPIVolumeFile], mode: i32) -> Result<Files, String> {
        let spec = self.pod.pod.spec.as_ref();
        let mut files = Files::new();
        for item in items {
            let text = if let Some(reference) = &item.field_ref {
                fields::field(self.context, self.pod, self.seen, &reference.field_path)?
            } else if let Some(reference) = &item.resource_field_ref {
                let name = reference.container_name.as_deref().unwrap_or_default();
                let container = spec.and_then(|spec| pod::find(spec, &name.into()));
                let container = container.ok_or_else(|| format!("container {name} not found"))?;
                fields::resource(self.context, self.pod, container, reference)?
            } else {
                continue;
            };
            let mode = item.mode.unwrap_or(mode);
            files.insert(item.path.clone(), content(text.as_bytes(), mode));
        }
        Ok(files)
    }

    fn projected(&self, projected: &ProjectedVolumeSource) -> Result<VolumeKind, String> {
        let mode = projected.default_mode.unwrap_or(DEFAULT_MODE);
        let mut all = Files::new();
        let mut secret = false;
        for source in projected.sources.iter().flatten() {
            secret |= source.secret.is_some();
            all.extend(self.projection(source, mode)?);
        }
        Ok(files(secret, all))
    }

    fn projection(&self, source: &VolumeProjection, mode: i32) -> Result<Files, String> {
        if let Some(map) = &source.config_map {
            return self.config_map(&map.name, map.items.as_deref(), mode, map.optional == Some(true));
        }
        if let Some(secret) = &source.secret {
            return self.secret(&secret.name, secret.items.as_deref(), mode, secret.optional == Some(true));
        }
        if let Some(downward) = &source.downward_api {
            return self.downward(downward.items.as_deref().unwrap_or_default(), mode);
        }
        let what = if source.service_account_token.is_some() { "serviceAccountToken" } else { "this source" };
        Err(format!(
            "projected volumes cannot hold {what} on this node: use configMap, secret or downwardAPI sources, and set automountServiceAccountToken to false"
        ))
    }
}

/// All keys, or those that `items` name, at their paths. `Err` is the key that is missing.
fn pick(
    data: &BTreeMap<&str, &[u8]>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Files, String> {
    let Some(items) = items else {
        return Ok(data.iter().map(|(key, bytes)| ((*key).to_owned(), content(bytes, mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                files.insert(item.path.clone(), content(bytes, item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(item.key.clone()),
        }
    }
    Ok(files)
}

fn content(bytes: &[u8], mode: i32) -> FileContent {
    FileContent { bytes: bytes.to_vec(), mode: u32::try_from(mode).unwrap_or(0o644) & 0o777 }
}
