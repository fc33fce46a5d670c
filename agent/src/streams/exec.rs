//! `kubectl exec` and `kubectl attach`: a process's pipes on one side, the client's channel on the other.

use std::{os::fd::OwnedFd, path::PathBuf, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
    sync::mpsc,
    task::JoinSet,
};

use super::{chain, failed, logs};
use crate::{
    control::StreamChannel,
    logs::ReadOptions,
    model::{ContainerId, ExecRequest, ObservedContainer, StreamEnd, StreamInput, StreamOutput},
    runtime::{ExecSpec, LOG_LABEL, Runtime, RuntimeError, STDIN_ONCE},
};

const BUFFER: usize = 32 << 10;

/// A process that left children with its output open keeps the stream so long after its own end.
const DRAIN: Duration = Duration::from_secs(10);

/// Runs a command to its end, or until the client leaves: then it is killed.
pub(super) async fn run(
    runtime: Arc<dyn Runtime>,
    id: ContainerId,
    request: ExecRequest,
    channel: StreamChannel,
) -> StreamEnd {
    let spec = ExecSpec {
        command: request.command.clone(),
        tty: request.tty,
        stdin: request.stdin,
        ..ExecSpec::default()
    };
    let session = match runtime.exec(&id, &spec).await {
        Ok(session) => session,
        Err(error) => return failed(start_text(&error)),
    };
    let mut outputs = JoinSet::new();
    let wrap = |stderr: bool| {
        move |bytes| if stderr { StreamOutput::Stderr(bytes) } else { StreamOutput::Stdout(bytes) }
    };
    let stdout = request.stdout.then(|| channel.output.clone());
    outputs.spawn(pump(session.stdout, stdout, wrap(false)));
    if let Some(stderr) = session.stderr {
        outputs.spawn(pump(stderr, request.stderr.then(|| channel.output.clone()), wrap(true)));
    }
    let target = Target { runtime: runtime.clone(), id: id.clone(), exec: session.id.clone() };
    // Cancel safety: waiting again answers the same; the other arms end the loop.
    let ended = tokio::select! {
        code = runtime.exec_wait(&id, &session.id) => Some(code),
        () = feed(channel.input, session.stdin, &target) => None,
        () = channel.output.closed() => None,
    };
    match ended {
        Some(Ok(code)) => {
            let drained = async { while outputs.join_next().await.is_some() {} };
            // What children still hold open is theirs.
            let _ = tokio::time::timeout(DRAIN, drained).await;
            StreamEnd { exit_code: Some(code), error: None }
        }
        Some(Err(error)) => failed(chain(&error)),
        None => {
            if let Err(error) = runtime.exec_kill(&id, &session.id).await {
                tracing::warn!(container = %id, error = %chain(&error), "cannot end a process whose client has gone");
            }
            failed("the client has gone".into())
        }
    }
}

/// Output of the container's own process from now on, and its input when it has one.
pub(super) async fn attach(
    runtime: Arc<dyn Runtime>,
    container: ObservedContainer,
    request: ExecRequest,
    channel: StreamChannel,
) -> StreamEnd {
    let id = container.id.clone();
    let Some(path) = container.labels.get(LOG_LABEL).map(PathBuf::from) else {
        return failed("the container's log is not on record".into());
    };
    let unreadable = |error| failed(format!("cannot read the container's output: {error}"));
    let options = ReadOptions { follow: true, tail_lines: Some(0), ..ReadOptions::default() };
    // Before the first input: no answer to it is missed.
    let log = match logs::open(path, options).await {
        Ok(log) => log,
        Err(error) => return unreadable(error),
    };
    let stdin = match request.stdin {
        true => match runtime.attach_stdin(&id, container.labels.contains_key(STDIN_ONCE)).await {
            Ok(stdin) => stdin,
            Err(error) => return failed(chain(&error)),
        },
        false => None,
    };
    let stderr = Some(request.stderr && !request.tty);
    let sink = logs::ChannelSink { output: channel.output.clone(), stderr };
    let target = Target { runtime: runtime.clone(), id: id.clone(), exec: String::new() };
    // Cancel safety: the reading thread ends by itself once the channel is closed.
    let ended = tokio::select! {
        result = logs::follow(log, sink) => result,
        () = feed(channel.input, stdin, &target) => return failed("the client has gone".into()),
    };
    if let Err(error) = ended {
        return unreadable(error);
    }
    // The container's own end is its status' to tell: to the client it is no failure of attaching.
    StreamEnd { exit_code: Some(0), error: None }
}

/// The process that input and sizes go to; the container's own when `exec` is empty.
struct Target {
    runtime: Arc<dyn Runtime>,
    id: ContainerId,
    exec: String,
}

/// Gives the client's input to the process, until the client leaves.
async fn feed(mut input: mpsc::Receiver<StreamInput>, stdin: Option<OwnedFd>, target: &Target) {
    let mut stdin = stdin.and_then(|fd| pipe::Sender::from_owned_fd(fd).ok());
    while let Some(message) = input.recv().await {
        match message {
            StreamInput::Stdin(bytes) => {
                if let Some(pipe) = &mut stdin
                    && pipe.write_all(&bytes).await.is_err()
                {
                    // The process does not read any more: as with a closed pipe in a shell.
                    stdin = None;
                }
            }
            StreamInput::StdinClosed => stdin = None,
            StreamInput::Resize { width, height } => {
                let resized = target.runtime.exec_resize(&target.id, &target.exec, width, height).await;
                if let Err(error) = resized {
                    tracing::debug!(container = %target.id, error = %chain(&error), "cannot resize a terminal");
                }
            }
        }
    }
}

/// Moves output until its end. Without a taker it is read all the same: a full pipe would stop the process.
async fn pump(
    fd: OwnedFd,
    to: Option<mpsc::Sender<StreamOutput>>,
    wrap: impl Fn(Bytes) -> StreamOutput + Send,
) {
    let Ok(mut from) = pipe::Receiver::from_owned_fd(fd) else { return };
    let mut buffer = BytesMut::with_capacity(BUFFER);
    while let Ok(read) = from.read_buf(&mut buffer).await
        && read > 0
    {
        let bytes = buffer.split().freeze();
        if let Some(to) = &to
            && to.send(wrap(bytes)).await.is_err()
        {
            return;
        }
        buffer.reserve(BUFFER);
    }
}

fn start_text(error: &RuntimeError) -> String {
    match error {
        RuntimeError::Start { message } => format!("error executing command in container: {message}"),
        other => chain(other),
    }
}
