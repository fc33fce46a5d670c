//! Projected files that change all at once, by upstream's layout: a directory per version, `..data` pointing at the
//! current one, and links to `..data/<name>` that readers open. Replacing `..data` is one rename.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Component, Path, PathBuf},
};

use super::{FileContent, VolumeError, failed, ownership};
use crate::failpoint;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

type Files = BTreeMap<String, FileContent>;

/// Brings the directory to this content; does nothing when it has it.
pub(super) fn write(dir: &Path, files: &Files, fs_group: Option<u32>) -> Result<(), VolumeError> {
    check(files)?;
    let link = dir.join(DATA);
    let current = fs::read_link(&link).ok();
    if !current.as_ref().is_some_and(|current| has(&dir.join(current), files, fs_group)) {
        let version = new_version(dir)?;
        fill(&version, files, fs_group)?;
        failpoint::reach("volumes.atomic.filled", &dir.to_string_lossy());
        let name = version.file_name().map(PathBuf::from).unwrap_or_default();
        let staged = dir.join(NEW_DATA);
        let _ = fs::remove_file(&staged);
        symlink(&name, &staged).map_err(|source| failed("link", &staged, source))?;
        failpoint::reach("volumes.atomic.staged", &dir.to_string_lossy());
        fs::rename(&staged, &link).map_err(|source| failed("replace", &link, source))?;
    }
    links(dir, files)?;
    sweep(dir)
}

/// Paths come from users.
fn check(files: &Files) -> Result<(), VolumeError> {
    let plain = |path: &String| {
        let mut parts = Path::new(path).components().peekable();
        parts.peek().is_some()
            && parts.all(|part| matches!(part, Component::Normal(_)))
            && !path.starts_with("..")
    };
    match files.keys().find(|path| !plain(path)) {
        Some(path) => Err(VolumeError::Escape { path: path.clone() }),
        None => Ok(()),
    }
}

/// Same files, same bytes, same modes, and nothing more.
fn has(version: &Path, files: &Files, fs_group: Option<u32>) -> bool {
    let mode_of = |mode: u32| if fs_group.is_some() { mode | 0o440 } else { mode };
    let same = |(path, file): (&String, &FileContent)| {
        let path = version.join(path);
        fs::read(&path).is_ok_and(|bytes| bytes == file.bytes)
            && fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode_of(file.mode))
    };
    files.iter().all(same) && count(version).is_ok_and(|count| count == files.len())
}

fn count(dir: &Path) -> io::Result<usize> {
    let mut total = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        total += if entry.file_type()?.is_dir() { count(&entry.path())? } else { 1 };
    }
    Ok(total)
}

/// An unused name; versions are only ever compared for being another one.
fn new_version(dir: &Path) -> Result<PathBuf, VolumeError> {
    for number in 0_u64.. {
        let path = dir.join(format!("..{number}"));
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                // Left by an interrupted write, unless it is the current one.
                if fs::read_link(dir.join(DATA)).is_ok_and(|current| dir.join(current) == path) {
                    continue;
                }
                fs::remove_dir_all(&path).map_err(|source| failed("remove", &path, source))?;
                fs::create_dir(&path).map_err(|source| failed("create", &path, source))?;
                return Ok(path);
            }
            Err(source) => return Err(failed("create", &path, source)),
        }
    }
    Err(failed("create a version in", dir, io::Error::from(io::ErrorKind::AlreadyExists)))
}

fn fill(version: &Path, files: &Files, fs_group: Option<u32>) -> Result<(), VolumeError> {
    ownership::directory(version, 0o755, fs_group)?;
    for (path, content) in files {
        let mut dir = version.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => ownership::directory(&dir, 0o755, fs_group)?,
                Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(failed("create", &dir, source)),
            }
        }
        let path = version.join(path);
        fs::write(&path, &content.bytes).map_err(|source| failed("write", &path, source))?;
        ownership::file(&path, content.mode, fs_group)?;
    }
    Ok(())
}

/// The names that readers open: the first component of every path.
fn links(dir: &Path, files: &Files) -> Result<(), VolumeError> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).is_ok_and(|known| known == target) {
            continue;
        }
        symlink(&target, &link).map_err(|source| failed("link", &link, source))?;
    }
    for entry in entries(dir)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(entry.path()).map_err(|source| failed("remove", &entry.path(), source))?;
        }
    }
    Ok(())
}

/// Removes the versions that `..data` does not name.
fn sweep(dir: &Path) -> Result<(), VolumeError> {
    let current = fs::read_link(dir.join(DATA)).ok();
    for entry in entries(dir)? {
        let name = PathBuf::from(entry.file_name());
        let is_version = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_version && name.to_string_lossy().starts_with("..") && Some(&name) != current.as_ref() {
            fs::remove_dir_all(entry.path()).map_err(|source| failed("remove", &entry.path(), source))?;
        }
    }
    Ok(())
}

fn entries(dir: &Path) -> Result<Vec<fs::DirEntry>, VolumeError> {
    let read = fs::read_dir(dir).and_then(Iterator::collect);
    read.map_err(|source| failed("read", dir, source))
}
