//! The sockets: one datagram socket answered in place when the answer is known, streams with a bound on their
//! number and patience. Ends when it is told to, and never because of what a client sent.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::op::Message;
use tokio::{
    io::{self, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    DnsError, DnsSettings, Metrics, SharedNames,
    forward::{Forwarder, Key},
    limits::Limits,
    metrics::Zone,
    reply::{self, Step},
    resolv_conf::Resolvers,
};

/// Streams at one time, and those of one address: further ones are closed.
const STREAMS: (usize, usize) = (256, 32);

/// Questions that wait for a resolver outside, and those of one address: further ones are told at once that we cannot.
/// Each holds its packet and a task, about 2 KiB.
const WAITING: (usize, usize) = (4096, 512);

/// How long a stream may be idle (RFC 7766 asks for seconds).
const STREAM_IDLE: Duration = Duration::from_secs(10);

/// A pause after a failed receive or accept, so that a lasting failure does not become a busy loop.
const PAUSE: Duration = Duration::from_millis(50);

/// The name server, bound and not yet serving.
pub struct Server {
    datagrams: Arc<UdpSocket>,
    streams: TcpListener,
    shared: Arc<Shared>,
}

struct Shared {
    names: SharedNames,
    forwarder: Arc<Forwarder>,
    waiting: Arc<Limits>,
    metrics: Metrics,
}

impl Server {
    /// Listens on UDP and TCP.
    pub async fn bind(
        address: SocketAddr,
        settings: DnsSettings,
        names: SharedNames,
        metrics: Metrics,
    ) -> Result<Self, DnsError> {
        let failed = |source| DnsError::Bind { address, source };
        let streams = TcpListener::bind(address).await.map_err(failed)?;
        // The same port for both, also when the system was to choose it.
        let chosen = streams.local_addr().map_err(failed)?;
        let datagrams = Arc::new(UdpSocket::bind(chosen).await.map_err(failed)?);
        let resolvers = Resolvers::new(settings.upstreams, chosen);
        let forwarder = Forwarder::new(resolvers, settings.timeout, settings.cache_entries, metrics.clone());
        let waiting = Limits::new(WAITING.0, WAITING.1);
        Ok(Self { datagrams, streams, shared: Arc::new(Shared { names, forwarder, waiting, metrics }) })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.datagrams.local_addr()
    }

    /// Serves until `stop`; questions under way are answered before it returns.
    pub async fn serve(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        let serve = async {
            tokio::join!(
                datagrams(&self.datagrams, &self.shared, &tasks),
                streams(&self.streams, &self.shared, &tasks, &stop)
            );
        };
        // Cancel safe: both loops only wait for sockets, answers are tasks of their own.
        tokio::select! {
            () = stop.cancelled() => {}
            () = serve => {}
        }
        tasks.close();
        tasks.wait().await;
    }
}

async fn datagrams(socket: &Arc<UdpSocket>, shared: &Arc<Shared>, tasks: &TaskTracker) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::warn!(%error, "cannot receive DNS questions");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let packet = &buffer[..length];
        let started = Instant::now();
        match shared.step(packet, started) {
            Step::Ignore => {}
            Step::Reply(reply) => send(socket, &reply, packet, from),
            Step::Forward { reply, query } => {
                let Some(place) = shared.waiting.enter(from.ip()) else {
                    send(socket, &shared.refuse(reply, started), packet, from);
                    continue;
                };
                let (socket, shared, packet) = (socket.clone(), shared.clone(), packet.to_vec());
                tasks.spawn(async move {
                    let _place = place;
                    let key = Key::of(&query, &reply);
                    let reply = shared.forward(reply, key, started).await;
                    send(&socket, &reply, &packet, from);
                });
            }
        }
    }
}

/// Sends without waiting: when the socket's buffer is full the client asks again.
fn send(socket: &UdpSocket, reply: &Message, request: &[u8], to: SocketAddr) {
    if let Some(bytes) = reply::encode_datagram(reply, request)
        && let Err(error) = socket.try_send_to(&bytes, to)
    {
        tracing::debug!(%error, "answer not sent");
    }
}

async fn streams(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let limits = Limits::new(STREAMS.0, STREAMS.1);
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Some(place) = limits.enter(from.ip()) else { continue };
                let (shared, stop) = (shared.clone(), stop.clone());
                tasks.spawn(async move {
                    let _place = place;
                    // The client's end of a stream is its own affair.
                    drop(stream_of(stream, &shared, &stop).await);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a DNS stream");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn stream_of(mut stream: TcpStream, shared: &Shared, stop: &CancellationToken) -> io::Result<()> {
    loop {
        let next = stop.run_until_cancelled(timeout(STREAM_IDLE, read_packet(&mut stream)));
        let Some(packet) = next.await else { return Ok(()) };
        let packet = packet??;
        let started = Instant::now();
        let reply = match shared.step(&packet, started) {
            Step::Ignore => return Ok(()),
            Step::Reply(reply) => reply,
            Step::Forward { reply, query } => {
                let key = Key::of(&query, &reply);
                shared.forward(reply, key, started).await
            }
        };
        let Some(bytes) = reply::encode_stream(&reply) else { return Ok(()) };
        let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
        timeout(STREAM_IDLE, stream.write_all(&[&length.to_be_bytes(), bytes.as_slice()].concat())).await??;
    }
}

async fn read_packet(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut packet = vec![0; usize::from(length)];
    stream.read_exact(&mut packet).await?;
    Ok(packet)
}

impl Shared {
    /// Decides about a packet; what the cache can answer needs no forwarding.
    fn step(&self, packet: &[u8], started: Instant) -> Step {
        let names = self.names.load();
        let step = reply::consider(packet, names.as_deref());
        match step {
            Step::Reply(reply) => {
                let zone = if reply.metadata.authoritative { Zone::Cluster } else { Zone::Invalid };
                self.metrics.count(zone, reply.metadata.response_code, started.elapsed());
                Step::Reply(reply)
            }
            Step::Forward { reply, query } => match self.forwarder.cached(&Key::of(&query, &reply)) {
                Some(known) => {
                    let reply = reply::complete(reply, Some(&known));
                    self.metrics.count(Zone::Forward, reply.metadata.response_code, started.elapsed());
                    Step::Reply(reply)
                }
                None => Step::Forward { reply, query },
            },
            Step::Ignore => Step::Ignore,
        }
    }

    /// The answer to a question that there is no room for.
    fn refuse(&self, reply: Message, started: Instant) -> Message {
        let reply = reply::complete(reply, None);
        self.metrics.count(Zone::Forward, reply.metadata.response_code, started.elapsed());
        reply
    }

    async fn forward(&self, reply: Message, key: Key, started: Instant) -> Message {
        let answer = self.forwarder.resolve(key).await;
        let reply = reply::complete(reply, answer.as_deref());
        self.metrics.count(Zone::Forward, reply.metadata.response_code, started.elapsed());
        reply
    }
}
