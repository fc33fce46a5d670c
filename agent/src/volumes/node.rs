//! The adapter: volumes below the layout's directories, by ordinary file operations and mounts.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read, Seek},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use nix::mount::MsFlags;

use super::failed;
use super::{
    PodFile, PodFiles, SubPath, VolumeError, VolumeKind, VolumeSpec, Volumes, atomic, host_path, mounts,
    ownership, sub_path,
};
use crate::{
    failpoint,
    model::{Chain, ContainerName, Layout, PodUid},
};

/// As upstream: of a longer termination message the end is kept.
const MAX_MESSAGE: u64 = 4096;
/// Bytes of shared memory of a pod, as upstream.
const SHARED_MEMORY: i64 = 64 << 20;
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
            let made = layout.made_volume(pod, &volume.name);
            make_private(&dir)?;
            if *memory && !mounts::is_mount_point(&dir)? {
                // A reboot took its content and its mode.
                remove_file(&made)?;
                mounts::tmpfs(&dir, *size_limit, MsFlags::empty())?;
                failpoint::reach("volumes.ensure.mounted", pod.as_str());
            }
            // Once only: afterwards mode and group are the pod's own, whatever it made of them.
            if made.exists() {
                return Ok(());
            }
            ownership::directory(&dir, *mode, volume.fs_group)?;
            mark(&made)
        }
        VolumeKind::Files { secret, files } => {
            make_private(&dir)?;
            if *secret {
                mounts::tmpfs(&dir, None, MsFlags::empty())?;
            }
            ownership::directory(&dir, 0o755, volume.fs_group)?;
            atomic::write(&dir, files, volume.fs_group)
        }
    }
}

/// Says that something is made, for a later agent.
fn mark(path: &Path) -> Result<(), VolumeError> {
    if let Some(parent) = path.parent() {
        make_private(parent)?;
    }
    fs::File::create(path).map(drop).map_err(|source| failed("create", path, source))
}

fn remove_file(path: &Path) -> Result<(), VolumeError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", path, source)),
        _ => Ok(()),
    }
}

/// As the runtimes make it for a pod: 64 MiB that everybody may write to.
fn shared_memory(path: &Path) -> Result<(), VolumeError> {
    make_private(path)?;
    mounts::tmpfs(path, Some(SHARED_MEMORY), MsFlags::MS_NOEXEC)?;
    ownership::directory(path, 0o1777, None)
}

/// Writes in place: the file is bind-mounted into running containers, which would not see a renamed one.
fn write_in_place(path: &Path, content: &str) -> Result<(), VolumeError> {
    let same = fs::read(path).is_ok_and(|known| known == content.as_bytes());
    let written = if same { Ok(()) } else { fs::write(path, content) };
    written
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)))
        .map_err(|source| failed("write", path, source))
}

/// Everything that is mounted or large.
fn release(layout: &Layout, pod: &PodUid) -> Result<(), VolumeError> {
    let dir = layout.pod_dir(pod);
    for part in [dir.join("volumes"), dir.join("subpaths"), dir.join("made"), layout.shared_memory(pod)] {
        remove_directory(&part)?;
    }
    Ok(())
}

fn remove(layout: &Layout, pod: &PodUid) -> Result<(), VolumeError> {
    // The pod's directory goes last: it is what tells a later agent that something is left.
    remove_directory(&layout.shared_memory(pod))?;
    failpoint::reach("volumes.remove.half", pod.as_str());
    remove_directory(&layout.pod_dir(pod))
}

fn remove_directory(dir: &Path) -> Result<(), VolumeError> {
    mounts::unmount_below(dir)?;
    match fs::remove_dir_all(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(failed("remove", dir, source)),
        _ => Ok(()),
    }
}

fn list(layout: &Layout) -> Result<Vec<PodFiles>, VolumeError> {
    let shared = names(&layout.shared_memory_dir())?;
    let mut all: BTreeSet<PodUid> = names(&layout.pods_dir())?;
    all.extend(shared.iter().cloned());
    let mounted = |pod: &PodUid| {
        let dir = layout.pod_dir(pod);
        shared.contains(pod) || dir.join("volumes").exists() || dir.join("subpaths").exists()
    };
    Ok(all.into_iter().map(|pod| PodFiles { volumes: mounted(&pod), pod }).collect())
}

fn names(dir: &Path) -> Result<BTreeSet<PodUid>, VolumeError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(source) => return Err(failed("read", dir, source)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().as_ref().into()));
    names.collect::<io::Result<_>>().map_err(|source| failed("read", dir, source))
}

/// The end of a file that a container wrote: it may be as large as the container liked, and may have been replaced
/// by anything.
fn termination_message(path: &Path) -> io::Result<String> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    file.seek(io::SeekFrom::Start(meta.len().saturating_sub(MAX_MESSAGE)))?;
    let mut bytes = Vec::new();
    file.take(MAX_MESSAGE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
            sub_path::bind(&wanted, &target)?;
            failpoint::reach("volumes.sub-path.bound", pod.as_str());
            Ok(())
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
                failpoint::reach("volumes.files.written", pod.as_str());
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
        self.blocking(move |_| termination_message(&path).map_err(|source| failed("read", &path, source)))
            .await
            .ok()
    }

    async fn forget_termination_log(&self, pod: &PodUid, container: &ContainerName, attempt: u32) {
        let path = self.layout.termination_log(pod, container, attempt);
        if let Err(error) = self.blocking(move |_| remove_file(&path)).await {
            tracing::warn!(pod = %pod, error = %Chain(&error), "termination message cannot be removed yet");
        }
    }

    async fn ensure_shared_memory(&self, pod: &PodUid) -> Result<(), VolumeError> {
        let path = self.layout.shared_memory(pod);
        self.blocking(move |_| shared_memory(&path)).await
    }

    async fn release(&self, pod: &PodUid) -> Result<(), VolumeError> {
        let pod = pod.clone();
        self.blocking(move |layout| release(layout, &pod)).await
    }

    async fn remove(&self, pod: &PodUid) -> Result<(), VolumeError> {
        let pod = pod.clone();
        self.blocking(move |layout| remove(layout, &pod)).await
    }

    async fn list(&self) -> Result<Vec<PodFiles>, VolumeError> {
        self.blocking(list).await
    }
}
