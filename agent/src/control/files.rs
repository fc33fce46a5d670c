//! Small state files, written whole (`crate::durable`), mode 0600 in a 0700 directory; errors that name them.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use crate::durable::{self, Against};

/// A state file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {path:?}")]
pub struct FileError {
    /// `read`, `write`, `create`.
    pub operation: &'static str,
    /// Which file.
    pub path: PathBuf,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// Makes `dir` (0700) and its parents.
pub(super) fn make_dir(dir: &Path) -> Result<(), FileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))
}

/// The content, `None` when the file is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, FileError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed("read", path)(e)),
    }
}

/// The content of a file that must be there.
pub(super) fn read_present(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(failed("read", path))
}

/// Replaces the file; a crash leaves the old content or the new.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), FileError> {
    durable::replace(path, content, Against::PowerCut).map_err(failed("write", path))
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> FileError + 'a {
    move |source| FileError { operation, path: path.to_owned(), source }
}
