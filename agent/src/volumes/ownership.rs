//! Groups and modes of volumes as upstream sets them for `fsGroup`: the group owns everything, directories hand
//! their group on, and the group may do what the owner may.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    path::Path,
};

use super::{VolumeError, failed};

const SETGID: u32 = 0o2000;

/// A volume's directory.
pub(super) fn directory(path: &Path, mode: u32, fs_group: Option<u32>) -> Result<(), VolumeError> {
    let mode = match fs_group {
        Some(_) => mode | ((mode & 0o700) >> 3) | SETGID,
        None => mode,
    };
    set(path, mode, fs_group)
}

/// A projected file: the group may read it.
pub(super) fn file(path: &Path, mode: u32, fs_group: Option<u32>) -> Result<(), VolumeError> {
    set(path, if fs_group.is_some() { mode | 0o440 } else { mode }, fs_group)
}

/// Exactly this mode, whatever the umask.
pub(super) fn set(path: &Path, mode: u32, group: Option<u32>) -> Result<(), VolumeError> {
    if group.is_some() {
        chown(path, None, group).map_err(|source| failed("change the group of", path, source))?;
    }
    // After chown, which clears the setgid bit.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|source| failed("change the mode of", path, source))
}
