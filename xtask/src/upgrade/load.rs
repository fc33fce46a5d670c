//! Questions to services from outside the cluster while its daemons are replaced: through both nodes' ports and through the
//! load balancer's address, on a new connection each, and on one that stays. The pods that ask from inside are in workload.yaml.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use super::{NODES, maps::Fate, workload::NAMESPACE};
use crate::cluster::Cluster;

/// The kills suite's: none of its requests may fail, or take longer.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(20);
/// How many failures are told.
const TOLD: usize = 10;

/// Who asks.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    askers: Vec<thread::JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    questions: u64,
    /// What the pod that asks had asked at the last look.
    inside: u64,
    failures: Vec<String>,
    /// Open connections that broke, those of questions that waited for their answer among them: no more than one for each
    /// who asks and each node, more are failures.
    broken: Vec<String>,
}

impl Seen {
    /// An error when something was not answered that should have been, where open connections have this fate.
    fn judge(&self, fate: &Fate) -> Result<()> {
        let may_break = matches!(fate, Fate::MayBreak(_));
        ensure!(
            may_break || self.broken.is_empty(),
            "open connections broke, of which {fate}:\n  {}",
            self.broken.join("\n  ")
        );
        if !self.failures.is_empty() {
            let told: Vec<&str> = self.failures.iter().take(TOLD).map(String::as_str).collect();
            bail!("{} of {} requests failed:\n  {}", self.failures.len(), self.questions, told.join("\n  "));
        }
        Ok(())
    }
}

impl Load {
    /// Starts asking.
    pub(super) fn start(cluster: &Cluster) -> Result<Self> {
        let of = |path: &str| {
            cluster
                .kubectl()
                .args(["-n", NAMESPACE, "get", "service", "web", "-o", &format!("jsonpath={path}")])
                .text()
        };
        let (port, balancer) =
            (of("{.spec.ports[0].nodePort}")?, of("{.status.loadBalancer.ingress[0].ip}")?);
        let nodes = (1..=NODES).map(|i| format!("{}:{port}", cluster.layout.node(i).address));
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let mut askers = Vec::new();
        for address in nodes.chain([format!("{balancer}:80")]) {
            let target: SocketAddr = address.parse().with_context(|| format!("{address:?} is no address"))?;
            for stays in [false, true] {
                let (stop, seen) = (stop.clone(), seen.clone());
                askers.push(thread::spawn(move || ask(target, stays, &stop, &seen)));
            }
        }
        Ok(Self { stop, askers, seen })
    }

    /// What was answered until now; an error when something was not that should have been.
    pub(super) fn so_far(&self, cluster: &Cluster, fate: &Fate) -> Result<String> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.judge(fate)?;
        let kept = || cluster.kubectl().args(["-n", NAMESPACE]);
        let inside = kept().args(["exec", "asker", "--", "cat", "/tmp/asked"]).text()?;
        ensure!(inside.ends_with(" failed 0"), "requests of a pod failed: {inside}");
        let asked =
            inside.split(' ').nth(1).and_then(|asked| asked.parse().ok()).context("asked how often?")?;
        ensure!(asked > seen.inside, "the pod that asks has stopped: {inside}");
        seen.inside = asked;
        let holder = kept().args(["get", "pod", "holder", "-o", "jsonpath={.status.phase}"]).text()?;
        ensure!(holder == "Running", "the held connection of a pod broke");
        let broken = seen.broken.len();
        let outside = seen.questions;
        Ok(format!("{outside} questions outside, {inside} inside; {broken} open connections broke, {fate}"))
    }

    /// Ends asking.
    pub(super) fn end(self, cluster: &Cluster, fate: &Fate) -> Result<()> {
        let so_far = self.so_far(cluster, fate).map(drop);
        self.stop.store(true, Ordering::SeqCst);
        for asker in self.askers {
            ensure!(asker.join().is_ok(), "an asking thread panicked");
        }
        so_far
    }
}

fn ask(target: SocketAddr, stays: bool, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let (begun, mut stream) = (Instant::now(), None);
    let mut may_break = NODES;
    while !stop.load(Ordering::SeqCst) {
        let answer = question(target, &mut stream);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.questions += 1;
        if let Err(error) = answer {
            let how = if stays { "the same connection" } else { "a new connection" };
            let told = format!("{target} on {how} after {:.1?}: {error}", begun.elapsed());
            // Whoever comes anew is never refused.
            if may_break > 0 && stream.take().is_some() {
                may_break -= 1;
                seen.broken.push(told);
            } else {
                seen.failures.push(told);
            }
        }
        drop(seen);
        if !stays {
            stream = None;
        }
        thread::sleep(PAUSE);
    }
}

/// One question on the connection that there is, or a new one.
fn question(target: SocketAddr, stream: &mut Option<TcpStream>) -> io::Result<()> {
    let stream = match stream {
        Some(stream) => stream,
        None => {
            let new = TcpStream::connect_timeout(&target, PATIENCE)?;
            new.set_read_timeout(Some(PATIENCE))?;
            stream.insert(new)
        }
    };
    stream.write_all(b"GET /hostname HTTP/1.1\r\nHost: upgrade\r\n\r\n")?;
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        let mut part = [0; 1024];
        match stream.read(&mut part)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it was closed")),
            n => answer.extend_from_slice(&part[..n]),
        }
    }
    if answer.starts_with(b"HTTP/1.1 200") { Ok(()) } else { Err(io::Error::other("it was no 200")) }
}

/// Whether an HTTP answer is there with all of its body.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    body.len() >= length.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_with_its_body() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc";
        assert!(is_whole(answer));
        for cut in 0..answer.len() {
            assert!(!is_whole(&answer[..cut]), "{cut}");
        }
    }

    #[test]
    fn open_connections_may_break_for_a_layout_alone_and_a_failure_is_never_forgiven() {
        let other = Fate::MayBreak("v1 became v2 on node-1".to_owned());
        let one = || vec!["10.0.0.1:80 on the same connection after 3.2s: it was closed".to_owned()];
        let broken = Seen { questions: 9, broken: one(), ..Seen::default() };
        broken.judge(&other).unwrap();
        let told = broken.judge(&Fate::Kept).unwrap_err().to_string();
        assert!(told.contains("none may break") && told.contains("10.0.0.1:80"), "{told}");
        Seen::default().judge(&Fate::Kept).unwrap();
        let failed = Seen { questions: 9, failures: one(), ..Seen::default() };
        for fate in [&other, &Fate::Kept] {
            assert!(failed.judge(fate).unwrap_err().to_string().contains("1 of 9 requests failed"));
        }
    }
}
