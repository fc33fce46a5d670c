//! As much of HTTP/1.1 as a test server needs: a request line, headers (ignored), keep-alive, no bodies in.

use std::{
    io::{self, BufRead, Write},
    time::Duration,
};

/// Longest request line or header: longer ones end the connection.
const MAX_LINE: u64 = 16 << 10;

/// A parsed request.
pub(crate) struct Request {
    /// Path without the query.
    pub(crate) path: String,
    query: Vec<(String, String)>,
    /// The client wants the connection closed after the answer.
    pub(crate) close: bool,
}

impl Request {
    /// A query parameter.
    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// A query parameter as a duration in milliseconds, 0 when absent or wrong.
    pub(crate) fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.query(name).and_then(|v| v.parse().ok()).unwrap_or(0))
    }
}

/// An answer.
pub(crate) struct Response {
    /// HTTP status.
    pub(crate) status: u16,
    /// Plain text.
    pub(crate) body: String,
}

impl Response {
    /// 200 with a text.
    pub(crate) fn ok(body: impl Into<String>) -> Self {
        Self { status: 200, body: body.into() }
    }
}

/// Reads one request; `None` when the client closed the connection.
pub(crate) fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if limited_line(reader, &mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (Some(_method), Some(target)) = (words.next(), words.next()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request line"));
    };
    let mut close = words.next() == Some("HTTP/1.0");
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.replace('+', " ")))
        .collect();
    let path = path.to_owned();
    loop {
        let mut header = String::new();
        if limited_line(reader, &mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        if header.trim().eq_ignore_ascii_case("connection: close") {
            close = true;
        }
    }
    Ok(Some(Request { path, query, close }))
}

/// Writes an answer in one piece.
pub(crate) fn write_response(out: &mut impl Write, response: &Response, close: bool) -> io::Result<()> {
    let reason = match response.status {
        200 => "OK",
        404 => "Not Found",
        503 => "Service Unavailable",
        _ => "Error",
    };
    let connection = if close { "close" } else { "keep-alive" };
    let text = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n{}",
        response.status,
        response.body.len(),
        response.body
    );
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn limited_line(reader: &mut impl BufRead, line: &mut String) -> io::Result<usize> {
    let read = io::Read::take(&mut *reader, MAX_LINE).read_line(line)?;
    if read as u64 == MAX_LINE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "line too long"));
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_path_query_and_connection() {
        let mut text = &b"GET /burn?ms=5&x=a+b HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\nrest"[..];
        let request = read_request(&mut text).unwrap().unwrap();
        assert_eq!(request.path, "/burn");
        assert_eq!(request.millis("ms"), Duration::from_millis(5));
        assert_eq!(request.query("x"), Some("a b"));
        assert!(request.close);
        assert_eq!(text, b"rest");
    }

    #[test]
    fn refuses_what_is_not_http() {
        assert!(read_request(&mut &b"\r\n"[..]).is_err());
        assert!(read_request(&mut &vec![b'a'; 20 << 10][..]).is_err());
        assert!(read_request(&mut &b""[..]).unwrap().is_none());
    }
}
