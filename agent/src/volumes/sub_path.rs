//! subPath without a way out: the path is opened by the kernel with RESOLVE_BENEATH, and what was opened is bound by
//! its descriptor, so that a link swapped in afterwards changes nothing.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
};

use super::{SubPath, VolumeError, failed, ownership};

/// Binds the path of the volume onto `target`. A binding of an earlier attempt is replaced.
pub(super) fn bind(wanted: &SubPath, target: &Path) -> Result<(), VolumeError> {
    let root = open(&wanted.root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", &wanted.root, errno.into()))?;
    let opened = open_or_make(&root, wanted)?;
    let kind = fstat(&opened).map_err(|errno| failed("inspect", &wanted.root, errno.into()))?;
    let is_dir = SFlag::from_bits_truncate(kind.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR;
    clear(target)?;
    make_target(target, is_dir).map_err(|source| failed("create", target, source))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&source), target, None::<&str>, flags, None::<&str>)
        .map_err(|errno| failed("bind", target, errno.into()))
}

fn open_or_make(root: &OwnedFd, wanted: &SubPath) -> Result<OwnedFd, VolumeError> {
    match beneath(root, Path::new(&wanted.path)) {
        Err(Errno::ENOENT) => make(root, wanted),
        opened => opened.map_err(|errno| explain(wanted, errno)),
    }
}

fn beneath(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

/// As [`make`], for a test of what it makes.
#[cfg(test)]
pub(super) fn make_below(root: &Path, path: &str) -> Result<OwnedFd, VolumeError> {
    let wanted = SubPath { root: root.to_owned(), path: path.to_owned(), container: "c".into(), index: 0 };
    let root = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| failed("open", root, errno.into()))?;
    make(&root, &wanted)
}

/// Makes the directories that are missing, each below what the kernel has just resolved.
fn make(root: &OwnedFd, wanted: &SubPath) -> Result<OwnedFd, VolumeError> {
    let mut so_far = PathBuf::new();
    let mut parent = beneath(root, Path::new(".")).map_err(|errno| explain(wanted, errno))?;
    for part in Path::new(&wanted.path).components() {
        so_far.push(part);
        let above = fstat(&parent).map_err(|errno| explain(wanted, errno))?;
        let made = match mkdirat(&parent, part.as_os_str(), Mode::S_IRWXU) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(errno) => return Err(explain(wanted, errno)),
        };
        parent = beneath(root, &so_far).map_err(|errno| explain(wanted, errno))?;
        if made {
            inherit(&parent, above.st_mode & 0o7777, above.st_gid)?;
        }
    }
    Ok(parent)
}

/// A directory that was just made is the pod's as the one above it is: with its mode whatever the umask, and with its
/// group when that is handed on (`fsGroup`).
fn inherit(made: &OwnedFd, mode: u32, group: u32) -> Result<(), VolumeError> {
    // It was opened as a path only: the kernel's link to it serves where a descriptor would not.
    let path = PathBuf::from(format!("/proc/self/fd/{}", made.as_raw_fd()));
    let group = Mode::from_bits_truncate(mode).contains(Mode::S_ISGID).then_some(group);
    ownership::set(&path, mode, group)
}

fn explain(wanted: &SubPath, errno: Errno) -> VolumeError {
    match errno {
        Errno::EXDEV | Errno::ELOOP => VolumeError::Escape { path: wanted.path.clone() },
        errno => failed("open the subPath in", &wanted.root, errno.into()),
    }
}

fn clear(target: &Path) -> Result<(), VolumeError> {
    match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(failed("unmount", target, errno.into())),
    }
}

/// A mount point of the right kind.
fn make_target(target: &Path, is_dir: bool) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(meta) if meta.is_dir() == is_dir => return Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir(target)?,
        Ok(_) => fs::remove_file(target)?,
        Err(_) => {}
    }
    if is_dir { fs::create_dir(target) } else { fs::File::create(target).map(|_| ()) }
}
