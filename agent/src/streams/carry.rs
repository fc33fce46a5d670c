//! Bytes between a connection and the client's channel, with back-pressure both ways. Knows nothing of what they mean.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::failed;
use crate::{
    control::StreamChannel,
    model::{StreamEnd, StreamInput, StreamOutput},
};

const BUFFER: usize = 32 << 10;

/// Copies until the connection has ended or the client has gone.
pub(super) async fn carry(
    stream: impl AsyncRead + AsyncWrite + Send,
    mut channel: StreamChannel,
) -> StreamEnd {
    let (mut from, mut to) = tokio::io::split(stream);
    let output = channel.output;
    let down = async {
        let mut buffer = BytesMut::with_capacity(BUFFER);
        while from.read_buf(&mut buffer).await? > 0 {
            if output.send(StreamOutput::Stdout(buffer.split().freeze())).await.is_err() {
                break;
            }
            buffer.reserve(BUFFER);
        }
        io::Result::Ok(())
    };
    let up = async {
        let mut open = true;
        while let Some(message) = channel.input.recv().await {
            let written = match message {
                StreamInput::Stdin(bytes) if open => to.write_all(&bytes).await,
                // Half a close: the answer may still be coming.
                StreamInput::StdinClosed if open => {
                    open = false;
                    to.shutdown().await
                }
                StreamInput::Stdin(_) | StreamInput::StdinClosed | StreamInput::Resize { .. } => Ok(()),
            };
            // Who reads no more may have answered: the other direction tells how it ends.
            open &= written.is_ok();
        }
    };
    // Cancel safety: whichever ends first ends the connection.
    let ended = tokio::select! { result = down => result, () = up => Ok(()) };
    match ended {
        Ok(()) => StreamEnd::default(),
        Err(error) => failed(error.to_string()),
    }
}
