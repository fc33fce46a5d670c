//! Frames of SPDY/3.1, as far as streams of bytes need them: bytes into frames and back. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio_util::codec::{Decoder, Encoder};

use super::dictionary::dictionary;

const HEAD: usize = 8;
const CONTROL: u32 = 1 << 31;
const VERSION: u16 = 3;
const FIN: u8 = 1;
/// The largest control frame, packed and unpacked: what is asked for is a handful of short headers.
const MAX_CONTROL: usize = 64 << 10;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// The client opens a stream.
    Open { stream: u32, fin: bool, headers: Vec<(String, String)> },
    /// A stream was taken up.
    Reply { stream: u32 },
    /// Bytes; `fin` says that there are no more.
    Data { stream: u32, fin: bool, bytes: Bytes },
    /// A stream is over at once.
    Reset { stream: u32, status: u32 },
    /// Answered with the same.
    Ping(u32),
    /// No new streams.
    GoAway { last: u32 },
    /// Means nothing here: settings, windows (which these clients do not keep), more headers.
    Other,
}

/// What cannot be understood ends the connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    #[error("version {0} of SPDY is not spoken")]
    Version(u16),
    #[error("a control frame of {0} bytes is too large")]
    TooLarge(usize),
    #[error("a control frame is too short")]
    TooShort,
    #[error("headers cannot be unpacked")]
    Headers,
}

/// Of what the client sends.
pub(super) struct Incoming {
    headers: Unpacker,
    /// A data frame whose rest is still to come: stream, end, bytes. It is passed on as it comes.
    open: Option<(u32, bool, usize)>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self { headers: Unpacker::new(), open: None }
    }

    fn data(&mut self, source: &mut BytesMut) -> Option<Frame> {
        let (stream, fin, left) = self.open?;
        if source.is_empty() && left > 0 {
            return None;
        }
        let bytes = source.split_to(left.min(source.len())).freeze();
        let left = left - bytes.len();
        self.open = (left > 0).then_some((stream, fin, left));
        Some(Frame::Data { stream, fin: fin && left == 0, bytes })
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let number = |body: &mut Bytes| body.try_get_u32().map_err(|_| FrameError::TooShort);
        Ok(match kind {
            SYN_STREAM => {
                let stream = number(&mut body)? & !CONTROL;
                // The stream it belongs to, and priority.
                if body.len() < 6 {
                    return Err(FrameError::TooShort);
                }
                body.advance(6);
                Frame::Open { stream, fin: flags & FIN != 0, headers: self.headers.unpack(&body)? }
            }
            RST_STREAM => Frame::Reset { stream: number(&mut body)? & !CONTROL, status: number(&mut body)? },
            PING => Frame::Ping(number(&mut body)?),
            GOAWAY => Frame::GoAway { last: number(&mut body)? & !CONTROL },
            _ => Frame::Other,
        })
    }
}

impl Decoder for Incoming {
    type Item = Frame;
    type Error = FrameError;

    fn decode(&mut self, source: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if self.open.is_some() {
            return Ok(self.data(source));
        }
        let Some(mut head) = source.get(..HEAD) else { return Ok(None) };
        let (first, second) = (head.get_u32(), head.get_u32());
        let [flags, sizes @ ..] = second.to_be_bytes();
        let size = u32::from_be_bytes([0, sizes[0], sizes[1], sizes[2]]) as usize;
        if first & CONTROL == 0 {
            source.advance(HEAD);
            self.open = Some((first, flags & FIN != 0, size));
            return Ok(self.data(source));
        }
        let [high, low, kind @ ..] = first.to_be_bytes();
        let version = u16::from_be_bytes([high & 0x7f, low]);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if size > MAX_CONTROL {
            return Err(FrameError::TooLarge(size));
        }
        if source.len() < HEAD + size {
            return Ok(None);
        }
        source.advance(HEAD);
        let body = source.split_to(size).freeze();
        self.control(u16::from_be_bytes(kind), flags, body).map(Some)
    }
}

/// Of what the client gets.
pub(super) struct Outgoing {
    headers: Compress,
}

impl Outgoing {
    pub(super) fn new() -> Self {
        // Without the dictionary: we have no headers to tell, and who unpacks sees by a flag whether it was used.
        Self { headers: Compress::new(Compression::fast(), true) }
    }

    fn no_headers(&mut self) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::with_capacity(64);
        let packed = self.headers.compress_vec(&0_u32.to_be_bytes(), &mut out, FlushCompress::Sync);
        packed.map_err(|_| FrameError::Headers)?;
        Ok(out)
    }
}

