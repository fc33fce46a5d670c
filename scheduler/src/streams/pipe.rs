//! An agent's stream as a connection: for what expects to read and write bytes (HTTP, TLS). Back-pressure goes through
//! both ways: nothing is kept but the frame that is being read.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use gantry_proto::node::v1::{self as pb, stream_frame::Kind};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::mpsc,
};
use tokio_util::sync::PollSender;

use super::NodeStream;

/// The largest frame that is made of one write.
const FRAME: usize = 32 << 10;

/// See the module.
pub(crate) struct Pipe {
    frames: mpsc::Receiver<pb::StreamFrame>,
    agent: PollSender<pb::StreamFrame>,
    rest: Bytes,
    ended: bool,
    shut: bool,
}

impl From<NodeStream> for Pipe {
    fn from(stream: NodeStream) -> Self {
        let NodeStream { from_agent, to_agent } = stream;
        let agent = PollSender::new(to_agent);
        Self { frames: from_agent, agent, rest: Bytes::new(), ended: false, shut: false }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() && !self.ended {
            let frame = ready!(self.frames.poll_recv(cx));
            match frame.map(|frame| frame.kind) {
                Some(Some(Kind::Stdout(bytes))) => self.rest = bytes,
                Some(Some(Kind::End(end))) => {
                    self.ended = true;
                    if !end.error.is_empty() {
                        return Poll::Ready(Err(io::Error::other(end.error)));
                    }
                }
                Some(_) => {}
                None => {
                    self.ended = true;
                    let lost = "the node's connection broke";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, lost)));
                }
            }
        }
        let take = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..take]);
        self.rest.advance(take);
        Poll::Ready(Ok(()))
    }
}

impl Pipe {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        kind: impl FnOnce() -> Kind,
    ) -> Poll<Result<(), io::Error>> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        ready!(self.agent.poll_reserve(cx)).map_err(gone)?;
        Poll::Ready(self.agent.send_item(pb::StreamFrame { kind: Some(kind()) }).map_err(gone))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = &bytes[..bytes.len().min(FRAME)];
        let frame = || Kind::Stdin(Bytes::copy_from_slice(bytes));
        self.poll_frame(cx, frame).map_ok(|()| bytes.len())
    }

    /// A frame is on its way once it is sent.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shut {
            ready!(self.poll_frame(cx, || Kind::StdinClosed(true)))?;
            self.shut = true;
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn pipe() -> (Pipe, mpsc::Sender<pb::StreamFrame>, mpsc::Receiver<pb::StreamFrame>) {
        let ((to_pipe, from_agent), (to_agent, from_pipe)) = (mpsc::channel(8), mpsc::channel(8));
        (Pipe::from(NodeStream { from_agent, to_agent }), to_pipe, from_pipe)
    }

    async fn send(to: &mpsc::Sender<pb::StreamFrame>, kind: Kind) {
        to.send(pb::StreamFrame { kind: Some(kind) }).await.unwrap();
    }

    #[tokio::test]
    async fn frames_are_bytes_and_the_agents_word_is_the_end() {
        let (mut pipe, agent, mut sent) = pipe();
        pipe.write_all(b"ask").await.unwrap();
        pipe.shutdown().await.unwrap();
        assert_eq!(sent.recv().await.unwrap().kind, Some(Kind::Stdin("ask".into())));
        assert_eq!(sent.recv().await.unwrap().kind, Some(Kind::StdinClosed(true)));
        send(&agent, Kind::Stdout("ans".into())).await;
        send(&agent, Kind::Stdout("wer".into())).await;
        send(&agent, Kind::End(pb::StreamEnd::default())).await;
        let mut text = String::new();
        pipe.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "answer");
    }

    #[tokio::test]
    async fn a_broken_stream_is_no_end() {
        let (mut broken, agent, _sent) = pipe();
        drop(agent);
        assert_eq!(broken.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let (mut failed, agent, sent) = pipe();
        send(&agent, Kind::End(pb::StreamEnd { exit_code: None, error: "reset".into() })).await;
        assert_eq!(failed.read_u8().await.unwrap_err().to_string(), "reset");
        drop(sent);
        assert_eq!(failed.write_u8(1).await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
