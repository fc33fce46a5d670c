//! The adapter: volumes below the layout's directories, by ordinary file operations and mounts.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;

use super::{
    PodFile, SubPath, VolumeError, VolumeKind, VolumeSpec, Volumes, atomic, host_path, mounts, ownership,
    sub_path,
};
use crate::model::{ContainerName, Layout, PodUid};

/// As upstream: longer last words are cut.
const MAX_MESSAGE: usize = 4096;
/// Only root goes through a pod's directory; containers get their parts by bind mounts.
const PRIVATE: u32 = 0o700;

/// Volumes of the running node.
#[derive(Clone, Debug)]
pub struct NodeVolumes {
    layout: Layout,
}

impl NodeVolumes {
    /// Below this layout.
    pub fn new(layout: Layout) -> Self {
        Self { layout }
    }

    /// File work happens beside the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Layout) -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let layout = self.layout.clone();
        let at = layout.pods_dir();
        let done = tokio::task::spawn_blocking(move || work(&layout)).await;
        done.unwrap_or_else(|error| Err(failed("work below", &at, io::Error::other(error))))
    }
}

/// An error with its operation and path.
pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> VolumeError {
    VolumeError::Io { operation, path: path.to_owned(), source }
}

/// Makes a directory and those above it, for root alone.
fn make_private(path: &Path) -> Result<(), VolumeError> {
    let made = fs::DirBuilder::new().recursive(true).mode(PRIVATE).create(path);
    made.map_err(|source| failed("create", path, source))
}

fn ensure(layout: &Layout, pod: &PodUid, volume: &VolumeSpec) -> Result<(), VolumeError> {
    let dir = layout.volume_dir(pod, &volume.name);
    match &volume.kind {
        VolumeKind::HostPath { path, check } => host_path::check(path, *check),
        VolumeKind::EmptyDir { memory, size_limit, mode } => {
            make_private(&dir)?;
            if *memory {
                mounts::tmpfs(&dir, *size_limit)?;
            }
            ownership::directory(&dir, *mode, volume.fs_group)
        }
        VolumeKind::Files { secret, files } => {
            make_private(&dir)?;
            if *secret {
                mounts::tmpfs(&dir, None)?;
            }
            ownership::directory(&dir, 0o755, volume.fs_group)?;
            atomic::write(&dir, files, volume.fs_group)
        }
    }
}

/// Writes in place: the file is bind-mounted into running containers, which would not see a renamed one.
fn write_in_place(path: &Path, content: &str) -> Result<(), VolumeError> {
    if fs::read(path).is_ok_and(|known| known == content.as_bytes()) {
        return Ok(());
    }
    fs::write(path, content)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .map_err(|source| failed("write", path, source))
}

fn remove(layout: &Layout, pod: &PodUid) -> Result<(), VolumeError> {
    let dir = layout.pod_dir(pod);
    mounts::unmount_below(&dir)?;
    match fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", &dir, source)),
        _ => Ok(()),
    }
}

fn list(layout: &Layout) -> Result<Vec<PodUid>, VolumeError> {
    let dir = layout.pods_dir();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed("read", &dir, source)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().as_ref().into()));
    names.collect::<io::Result<_>>().map_err(|source| failed("read", &dir, source))
}

fn termination_log(path: &Path) -> Result<(), VolumeError> {
    if let Some(parent) = path.parent() {
        make_private(parent)?;
    }
    let made = fs::OpenOptions::new().create(true).append(true).mode(0o666).open(path);
    // Whatever the umask: the container's user must be able to write.
    made.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o666)))
        .map_err(|source| failed("create", path, source))
}

#[async_trait]
impl Volumes for NodeVolumes {
    async fn ensure(&self, pod: &PodUid, volume: &VolumeSpec) -> Result<(), VolumeError> {
        let (pod, volume) = (pod.clone(), volume.clone());
        self.blocking(move |layout| ensure(layout, &pod, &volume)).await
    }

    async fn ensure_sub_path(&self, pod: &PodUid, wanted: &SubPath) -> Result<(), VolumeError> {
        let (pod, wanted) = (pod.clone(), wanted.clone());
        self.blocking(move |layout| {
            let target = layout.sub_path(&pod, &wanted.container, wanted.index);
            if let Some(parent) = target.parent() {
                make_private(parent)?;
            }
            sub_path::bind(&wanted, &target)
        })
        .await
    }

    async fn write_files(&self, pod: &PodUid, files: &[PodFile]) -> Result<(), VolumeError> {
        let (pod, files) = (pod.clone(), files.to_vec());
        self.blocking(move |layout| {
            for file in &files {
                let path: PathBuf = layout.pod_file(&pod, file.name);
                if let Some(parent) = path.parent() {
                    make_private(parent)?;
                }
                write_in_place(&path, &file.content)?;
            }
            Ok(())
        })
        .await
    }

    async fn termination_log(
        &self,
        pod: &PodUid,
        container: &ContainerName,
        attempt: u32,
    ) -> Result<(), VolumeError> {
        let path = self.layout.termination_log(pod, container, attempt);
        self.blocking(move |_| termination_log(&path)).await
    }

    async fn termination_message(
        &self,
        pod: &PodUid,
        container: &ContainerName,
        attempt: u32,
    ) -> Option<String> {
        let path = self.layout.termination_log(pod, container, attempt);
        let read = self.blocking(move |_| fs::read(&path).map_err(|source| failed("read", &path, source)));
        let mut bytes = read.await.ok()?;
        bytes.truncate(MAX_MESSAGE);
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    async fn remove(&self, pod: &PodUid) -> Result<(), VolumeError> {
        let pod = pod.clone();
        self.blocking(move |layout| remove(layout, &pod)).await
    }

    async fn list(&self) -> Result<Vec<PodUid>, VolumeError> {
        self.blocking(list).await
    }
}
