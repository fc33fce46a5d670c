//! The logger: copies a container's stdout and stderr from the shim's pipes to its log file, with one thread and
//! one small buffer. It must never make the container wait for long and never end before the pipes do: when the
//! file cannot be written (full disk), output is counted, dropped, and the loss noted once writing works again.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use nix::{
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
    },
    unistd::Pid,
};

use super::{
    LoggerArgs, Rotation,
    format::{Encoder, Stream},
};

/// The logger's process name.
const LOGGER: &str = "gantry-logger";

/// A prompt without a newline is written after this silence.
const PROMPT_DELAY_MS: u16 = 50;

/// The container has ended: see [`run`].
const RELEASE: Signal = Signal::SIGUSR1;

/// As large as a pipe.
const BUFFER: usize = 64 << 10;

/// The pipes that the shim hands over.
#[derive(Debug)]
pub struct LoggerInput {
    /// Read end.
    pub stdout: File,
    /// Read end.
    pub stderr: File,
    /// Gets one byte when everything is ready: the shim waits for it.
    pub ready: File,
}

/// Copies until both pipes end. The shim keeps its ends open for as long as it keeps the container's record, so two
/// signals tell more: at `RELEASE` (the container has ended) what waits in the pipes is written and the file's
/// lock given up; at SIGTERM (the record goes) the same, and the end.
///
/// It must not end by itself before: the shim signals its process id later.
pub fn run(args: &LoggerArgs, mut input: LoggerInput) -> io::Result<()> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGTERM);
    mask.add(RELEASE);
    mask.thread_block()?;
    let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let rotation = Rotation { max_bytes: args.max_bytes, max_files: args.max_files };
    let mut log = LogFile::new(&args.file, rotation);
    let mut sources = [Source::new(input.stdout, Stream::Stdout), Source::new(input.stderr, Stream::Stderr)];
    input.ready.write_all(b"r")?;
    let mut buffer = vec![0; BUFFER];
    let mut records = Vec::with_capacity(2 * BUFFER);
    let mut asked = Asked::Nothing;
    while sources.iter().any(|s| s.pipe.is_some()) {
        let prompting = args.prompt && sources.iter().any(|s| s.encoder.is_pending());
        let ready = wait(&sources, &signals, asked, prompting)?;
        let now = Timestamp::now();
        for source in &mut sources {
            source.read(&mut buffer, &now, &mut records)?;
            if !ready {
                source.encoder.flush(&now, &mut records);
            }
        }
        log.append(&records);
        records.clear();
        match asked {
            Asked::End if !ready => break,
            Asked::Release if !ready => {
                log.release();
                asked = Asked::Nothing;
            }
            _ => {}
        }
        while let Some(signal) = signals.read_signal()? {
            let end = signal.ssi_signo == Signal::SIGTERM as u32;
            asked = if end || asked == Asked::End { Asked::End } else { Asked::Release };
        }
    }
    let now = Timestamp::now();
    for source in &mut sources {
        source.encoder.flush(&now, &mut records);
    }
    log.append(&records);
    Ok(())
}

/// What a signal wants once the pipes are empty.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Nothing,
    Release,
    End,
}

