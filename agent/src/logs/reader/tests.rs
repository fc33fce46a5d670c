use std::{
    fs,
    io::Write,
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use super::*;
use crate::logs::{LoggerArgs, LoggerInput, Rotation, run_logger};

/// Collects; the test's end of a channel tells whether anybody wants it.
struct Collect(Sender<(Stream, Vec<u8>)>);

impl LogSink for Collect {
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        self.0.send((stream, bytes.to_vec())).is_ok()
    }
    fn is_gone(&self) -> bool {
        false
    }
}

fn output(path: &Path, options: ReadOptions) -> String {
    let (sender, receiver) = channel();
    read(path, &options, &mut Collect(sender)).unwrap();
    text(&receiver)
}

fn text(receiver: &Receiver<(Stream, Vec<u8>)>) -> String {
    String::from_utf8(receiver.iter().flat_map(|(_, bytes)| bytes).collect()).unwrap()
}

fn record(second: u32, rest: &str) -> String {
    format!("2026-01-01T00:00:{second:02}.000000000Z {rest}\n")
}

/// Two files put aside and a current one with six lines in all.
fn log() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    let files = [
        ("0.log.20260101-000000.000000", record(1, "stdout F a") + &record(2, "stderr F b")),
        ("0.log.20260101-000002.000000", record(3, "stdout P c1") + &record(3, "stdout F c2")),
        ("0.log", record(4, "stdout F d") + &record(5, "stdout F ") + "damaged\n" + &record(6, "stdout F ä")),
    ];
    for (name, content) in files {
        fs::write(directory.path().join(name), content).unwrap();
    }
    (directory, path)
}

#[test]
fn everything_kept_is_read_in_order() {
    let (_directory, path) = log();
    assert_eq!(output(&path, ReadOptions::default()), "a\nb\nc1c2\nd\n\nä\n");
    assert_eq!(output(Path::new("/nonexistent/0.log"), ReadOptions::default()), "");
}

#[test]
fn tail_counts_whole_lines_over_files() {
    let (_directory, path) = log();
    let tail = |n| output(&path, ReadOptions { tail_lines: Some(n), ..ReadOptions::default() });
    assert_eq!(tail(0), "");
    assert_eq!(tail(1), "ä\n");
    assert_eq!(tail(3), "d\n\nä\n");
    assert_eq!(tail(4), "c1c2\nd\n\nä\n");
    assert_eq!(tail(5), "b\nc1c2\nd\n\nä\n");
    assert_eq!(tail(99), "a\nb\nc1c2\nd\n\nä\n");
}

#[test]
fn since_timestamps_and_limit() {
    let (_directory, path) = log();
    let since: Timestamp = "2026-01-01T00:00:05Z".parse().unwrap();
    let options =
        ReadOptions { since_ms: Some(since.as_millisecond()), timestamps: true, ..ReadOptions::default() };
    assert_eq!(output(&path, options), "2026-01-01T00:00:05.000000000Z \n2026-01-01T00:00:06.000000000Z ä\n");
    let limited = ReadOptions { limit_bytes: Some(5), ..ReadOptions::default() };
    assert_eq!(output(&path, limited), "a\nb\nc");
    let whole = ReadOptions {
        timestamps: true,
        tail_lines: Some(4),
        limit_bytes: Some(36),
        ..ReadOptions::default()
    };
    assert_eq!(output(&path, whole), "2026-01-01T00:00:03.000000000Z c1c2\n", "one time for a line in parts");
}

#[test]
fn following_survives_rotation_and_ends_with_the_writer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("0.log");
    let args = LoggerArgs::of(&path, &Rotation { max_bytes: 20_000, max_files: 1000 }, false);
    let pipe = || nix::unistd::pipe().map(|(r, w)| (File::from(r), File::from(w))).unwrap();
    let ((stdout, mut out), (stderr, err), (wait, ready)) = (pipe(), pipe(), pipe());
    let logger = thread::spawn(move || run_logger(&args, LoggerInput { stdout, stderr, ready }));
    io::Read::read_exact(&mut { wait }, &mut [0]).unwrap();

    let (sender, receiver) = channel();
    let follower = thread::spawn(move || {
        let options = ReadOptions { follow: true, ..ReadOptions::default() };
        read(&path, &options, &mut Collect(sender))
    });
    writeln!(out, "line 0").unwrap();
    // It follows already: the rest is written under its eyes.
    assert_eq!(receiver.recv().unwrap().1, b"line 0\n");
    for i in 1..30_000 {
        writeln!(out, "line {i}").unwrap();
    }
    drop((out, err));
    let expected: String = (1..30_000).map(|i| format!("line {i}\n")).collect();
    assert!(text(&receiver) == expected, "lines are missing or out of order");
    follower.join().unwrap().unwrap();
    logger.join().unwrap().unwrap();
    assert!(rotated(&directory.path().join("0.log")).unwrap().len() >= 2);
}

#[test]
fn a_symbolic_link_is_not_read() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/etc/passwd", directory.path().join("0.log")).unwrap();
    let (sender, _receiver) = channel();
    assert!(read(&directory.path().join("0.log"), &ReadOptions::default(), &mut Collect(sender)).is_err());
}
