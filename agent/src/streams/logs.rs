//! `kubectl logs`: a thread that reads the log, and the channel it reads for.

use std::{io, path::PathBuf};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::sync::mpsc;

use super::{failed, refusal};
use crate::{
    control::StreamChannel,
    logs::{LogSink, OpenLog, ReadOptions, Stream},
    model::{ContainerState, LogsRequest, ObservedContainer, StreamEnd, StreamOutput, StreamRefusal},
    plan,
    runtime::LOG_LABEL,
};

/// The attempt that the request means, as upstream: without `previous` the latest that has run, with it the one that
/// the reported status calls the last. While a crashed container waits for its restart both are the same.
pub(super) fn choose(
    mut attempts: Vec<ObservedContainer>,
    request: &LogsRequest,
    status: Option<&PodStatus>,
) -> Result<PathBuf, StreamRefusal> {
    let container = request.container.as_str();
    let chosen = if request.previous {
        let before = match status.and_then(|status| status_of(status, container)) {
            Some(reported) => last_ended(reported, &attempts),
            None => attempts.len().checked_sub(2),
        };
        before
            .map(|index| attempts.swap_remove(index))
            .ok_or_else(|| refusal(400, format!("previous terminated container {container:?} not found")))?
    } else {
        if attempts.last().is_some_and(|latest| latest.state == ContainerState::Created) && attempts.len() > 1
        {
            // The next attempt has nothing to say yet.
            attempts.pop();
        }
        attempts.pop().ok_or_else(|| {
            refusal(400, format!("container {container:?} is waiting to start: ContainerCreating"))
        })?
    };
    let path = chosen.labels.get(LOG_LABEL).map(PathBuf::from);
    path.ok_or_else(|| refusal(500, format!("the log of container {container:?} is not on record")))
}

fn status_of<'a>(status: &'a PodStatus, container: &str) -> Option<&'a ContainerStatus> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.into_iter().find(|status| status.name == container)
}

/// Where the attempt is that `lastState` tells the end of.
fn last_ended(reported: &ContainerStatus, attempts: &[ObservedContainer]) -> Option<usize> {
    let id = reported.last_state.as_ref()?.terminated.as_ref()?.container_id.as_deref()?;
    attempts.iter().position(|attempt| plan::container_id(&attempt.id) == id)
}

pub(super) async fn run(path: PathBuf, request: LogsRequest, channel: StreamChannel) -> StreamEnd {
    let unsigned = |n: Option<i64>| n.map(|n| u64::try_from(n).unwrap_or(0));
    let options = ReadOptions {
        follow: request.follow,
        timestamps: request.timestamps,
        since_ms: request.since_ms,
        tail_lines: unsigned(request.tail_lines),
        limit_bytes: unsigned(request.limit_bytes),
    };
    let sink = ChannelSink { output: channel.output, stderr: None };
    match read(path, options, sink).await {
        Ok(()) => StreamEnd::default(),
        Err(error) => failed(format!("cannot read the log: {error}")),
    }
}

async fn read(path: PathBuf, options: ReadOptions, sink: ChannelSink) -> io::Result<()> {
    follow(open(path, options).await?, sink).await
}

/// Finds the place to begin with, on a thread that may wait for the disk.
pub(super) async fn open(path: PathBuf, options: ReadOptions) -> io::Result<OpenLog> {
    tokio::task::spawn_blocking(move || OpenLog::open(&path, &options)).await.map_err(io::Error::other)?
}

/// Reads on a thread of its own: a follower waits for hours, and the pool's threads are for short work.
pub(super) async fn follow(log: OpenLog, mut sink: ChannelSink) -> io::Result<()> {
    let (done, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("log-reader".into()).spawn(move || {
        // Nobody waits for the result when the client has gone.
        let _ = done.send(log.read(&mut sink));
    })?;
    result.await.map_err(|_| io::Error::other("the reading thread ended without a result"))?
}

/// Waits while the client is slow.
pub(super) struct ChannelSink {
    pub(super) output: mpsc::Sender<StreamOutput>,
    /// Whether the client takes the streams apart, and then standard error at all. `None`: `kubectl logs` has one body
    /// for both.
    pub(super) stderr: Option<bool>,
}

impl LogSink for ChannelSink {
    fn write(&mut self, stream: Stream, bytes: &[u8]) -> bool {
        let bytes = Bytes::copy_from_slice(bytes);
        let output = match (stream, self.stderr) {
            (Stream::Stdout, _) | (_, None) => StreamOutput::Stdout(bytes),
            (Stream::Stderr, Some(true)) => StreamOutput::Stderr(bytes),
            (Stream::Stderr, Some(false)) => return true,
        };
        self.output.blocking_send(output).is_ok()
    }

    fn is_gone(&self) -> bool {
        self.output.is_closed()
    }
}