/// Whether there is something to read; `false` after a silence that matters.
fn wait(sources: &[Source; 2], signals: &SignalFd, asked: Asked, prompting: bool) -> io::Result<bool> {
    let pipes = sources.iter().filter_map(Source::fd);
    let mut polled: Vec<PollFd<'_>> =
        pipes.chain([signals.as_fd()]).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = match (asked, prompting) {
        (Asked::Release | Asked::End, _) => PollTimeout::ZERO,
        (Asked::Nothing, true) => PollTimeout::from(PROMPT_DELAY_MS),
        (Asked::Nothing, false) => PollTimeout::NONE,
    };
    match poll(&mut polled, timeout) {
        Ok(count) => Ok(count > 0),
        Err(nix::Error::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

struct Source {
    /// `None` after its end.
    pipe: Option<File>,
    encoder: Encoder,
}

impl Source {
    fn new(pipe: File, stream: Stream) -> Self {
        Self { pipe: Some(pipe), encoder: Encoder::new(stream) }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// One read when there is something, so that neither stream starves the other.
    fn read(&mut self, buffer: &mut [u8], now: &Timestamp, records: &mut Vec<u8>) -> io::Result<()> {
        let Some(pipe) = &mut self.pipe else { return Ok(()) };
        let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::ZERO)? == 0 {
            return Ok(());
        }
        match pipe.read(buffer) {
            Ok(0) => self.pipe = None,
            Ok(n) => self.encoder.push(&buffer[..n], now, records),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// The current file, locked while we write it.
struct LogFile {
    path: PathBuf,
    rotation: Rotation,
    file: Option<Flock<File>>,
    size: u64,
    lost: u64,
}

impl LogFile {
    fn new(path: &Path, rotation: Rotation) -> Self {
        let mut log = Self { path: path.to_owned(), rotation, file: None, size: 0, lost: 0 };
        // Failure is not final: the next append tries again.
        let _ = log.open();
        log
    }

    /// Goes on with the file that is there, or makes it.
    fn open(&mut self) -> io::Result<()> {
        let existing = options().open(&self.path);
        let file = match existing {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.create(),
            other => lock(other?)?,
        };
        self.size = file.metadata()?.size();
        self.file = Some(file);
        Ok(())
    }

    /// A new file gets its name once it is locked: a reader that finds it unlocked takes it for finished.
    fn create(&mut self) -> io::Result<()> {
        let hidden = self
            .path
            .with_file_name(format!(".{}.new", self.path.file_name().unwrap_or_default().to_string_lossy()));
        match fs::remove_file(&hidden) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = lock(options().create_new(true).mode(0o640).open(&hidden)?)?;
        fs::rename(&hidden, &self.path)?;
        self.size = 0;
        self.file = Some(file);
        Ok(())
    }

    fn release(&mut self) {
        self.file = None;
    }

    fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if self.try_append(records).is_err() {
            self.lost += records.len() as u64;
            self.file = None;
        }
    }

    fn try_append(&mut self, records: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        if self.lost > 0 {
            let (mut note, mut encoder) = (Vec::new(), Encoder::new(Stream::Stderr));
            let text =
                format!("gantry-logger: {} bytes of output could not be written and are lost\n", self.lost);
            encoder.push(text.as_bytes(), &Timestamp::now(), &mut note);
            self.write(&note)?;
            self.lost = 0;
        }
        self.write(records)?;
        if self.size >= self.rotation.max_bytes {
            self.rotate()?;
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
            self.size += bytes.len() as u64;
        }
        Ok(())
    }

    /// The new file is there and locked before the lock on the old one ends: a reader never sees both without.
    fn rotate(&mut self) -> io::Result<()> {
        let old = self.file.take();
        fs::rename(&self.path, aside(&self.path, &Timestamp::now()))?;
        self.create()?;
        drop(old);
        self.remove_oldest()
    }

    fn remove_oldest(&self) -> io::Result<()> {
        let mut put_aside = rotated(&self.path)?;
        let keep = usize::try_from(self.rotation.max_files.saturating_sub(1)).unwrap_or(usize::MAX);
        let excess = put_aside.len().saturating_sub(keep);
        put_aside.truncate(excess);
        put_aside.into_iter().try_for_each(fs::remove_file)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC);
    options
}

/// Waits: a reader may be asking for a moment whether anybody writes.
fn lock(file: File) -> io::Result<Flock<File>> {
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Tells the logger that holds this file that its container has ended. Without one there is nothing to do.
pub(crate) fn release(path: &Path) -> io::Result<()> {
    let inode = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.ino(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for pid in lock_owners(&fs::read_to_string("/proc/locks")?, inode) {
        // Inode numbers are unique on one file system only: the name must be right as well.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if name.trim_end() == LOGGER {
            kill(Pid::from_raw(pid), RELEASE)?;
        }
    }
    Ok(())
}

/// Lines like `3: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF`.
fn lock_owners(locks: &str, inode: u64) -> impl Iterator<Item = i32> {
    locks.lines().filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = fields.as_slice() else { return None };
        (file.rsplit(':').next()?.parse() == Ok(inode)).then_some(pid.parse().ok()?)
    })
}

/// Removes a log with all that was put aside of it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let absent_is_ok = |removed: io::Result<()>| match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let aside = match rotated(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    // The current file goes last: it is what tells that there is something to remove.
    aside.iter().map(PathBuf::as_path).chain([path]).try_for_each(|file| absent_is_ok(fs::remove_file(file)))
}

/// `0.log.20260102-030405.000006`: sorts by time, as the kubelet's names do.
fn aside(path: &Path, now: &Timestamp) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(now.strftime(".%Y%m%d-%H%M%S.%6f").to_string());
    name.into()
}

/// The files put aside, oldest first.
pub(super) fn rotated(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(directory: &Path, max_bytes: u64) -> LoggerArgs {
        LoggerArgs::of(&directory.join("0.log"), &Rotation { max_bytes, max_files: 3 }, false)
    }

    /// Runs the logger on pipes and returns its write ends.
    fn start(args: LoggerArgs) -> (File, File, std::thread::JoinHandle<io::Result<()>>) {
        let pipe = || nix::unistd::pipe().map(|(r, w)| (File::from(r), File::from(w))).unwrap();
        let ((stdout, out), (stderr, err), (wait, ready)) = (pipe(), pipe(), pipe());
        let logger = std::thread::spawn(move || run(&args, LoggerInput { stdout, stderr, ready }));
        // As the shim waits.
        assert_eq!({ wait }.read(&mut [0; 1]).unwrap(), 1);
        (out, err, logger)
    }

    fn contents(path: &Path) -> Vec<String> {
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(|l| l.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[test]
    fn both_streams_reach_the_file_and_the_last_line_needs_no_newline() {
        let directory = tempfile::tempdir().unwrap();
        let (mut out, mut err, logger) = start(args(directory.path(), 1 << 20));
        out.write_all(b"one\ntwo").unwrap();
        drop(out);
        err.write_all(b"bad\n").unwrap();
        drop(err);
        logger.join().unwrap().unwrap();
        let mut lines = contents(&directory.path().join("0.log"));
        lines.sort();
        assert_eq!(lines, ["stderr F bad", "stdout F one", "stdout P two"]);
    }

    #[test]
    fn rotation_keeps_the_newest_files_and_every_line_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let (mut out, err, logger) = start(args(directory.path(), 50_000));
        drop(err);
        for i in 0..20_000 {
            writeln!(out, "line {i}").unwrap();
        }
        drop(out);
        logger.join().unwrap().unwrap();
        let current = directory.path().join("0.log");
        let mut files = rotated(&current).unwrap();
        assert_eq!(files.len(), 2);
        files.push(current);
        let lines: Vec<String> = files.iter().flat_map(|f| contents(f)).collect();
        let first: usize = lines[0].rsplit(' ').next().unwrap().parse().unwrap();
        let expected: Vec<String> = (first..20_000).map(|i| format!("stdout F line {i}")).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn the_file_is_locked_while_output_can_come() {
        let directory = tempfile::tempdir().unwrap();
        let (out, err, logger) = start(args(directory.path(), 1 << 20));
        let lock =
            || Flock::lock(File::open(directory.path().join("0.log")).unwrap(), FlockArg::LockSharedNonblock);
        assert!(lock().is_err());
        drop((out, err));
        logger.join().unwrap().unwrap();
        assert!(lock().is_ok());
    }

    #[test]
    fn a_symbolic_link_is_never_written_through_and_output_is_not_blocked() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        fs::write(&target, "untouched").unwrap();
        std::os::unix::fs::symlink(&target, directory.path().join("0.log")).unwrap();
        let (mut out, err, logger) = start(args(directory.path(), 1 << 20));
        drop(err);
        out.write_all(&vec![b'x'; 1 << 20]).unwrap();
        drop(out);
        logger.join().unwrap().unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "untouched");
    }

    #[test]
    fn the_owner_of_a_lock_is_found_by_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 fe:00:5678 0 EOF\n2: FLOCK  ADVISORY  WRITE 8 fe:00:5678 0 EOF\n\
                     2: -> FLOCK  ADVISORY  READ 9 fe:00:5678 0 EOF\n3: FLOCK  ADVISORY  WRITE 10 fe:00:56 0 EOF\n";
        assert_eq!(lock_owners(locks, 5678).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn loss_is_noted_once_writing_works_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("later/0.log");
        let mut log = LogFile::new(&path, Rotation::default());
        log.append(b"lost\n");
        fs::create_dir(directory.path().join("later")).unwrap();
        log.append(b"2026 stdout F kept\n");
        let lines = contents(&path);
        assert!(lines[0].contains("5 bytes of output could not be written"), "{lines:?}");
        assert_eq!(lines[1], "stdout F kept");
    }

    #[test]
    fn a_log_goes_with_all_that_was_put_aside_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.20260102-030405.000006", "0.log.20260103-030405.000006", "1.log"] {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove(&log).unwrap();
        let left: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["1.log"]);
        remove(&log).unwrap();
        remove(&dir.path().join("absent/0.log")).unwrap();
    }
}
