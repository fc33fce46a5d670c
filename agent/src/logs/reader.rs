//! Reads a container's log: what rotation put aside, the current file, and with `follow` what comes later, across
//! rotations, until its logger has let go of the file. Synchronous: it belongs on a thread of its own.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Seek, SeekFrom},
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use inotify::{Inotify, WatchMask};
use jiff::Timestamp;
use nix::{
    fcntl::{Flock, FlockArg},
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::{
    format::{Stream, parse},
    writer::rotated,
};

/// How often a follower looks whether its client is still there, and at the log when notifications are exhausted.
const LOOK_AGAIN_MS: u16 = 500;

/// Output is handed on in pieces of about this size.
const PIECE: usize = 32 << 10;

/// What to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Go on with what is written later.
    pub follow: bool,
    /// The record's time before each line.
    pub timestamps: bool,
    /// Nothing older (Unix milliseconds).
    pub since_ms: Option<i64>,
    /// The last so many lines.
    pub tail_lines: Option<u64>,
    /// At most so many bytes.
    pub limit_bytes: Option<u64>,
}

/// Where the output goes.
pub trait LogSink {
    /// Takes bytes; `false` ends the reading.
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> bool;
    /// Nobody wants any more.
    fn is_gone(&self) -> bool;
}

/// Reads the log at `path`. A log that does not exist is empty.
pub fn read(path: &Path, options: &ReadOptions, sink: &mut dyn LogSink) -> io::Result<()> {
    OpenLog::open(path, options)?.read(sink)
}

/// A log at the place to begin with: what is written after this was made is read.
pub struct OpenLog {
    path: PathBuf,
    options: ReadOptions,
    watch: Option<Watch>,
    /// `None` when there is no log.
    reader: Option<Reader>,
}

impl OpenLog {
    /// Finds the place. A log that does not exist is empty.
    pub fn open(path: &Path, options: &ReadOptions) -> io::Result<Self> {
        let watch = if options.follow { Some(Watch::new(path)) } else { None };
        let reader = start(path, options.tail_lines)?;
        Ok(Self { path: path.to_owned(), options: *options, watch, reader })
    }

    /// Reads from there.
    pub fn read(self, sink: &mut dyn LogSink) -> io::Result<()> {
        let Self { path, options, watch, reader } = self;
        let mut printer = Printer::new(options, sink);
        let Some(mut reader) = reader else { return Ok(()) };
        loop {
            let next = reader.successor(&path)?;
            // After the look for a successor: once there is one, nothing is added to this file any more.
            if !reader.drain(&mut printer)? {
                return Ok(());
            }
            match next {
                Successor::File(next) => reader = next,
                Successor::None | Successor::Soon => break,
            }
        }
        match watch {
            Some(watch) if printer.flush() => follow(&path, reader, &watch, &mut printer),
            _ => {
                printer.flush();
                Ok(())
            }
        }
    }
}

fn follow(path: &Path, mut reader: Reader, watch: &Watch, printer: &mut Printer<'_>) -> io::Result<()> {
    let mut soon = false;
    loop {
        // Both asked before the last look at the file: what was written until then is seen.
        let (finished, next) = (reader.writer_is_gone()?, reader.successor(path)?);
        if !reader.drain(printer)? || !printer.flush() || printer.sink.is_gone() {
            return Ok(());
        }
        match next {
            Successor::File(next) => (reader, soon) = (next, false),
            Successor::None if finished => return Ok(()),
            // A logger that was killed between the two names will never give the second.
            Successor::Soon if finished && soon => return Ok(()),
            Successor::None => watch.wait()?,
            Successor::Soon => {
                soon = true;
                watch.wait()?;
            }
        }
    }
}

/// The file to begin with, at the right place; `None` when there is no log.
fn start(path: &Path, tail: Option<u64>) -> io::Result<Option<Reader>> {
    let mut files = files(path)?;
    let Some(mut wanted) = tail else {
        files.truncate(1);
        return files.pop().map_or(Ok(None), |file| Reader::open(&file, 0));
    };
    let mut begin = None;
    while let Some(file) = files.pop() {
        let (offset, found) = tail_of(&file, wanted)?;
        begin = Reader::open(&file, offset)?.or(begin);
        wanted -= found;
        if offset > 0 {
            break;
        }
    }
    Ok(begin)
}

/// Oldest first, the current one last.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = match rotated(path) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.push(path.to_owned());
    Ok(files)
}

/// Where the last `wanted` lines of a file begin, and how many it has of them.
fn tail_of(path: &Path, wanted: u64) -> io::Result<(u64, u64)> {
    let Some(mut reader) = Reader::open(path, 0)? else { return Ok((0, 0)) };
    let mut ends: VecDeque<u64> = VecDeque::new();
    let mut offset = 0;
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = reader.file.read_until(b'\n', &mut line)?;
        if length == 0 {
            break;
        }
        offset += length as u64;
        if line.pop() == Some(b'\n') && parse(&line).is_some_and(|record| record.full) {
            ends.push_back(offset);
            if ends.len() as u64 > wanted + 1 {
                ends.pop_front();
            }
        }
    }
    let found = ends.len() as u64;
    if found > wanted { Ok((ends.front().copied().unwrap_or_default(), wanted)) } else { Ok((0, found)) }
}

/// One file of the log.
struct Reader {
    file: BufReader<File>,
    inode: u64,
    /// A record that is not written to its end yet.
    partial: Vec<u8>,
}

