//! hostPath: checked, or made, as its type says.

use std::{fs, io, os::unix::fs::FileTypeExt, path::Path};

use super::{HostPathCheck, VolumeError, failed, ownership};

/// Checks or makes it.
pub(super) fn check(path: &Path, check: HostPathCheck) -> Result<(), VolumeError> {
    let expected = match check {
        HostPathCheck::Unset => {
            // The runtime would refuse a missing source with less to say; upstream makes a directory.
            return if path.exists() { Ok(()) } else { make_directory(path) };
        }
        HostPathCheck::DirectoryOrCreate if !path.exists() => return make_directory(path),
        HostPathCheck::FileOrCreate if !path.exists() => return make_file(path),
        HostPathCheck::DirectoryOrCreate | HostPathCheck::Directory => "directory",
        HostPathCheck::FileOrCreate | HostPathCheck::File => "file",
        HostPathCheck::Socket => "socket",
        HostPathCheck::CharDevice => "character device",
        HostPathCheck::BlockDevice => "block device",
    };
    let kind = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(failed("inspect", path, source)),
    };
    let right = kind.is_some_and(|kind| match expected {
        "directory" => kind.is_dir(),
        "file" => kind.is_file(),
        "socket" => kind.is_socket(),
        "character device" => kind.is_char_device(),
        _ => kind.is_block_device(),
    });
    if right { Ok(()) } else { Err(VolumeError::HostPath { path: path.display().to_string(), expected }) }
}

/// With those above it; the modes hold whatever the umask.
fn make_directory(path: &Path) -> Result<(), VolumeError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|above| !above.exists()).collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => ownership::set(dir, 0o755, None)?,
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(failed("create", dir, source)),
        }
    }
    Ok(())
}

fn make_file(path: &Path) -> Result<(), VolumeError> {
    match fs::File::create_new(path) {
        Ok(_) => ownership::set(path, 0o644, None),
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(failed("create", path, source)),
    }
}
