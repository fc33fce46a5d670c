//! Names outside the cluster, from the host's resolvers: by UDP, by TCP when the answer is cut, one server after
//! the other. Equal questions at one time share one request, which also keeps a resolver that sends them back
//! to us from multiplying them: its question joins ours and both end with the time-out.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};

use super::{Metrics, resolv_conf::Resolvers};

/// Rounds over all servers.
const ROUNDS: usize = 2;

/// Questions that may be under way: beyond it clients are told at once that we cannot.
const MAX_IN_FLIGHT: usize = 1024;

/// No answer is kept longer, whatever its time to live: a node follows changes within half a minute.
const MAX_TTL: u32 = 30;

/// A server that failed is asked last for so long.
const SHUNNED: Duration = Duration::from_secs(30);

/// Room for any datagram.
const BUFFER: usize = 65_535;

/// A question as the cache knows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    name: Name,
    kind: RecordType,
    dnssec: bool,
    checking_disabled: bool,
}

impl Key {
    /// `reply` carries over the client's wishes about DNSSEC.
    pub(super) fn of(query: &Query, reply: &Message) -> Self {
        Self {
            name: query.name().to_lowercase(),
            kind: query.query_type(),
            dnssec: reply.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok),
            checking_disabled: reply.metadata.checking_disabled,
        }
    }
}

type Pending = Shared<BoxFuture<'static, Option<Arc<Message>>>>;

/// The forwarder.
pub(super) struct Forwarder {
    resolvers: Resolvers,
    timeout: Duration,
    cache: Mutex<Cache>,
    pending: Mutex<HashMap<Key, Pending>>,
    /// When a server last did not answer.
    failed: Mutex<HashMap<SocketAddr, Instant>>,
    metrics: Metrics,
}

impl Forwarder {
    pub(super) fn new(
        resolvers: Resolvers,
        timeout: Duration,
        cache_entries: usize,
        metrics: Metrics,
    ) -> Arc<Self> {
        let cache = Mutex::new(Cache::new(cache_entries));
        let (pending, failed) = (Mutex::default(), Mutex::default());
        Arc::new(Self { resolvers, timeout, cache, pending, failed, metrics })
    }

    /// An answer that is kept, with its times to live counted down.
    pub(super) fn cached(&self, key: &Key) -> Option<Message> {
        let hit = lock(&self.cache).get(key, Instant::now());
        if hit.is_some() {
            self.metrics.cache_hits.inc();
        }
        hit
    }

    /// Asks; `None` when nobody answered.
    pub(super) async fn resolve(self: &Arc<Self>, key: Key) -> Option<Arc<Message>> {
        let pending = {
            let mut pending = lock(&self.pending);
            match pending.get(&key) {
                Some(running) => running.clone(),
                None if pending.len() >= MAX_IN_FLIGHT => return None,
                None => {
                    let started = self.start(key.clone());
                    pending.insert(key, started.clone());
                    started
                }
            }
        };
        pending.await
    }

    /// Runs on a task of its own: a client that goes away does not end it for the others.
    fn start(self: &Arc<Self>, key: Key) -> Pending {
        let this = self.clone();
        let task = tokio::spawn(async move {
            let answer = this.ask_all(&key).await.map(Arc::new);
            if let Some(answer) = &answer {
                lock(&this.cache).put(key.clone(), answer.clone(), Instant::now());
            }
            lock(&this.pending).remove(&key);
            answer
        });
        async move { task.await.unwrap_or(None) }.boxed().shared()
    }

    fn in_order(&self, servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let mut failed = lock(&self.failed);
        // Servers of an earlier configuration are forgotten.
        failed.retain(|server, _| servers.contains(server));
        in_order(servers, &failed, Instant::now())
    }

