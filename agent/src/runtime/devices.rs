//! The host's device nodes, for privileged containers. Leaves out what every container has of its own.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::stat::{major, minor};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use super::RuntimeError;

/// Mounts and terminals of the container itself.
const OWN: [&str; 7] = ["pts", "shm", "fd", "mqueue", "console", ".lxc", ".udev"];

pub(super) fn of_host() -> Result<Vec<LinuxDevice>, RuntimeError> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found).map_err(|source| RuntimeError::Io {
        operation: "list devices in",
        path: PathBuf::from("/dev"),
        source,
    })?;
    Ok(found)
}

fn collect(directory: &Path, found: &mut Vec<LinuxDevice>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        // The node may be gone already: devices come and go.
        let Ok(metadata) = fs::symlink_metadata(entry.path()) else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() {
            collect(&entry.path(), found)?;
        } else if kind.is_char_device() {
            found.push(device(entry.path(), LinuxDeviceType::C, &metadata));
        } else if kind.is_block_device() {
            found.push(device(entry.path(), LinuxDeviceType::B, &metadata));
        }
    }
    Ok(())
}

fn device(path: PathBuf, kind: LinuxDeviceType, metadata: &fs::Metadata) -> LinuxDevice {
    let number = |n: u64| i64::try_from(n).unwrap_or_default();
    let mut device = LinuxDevice::default();
    device
        .set_path(path)
        .set_typ(kind)
        .set_major(number(major(metadata.rdev())))
        .set_minor(number(minor(metadata.rdev())))
        .set_file_mode(Some(metadata.mode() & 0o777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    device
}
