//! The CRI log format: `<RFC 3339 time> <stream> <tag> <content>\n`, where the tag `P` says that the line goes on in
//! the stream's next record and `F` that it ends here. Content is bytes: any encoding passes through unchanged.

use jiff::Timestamp;

/// Longest content of one record; longer lines become several.
pub(super) const MAX_CONTENT: usize = 16 << 10;

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Cuts one stream's bytes into records.
#[derive(Debug)]
pub(super) struct Encoder {
    stream: Stream,
    pending: Vec<u8>,
}

impl Encoder {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Appends the records that `bytes` complete to `out`.
    pub(super) fn push(&mut self, mut bytes: &[u8], time: &Timestamp, out: &mut Vec<u8>) {
        while let Some(end) = bytes.iter().position(|&b| b == b'\n') {
            self.extend(&bytes[..end], time, out);
            let line = std::mem::take(&mut self.pending);
            self.record(&line, true, time, out);
            // Keeps the allocation.
            self.pending = line;
            self.pending.clear();
            bytes = &bytes[end + 1..];
        }
        self.extend(bytes, time, out);
    }

    /// Something without the end of its line is held back.
    pub(super) fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what is held back as a part of a line: what was never ended does not get an end, also when the stream is
    /// over.
    pub(super) fn flush(&mut self, time: &Timestamp, out: &mut Vec<u8>) {
        if self.is_pending() {
            let line = std::mem::take(&mut self.pending);
            self.record(&line, false, time, out);
        }
    }

    fn extend(&mut self, mut bytes: &[u8], time: &Timestamp, out: &mut Vec<u8>) {
        while self.pending.len() + bytes.len() > MAX_CONTENT {
            let (head, rest) = bytes.split_at(MAX_CONTENT - self.pending.len());
            self.pending.extend_from_slice(head);
            let cut = character_boundary(&self.pending);
            let part: Vec<u8> = self.pending.drain(..cut).collect();
            self.record(&part, false, time, out);
            bytes = rest;
        }
        self.pending.extend_from_slice(bytes);
    }

    fn record(&self, content: &[u8], full: bool, time: &Timestamp, out: &mut Vec<u8>) {
        let tag = if full { 'F' } else { 'P' };
        // Nine digits always: records sort and align.
        out.extend_from_slice(format!("{time:.9} {} {tag} ", self.stream.name()).as_bytes());
        out.extend_from_slice(content);
        out.push(b'\n');
    }
}

/// Where to cut a full buffer so that no UTF-8 character is divided; the whole when it is not UTF-8.
fn character_boundary(bytes: &[u8]) -> usize {
    let is_continuation = |b: &u8| b & 0xC0 == 0x80;
    let Some(start) = bytes.iter().rposition(|b| !is_continuation(b)) else { return bytes.len() };
    let width = match bytes[start] {
        0xC0..=0xDF => 2,
        0xE0..=0xEF => 3,
        0xF0..=0xF7 => 4,
        _ => 1,
    };
    if start > 0 && start + width > bytes.len() { start } else { bytes.len() }
}

/// A record as read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) time: &'a str,
    pub(super) stream: Stream,
    /// The line ends here.
    pub(super) full: bool,
    pub(super) content: &'a [u8],
}

/// Parses a line without its newline; `None` when it is not a record (a file damaged by a full disk).
pub(super) fn parse(line: &[u8]) -> Option<Record<'_>> {
    let mut fields = line.splitn(4, |&b| b == b' ');
    let time = std::str::from_utf8(fields.next()?).ok()?;
    let stream = match fields.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let full = match fields.next()?.first()? {
        b'F' => true,
        b'P' => false,
        _ => return None,
    };
    Some(Record { time, stream, full, content: fields.next()? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn records(chunks: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let (mut encoder, mut out) = (Encoder::new(Stream::Stdout), Vec::new());
        for chunk in chunks {
            encoder.push(chunk, &Timestamp::UNIX_EPOCH, &mut out);
        }
        encoder.flush(&Timestamp::UNIX_EPOCH, &mut out);
        let lines = out.strip_suffix(b"\n").into_iter().flat_map(|all| all.split(|&b| b == b'\n'));
        lines.map(|line| parse(line).unwrap()).map(|r| (r.full, r.content.to_vec())).collect()
    }

    #[test]
    fn a_record_reads_as_others_write_it() {
        let (mut encoder, mut out) = (Encoder::new(Stream::Stderr), Vec::new());
        encoder.push(b"hello\n", &"2026-01-02T03:04:05.000000006Z".parse().unwrap(), &mut out);
        assert_eq!(out, b"2026-01-02T03:04:05.000000006Z stderr F hello\n");
    }

    #[test]
    fn lines_are_joined_over_reads_and_empty_ones_kept() {
        assert_eq!(
            records(&[b"a", b"b\n\nc\n"]),
            [(true, b"ab".to_vec()), (true, b"".to_vec()), (true, b"c".to_vec())]
        );
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        let line = format!("{}ä", "x".repeat(MAX_CONTENT - 1));
        let cut = records(&[line.as_bytes(), b"\n"]);
        assert_eq!(cut, [(false, vec![b'x'; MAX_CONTENT - 1]), (true, "ä".into())]);
    }

    #[test]
    fn what_has_no_line_end_stays_without_one() {
        assert_eq!(records(&[b"$ "]), [(false, b"$ ".to_vec())]);
        assert_eq!(records(&[b"a\nDONE"]), [(true, b"a".to_vec()), (false, b"DONE".to_vec())]);
    }

    #[test]
    fn damaged_lines_are_no_records() {
        for line in ["", "2026 stdout F", "2026 stdlog F x", "2026 stdout X x"] {
            assert_eq!(parse(line.as_bytes()), None, "{line}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_whatever_the_bytes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40_000), 0..4)) {
            let views: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let mut joined = Vec::new();
            for (full, content) in records(&views) {
                prop_assert!(content.len() <= MAX_CONTENT);
                joined.extend(content);
                if full { joined.push(b'\n'); }
            }
            prop_assert_eq!(joined, chunks.concat());
        }
    }
}