    async fn ask_all(&self, key: &Key) -> Option<Message> {
        let servers = self.in_order(self.resolvers.servers());
        let mut refusal = None;
        for _ in 0..ROUNDS {
            for server in &servers {
                match timeout(self.timeout, ask(*server, key)).await {
                    Ok(Ok(answer)) if is_verdict(&answer) => {
                        lock(&self.failed).remove(server);
                        return Some(answer);
                    }
                    Ok(Ok(answer)) => refusal = Some(answer),
                    Ok(Err(error)) => tracing::debug!(%server, %error, "name server failed"),
                    Err(_) => tracing::debug!(%server, "name server did not answer in time"),
                }
                self.metrics.upstream_failures.inc();
                lock(&self.failed).insert(*server, Instant::now());
            }
            if refusal.is_some() {
                break;
            }
        }
        refusal
    }
}

/// As configured, but those that failed of late come last: each question would wait for them.
fn in_order(
    mut servers: Vec<SocketAddr>,
    failed: &HashMap<SocketAddr, Instant>,
    now: Instant,
) -> Vec<SocketAddr> {
    let is_shunned =
        |server: &SocketAddr| failed.get(server).is_some_and(|at| now.duration_since(*at) < SHUNNED);
    servers.sort_by_key(is_shunned);
    servers
}

