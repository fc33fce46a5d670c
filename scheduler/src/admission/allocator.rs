//! Who holds which service address and node port. What is stored holds for good; what a write was just given
//! holds until the write is seen stored, or for a moment if it never is.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;

use crate::cache::Id;

/// How long a promise outlives a write that is neither stored nor heard of again.
const PROMISE: Duration = Duration::from_secs(30);

/// One thing that only one service can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    /// A ClusterIP.
    Address(Ipv4Addr),
    /// A node port with its protocol.
    Port(u16, String),
}

#[derive(Default)]
struct State {
    stored: HashMap<Claim, Id>,
    promised: HashMap<Claim, (Id, Instant)>,
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
                if state.promised.get(&claim).is_some_and(|(holder, _)| *holder == id) {
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
            state.promised.insert(claim, (id.clone(), Instant::now()));
        }
        true
    }

    /// Gives the first free one of `candidates` to `id`.
    pub(super) fn take_first(
        &self,
        candidates: impl Iterator<Item = Claim>,
        id: &Id,
        dry_run: bool,
    ) -> Option<Claim> {
        let mut candidates = candidates;
        candidates.find(|claim| self.take(claim.clone(), id, dry_run))
    }

    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_free(&self, claim: &Claim, id: &Id) -> bool {
        let stored = self.stored.get(claim).is_none_or(|holder| holder == id);
        let promised =
            self.promised.get(claim).is_none_or(|(holder, at)| holder == id || at.elapsed() > PROMISE);
        stored && promised
    }
}

fn claims(service: &Service) -> Vec<Claim> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let address = spec.cluster_ip.as_deref().and_then(|ip| ip.parse().ok()).map(Claim::Address);
    let ports = spec.ports.iter().flatten().filter_map(|p| {
        let number = u16::try_from(p.node_port?).ok().filter(|n| *n > 0)?;
        Some(Claim::Port(number, p.protocol.clone().unwrap_or_else(|| "TCP".to_owned())))
    });
    address.into_iter().chain(ports).collect()
}
