//! A log follower: prints what is appended to any file below a directory, each line prefixed with the file's
//! path relative to it. Files that appear, grow, shrink (truncation) or are replaced are handled. It looks once
//! a second: the directory may be on any file system, and inotify does not see other hosts' or overlay writes.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Seek, SeekFrom, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How far a file was read; the inode tells a replaced file from a grown one.
#[derive(Clone, Copy)]
struct Position {
    inode: u64,
    offset: u64,
}

/// Follows `directory` until killed.
pub(crate) fn run(directory: &Path) -> Result<(), String> {
    eprintln!("following files below {}", directory.display());
    let mut positions = BTreeMap::new();
    loop {
        let mut out = io::stdout().lock();
        for file in files_below(directory) {
            // A file may vanish between listing and reading; the next look decides.
            if let Err(error) = read_new_lines(directory, &file, &mut positions, &mut out) {
                eprintln!("{}: {error}", file.display());
            }
        }
        out.flush().map_err(|e| format!("stdout: {e}"))?;
        drop(out);
        std::thread::sleep(LOOK_EVERY);
    }
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

fn read_new_lines(
    root: &Path,
    path: &Path,
    positions: &mut BTreeMap<PathBuf, Position>,
    out: &mut impl Write,
) -> io::Result<()> {
    let file = fs::File::open(path)?;
    let meta = file.metadata()?;
    let known = positions.entry(path.to_owned()).or_insert(Position { inode: meta.ino(), offset: 0 });
    if known.inode != meta.ino() || meta.len() < known.offset {
        *known = Position { inode: meta.ino(), offset: 0 };
    }
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(known.offset))?;
    let name = path.strip_prefix(root).unwrap_or(path).display();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.read_until(b'\n', &mut line)?;
        // An unfinished line waits for its end.
        if line.last() != Some(&b'\n') {
            return Ok(());
        }
        known.offset += read as u64;
        write!(out, "{name}: ")?;
        out.write_all(&line)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_whole_lines_once_and_starts_over_after_truncation() {
        let root = std::env::temp_dir().join(format!("gantry-follow-{}", std::process::id()));
        fs::create_dir_all(root.join("sub")).unwrap();
        let file = root.join("sub/app.log");
        let mut positions = BTreeMap::new();
        let mut look = |text: Option<&str>| {
            if let Some(text) = text {
                fs::write(&file, text).unwrap();
            }
            let mut out = Vec::new();
            read_new_lines(&root, &file, &mut positions, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        assert_eq!(look(Some("one\ntw")), "sub/app.log: one\n");
        assert_eq!(look(Some("one\ntwo\n")), "sub/app.log: two\n");
        assert_eq!(look(None), "");
        assert_eq!(look(Some("new\n")), "sub/app.log: new\n");
        fs::remove_dir_all(root).unwrap();
    }
}
