//! A stream that ends at a time. What a connection carries (a watch, an upgraded stream, a session) reads from it, so
//! nothing of it outlives its end, whatever task holds it by then.

use std::{
    future::Future as _,
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

use super::Place;

/// The clock is looked at again after so long: it may have been set, and the end put off.
const AGAIN: Duration = Duration::from_secs(60);
/// No end.
const NEVER: u64 = u64::MAX;

/// When a connection ends; it can be put off. In milliseconds since 1970.
#[derive(Debug)]
pub struct Deadline(AtomicU64);

impl Deadline {
    /// At a time, or never.
    pub fn at(end: Option<SystemTime>) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(end.map_or(NEVER, millis))))
    }

    /// Puts it off.
    pub fn put_off(&self, end: SystemTime) {
        self.0.fetch_max(millis(end), Ordering::Relaxed);
    }

    /// How long there is; nothing when it has come.
    fn left(&self) -> Duration {
        let left = self.0.load(Ordering::Relaxed).saturating_sub(millis(SystemTime::now()));
        Duration::from_millis(left)
    }
}

fn millis(at: SystemTime) -> u64 {
    u64::try_from(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(NEVER)
}

/// A stream with an end and a place among those of its port.
pub struct Bounded<S> {
    stream: S,
    deadline: Arc<Deadline>,
    alarm: Pin<Box<Sleep>>,
    place: Place,
}

impl<S> Bounded<S> {
    /// Ends `stream` at `deadline`, and gives `place` back with it.
    pub fn new(stream: S, deadline: Arc<Deadline>, place: Place) -> Self {
        let alarm = Box::pin(tokio::time::sleep(deadline.left().min(AGAIN)));
        Self { stream, deadline, alarm, place }
    }

    /// What it is made of.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// Its place.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// When it ends.
    pub fn deadline(&self) -> &Arc<Deadline> {
        &self.deadline
    }

    /// Ready when the end has come; else the task is woken then.
    fn ended(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        loop {
            ready!(self.alarm.as_mut().poll(cx));
            let left = self.deadline.left();
            if left.is_zero() {
                return Poll::Ready(over());
            }
            self.alarm.as_mut().reset(Instant::now() + left.min(AGAIN));
        }
    }

    /// Whether the end has come, for one that only writes: who reads is woken.
    fn is_over(&self) -> bool {
        self.alarm.is_elapsed() && self.deadline.left().is_zero()
    }
}

fn over() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the certificate that opened the connection has expired")
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over() {
            return Poll::Ready(Err(over()));
        }
        // The alarm is set only where the stream waits: what flows pays for a look at a flag.
        match Pin::new(&mut self.stream).poll_read(cx, buf) {
            Poll::Pending => self.ended(cx).map(Err),
            read => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over() {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_over() {
            return Poll::Ready(Err(over()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