impl Reader {
    fn open(path: &Path, offset: u64) -> io::Result<Option<Self>> {
        let file =
            match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC).open(path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            };
        let inode = file.metadata()?.ino();
        let mut file = BufReader::with_capacity(64 << 10, file);
        file.seek(SeekFrom::Start(offset))?;
        Ok(Some(Self { file, inode, partial: Vec::new() }))
    }

    /// Prints what is there; `false` when no more is wanted.
    fn drain(&mut self, printer: &mut Printer<'_>) -> io::Result<bool> {
        loop {
            let length = self.file.read_until(b'\n', &mut self.partial)?;
            if length == 0 {
                return Ok(true);
            }
            if self.partial.last() != Some(&b'\n') {
                continue;
            }
            self.partial.pop();
            let go_on = printer.print(&self.partial);
            self.partial.clear();
            if !go_on {
                return Ok(false);
            }
        }
    }

    /// The logger holds a lock for as long as more can come.
    fn writer_is_gone(&self) -> io::Result<bool> {
        let file = self.file.get_ref().try_clone()?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_) => Ok(true),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(false),
            Err((_, error)) => Err(error.into()),
        }
    }

    /// The file after this one, when rotation has begun one.
    fn successor(&self, path: &Path) -> io::Result<Successor> {
        loop {
            let next = match self.place(path)? {
                Place::Current => return Ok(Successor::None),
                Place::BetweenNames => return Ok(Successor::Soon),
                Place::Before(next) => next,
            };
            let Some(found) = Self::open(&next, 0)? else { continue };
            // Rotation may have gone on while we looked: then the name was that of a later file.
            match self.place(path)? {
                Place::Before(name) if inode(&name) == Some(found.inode) => {
                    return Ok(Successor::File(found));
                }
                _ => {}
            }
        }
    }

    fn place(&self, path: &Path) -> io::Result<Place> {
        if inode(path) == Some(self.inode) {
            return Ok(Place::Current);
        }
        let files = files(path)?;
        // When ours is not among them any more, the oldest that is left is next.
        let next = files.iter().position(|file| inode(file) == Some(self.inode)).map_or(0, |at| at + 1);
        let next = files.into_iter().nth(next).filter(|next| next.exists());
        Ok(next.map_or(Place::BetweenNames, Place::Before))
    }
}

/// What comes after a file.
enum Successor {
    /// It is the current one.
    None,
    /// It was put aside, and the new one does not have its name yet.
    Soon,
    File(Reader),
}

/// Where a file is in the log.
enum Place {
    Current,
    BetweenNames,
    Before(PathBuf),
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).map(|metadata| metadata.ino()).ok()
}

/// Records into what the user reads.
struct Printer<'a> {
    options: ReadOptions,
    sink: &'a mut dyn LogSink,
    stream: Stream,
    buffer: Vec<u8>,
    /// A line of this stream (stdout, stderr) goes on.
    within: [bool; 2],
    left: Option<u64>,
}

impl<'a> Printer<'a> {
    fn new(options: ReadOptions, sink: &'a mut dyn LogSink) -> Self {
        let left = options.limit_bytes;
        Self { options, sink, stream: Stream::Stdout, buffer: Vec::new(), within: [false; 2], left }
    }

    fn print(&mut self, line: &[u8]) -> bool {
        // A record damaged by a full disk is left out.
        let Some(record) = parse(line) else { return true };
        if let Some(since) = self.options.since_ms
            && record.time.parse::<Timestamp>().is_ok_and(|time| time.as_millisecond() < since)
        {
            return true;
        }
        if record.stream != self.stream && !self.flush() {
            return false;
        }
        self.stream = record.stream;
        let within = &mut self.within[usize::from(record.stream == Stream::Stderr)];
        if self.options.timestamps && !*within {
            self.buffer.extend_from_slice(record.time.as_bytes());
            self.buffer.push(b' ');
        }
        self.buffer.extend_from_slice(record.content);
        if record.full {
            self.buffer.push(b'\n');
        }
        *within = !record.full;
        self.buffer.len() < PIECE || self.flush()
    }

    /// Hands on what is collected; `false` when no more is wanted.
    fn flush(&mut self) -> bool {
        if let Some(left) = &mut self.left {
            self.buffer.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= self.buffer.len() as u64;
        }
        let wanted = self.buffer.is_empty() || self.sink.write(self.stream, &self.buffer);
        self.buffer.clear();
        wanted && self.left != Some(0)
    }
}

/// Tells of changes in the log's directory; when the system has no more notifications to give, time does.
struct Watch {
    inotify: Option<Inotify>,
}

impl Watch {
    fn new(path: &Path) -> Self {
        let watch = |directory: &Path| -> io::Result<Inotify> {
            let inotify = Inotify::init()?;
            let mask = WatchMask::MODIFY | WatchMask::CREATE | WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE;
            inotify.watches().add(directory, mask)?;
            Ok(inotify)
        };
        Self { inotify: path.parent().and_then(|directory| watch(directory).ok()) }
    }

    fn wait(&self) -> io::Result<()> {
        let timeout = PollTimeout::from(LOOK_AGAIN_MS);
        let Some(inotify) = &self.inotify else {
            poll(&mut [], timeout)?;
            return Ok(());
        };
        let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
        match poll(&mut polled, timeout) {
            Ok(0) | Err(nix::Error::EINTR) => return Ok(()),
            other => other?,
        };
        // What happened does not matter: the file is looked at anyway.
        nix::unistd::read(inotify.as_fd(), &mut [0; 4096])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
