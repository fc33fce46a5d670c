//! SPDY/3.1 as clients of `exec`, `attach` and `port-forward` speak it: many streams of bytes over one connection, all of
//! them opened by the client. There is no kept crate for it; this is the small part that these clients use: no flow
//! control of single streams (their library has none), no pushes, no headers of ours.
//!
//! In: a connection. Out: the streams that the client opens. A stream that is not read holds up the others of its
//! connection, as upstream, instead of filling memory.

mod dictionary;
mod frame;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_util::{
    codec::{FramedRead, FramedWrite},
    sync::CancellationToken,
};

use crate::model::Chain;
use frame::{Frame, FrameError, Incoming, Outgoing};

/// Chunks that wait in each direction.
const BUFFER: usize = 16;
/// Streams that a client may have open at a time.
const MAX_STREAMS: usize = 1024;
/// The status of a stream that is not wanted.
const REFUSED: u32 = 3;

/// A stream that the client opened.
pub(super) struct Stream {
    /// Rises from stream to stream, by two.
    pub(super) id: u32,
    headers: Vec<(String, String)>,
    /// What the client sends; ends when there is no more.
    pub(super) input: mpsc::Receiver<Bytes>,
    /// Set when the client wants no more of it, or is gone.
    pub(super) gone: CancellationToken,
    pub(super) output: Output,
}

impl Stream {
    /// Names are in lower case.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Our side of a stream.
pub(super) struct Output {
    stream: u32,
    frames: mpsc::Sender<Frame>,
    /// Tells the connection that the stream is still held.
    _held: Arc<()>,
}

impl Output {
    /// `false` when the client is gone.
    pub(super) async fn write(&self, bytes: Bytes) -> bool {
        let frame = Frame::Data { stream: self.stream, fin: false, bytes };
        self.frames.send(frame).await.is_ok()
    }

    /// Nothing more will come.
    pub(super) async fn close(self) {
        let frame = Frame::Data { stream: self.stream, fin: true, bytes: Bytes::new() };
        // The client may be gone.
        let _ = self.frames.send(frame).await;
    }

    /// The stream is not wanted.
    pub(super) async fn refuse(self) {
        let _ = self.frames.send(Frame::Reset { stream: self.stream, status: REFUSED }).await;
    }
}

/// Serves a connection for as long as the future is driven: what the client opens comes out of the channel. It ends when
/// the client is gone, or once the channel is dropped and what was written before has been sent.
pub(super) fn serve<R, W>(reader: R, writer: W) -> (mpsc::Receiver<Stream>, impl Future<Output = ()> + Send)
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let (opened, streams) = mpsc::channel(BUFFER);
    let (frames, outgoing) = mpsc::channel(BUFFER);
    let driver = async move {
        let (unwanted, client) = (opened.clone(), Client { open: HashMap::new(), opened, frames });
        let reading = async move {
            // Cancel-safe: whichever ends first ends the reading.
            tokio::select! {
                ended = client.read(FramedRead::new(reader, Incoming::new())) => ended,
                () = unwanted.closed() => Ok(()),
            }
        };
        let writing = write(outgoing, FramedWrite::new(writer, Outgoing::new()));
        let (read, written) = tokio::join!(reading, writing);
        if let Err(error) = read.and(written) {
            tracing::debug!(error = %Chain(&error), "a SPDY connection ended");
        }
    };
    (streams, driver)
}

/// Ends when nobody can write any longer.
async fn write<W: AsyncWrite + Unpin>(
    mut outgoing: mpsc::Receiver<Frame>,
    mut to: FramedWrite<W, Outgoing>,
) -> Result<(), FrameError> {
    while let Some(frame) = outgoing.recv().await {
        to.feed(frame).await?;
        // What is there already goes into the same write.
        while let Ok(frame) = outgoing.try_recv() {
            to.feed(frame).await?;
        }
        to.flush().await?;
    }
    to.close().await
}

/// A stream as the connection knows it.
struct Open {
    input: Option<mpsc::Sender<Bytes>>,
    gone: CancellationToken,
    held: Weak<()>,
}

impl Open {
    /// Whether anybody still has to do with it.
    fn is_over(&self) -> bool {
        self.held.strong_count() == 0 && self.input.as_ref().is_none_or(mpsc::Sender::is_closed)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gone.cancel();
    }
}

struct Client {
    open: HashMap<u32, Open>,
    opened: mpsc::Sender<Stream>,
    frames: mpsc::Sender<Frame>,
}

impl Client {
    async fn read<R: AsyncRead + Unpin>(
        mut self,
        mut from: FramedRead<R, Incoming>,
    ) -> Result<(), FrameError> {
        while let Some(frame) = from.next().await {
            match frame? {
                Frame::Open { stream, fin, headers } => self.take_up(stream, fin, headers).await,
                Frame::Data { stream, fin, bytes } => self.data(stream, fin, bytes).await,
                Frame::Reset { stream, .. } => drop(self.open.remove(&stream)),
                Frame::Ping(id) => self.send(Frame::Ping(id)).await,
                // The client closes when it is done with what it has.
                Frame::GoAway { .. } | Frame::Reply { .. } | Frame::Other => {}
            }
        }
        Ok(())
    }

