//! Small state files, written whole: temporary file, fsync, rename, fsync of the directory; mode 0600.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use super::PkiError;

/// Makes `dir` (0700) and its parents.
pub(super) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))
}

/// Waits until no other process makes or loads what is in `dir`, and keeps others waiting for as long as the result is held.
pub(super) fn lock(dir: &Path) -> Result<File, PkiError> {
    let held = File::open(dir).map_err(failed("open", dir))?;
    held.lock().map_err(failed("lock", dir))?;
    Ok(held)
}

/// The content, `None` when the file is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// Replaces the file; a crash leaves the old content or the new.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    write_atomically(path, content).map_err(failed("write", path))
}

fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("{:016x}.tmp", rand::random::<u64>()));
    let result = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if result.is_err() {
        // The error that matters is the first one; a left-over is never read.
        let _ = fs::remove_file(&temporary);
        return result;
    }
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

pub(super) fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> PkiError + 'a {
    move |source| PkiError::File { operation, path: path.to_owned(), source }
}
