//! exec and attach over SPDY, as executors of older clients speak it: a stream for each of stdin, stdout, stderr, errors
//! and the sizes of a terminal, all opened by the client. The command runs once they are all there.

use std::time::Duration;

use bytes::Bytes;
use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

use super::{
    command::{deliver, error_channel_text, lost, resize},
    spdy::{self, Output, Stream},
};
use crate::streams::NodeStream;

/// The client's first that we know: all clients of the last ten years know the first of ours.
pub(super) const PROTOCOLS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
/// How long the client may take to open its streams.
const CREATION: Duration = Duration::from_secs(30);

/// The channels of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    tty: bool,
}

impl Wanted {
    pub(super) fn of(exec: &pb::Exec) -> Self {
        Self { stdin: exec.stdin, stdout: exec.stdout, stderr: exec.stderr, tty: exec.tty }
    }
}

/// The streams that came so far.
#[derive(Default)]
struct Channels {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

impl Channels {
    /// The stream when it is none of ours, or a second one.
    fn take(&mut self, stream: Stream) -> Option<Stream> {
        let place = match stream.header("streamtype") {
            Some("stdin") => &mut self.stdin,
            Some("stdout") => &mut self.stdout,
            Some("stderr") => &mut self.stderr,
            Some("error") => &mut self.error,
            Some("resize") => &mut self.resize,
            _ => return Some(stream),
        };
        if place.is_some() {
            return Some(stream);
        }
        *place = Some(stream);
        None
    }

    fn are_all(&self, wanted: Wanted, resizes: bool) -> bool {
        let there = |wanted: bool, stream: &Option<Stream>| !wanted || stream.is_some();
        self.error.is_some()
            && there(wanted.stdin, &self.stdin)
            && there(wanted.stdout, &self.stdout)
            && there(wanted.stderr, &self.stderr)
            && there(wanted.tty && resizes, &self.resize)
    }
}

/// Carries between the client's streams and the agent's until the command has ended or the client is gone.
pub(super) async fn run(
    reader: impl AsyncRead + Unpin + Send,
    writer: impl AsyncWrite + Unpin + Send,
    stream: NodeStream,
    wanted: Wanted,
    protocol: &'static str,
) {
    let (mut streams, driver) = spdy::serve(reader, writer);
    let (numbered, resizes) =
        (protocol == PROTOCOLS[0], matches!(protocol, "v4.channel.k8s.io" | "v3.channel.k8s.io"));
    let command = async move {
        let opening = async {
            let mut channels = Channels::default();
            while !channels.are_all(wanted, resizes) {
                if let Some(unwanted) = channels.take(streams.recv().await?) {
                    unwanted.output.refuse().await;
                }
            }
            Some(channels)
        };
        if let Ok(Some(channels)) = tokio::time::timeout(CREATION, opening).await {
            carry(channels, stream, numbered).await;
        }
        // Held until now: with the channel the connection ends.
        drop(streams);
    };
    tokio::join!(driver, command);
}

async fn carry(channels: Channels, stream: NodeStream, as_status: bool) {
    let NodeStream { mut from_agent, to_agent } = stream;
    let Some(error) = channels.error else { return };
    let (stdin, resizes) = (input(channels.stdin), input(channels.resize));
    let (stdout, stderr) = (channels.stdout.map(|s| s.output), channels.stderr.map(|s| s.output));
    // Cancel-safe: the command's end, or the client's, ends all.
    let end = tokio::select! {
        end = outputs(&mut from_agent, stdout.as_ref(), stderr.as_ref()) => end,
        () = inputs(stdin, resizes, &to_agent) => return,
        () = error.gone.cancelled() => return,
    };
    if let Some(last) = error_channel_text(&end, as_status) {
        error.output.write(last.into()).await;
    }
    for output in [stdout, stderr, Some(error.output)].into_iter().flatten() {
        output.close().await;
    }
}

fn input(stream: Option<Stream>) -> mpsc::Receiver<Bytes> {
    // Without a stream it ends at once.
    stream.map_or_else(|| mpsc::channel(1).1, |stream| stream.input)
}

/// What the command writes, until its end.
async fn outputs(
    frames: &mut mpsc::Receiver<pb::StreamFrame>,
    stdout: Option<&Output>,
    stderr: Option<&Output>,
) -> pb::StreamEnd {
    loop {
        let (output, bytes) = match frames.recv().await.and_then(|frame| frame.kind) {
            Some(Kind::Stdout(bytes)) => (stdout, bytes),
            Some(Kind::Stderr(bytes)) => (stderr, bytes),
            Some(Kind::End(end)) => return end,
            Some(_) => continue,
            None => return lost(),
        };
        // The end of the client is noticed elsewhere.
        if let Some(output) = output {
            output.write(bytes).await;
        }
    }
}

/// What the client sends. Never ends: the command may go on after its input.
async fn inputs(
    mut stdin: mpsc::Receiver<Bytes>,
    mut sizes: mpsc::Receiver<Bytes>,
    agent: &mpsc::Sender<pb::StreamFrame>,
) {
    let typed = async {
        while let Some(bytes) = stdin.recv().await {
            if !deliver(Some(Kind::Stdin(bytes)), agent).await {
                return;
            }
        }
        deliver(Some(Kind::StdinClosed(true)), agent).await;
    };
    let sized = async {
        while let Some(bytes) = sizes.recv().await {
            deliver(resize(&bytes), agent).await;
        }
    };
    tokio::join!(typed, sized);
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let text = text.trim();
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// The frames of a Go client that opens error (1), stdin (3) and stdout (5).
    #[tokio::test]
    async fn a_command_runs_over_the_streams_of_an_old_executor() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let ((to_client, from_agent), (to_agent, mut from_client)) = (mpsc::channel(8), mpsc::channel(8));
        let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
        let (reader, writer) = tokio::io::split(server);
        let stream = NodeStream { from_agent, to_agent };
        tokio::spawn(run(reader, writer, stream, wanted, PROTOCOLS[0]));
        client.write_all(&hex(include_str!("spdy/recorded_exec.hex"))).await.unwrap();
        client.write_all(b"\0\0\0\x03\x01\0\0\x02in").await.unwrap();
        let mut kind = async || from_client.recv().await.unwrap().kind;
        assert_eq!(kind().await, Some(Kind::Stdin("in".into())));
        assert_eq!(kind().await, Some(Kind::StdinClosed(true)));
        for kind in [
            Kind::Stdout("out".into()),
            Kind::End(pb::StreamEnd { exit_code: Some(3), error: String::new() }),
        ] {
            to_client.send(pb::StreamFrame { kind: Some(kind) }).await.unwrap();
        }
        let mut all = Vec::new();
        client.read_to_end(&mut all).await.unwrap();
        let text = String::from_utf8_lossy(&all);
        assert!(text.contains("\0\0\0\u{5}\0\0\0\u{3}out"), "{text:?}");
        assert!(text.contains("NonZeroExitCode") && text.ends_with("\0\0\0\u{1}\u{1}\0\0\0"), "{text:?}");
    }
}
