//! exec, attach, logs and port-forward: what the scheduler asks for and what flows.

use bytes::Bytes;

use super::{ContainerName, PodUid};

/// What a stream is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamRequest {
    /// A process in a container, or its own process (attach).
    Exec(ExecRequest),
    /// A container's log.
    Logs(LogsRequest),
    /// A TCP connection into a pod.
    PortForward(PortForwardRequest),
    /// A connection of the API's proxies.
    Dial(DialTarget),
}

/// exec and attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecRequest {
    /// Pod.
    pub pod: PodUid,
    /// Container.
    pub container: ContainerName,
    /// Argument vector; empty with attach.
    pub command: Vec<String>,
    /// The client sends stdin.
    pub stdin: bool,
    /// The client wants stdout.
    pub stdout: bool,
    /// The client wants stderr.
    pub stderr: bool,
    /// Through a terminal.
    pub tty: bool,
    /// Connect to the container's own process.
    pub attach: bool,
}

/// `kubectl logs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogsRequest {
    /// Pod.
    pub pod: PodUid,
    /// Container.
    pub container: ContainerName,
    /// Go on with what is written later.
    pub follow: bool,
    /// The attempt before the latest.
    pub previous: bool,
    /// An RFC 3339 time before each line.
    pub timestamps: bool,
    /// Nothing older (Unix milliseconds).
    pub since_ms: Option<i64>,
    /// The last so many lines.
    pub tail_lines: Option<i64>,
    /// At most so many bytes.
    pub limit_bytes: Option<i64>,
}

/// `kubectl port-forward`, one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortForwardRequest {
    /// Pod.
    pub pod: PodUid,
    /// Port inside of it.
    pub port: u16,
}

/// Where the API's proxies want to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialTarget {
    /// A pod's address.
    Pod(PortForwardRequest),
    /// A port of the node.
    Node(u16),
    /// The agent's own answers over HTTP.
    Agent,
}

/// From the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamInput {
    /// Bytes for stdin or the forwarded connection.
    Stdin(Bytes),
    /// No more of them.
    StdinClosed,
    /// The terminal's new size.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

/// To the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamOutput {
    /// stdout, log bytes or the forwarded connection.
    Stdout(Bytes),
    /// stderr
    Stderr(Bytes),
}

/// How a stream ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamEnd {
    /// Of the process; `None` for logs, port-forward and what never ran.
    pub exit_code: Option<i32>,
    /// What went wrong, for the user; `None` when all went well.
    pub error: Option<String>,
}

/// Why a stream will not be: an HTTP status and the text that kubectl prints.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StreamRefusal {
    /// 400, 404, 500, 503.
    pub code: u16,
    /// For the user.
    pub message: String,
}