    /// When the writer has ended, the reader will notice by itself.
    async fn send(&self, frame: Frame) {
        let _ = self.frames.send(frame).await;
    }

    async fn take_up(&mut self, id: u32, fin: bool, headers: Vec<(String, String)>) {
        self.open.retain(|_, open| !open.is_over());
        if self.open.len() >= MAX_STREAMS || self.open.contains_key(&id) {
            return self.send(Frame::Reset { stream: id, status: REFUSED }).await;
        }
        self.send(Frame::Reply { stream: id }).await;
        let (to, input) = mpsc::channel(BUFFER);
        let (gone, held) = (CancellationToken::new(), Arc::new(()));
        let open = Open { input: (!fin).then_some(to), gone: gone.clone(), held: Arc::downgrade(&held) };
        self.open.insert(id, open);
        let output = Output { stream: id, frames: self.frames.clone(), _held: held };
        // Nobody takes it when the connection is ending.
        let _ = self.opened.send(Stream { id, headers, input, gone, output }).await;
    }

    async fn data(&mut self, id: u32, fin: bool, bytes: Bytes) {
        // What comes after the end of a stream is for nobody.
        let Some(open) = self.open.get_mut(&id) else { return };
        if let Some(input) = open.input.as_ref().filter(|_| !bytes.is_empty()) {
            // Waits while the stream is slow.
            let _ = input.send(bytes).await;
        }
        if fin {
            open.input = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let text = text.trim();
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    fn connect() -> (DuplexStream, mpsc::Receiver<Stream>) {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (reader, writer) = tokio::io::split(server);
        let (streams, driver) = serve(reader, writer);
        tokio::spawn(driver);
        (client, streams)
    }

    async fn data(client: &mut DuplexStream, stream: u8, fin: u8, text: &[u8]) {
        let size = u8::try_from(text.len()).unwrap();
        client.write_all(&[0, 0, 0, stream, fin, 0, 0, size]).await.unwrap();
        client.write_all(text).await.unwrap();
    }

    async fn frame(client: &mut DuplexStream) -> (Vec<u8>, Vec<u8>) {
        let mut head = vec![0; 8];
        client.read_exact(&mut head).await.unwrap();
        let mut body = vec![0; usize::from(head[7])];
        client.read_exact(&mut body).await.unwrap();
        (head[..5].to_vec(), body)
    }

    #[tokio::test]
    async fn a_stream_carries_both_ways_and_ends_on_each_side_alone() {
        let (mut client, mut streams) = connect();
        client.write_all(&hex(include_str!("recorded_open.hex"))).await.unwrap();
        let mut stream = streams.recv().await.unwrap();
        assert_eq!((stream.id, stream.header("port"), stream.header("none")), (1, Some("80"), None));
        assert_eq!(frame(&mut client).await.0, b"\x80\x03\0\x02\0");
        data(&mut client, 1, 1, b"ask").await;
        assert_eq!(stream.input.recv().await.unwrap(), "ask");
        assert_eq!(stream.input.recv().await, None);
        assert!(!stream.gone.is_cancelled());
        assert!(stream.output.write("answer".into()).await);
        stream.output.close().await;
        assert_eq!(frame(&mut client).await, (b"\0\0\0\x01\0".to_vec(), b"answer".to_vec()));
        assert_eq!(frame(&mut client).await, (b"\0\0\0\x01\x01".to_vec(), Vec::new()));
        drop(streams);
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection ends with its streams");
    }

    #[tokio::test]
    async fn pings_are_answered_and_resets_are_told() {
        let (mut client, mut streams) = connect();
        client.write_all(&hex(include_str!("recorded_open.hex"))).await.unwrap();
        let mut stream = streams.recv().await.unwrap();
        client.write_all(b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x09").await.unwrap();
        frame(&mut client).await;
        assert_eq!(frame(&mut client).await, (b"\x80\x03\0\x06\0".to_vec(), b"\0\0\0\x09".to_vec()));
        client.write_all(b"\x80\x03\0\x03\0\0\0\x08\0\0\0\x01\0\0\0\x05").await.unwrap();
        stream.gone.cancelled().await;
        assert_eq!(stream.input.recv().await, None);
    }

    #[tokio::test]
    async fn who_hangs_up_takes_all_streams_along() {
        let (mut client, mut streams) = connect();
        client.write_all(&hex(include_str!("recorded_open.hex"))).await.unwrap();
        let stream = streams.recv().await.unwrap();
        drop(client);
        stream.gone.cancelled().await;
        assert!(streams.recv().await.is_none());
    }
}
