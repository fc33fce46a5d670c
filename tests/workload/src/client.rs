//! A client for tests inside pods: one HTTP request or datagram at a time, each on a new connection, so that each is
//! balanced anew. Names go through the pod's resolver as any program's do.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(3);
const HOLD_EVERY: Duration = Duration::from_millis(200);

/// `GET url`, `count` times; prints each body. The first failure ends it.
pub(crate) fn get(url: &str, count: u64) -> Result<(), String> {
    let (host, path, address) = parts(url)?;
    for _ in 0..count {
        let body = resolve(&address)
            .and_then(|target| request(target, host, path))
            .map_err(|e| format!("{url}: {e}"))?;
        print!("{body}");
    }
    Ok(())
}

/// Asks `url` again and again on one connection that is never renewed; ends with an error when it breaks.
pub(crate) fn hold(url: &str) -> Result<(), String> {
    let (host, path, address) = parts(url)?;
    let held = || -> io::Result<()> {
        let stream = TcpStream::connect_timeout(&resolve(&address)?, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(&stream);
        println!("connected");
        loop {
            write!(&stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\n\r\n")?;
            let mut line = String::new();
            let mut length = 0;
            while reader.read_line(&mut line)? > 2 {
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                line.clear();
            }
            io::copy(&mut (&mut reader).take(length), &mut io::sink())?;
            if length == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
            }
            std::thread::sleep(HOLD_EVERY);
        }
    };
    held().map_err(|e| format!("{url}: {e}"))
}

/// Sends `text` to `host:port`, `count` times from a new port each; prints the answers. A lost datagram is an error.
pub(crate) fn datagram(address: &str, text: &str, count: u64) -> Result<(), String> {
    for _ in 0..count {
        let answer = resolve(address)
            .and_then(|target| exchange(target, text))
            .map_err(|e| format!("udp {address}: {e}"))?;
        println!("{answer}");
    }
    Ok(())
}

/// Host, path and `host:port` of a URL.
fn parts(url: &str) -> Result<(&str, &str, String), String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url:?} is not an http:// URL"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
    Ok((host, path, address))
}

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let mut all = address.to_socket_addrs()?;
    all.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

fn request(target: SocketAddr, host: &str, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, "the answer was cut off"))?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(head.lines().next().unwrap_or_default().to_owned()));
    }
    Ok(body.to_owned())
}

fn exchange(target: SocketAddr, text: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(target)?;
    socket.send(text.as_bytes())?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
