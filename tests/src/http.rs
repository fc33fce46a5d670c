//! One HTTP request on a fresh connection, so that each one is balanced anew.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: String,
}

/// `GET http://address/path`.
pub fn get(address: SocketAddr, path: &str, patience: Duration) -> Result<Answer> {
    let stream =
        TcpStream::connect_timeout(&address, patience).with_context(|| format!("connect to {address}"))?;
    get_from(stream, path, patience)
}

/// The same on an open connection, which is closed afterwards.
pub fn get_from(mut stream: TcpStream, path: &str, patience: Duration) -> Result<Answer> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("no answer")?;
    let (head, body) =
        text.split_once("\r\n\r\n").with_context(|| format!("not an HTTP answer: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status")?;
    Ok(Answer { status, body: body.to_owned() })
}
