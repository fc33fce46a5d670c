//! Who holds which service address and node port. What is stored holds for good; what a write was just given
//! holds until the write is seen stored or has failed, or for a while if neither is ever heard.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;

use crate::cache::Id;

/// How long a promise outlives a write that is neither stored nor heard of again.
const PROMISE: Duration = Duration::from_secs(30);

/// One thing that only one service can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    /// A ClusterIP.
    Address(Ipv4Addr),
    /// A node port. One number serves one service, whatever it carries there.
    Port(u16),
}

#[derive(Default)]
struct State {
    stored: HashMap<Claim, Id>,
    promised: HashMap<Claim, Promise>,
}

/// Given to writes of one service that are on their way.
struct Promise {
    id: Id,
    since: Instant,
    /// How many such writes: two clients may create the same service at once, and only one of them fails.
    writes: usize,
}

/// All claims.
#[derive(Default)]
pub(super) struct Allocator {
    state: Mutex<State>,
}

impl Allocator {
    /// Takes a stored change of a service.
    pub(super) fn changed(&self, old: Option<&Service>, new: Option<&Service>) {
        let mut state = self.lock();
        if let Some(service) = old {
            let id = Id::of(&service.metadata);
            for claim in claims(service) {
                if state.stored.get(&claim) == Some(&id) {
                    state.stored.remove(&claim);
                }
            }
        }
        if let Some(service) = new {
            let id = Id::of(&service.metadata);
            for claim in claims(service) {
                if state.promised.get(&claim).is_some_and(|promise| promise.id == id) {
                    state.promised.remove(&claim);
                }
                state.stored.insert(claim, id.clone());
            }
        }
    }

    /// Gives `claim` to `id`, unless another one has it. A dry run only looks.
    pub(super) fn take(&self, claim: Claim, id: &Id, dry_run: bool) -> bool {
        let mut state = self.lock();
        if !state.is_free(&claim, id) {
            return false;
        }
        if !dry_run {
            let fresh = Promise { id: id.clone(), since: Instant::now(), writes: 0 };
            let promise = match state.promised.remove(&claim) {
                Some(known) if known.id == *id => Promise { writes: known.writes, ..fresh },
                _ => fresh,
            };
            state.promised.insert(claim, Promise { writes: promise.writes + 1, ..promise });
        }
        true
    }

    /// A write of `id` that took `claim` has failed.
    pub(super) fn give_back(&self, claim: &Claim, id: &Id) {
        let mut state = self.lock();
        let Some(promise) = state.promised.get_mut(claim).filter(|promise| promise.id == *id) else { return };
        promise.writes = promise.writes.saturating_sub(1);
        if promise.writes == 0 {
            state.promised.remove(claim);
        }
    }

    /// Whether a write is on its way with an address of `range`.
    fn promises_within(&self, range: &IpNet) -> bool {
        let state = self.lock();
        let fresh = state.promised.iter().filter(|(_, promise)| promise.since.elapsed() <= PROMISE);
        let mut addresses = fresh.filter_map(|(claim, _)| match claim {
            Claim::Address(address) => Some(IpAddr::V4(*address)),
            Claim::Port(_) => None,
        });
        addresses.any(|address| range.contains(&address))
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look at what writes were given that are not stored yet. Cheap to clone.
#[derive(Clone, Default)]
pub struct Promises(Arc<Allocator>);

impl Promises {
    pub(super) const fn of(allocator: Arc<Allocator>) -> Self {
        Self(allocator)
    }

    /// Whether a write is on its way with an address of `range`. Whoever finds none, after nothing more is given from the
    /// range, finds all its addresses stored.
    pub fn within(&self, range: &IpNet) -> bool {
        self.0.promises_within(range)
    }
}

impl State {
    fn is_free(&self, claim: &Claim, id: &Id) -> bool {
        let stored = self.stored.get(claim).is_none_or(|holder| holder == id);
        let promised = self
            .promised
            .get(claim)
            .is_none_or(|promise| promise.id == *id || promise.since.elapsed() > PROMISE);
        stored && promised
    }
}

fn claims(service: &Service) -> Vec<Claim> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()).map(Claim::Address);
    let ports = spec.ports.iter().flatten().filter_map(|p| p.node_port).chain(spec.health_check_node_port);
    let ports = ports.filter_map(|port| u16::try_from(port).ok()).filter(|port| *port > 0).map(Claim::Port);
    address.into_iter().chain(ports).collect()
}