fn control(out: &mut BytesMut, kind: u16, body: &[u8]) {
    out.put_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind));
    // Ours are all small, and have no flags.
    out.put_u32(body.len().try_into().unwrap_or(0));
    out.put_slice(body);
}

impl Encoder<Frame> for Outgoing {
    type Error = FrameError;

    fn encode(&mut self, frame: Frame, out: &mut BytesMut) -> Result<(), FrameError> {
        let two = |a: u32, b: u32| [a.to_be_bytes(), b.to_be_bytes()].concat();
        match frame {
            Frame::Reply { stream } => {
                let body = [stream.to_be_bytes().to_vec(), self.no_headers()?].concat();
                control(out, SYN_REPLY, &body);
            }
            Frame::Data { stream, fin, bytes } => {
                let size = u32::try_from(bytes.len()).ok().filter(|size| *size < 1 << 24);
                let size = size.ok_or(FrameError::TooLarge(bytes.len()))?;
                out.reserve(HEAD + bytes.len());
                out.put_u32(stream);
                out.put_u32(u32::from(if fin { FIN } else { 0 }) << 24 | size);
                out.put_slice(&bytes);
            }
            Frame::Reset { stream, status } => control(out, RST_STREAM, &two(stream, status)),
            Frame::Ping(id) => control(out, PING, &id.to_be_bytes()),
            Frame::GoAway { last } => control(out, GOAWAY, &two(last, 0)),
            Frame::Open { .. } | Frame::Other => {}
        }
        Ok(())
    }
}

/// Headers are one zlib stream over the whole connection, which begins with the dictionary's text as if it had been sent.
struct Unpacker {
    inflate: Decompress,
    /// The zlib header, which is read by hand: it comes once.
    begun: bool,
}

