//! Output of containers with `stdin: true` and no terminal. The shim's log drivers carry output only: with one, such a
//! container's input would be `/dev/null`. So it gets FIFOs for all three streams, and a logger that the agent starts
//! and lets go: it outlives the agent as the others do, and ends with the container, when the shim closes its ends.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::sys::stat::Mode;
use tokio::{
    io::AsyncReadExt,
    process::{Child, Command},
    time::timeout,
};

use super::RuntimeError;
use crate::logs::LoggerArgs;

/// A logger is a small program that only opens three files.
const READY: Duration = Duration::from_secs(10);

/// Both FIFOs, with a logger that reads them. Dropped: the logger too is gone, unless it was let go.
pub(super) struct Piped {
    stdout: PathBuf,
    stderr: PathBuf,
    /// While the shim opens its ends somebody reads, whatever becomes of the logger.
    _readers: [File; 2],
    logger: Option<Child>,
}

impl Piped {
    /// Makes the FIFOs, named after `stem`, and starts the program `logger`; returns when it reads.
    pub(super) async fn open(stem: &Path, logger: &Path, args: LoggerArgs) -> Result<Self, RuntimeError> {
        let (stdout, stderr) = (stem.with_added_extension("out"), stem.with_added_extension("err"));
        let readers = [reader(&stdout)?, reader(&stderr)?];
        let args = LoggerArgs { stdout: Some(stdout.clone()), stderr: Some(stderr.clone()), ..args };
        let failed = |source| RuntimeError::Io { operation: "start", path: logger.to_owned(), source };
        let mut child = Command::new(logger)
            .args(args.to_words())
            // Nothing of the agent's: it has the notification socket of systemd in its environment.
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A signal to the agent's group from a terminal is not for it.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let ready = child.stdout.take();
        let piped = Self { stdout, stderr, _readers: readers, logger: Some(child) };
        let said = async {
            match ready {
                Some(mut ready) => ready.read_u8().await,
                None => Err(io::ErrorKind::BrokenPipe.into()),
            }
        };
        let not_ready =
            |_| io::Error::other("it is not ready to read: is it of the same version as the agent?");
        timeout(READY, said)
            .await
            .unwrap_or_else(|late| Err(late.into()))
            .map_err(not_ready)
            .map_err(failed)?;
        Ok(piped)
    }

    /// The shim's arguments.
    pub(super) fn paths(&self) -> [String; 2] {
        [&self.stdout, &self.stderr].map(|path| path.to_string_lossy().into_owned())
    }

    /// The shim has its ends: the logger is on its own from now on.
    pub(super) fn let_go(mut self) {
        // tokio waits for children that were dropped.
        self.logger = None;
    }
}

impl Drop for Piped {
    fn drop(&mut self) {
        if let Some(logger) = &mut self.logger {
            // It has ended by itself: as good.
            let _ = logger.start_kill();
        }
        for path in [&self.stdout, &self.stderr] {
            // Whoever needs it has it open; one that stays is removed by the next attempt of this name.
            let _ = fs::remove_file(path);
        }
    }
}

fn reader(path: &Path) -> Result<File, RuntimeError> {
    let failed = |operation| move |source| RuntimeError::Io { operation, path: path.to_owned(), source };
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove")(error)),
        _ => {}
    }
    nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)
        .map_err(|error| failed("make the pipe")(error.into()))?;
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed("open the pipe"))
}
