//! Replacing a file whole: whoever reads it, even after a crash, finds the old content or the new. Owned here: the
//! temporary file beside it. Never: a file that others write to, or one that grows.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use crate::failpoint;

/// What the end of a temporary file's name is.
pub const TEMPORARY: &str = ".tmp";

/// What must not undo a replacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The end of this process, however sudden.
    Crash,
    /// That, and the end of the machine: content and name are on the disk before it returns.
    PowerCut,
}

/// Gives the file this content, mode 0600. Two that replace one file at a time would write into each other's: callers
/// hold a lock.
///
/// # Errors
/// What the file system answered; nothing is left beside the file, which is as it was, or, where the directory alone could
/// not be synced, has the new content.
pub fn replace(path: &Path, content: &[u8], against: Against) -> io::Result<()> {
    let temporary = beside(path);
    let written = write(&temporary, content, against).and_then(|()| {
        failpoint::reach("durable.replace.staged", &path.to_string_lossy());
        fs::rename(&temporary, path)
    });
    if let Err(error) = written {
        // A full disk is not to be kept full by it. The first error is the one that tells.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match against {
        Against::Crash => Ok(()),
        Against::PowerCut => File::open(parent.unwrap_or(Path::new(".")))?.sync_all(),
    }
}

fn write(temporary: &Path, content: &[u8], against: Against) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(temporary)?;
    file.write_all(content)?;
    match against {
        Against::Crash => Ok(()),
        Against::PowerCut => file.sync_all(),
    }
}

/// One name for each file: what a crash leaves is overwritten by the next replacement.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(TEMPORARY);
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_for_its_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        // One stem, two files: neither is written into the other's temporary file.
        let (key, certificate) = (directory.path().join("node.key"), directory.path().join("node.crt"));
        fs::write(beside(&key), "what a crash left").unwrap();
        for against in [Against::Crash, Against::PowerCut] {
            replace(&key, b"k", against).unwrap();
            replace(&certificate, b"c", against).unwrap();
        }
        assert_eq!(
            (fs::read(&key).unwrap(), fs::read(&certificate).unwrap()),
            (b"k".to_vec(), b"c".to_vec())
        );
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(beside(&key), beside(&certificate));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_replacement_that_fails_leaves_the_old_content_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        fs::create_dir_all(path.join("below")).unwrap();
        assert!(replace(&path, b"new", Against::PowerCut).is_err());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        assert!(path.join("below").is_dir());
    }
}