/// Whether an answer speaks of the name, and not of the server's own troubles.
fn is_verdict(answer: &Message) -> bool {
    matches!(answer.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

async fn ask(server: SocketAddr, key: &Key) -> io::Result<Message> {
    let question = question(key);
    let bytes = question.to_vec().map_err(io::Error::other)?;
    let answer = ask_datagram(server, &question, &bytes).await?;
    if answer.metadata.truncation {
        return ask_stream(server, &question, &bytes).await;
    }
    Ok(answer)
}

fn question(key: &Key) -> Message {
    let mut message = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.checking_disabled = key.checking_disabled;
    message.add_query(Query::query(key.name.clone(), key.kind));
    let mut edns = Edns::new();
    edns.set_max_payload(1232).set_dnssec_ok(key.dnssec);
    message.set_edns(edns);
    message
}

async fn ask_datagram(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let any = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A socket per question: its random port is half of what keeps a forger from guessing.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Ok(answer) = Message::from_vec(&buffer[..length])
            && belongs(&answer, question)
        {
            return Ok(answer);
        }
    }
}

async fn ask_stream(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = stream.read_u16().await?;
    let mut buffer = vec![0; usize::from(length)];
    stream.read_exact(&mut buffer).await?;
    let answer = Message::from_vec(&buffer).map_err(io::Error::other)?;
    if belongs(&answer, question) { Ok(answer) } else { Err(io::Error::other("answer to another question")) }
}

fn belongs(answer: &Message, question: &Message) -> bool {
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == question.metadata.id
        && answer.queries == question.queries
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bounded cache of two generations: when the young one is full it becomes the old one, and what was in the
/// old one and not asked for since is forgotten.
struct Cache {
    half: usize,
    young: HashMap<Key, Kept>,
    old: HashMap<Key, Kept>,
}

#[derive(Clone)]
struct Kept {
    answer: Arc<Message>,
    since: Instant,
    ttl: u32,
}

impl Cache {
    fn new(entries: usize) -> Self {
        Self { half: entries.div_ceil(2), young: HashMap::new(), old: HashMap::new() }
    }

    fn get(&mut self, key: &Key, now: Instant) -> Option<Message> {
        let kept = match self.young.get(key) {
            Some(kept) => kept.clone(),
            None => {
                let kept = self.old.remove(key)?;
                self.insert(key.clone(), kept.clone());
                kept
            }
        };
        let age = u32::try_from(now.duration_since(kept.since).as_secs()).unwrap_or(u32::MAX);
        if age >= kept.ttl {
            self.young.remove(key);
            return None;
        }
        let mut answer = Message::clone(&kept.answer);
        let sections = [&mut answer.answers, &mut answer.authorities, &mut answer.additionals];
        for record in sections.into_iter().flatten() {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    fn put(&mut self, key: Key, answer: Arc<Message>, now: Instant) {
        let ttl = lifetime(&answer).min(MAX_TTL);
        if ttl > 0 {
            self.insert(key, Kept { answer, since: now, ttl });
        }
    }

    fn insert(&mut self, key: Key, kept: Kept) {
        if self.half == 0 {
            return;
        }
        if self.young.len() >= self.half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, kept);
    }
}

/// How long an answer may be kept. An absence for as long as its zone says (RFC 2308), and not at all without the zone's
/// word.
fn lifetime(answer: &Message) -> u32 {
    let sections = answer.answers.iter().chain(&answer.authorities).chain(&answer.additionals);
    let shortest = sections.map(|record| record.ttl).min().unwrap_or(0);
    match answer.metadata.response_code {
        ResponseCode::NoError if !answer.answers.is_empty() => shortest,
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let mut zones = answer.authorities.iter().filter_map(|record| match &record.data {
                RData::SOA(soa) => Some(soa.minimum),
                _ => None,
            });
            zones.next().map_or(0, |minimum| minimum.min(shortest))
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{Record, rdata::SOA};

    use super::*;

    fn key(name: &str) -> Key {
        Key {
            name: Name::from_ascii(name).unwrap(),
            kind: RecordType::A,
            dnssec: false,
            checking_disabled: false,
        }
    }

    fn answer(ttl: u32) -> Arc<Message> {
        let mut message = Message::response(1, OpCode::Query);
        let address = RData::A(Ipv4Addr::new(192, 0, 2, 1).into());
        message.add_answer(Record::from_rdata(Name::from_ascii("x.example.").unwrap(), ttl, address));
        Arc::new(message)
    }

    #[test]
    fn times_to_live_run_down_and_end() {
        let mut cache = Cache::new(8);
        let start = Instant::now();
        cache.put(key("a."), answer(20), start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(&key("a."), at(5)).unwrap().answers[0].ttl, 15);
        assert!(cache.get(&key("a."), at(20)).is_none());
        cache.put(key("b."), answer(86_400), start);
        assert!(cache.get(&key("b."), at(29)).is_some());
        assert!(cache.get(&key("b."), at(30)).is_none(), "no longer than the bound");
    }

    #[test]
    fn absences_and_zero_times_are_not_kept() {
        let mut cache = Cache::new(8);
        let now = Instant::now();
        cache.put(key("zero."), answer(0), now);
        cache.put(key("none."), Arc::new(Message::response(1, OpCode::Query)), now);
        assert!(cache.young.is_empty());
    }

    #[test]
    fn an_absence_is_kept_for_as_long_as_its_zone_says() {
        let absent = |code, minimum, ttl| {
            let mut message = Message::response(1, OpCode::Query);
            message.metadata.response_code = code;
            let name = Name::from_ascii("example.").unwrap();
            let soa = SOA::new(name.clone(), name.clone(), 1, 7200, 1800, 86_400, minimum);
            message.add_authority(Record::from_rdata(name, ttl, RData::SOA(soa)));
            lifetime(&message)
        };
        assert_eq!(absent(ResponseCode::NXDomain, 10, 3600), 10);
        assert_eq!(absent(ResponseCode::NXDomain, 3600, 20), 20);
        assert_eq!(absent(ResponseCode::NoError, 5, 5), 5, "the name is there, the type is not");
        assert_eq!(absent(ResponseCode::ServFail, 5, 5), 0, "trouble is asked about again");
    }

    #[test]
    fn a_server_that_failed_is_asked_last_for_a_while() {
        let [a, b, c] = [1, 2, 3].map(|n| SocketAddr::from(([192, 0, 2, n], 53)));
        let start = Instant::now();
        let failed = HashMap::from([(a, start)]);
        let order = |after| in_order(vec![a, b, c], &failed, start + Duration::from_secs(after));
        assert_eq!(order(29), [b, c, a]);
        assert_eq!(order(30), [a, b, c]);
    }

    #[test]
    fn it_stays_bounded_and_keeps_what_is_asked_for() {
        let mut cache = Cache::new(8);
        let now = Instant::now();
        cache.put(key("kept."), answer(20), now);
        for n in 0..100 {
            assert!(cache.get(&key("kept."), now).is_some());
            cache.put(key(&format!("n{n}.")), answer(20), now);
            assert!(cache.young.len() + cache.old.len() <= 9);
        }
    }
}
