//! The host's name servers, from a file in the format of resolv.conf(5).

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::Upstreams;

/// How often the file is looked at, at most.
const CHECK: Duration = Duration::from_secs(5);

/// The servers to forward to, kept current.
pub(super) struct Resolvers {
    source: Upstreams,
    /// Our own address: forwarding there would come back.
    own: SocketAddr,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    servers: Vec<SocketAddr>,
    checked: Option<Instant>,
    modified: Option<SystemTime>,
}

impl Resolvers {
    pub(super) fn new(source: Upstreams, own: SocketAddr) -> Self {
        Self { source, own, known: Mutex::default() }
    }

    pub(super) fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.source {
            Upstreams::Servers(servers) => return self.without_own(servers.clone()),
            Upstreams::ResolvConf(path) => path,
        };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.checked.is_none_or(|at| at.elapsed() >= CHECK) {
            known.checked = Some(Instant::now());
            self.refresh(path, &mut known);
        }
        known.servers.clone()
    }

    fn refresh(&self, path: &PathBuf, known: &mut Known) {
        let read = || -> io::Result<Option<(SystemTime, String)>> {
            let modified = fs::metadata(path)?.modified()?;
            if known.modified == Some(modified) {
                return Ok(None);
            }
            Ok(Some((modified, fs::read_to_string(path)?)))
        };
        match read() {
            Ok(Some((modified, text))) => {
                known.servers = self.without_own(parse(&text));
                known.modified = Some(modified);
                if known.servers.is_empty() {
                    tracing::warn!(path = %path.display(), "no name server to forward to: names outside the cluster cannot be resolved");
                }
            }
            Ok(None) => {}
            // The last known servers stay: the file may be in the middle of being replaced.
            Err(error) => warn_unreadable(path, &error),
        }
    }

    fn without_own(&self, mut servers: Vec<SocketAddr>) -> Vec<SocketAddr> {
        servers.retain(|server| *server != self.own);
        servers
    }
}

fn warn_unreadable(path: &Path, error: &io::Error) {
    tracing::warn!(path = %path.display(), %error, "cannot read the host's name servers");
}

fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next()).flatten()
        })
        // An IPv6 scope (`%eth0`) is not supported: such a line is passed over.
        .filter_map(|address| address.parse::<IpAddr>().ok())
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_servers_are_read_and_never_ourselves() {
        let text = "# comment\nsearch example.com\nnameserver 10.96.0.10\nnameserver\t192.0.2.53 # why\n\
                    nameserver 2001:db8::53\nnameserver fe80::1%eth0\noptions ndots:5\n";
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, text).unwrap();
        let resolvers = Resolvers::new(Upstreams::ResolvConf(path), "10.96.0.10:53".parse().unwrap());
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.53:53".parse().unwrap(), "[2001:db8::53]:53".parse().unwrap()];
        assert_eq!(resolvers.servers(), expected);
    }

    #[test]
    fn a_file_that_vanished_keeps_the_last_servers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("resolv.conf");
        fs::write(&path, "nameserver 192.0.2.53\n").unwrap();
        let resolvers = Resolvers::new(Upstreams::ResolvConf(path.clone()), "10.96.0.10:53".parse().unwrap());
        let before = resolvers.servers();
        fs::remove_file(&path).unwrap();
        resolvers.known.lock().unwrap().checked = None;
        assert_eq!(resolvers.servers(), before);
    }
}
