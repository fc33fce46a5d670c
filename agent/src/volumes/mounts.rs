//! tmpfs mounts, and unmounting everything below a directory.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{VolumeError, failed};
use crate::proc::{Proc, SELF};

/// A tmpfs on the directory, unless it has one.
pub(super) fn tmpfs(dir: &Path, size: Option<i64>, more: MsFlags) -> Result<(), VolumeError> {
    if is_mount_point(dir)? {
        return Ok(());
    }
    let options = size.map(|bytes| format!("size={bytes}"));
    let flags = MsFlags::MS_NODEV | MsFlags::MS_NOSUID | more;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, options.as_deref())
        .map_err(|errno| failed("mount a tmpfs on", dir, errno.into()))
}

/// Another device than its parent's.
pub(super) fn is_mount_point(dir: &Path) -> Result<bool, VolumeError> {
    let parent = dir.parent().unwrap_or(dir);
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev());
    let differ = device(dir).and_then(|own| Ok(own != device(parent)?));
    differ.map_err(|source| failed("inspect", dir, source))
}

/// Unmounts everything below the directory, the last mounted first, and makes sure that nothing is left: what is
/// deleted next must not be somebody's host path.
pub(super) fn unmount_below(dir: &Path) -> Result<(), VolumeError> {
    // Each mount may be covered by another: as many rounds as there are layers.
    for _ in 0..16 {
        let mounted = below(dir)?;
        if mounted.is_empty() {
            return Ok(());
        }
        for path in mounted.iter().rev() {
            umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|errno| failed("unmount", path, errno.into()))?;
        }
    }
    Err(failed("unmount everything below", dir, io::Error::from(io::ErrorKind::ResourceBusy)))
}

fn below(dir: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let table = Proc::new().mounts(SELF).map_err(|source| failed("read the mounts below", dir, source))?;
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    Ok(table.into_iter().map(|mount| mount.point).filter(|point| point.starts_with(&dir)).collect())
}
