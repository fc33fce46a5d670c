//! A command in a container, with its output and exit code.

use std::{os::fd::OwnedFd, pin::pin, time::Duration};

use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::{
    model::{ContainerId, chain},
    runtime::{ExecSpec, Runtime, RuntimeError},
};

/// More output than this is cut, as upstream does.
const MAX_OUTPUT: usize = 10 * 1024;

/// How long output is waited for that something else still holds open when the command has ended.
const DRAIN: Duration = Duration::from_millis(500);

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

/// What becomes of the processes that a command leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Children {
    /// They end with it: a probe comes again, and its children would pile up.
    End,
    /// They stay: a hook may start something.
    Stay,
}

/// Runs it to its end, or kills it when the limit is over.
pub async fn run(
    runtime: &dyn Runtime,
    id: &ContainerId,
    command: &[String],
    limit: Option<Duration>,
    children: Children,
) -> Result<Outcome, NoOutcome> {
    let group = children == Children::End;
    let spec = ExecSpec { command: command.to_vec(), group, ..ExecSpec::default() };
    let not_run = |error: RuntimeError| NoOutcome::NotRun(chain(&error));
    let session = runtime.exec(id, &spec).await.map_err(not_run)?;
    let exec = session.id.clone();
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let work = async {
        let both = async {
            tokio::join!(drain(Some(session.stdout), &mut output), drain(session.stderr, &mut errors))
        };
        let mut reading = pin!(both);
        let mut waiting = pin!(runtime.exec_wait(id, &exec));
        // Cancel-safe: both go on where they were.
        let ended = tokio::select! {
            code = &mut waiting => Some(code),
            _ = &mut reading => None,
        };
        match ended {
            Some(code) => {
                // What children still hold open is theirs.
                let _ = tokio::time::timeout(DRAIN, reading).await;
                code
            }
            None => waiting.await,
        }
    };
    let code = match limit {
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
    output.extend(errors);
    let mut output = String::from_utf8_lossy(&output).into_owned();
    output.truncate(output.floor_char_boundary(MAX_OUTPUT));
    Ok(Outcome { code: code.map_err(not_run)?, output })
}

/// Reads to the end; keeps the beginning, so that the process never blocks on a full pipe.
async fn drain(fd: Option<OwnedFd>, kept: &mut Vec<u8>) {
    let Some(Ok(mut pipe)) = fd.map(pipe::Receiver::from_owned_fd) else { return };
    let mut buffer = [0_u8; 4096];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = MAX_OUTPUT.saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}
