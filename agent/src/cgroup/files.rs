//! The files of a cgroup for which cgroups-rs has nothing, or loses something: reading through one held directory, so
//! that all figures are of the same group; waiting for its end; handing its controllers on. Never writes a limit.

use std::{
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{OFlag, open, openat},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::stat::Mode,
};

use super::{CgroupError, failed};

/// Killed processes are gone within this time, unless they are stuck in the kernel.
const EMPTY_TIMEOUT: Duration = Duration::from_secs(5);
/// `memory.stat`, the longest, has 1.6 kB.
const ROOM: usize = 4096;

/// A cgroup's directory, held open: its files are found without walking the path again, a link is not followed, and
/// another group that gets the same name later is not mistaken for it.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    directory: OwnedFd,
    buffer: Vec<u8>,
}

impl Held {
    /// `None` when it does not exist.
    pub(super) fn open(path: &Path) -> Result<Option<Self>, CgroupError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = open(path, flags, Mode::empty()).map_err(io::Error::from);
        let opened = unless_gone(opened).map_err(failed("open", path))?;
        Ok(opened.map(|directory| Self { path: path.to_owned(), directory, buffer: vec![0; ROOM] }))
    }

    /// A file of figures, its text valid until the next is read; `None` when the file, or the group itself, is gone.
    pub(super) fn read(&mut self, name: &str) -> Result<Option<&str>, CgroupError> {
        let length = unless_gone(self.fill(name)).map_err(failed("read", &self.path.join(name)))?;
        Ok(length.map(|length| str::from_utf8(&self.buffer[..length]).unwrap_or_default()))
    }

    /// A file that is a list, as `cgroup.procs` is: the kernel gives it in pieces. `None` when it or the group is gone.
    pub(super) fn read_list(&self, name: &str) -> Result<Option<String>, CgroupError> {
        let list = self.file(name).and_then(io::read_to_string);
        unless_gone(list).map_err(failed("read", &self.path.join(name)))
    }

    fn file(&self, name: &str) -> io::Result<fs::File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(fs::File::from(openat(&self.directory, name, flags, Mode::empty())?))
    }

    fn fill(&mut self, name: &str) -> io::Result<usize> {
        let file = self.file(name)?;
        let mut length = 0;
        loop {
            let read = io::Read::read(&mut &file, &mut self.buffer[length..])?;
            length += read;
            // The kernel gives figures in one piece: what leaves room was all.
            if length < self.buffer.len() {
                return Ok(length);
            }
            self.buffer.resize(2 * length, 0);
        }
    }
}

fn unless_gone<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // A file that was opened before its group was removed.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for the group's last process to end. The kernel tells of a change of cgroup.events as an exceptional condition
/// of the open file.
pub(super) fn wait_until_empty(directory: &Path) -> Result<(), CgroupError> {
    let path = directory.join("cgroup.events");
    let failed = failed("read", &path);
    let Some(file) = unless_gone(fs::File::open(&path)).map_err(&failed)? else { return Ok(()) };
    let deadline = Instant::now() + EMPTY_TIMEOUT;
    let mut buffer = [0; 256];
    loop {
        let Some(length) = unless_gone(file.read_at(&mut buffer, 0)).map_err(&failed)? else { return Ok(()) };
        let left = deadline.saturating_duration_since(Instant::now());
        let populated = buffer[..length].split(|byte| *byte == b'\n').any(|line| line == b"populated 1");
        if !populated || left.is_zero() {
            return Ok(());
        }
        let mut polled = [PollFd::new(file.as_fd(), PollFlags::POLLPRI)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut polled, timeout).map_err(|error| failed(error.into()))?;
    }
}

/// Gives those of a directory's controllers that are wanted to its children, all in one write.
pub(super) fn delegate(directory: &Path, wanted: &[&str]) -> Result<(), CgroupError> {
    let file = directory.join("cgroup.controllers");
    let available = fs::read_to_string(&file).map_err(failed("read", &file))?;
    let available: Vec<&str> = available.split_ascii_whitespace().collect();
    let given = wanted.iter().filter(|controller| available.contains(controller));
    let value = given.map(|controller| format!("+{controller}")).collect::<Vec<_>>().join(" ");
    if value.is_empty() {
        return Ok(());
    }
    let path = directory.join("cgroup.subtree_control");
    fs::write(&path, &value).map_err(|source| CgroupError::Write { path, value, source })
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{FcntlArg, fcntl};

    use super::*;

    #[test]
    fn figures_are_of_the_group_that_was_opened() {
        let root = tempfile::tempdir().unwrap();
        let (group, aside) = (root.path().join("pod"), root.path().join("aside"));
        fs::create_dir(&group).unwrap();
        fs::write(group.join("pids.current"), "4\n").unwrap();
        let mut held = Held::open(&group).unwrap().unwrap();
        fs::rename(&group, &aside).unwrap();
        fs::create_dir(&group).unwrap();
        fs::write(group.join("pids.current"), "5\n").unwrap();
        assert_eq!(held.read("pids.current").unwrap(), Some("4\n"));
        assert_eq!(held.read("memory.stat").unwrap(), None);
    }

    #[test]
    fn a_list_that_comes_in_pieces_is_read_to_its_end() {
        let root = tempfile::tempdir().unwrap();
        let list = root.path().join("cgroup.procs");
        nix::unistd::mkfifo(&list, Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn(move || {
            let mut list = fs::OpenOptions::new().write(true).open(list).unwrap();
            // Each write is read as one.
            fcntl(&list, FcntlArg::F_SETFL(OFlag::O_DIRECT)).unwrap();
            for pid in 0..3 {
                io::Write::write_all(&mut list, format!("{pid}\n").as_bytes()).unwrap();
            }
        });
        let held = Held::open(root.path()).unwrap().unwrap();
        assert_eq!(held.read_list("cgroup.procs").unwrap().as_deref(), Some("0\n1\n2\n"));
        writer.join().unwrap();
    }

    #[test]
    fn links_are_not_followed_and_long_files_are_read_to_their_end() {
        let root = tempfile::tempdir().unwrap();
        let (group, link) = (root.path().join("pod"), root.path().join("link"));
        fs::create_dir(&group).unwrap();
        std::os::unix::fs::symlink(&group, &link).unwrap();
        assert!(Held::open(&link).is_err());
        std::os::unix::fs::symlink("/etc/passwd", group.join("cpu.stat")).unwrap();
        let long = "anon 1\n".repeat(3000);
        fs::write(group.join("memory.stat"), &long).unwrap();
        let mut held = Held::open(&group).unwrap().unwrap();
        assert!(held.read("cpu.stat").is_err());
        assert_eq!(held.read("memory.stat").unwrap(), Some(long.as_str()));
    }
}
