//! Reads /etc/passwd and /etc/group of an image. The image's file system is mounted in a mount namespace that
//! belongs to one short-lived thread alone: nothing of it is seen elsewhere and nothing stays, even when the agent
//! is killed meanwhile. Symbolic links in the image are resolved below its root.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    os::fd::AsFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use containerd_client::{
    services::v1::snapshots::{RemoveSnapshotRequest, ViewSnapshotRequest},
    types::Mount,
};
use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

use super::{RuntimeError, errors::call, user::UserFiles};
use crate::{
    containerd::{Containerd, absent_is_ok},
    failpoint,
    model::ContainerId,
};

/// What a view of an image is leased for.
const LEASE: &str = "users";
/// More accounts than this are not read.
const MAX_FILE: u64 = 1 << 20;

/// Reads and remembers by image.
#[derive(Debug)]
pub(super) struct UserDatabase {
    client: Containerd,
    snapshotter: String,
    /// An empty directory to mount on, in the thread's own namespace.
    mount_point: PathBuf,
    known: Mutex<HashMap<String, Arc<UserFiles>>>,
}

impl UserDatabase {
    pub(super) fn new(client: Containerd, snapshotter: String, mount_point: PathBuf) -> Self {
        Self { client, snapshotter, mount_point, known: Mutex::default() }
    }

    /// Takes away the views of images that a killed agent left; the first thing that is done.
    pub(super) async fn remove_left_overs(&self) -> Result<(), RuntimeError> {
        self.client.end_leases(LEASE).await.map_err(call("end", "leases of an earlier agent"))
    }

    /// The files of the image whose layers end in this snapshot.
    pub(super) async fn of(
        &self,
        chain_id: &str,
        asked_for: &ContainerId,
    ) -> Result<Arc<UserFiles>, RuntimeError> {
        if chain_id.is_empty() {
            return Ok(Arc::default());
        }
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(files) = known().get(chain_id) {
            return Ok(files.clone());
        }
        let failed = call("view", chain_id);
        let client = self.client.leased(LEASE).await.map_err(&failed)?;
        let key = format!("gantry-users-{}", uuid::Uuid::new_v4());
        let view = ViewSnapshotRequest {
            snapshotter: self.snapshotter.clone(),
            key: key.clone(),
            parent: chain_id.to_owned(),
            labels: HashMap::new(),
        };
        let mounts =
            client.snapshots().view(client.request(view)).await.map_err(&failed)?.into_inner().mounts;
        failpoint::reach("runtime.users.viewed", asked_for.as_str());
        let read = read(mounts, self.mount_point.clone()).await;
        let remove = RemoveSnapshotRequest { snapshotter: self.snapshotter.clone(), key };
        absent_is_ok(client.snapshots().remove(client.request(remove)).await).map_err(&failed)?;
        client.release().await.map_err(&failed)?;
        let files = Arc::new(read.map_err(|source| RuntimeError::Io {
            operation: "read the users of an image at",
            path: self.mount_point.clone(),
            source,
        })?);
        known().insert(chain_id.to_owned(), files.clone());
        Ok(files)
    }
}

async fn read(mounts: Vec<Mount>, mount_point: PathBuf) -> io::Result<UserFiles> {
    let (answer, result) = tokio::sync::oneshot::channel();
    // Not a thread of the pool: its mount namespace must end with it.
    std::thread::Builder::new().name("image-users".into()).spawn(move || {
        // Nobody waits any more: the pod is gone.
        let _ = answer.send(read_here(&mounts, &mount_point));
    })?;
    result.await.map_err(|_| io::Error::other("the reading thread ended without an answer"))?
}

fn read_here(mounts: &[Mount], mount_point: &Path) -> io::Result<UserFiles> {
    std::fs::create_dir_all(mount_point)?;
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    for one in mounts {
        mount_one(one, mount_point)?;
    }
    let root = File::open(mount_point)?;
    Ok(UserFiles { passwd: read_below(&root, "etc/passwd")?, group: read_below(&root, "etc/group")? })
}

fn mount_one(one: &Mount, mount_point: &Path) -> io::Result<()> {
    if one.r#type == "bind" {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(one.source.as_str()), mount_point, None::<&str>, flags, None::<&str>)?;
        return Ok(());
    }
    let mut options: Vec<String> =
        one.options.iter().filter(|o| !matches!(o.as_str(), "ro" | "rw")).cloned().collect();
    shorten_lower(&mut options)?;
    let data = options.join(",");
    mount(
        Some(one.source.as_str()),
        mount_point,
        Some(one.r#type.as_str()),
        MsFlags::MS_RDONLY,
        Some(data.as_str()),
    )?;
    Ok(())
}

/// Mount options must fit in one page; with many layers they do only relative to the snapshots' directory. The
/// thread has a working directory of its own.
fn shorten_lower(options: &mut [String]) -> io::Result<()> {
    let Some(option) = options.iter_mut().find(|o| o.starts_with("lowerdir=")) else { return Ok(()) };
    let layers: Vec<&str> = option["lowerdir=".len()..].split(':').collect();
    let Some(base) = layers.first().and_then(|l| Path::new(l).ancestors().nth(2)) else { return Ok(()) };
    let relative: Option<Vec<&str>> =
        layers.iter().map(|l| Path::new(l).strip_prefix(base).ok().and_then(Path::to_str)).collect();
    if let Some(relative) = relative {
        std::env::set_current_dir(base)?;
        *option = format!("lowerdir={}", relative.join(":"));
    }
    Ok(())
}

fn read_below(root: &File, path: &str) -> io::Result<String> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root.as_fd(), path, how) {
        Ok(fd) => File::from(fd),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR | nix::Error::ELOOP) => return Ok(String::new()),
        Err(error) => return Err(error.into()),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
