//! Pod addresses out of the node's ranges: who has which, and which rest after use. [`Pool`] is pure; [`Book`]
//! keeps one on disk. What the kernel shows always wins over the file: [`Pool::settle`] is told at start which
//! pods exist, and with which address.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ipnet::Ipv4Net;

use super::NetError;
use crate::{
    durable::{self, Against},
    model::PodUid,
};

/// Addresses in use and at rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Pool {
    allocated: BTreeMap<PodUid, Ipv4Addr>,
    resting: VecDeque<Resting>,
}

/// A used address: other nodes, connections and caches may still mean its last pod.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct Resting {
    address: Ipv4Addr,
    /// Unix milliseconds.
    since: u64,
}

impl Pool {
    /// The pod's address: the one it has, else one never used, else the one that rested longest, if for
    /// `hold_back` at least.
    pub(super) fn allocate(
        &mut self,
        pod: &PodUid,
        ranges: &[Ipv4Net],
        hold_back: Duration,
        now: SystemTime,
    ) -> Result<Ipv4Addr, NetError> {
        if let Some(address) = self.allocated.get(pod) {
            return Ok(*address);
        }
        let address = self.unused(ranges).or_else(|| self.rested(ranges, hold_back, now));
        let address = address.ok_or_else(|| NetError::Exhausted {
            cidr: ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            used: self.allocated.len() + self.resting.len(),
        })?;
        self.allocated.insert(pod.clone(), address);
        Ok(address)
    }

    /// Puts the pod's address to rest; whether it had one.
    pub(super) fn release(&mut self, pod: &PodUid, now: SystemTime) -> bool {
        let Some(address) = self.allocated.remove(pod) else { return false };
        self.resting.push_back(Resting { address, since: millis(now) });
        true
    }

    /// Who has which.
    pub(super) fn allocated(&self) -> &BTreeMap<PodUid, Ipv4Addr> {
        &self.allocated
    }

    /// Takes over what exists: unknown pods are adopted, pods that are no more are released.
    pub(super) fn settle(&mut self, existing: &BTreeMap<PodUid, Option<Ipv4Addr>>, now: SystemTime) {
        let gone: Vec<PodUid> =
            self.allocated.keys().filter(|pod| !existing.contains_key(*pod)).cloned().collect();
        for pod in gone {
            self.release(&pod, now);
        }
        for (pod, address) in existing {
            if let Some(address) = address {
                self.allocated.insert(pod.clone(), *address);
                self.resting.retain(|rest| rest.address != *address);
            }
        }
    }

    fn unused(&self, ranges: &[Ipv4Net]) -> Option<Ipv4Addr> {
        let used: BTreeSet<Ipv4Addr> =
            self.allocated.values().copied().chain(self.resting.iter().map(|rest| rest.address)).collect();
        usable(ranges).find(|address| !used.contains(address))
    }

    fn rested(&mut self, ranges: &[Ipv4Net], hold_back: Duration, now: SystemTime) -> Option<Ipv4Addr> {
        let now = millis(now);
        let hold_back = u64::try_from(hold_back.as_millis()).unwrap_or(u64::MAX);
        let allocated: BTreeSet<Ipv4Addr> = self.allocated.values().copied().collect();
        let position = self.resting.iter().position(|rest| {
            // A clock that was set back makes an address rest longer, never shorter.
            now.saturating_sub(rest.since) >= hold_back
                && !allocated.contains(&rest.address)
                && ranges.iter().any(|range| range.contains(&rest.address))
        })?;
        self.resting.remove(position).map(|rest| rest.address)
    }
}

/// Host addresses of the ranges without network, gateway (the first) and broadcast address.
fn usable(ranges: &[Ipv4Net]) -> impl Iterator<Item = Ipv4Addr> {
    ranges.iter().flat_map(|range| {
        let reserved = if range.prefix_len() <= 30 { 1 } else { 0 };
        range.hosts().skip(reserved)
    })
}

fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// A pool with its file: every change is on disk before it takes effect.
pub(super) struct Book {
    path: PathBuf,
    pool: Pool,
}

impl Book {
    /// Reads the file. One that cannot be read as a pool is set aside: the kernel's state replaces it.
    pub(super) fn open(path: PathBuf) -> Result<Self, NetError> {
        let pool = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, path = %path.display(), "address file is damaged: starting from the kernel's state");
                Pool::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Pool::default(),
            Err(source) => return Err(NetError::State { operation: "read", path, source }),
        };
        Ok(Self { path, pool })
    }

    /// As it is on disk.
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Changes a copy, stores it, then takes it over.
    pub(super) fn change<T>(
        &mut self,
        change: impl FnOnce(&mut Pool) -> Result<T, NetError>,
    ) -> Result<T, NetError> {
        let mut next = self.pool.clone();
        let result = change(&mut next)?;
        if next != self.pool {
            store(&self.path, &next).map_err(|source| NetError::State {
                operation: "write",
                path: self.path.clone(),
                source,
            })?;
            self.pool = next;
        }
        Ok(result)
    }
}