impl Unpacker {
    fn new() -> Self {
        let mut inflate = Decompress::new(false);
        let dictionary = dictionary();
        // The dictionary as a stored block of the raw stream, unpacked and dropped, is in the window from then on: not
        // every implementation of zlib below this crate can be given one.
        let size = u16::try_from(dictionary.len()).unwrap_or_default();
        let mut block = vec![0];
        block.extend_from_slice(&size.to_le_bytes());
        block.extend_from_slice(&(!size).to_le_bytes());
        block.extend_from_slice(&dictionary);
        let mut dropped = Vec::with_capacity(dictionary.len() + 1);
        // It cannot fail: the block is well formed. If it did, no header would be understood, which ends connections.
        let _ = inflate.decompress_vec(&block, &mut dropped, FlushDecompress::Sync);
        Self { inflate, begun: false }
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Result<Vec<(String, String)>, FrameError> {
        if !self.begun {
            let [_, flags, ..] = *packed else { return Err(FrameError::Headers) };
            // With the dictionary its checksum follows.
            let size = if flags & 0x20 == 0 { 2 } else { 6 };
            packed = packed.get(size..).ok_or(FrameError::Headers)?;
            self.begun = true;
        }
        let mut out = Vec::with_capacity(1024);
        loop {
            let before = (self.inflate.total_in(), out.len());
            let step = self.inflate.decompress_vec(packed, &mut out, FlushDecompress::Sync);
            let status = step.map_err(|_| FrameError::Headers)?;
            let read = usize::try_from(self.inflate.total_in() - before.0).unwrap_or(packed.len());
            packed = &packed[read..];
            if (packed.is_empty() && out.len() < out.capacity()) || status == Status::StreamEnd {
                break;
            }
            if read == 0 && out.len() == before.1 && out.len() < out.capacity() {
                return Err(FrameError::Headers);
            }
            if out.len() > MAX_CONTROL {
                return Err(FrameError::TooLarge(out.len()));
            }
            out.reserve(4096);
        }
        pairs(&out).ok_or(FrameError::Headers)
    }
}

fn pairs(mut block: &[u8]) -> Option<Vec<(String, String)>> {
    let count = block.try_get_u32().ok()?;
    let mut text = || {
        let size = usize::try_from(block.try_get_u32().ok()?).ok()?;
        let (text, rest) = block.split_at_checked(size)?;
        block = rest;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let mut out = Vec::new();
    for _ in 0..count {
        out.push((text()?.to_ascii_lowercase(), text()?));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a Go client sent: `streamtype: error, port: 80, requestid: 0` on stream 1, and `data` on stream 3, with the
    /// dictionary.
    const RECORDED: [&str; 2] = [RECORDED_OPEN, RECORDED_NEXT];
    const RECORDED_OPEN: &str = include_str!("recorded_open.hex");
    const RECORDED_NEXT: &str = include_str!("recorded_next.hex");

    fn bytes(hex: &str) -> Vec<u8> {
        let hex = hex.trim();
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    fn decode_all(bytes: &[u8], step: usize) -> Vec<Frame> {
        let (mut decoder, mut buffer, mut out) = (Incoming::new(), BytesMut::new(), Vec::new());
        for chunk in bytes.chunks(step) {
            buffer.extend_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut buffer).unwrap() {
                out.push(frame);
            }
        }
        assert!(buffer.is_empty());
        out
    }

    #[test]
    fn streams_of_a_go_client_are_understood_however_they_are_cut() {
        let sent: Vec<u8> = RECORDED.iter().flat_map(|hex| bytes(hex)).collect();
        for step in [1, 7, sent.len()] {
            let frames = decode_all(&sent, step);
            let header = |frame: &Frame, name: &str| match frame {
                Frame::Open { headers, .. } => {
                    headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
                }
                _ => None,
            };
            assert_eq!(header(&frames[0], "streamtype").as_deref(), Some("error"));
            assert_eq!(header(&frames[0], "port").as_deref(), Some("80"));
            assert_eq!(header(&frames[1], "streamtype").as_deref(), Some("data"));
            assert_eq!(header(&frames[1], "requestid").as_deref(), Some("0"));
            assert!(matches!(frames[0], Frame::Open { stream: 1, fin: false, .. }));
            assert!(matches!(frames[1], Frame::Open { stream: 3, .. }));
        }
    }

    #[test]
    fn data_comes_as_it_comes() {
        let mut wire = BytesMut::new();
        let frame = Frame::Data { stream: 5, fin: true, bytes: "hello".into() };
        Outgoing::new().encode(frame.clone(), &mut wire).unwrap();
        assert_eq!(&wire[..], b"\0\0\0\x05\x01\0\0\x05hello");
        assert_eq!(decode_all(&wire, wire.len()), [frame]);
        let parts = decode_all(&wire, 10);
        assert_eq!(
            parts,
            [
                Frame::Data { stream: 5, fin: false, bytes: "he".into() },
                Frame::Data { stream: 5, fin: true, bytes: "llo".into() },
            ]
        );
        let mut end = BytesMut::new();
        let frame = Frame::Data { stream: 5, fin: true, bytes: Bytes::new() };
        Outgoing::new().encode(frame.clone(), &mut end).unwrap();
        assert_eq!(decode_all(&end, 3), [frame]);
    }

    #[test]
    fn short_control_frames_go_both_ways() {
        let mut out = Outgoing::new();
        for frame in [Frame::Ping(7), Frame::Reset { stream: 3, status: 1 }, Frame::GoAway { last: 9 }] {
            let mut wire = BytesMut::new();
            out.encode(frame.clone(), &mut wire).unwrap();
            assert_eq!(decode_all(&wire, 5), [frame]);
        }
    }

    #[test]
    fn replies_can_be_unpacked_one_after_the_other() {
        let (mut out, mut unpacker) = (Outgoing::new(), Unpacker::new());
        for stream in [1, 3, 5] {
            let mut wire = BytesMut::new();
            out.encode(Frame::Reply { stream }, &mut wire).unwrap();
            assert_eq!(&wire[..4], b"\x80\x03\0\x02");
            assert_eq!(unpacker.unpack(&wire[12..]).unwrap(), []);
        }
    }

    #[test]
    fn what_is_no_spdy_ends_the_connection() {
        let decode = |wire: &[u8]| Incoming::new().decode(&mut BytesMut::from(wire));
        assert!(matches!(decode(b"\x80\x02\0\x06\0\0\0\x04\0\0\0\x01"), Err(FrameError::Version(2))));
        assert!(matches!(decode(b"\x80\x03\0\x01\0\xff\xff\xff"), Err(FrameError::TooLarge(_))));
        assert!(matches!(decode(b"\x80\x03\0\x06\0\0\0\x02\0\0"), Err(FrameError::TooShort)));
        let rubbish = b"\x80\x03\0\x01\0\0\0\x0e\0\0\0\x01\0\0\0\0\0\0\x78\xbb\x01\x02";
        assert!(decode(rubbish).is_err());
        assert!(decode(b"\x80\x03\0").unwrap().is_none());
    }
}
