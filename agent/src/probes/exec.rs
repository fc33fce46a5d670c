//! A command in a container, with its output and exit code.

use std::{os::fd::OwnedFd, time::Duration};

use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::{
    apply::chain,
    model::ContainerId,
    runtime::{ExecSpec, Runtime, RuntimeError},
};

/// More output than this is cut, as upstream does.
const MAX_OUTPUT: usize = 10 * 1024;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// stdout and stderr.
    pub output: String,
}

/// Why there is no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoOutcome {
    /// It took too long, and was killed.
    TimedOut(String),
    /// It could not be run at all.
    NotRun(String),
}

impl From<NoOutcome> for String {
    fn from(none: NoOutcome) -> Self {
        match none {
            NoOutcome::TimedOut(why) | NoOutcome::NotRun(why) => why,
        }
    }
}

/// Runs it to its end, or kills it when the limit is over.
pub async fn run(
    runtime: &dyn Runtime,
    id: &ContainerId,
    command: &[String],
    limit: Option<Duration>,
) -> Result<Outcome, NoOutcome> {
    let spec = ExecSpec { command: command.to_vec(), tty: false, stdin: false };
    let not_run = |error: RuntimeError| NoOutcome::NotRun(chain(&error));
    let session = runtime.exec(id, &spec).await.map_err(not_run)?;
    let exec = session.id.clone();
    let work = async {
        tokio::join!(drain(Some(session.stdout)), drain(session.stderr), runtime.exec_wait(id, &exec))
    };
    let (stdout, stderr, code) = match limit {
        None => work.await,
        Some(limit) => match tokio::time::timeout(limit, work).await {
            Ok(done) => done,
            Err(_) => {
                // It may have ended in this very moment: then there is nothing to kill.
                let _ = runtime.exec_kill(id, &exec).await;
                let why = format!("command timed out: {command:?} timed out after {limit:?}");
                return Err(NoOutcome::TimedOut(why));
            }
        },
    };
    let mut output = stdout + &stderr;
    output.truncate(output.floor_char_boundary(MAX_OUTPUT));
    Ok(Outcome { code: code.map_err(not_run)?, output })
}

/// Reads to the end; keeps the beginning, so that the process never blocks on a full pipe.
async fn drain(fd: Option<OwnedFd>) -> String {
    let Some(Ok(mut pipe)) = fd.map(pipe::Receiver::from_owned_fd) else { return String::new() };
    let (mut kept, mut buffer) = (Vec::new(), [0_u8; 4096]);
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