fn store(path: &Path, pool: &Pool) -> io::Result<()> {
    durable::replace(path, &serde_json::to_vec(pool)?, Against::PowerCut)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOLD: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn ranges() -> Vec<Ipv4Net> {
        vec!["10.1.2.0/29".parse().unwrap()]
    }

    fn take(pool: &mut Pool, pod: &str, now: u64) -> Result<Ipv4Addr, NetError> {
        pool.allocate(&pod.into(), &ranges(), HOLD, at(now))
    }

    #[test]
    fn network_gateway_and_broadcast_are_never_given() {
        let mut pool = Pool::default();
        let given: Vec<_> = (0..5).map(|n| take(&mut pool, &n.to_string(), 0).unwrap()).collect();
        let expected: Vec<Ipv4Addr> = (2..=6).map(|n| Ipv4Addr::new(10, 1, 2, n)).collect();
        assert_eq!(given, expected);
        let full = take(&mut pool, "one too many", 0).unwrap_err();
        assert_eq!(
            full.to_string(),
            "no free pod address in 10.1.2.0/29: 5 are in use or held back after use"
        );
    }

    #[test]
    fn the_same_pod_keeps_its_address() {
        let mut pool = Pool::default();
        let first = take(&mut pool, "a", 0).unwrap();
        take(&mut pool, "b", 1).unwrap();
        assert_eq!(take(&mut pool, "a", 2).unwrap(), first);
    }

    #[test]
    fn a_used_address_rests_and_the_longest_rested_comes_first() {
        let mut pool = Pool::default();
        for n in 0..5 {
            take(&mut pool, &n.to_string(), 0).unwrap();
        }
        pool.release(&"3".into(), at(10));
        pool.release(&"1".into(), at(20));
        assert!(take(&mut pool, "early", 39).is_err());
        assert_eq!(take(&mut pool, "x", 40).unwrap(), Ipv4Addr::new(10, 1, 2, 5));
        assert!(take(&mut pool, "y", 49).is_err());
        assert_eq!(take(&mut pool, "y", 50).unwrap(), Ipv4Addr::new(10, 1, 2, 3));
    }

    #[test]
    fn the_kernel_wins_over_the_file() {
        let mut pool = Pool::default();
        let lost = take(&mut pool, "lost", 0).unwrap();
        let kept = take(&mut pool, "kept", 0).unwrap();
        let existing = BTreeMap::from([
            (PodUid::from("kept"), Some(kept)),
            (PodUid::from("adopted"), Some(Ipv4Addr::new(10, 1, 2, 4))),
            (PodUid::from("host network"), None),
        ]);
        pool.settle(&existing, at(1));
        assert_eq!(take(&mut pool, "new", 1).unwrap(), Ipv4Addr::new(10, 1, 2, 5));
        assert!(pool.resting.iter().any(|rest| rest.address == lost));
    }

    #[test]
    fn what_was_given_is_on_disk_and_a_damaged_file_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("addresses.json");
        let open = || Book::open(path.clone()).unwrap();
        let address = open().change(|pool| pool.allocate(&"a".into(), &ranges(), HOLD, at(0))).unwrap();
        assert_eq!(open().pool.allocated.get(&PodUid::from("a")), Some(&address));
        fs::write(&path, b"{\"alloc").unwrap();
        assert_eq!(open().pool, Pool::default());
    }

    proptest! {
        #[test]
        fn no_two_pods_share_and_no_address_returns_early(steps in prop::collection::vec((0u8..12, any::<bool>(), 0u64..20), 1..200)) {
            let mut pool = Pool::default();
            let mut now = 0;
            let mut released: BTreeMap<Ipv4Addr, u64> = BTreeMap::new();
            for (pod, give, wait) in steps {
                now += wait;
                let uid = PodUid::new(pod.to_string());
                let had = pool.allocated.get(&uid).copied();
                if !give {
                    if pool.release(&uid, at(now)) {
                        released.insert(had.unwrap(), now);
                    }
                } else if let Ok(address) = take(&mut pool, uid.as_str(), now)
                    && had.is_none()
                    && let Some(since) = released.get(&address)
                {
                    prop_assert!(now - since >= HOLD.as_secs());
                }
                let distinct: BTreeSet<_> = pool.allocated.values().collect();
                prop_assert_eq!(distinct.len(), pool.allocated.len());
            }
        }
    }
}
