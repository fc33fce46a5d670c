//! Volumes on the node: emptyDir (disk and memory), projected files (config maps, secrets, downward API) with
//! atomic updates, hostPath checks, sub paths, and the few files that the agent writes for every pod.
//!
//! In: a [`VolumeSpec`] with all content resolved by `plan`. Out: directories and mounts below the layout's
//! directories. Never decides what a volume should hold, never follows a link out of a volume, and never writes
//! the content of a secret anywhere but on a tmpfs.

use std::path::Path;
use std::{collections::BTreeMap, fmt, io, path::PathBuf, sync::Arc};

use async_trait::async_trait;

use crate::model::{ContainerName, PodUid};

mod atomic;
mod host_path;
mod mounts;
mod node;
mod ownership;
mod sub_path;
#[cfg(test)]
mod tests;

pub use node::NodeVolumes;

/// One volume with everything resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSpec {
    /// `spec.volumes[].name`
    pub name: String,
    /// Changes when the content should.
    pub digest: u64,
    /// Group that owns it.
    pub fs_group: Option<u32>,
    /// What it is.
    pub kind: VolumeKind,
}

/// Kinds of volume that a node provides by itself.
#[derive(Clone, Debug, PartialEq)]
pub enum VolumeKind {
    /// An empty directory that lives as long as the pod.
    EmptyDir {
        /// `medium: Memory`.
        memory: bool,
        /// `sizeLimit` in bytes; enforced by the file system for memory.
        size_limit: Option<i64>,
        /// Permission bits of the directory.
        mode: u32,
    },
    /// Files with known content.
    Files {
        /// Some of it is secret: keep all of it in memory.
        secret: bool,
        /// Relative path to content.
        files: Arc<BTreeMap<String, FileContent>>,
    },
    /// A path of the node.
    HostPath {
        /// Absolute.
        path: PathBuf,
        /// What must be there, or is to be made.
        check: HostPathCheck,
    },
}

/// Content of one projected file. `Debug` tells its length only: it may be secret.
#[derive(Clone, PartialEq, Eq)]
pub struct FileContent {
    /// Bytes.
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, mode {:o}", self.bytes.len(), self.mode)
    }
}

/// `hostPath.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPathCheck {
    /// Nothing is checked.
    Unset,
    /// A directory, made (0755) when absent.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made (0644) when absent.
    FileOrCreate,
    /// A regular file.
    File,
    /// A UNIX socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// A path within a volume that one container mounts instead of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubPath {
    /// Root of the volume on the node.
    pub root: PathBuf,
    /// Relative, checked to have no `..`.
    pub path: String,
    /// Which container.
    pub container: ContainerName,
    /// Which of its mounts.
    pub index: usize,
}

/// A small file that every pod gets: hosts, hostname, resolv.conf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFile {
    /// Name below the pod's `etc` directory.
    pub name: &'static str,
    /// Text.
    pub content: String,
}

/// A pod of which something is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFiles {
    /// Which.
    pub pod: PodUid,
    /// Volumes, sub paths or shared memory are among it.
    pub volumes: bool,
}

/// Why a volume is not there. The message with its cause is what the pod's event shows.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// A file operation failed.
    #[error("cannot {operation} {path:?}")]
    Io {
        /// `create`, `mount`, ...
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The hostPath is not what its type says.
    #[error("hostPath type check failed: {path} is not a {expected}")]
    HostPath {
        /// The path.
        path: String,
        /// `directory`, `file`, ...
        expected: &'static str,
    },
    /// The sub path leads out of the volume.
    #[error("subPath {path:?} leads out of its volume")]
    Escape {
        /// As written.
        path: String,
    },
}

/// The port. Every call is idempotent.
#[async_trait]
pub trait Volumes: Send + Sync {
    /// Makes the volume exist with its content.
    async fn ensure(&self, pod: &PodUid, volume: &VolumeSpec) -> Result<(), VolumeError>;
    /// Binds a path of a volume where a container can mount it from.
    async fn ensure_sub_path(&self, pod: &PodUid, sub_path: &SubPath) -> Result<(), VolumeError>;
    /// Writes the pod's small files in place, so that running containers see the change.
    async fn write_files(&self, pod: &PodUid, files: &[PodFile]) -> Result<(), VolumeError>;
    /// Makes the empty file that a container writes its termination message to.
    async fn termination_log(
        &self,
        pod: &PodUid,
        container: &ContainerName,
        attempt: u32,
    ) -> Result<(), VolumeError>;
    /// What a container wrote there, at most 4096 bytes.
    async fn termination_message(
        &self,
        pod: &PodUid,
        container: &ContainerName,
        attempt: u32,
    ) -> Option<String>;
    /// Removes that file with its container. What is left goes with the pod.
    async fn forget_termination_log(&self, pod: &PodUid, container: &ContainerName, attempt: u32);
    /// Makes the memory that the pod's containers share.
    async fn ensure_shared_memory(&self, pod: &PodUid) -> Result<(), VolumeError>;
    /// Removes the volumes of a pod that has ended; termination message stay.
    async fn release(&self, pod: &PodUid) -> Result<(), VolumeError>;
    /// Removes the pod's directory with all mounts below.
    async fn remove(&self, pod: &PodUid) -> Result<(), VolumeError>;
    /// Pods that have a directory.
    async fn list(&self) -> Result<Vec<PodFiles>, VolumeError>;
}

/// An error with its operation and path.
fn failed(operation: &'static str, path: &Path, source: io::Error) -> VolumeError {
    VolumeError::Io { operation, path: path.to_owned(), source }
}
