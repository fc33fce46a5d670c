//! Places for connections: so many on a port, so many of one user.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

/// Connections beyond the limit that are taken to be told so; the rest are closed without a word.
const TOLD: usize = 64;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// On the port.
    pub total: usize,
    /// Of one user. All who show no certificate are one.
    pub per_user: usize,
}

/// Why a connection is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The port is full.
    #[error(
        "there are {0} connections, and no more are taken: close some, or raise `connections` of the scheduler"
    )]
    Total(usize),
    /// The user has enough.
    #[error(
        "{user} has {limit} connections, and gets no more: close some, or raise `{setting}` of the scheduler"
    )]
    User {
        /// Who.
        user: Arc<str>,
        /// How many one may have.
        limit: usize,
        /// What to raise.
        setting: &'static str,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    /// `api` or `nodes`
    port: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Refused {
    port: &'static str,
    /// `total` or `user`
    limit: &'static str,
}

/// What is told of the connections of both ports.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    open: Family<Of, Gauge>,
    most: Family<Of, Gauge>,
    refused: Family<Refused, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let Self { open, most, refused } = metrics.clone();
        registry.register("gantry_connections", "Open connections by port.", open);
        registry.register("gantry_connections_limit", "Connections that a port takes.", most);
        registry.register(
            "gantry_connections_refused",
            "Connections that were refused, by port and by which limit.",
            refused,
        );
        metrics
    }
}

/// The places of a port. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: Limits,
    /// What to raise when a user has too few.
    setting: &'static str,
    taken: Mutex<Taken>,
    open: Gauge,
    refused_in_total: Counter,
    refused_of_user: Counter,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    users: HashMap<Arc<str>, usize>,
}

impl Places {
    /// Those of the API.
    pub fn api(limits: Limits, metrics: &Metrics) -> Self {
        Self::new(limits, "api.connections_per_user", "api", metrics)
    }

    /// Those of the node port.
    pub fn nodes(limits: Limits, metrics: &Metrics) -> Self {
        Self::new(limits, "nodes.connections_per_node", "nodes", metrics)
    }

    fn new(limits: Limits, setting: &'static str, port: &'static str, metrics: &Metrics) -> Self {
        let most = metrics.most.get_or_create_owned(&Of { port });
        most.set(i64::try_from(limits.total).unwrap_or(i64::MAX));
        let refused = |limit| metrics.refused.get_or_create_owned(&Refused { port, limit });
        Self(Arc::new(Shared {
            limits,
            setting,
            taken: Mutex::default(),
            open: metrics.open.get_or_create_owned(&Of { port }),
            refused_in_total: refused("total"),
            refused_of_user: refused("user"),
        }))
    }

    /// A place for a connection that was accepted. `None`: it is to be closed at once.
    pub fn take(&self) -> Option<Place> {
        let mut taken = self.0.lock();
        let total = self.0.limits.total;
        let full = taken.total >= total;
        if full {
            self.0.refused_in_total.inc();
        }
        if taken.total >= total.saturating_add(TOLD) {
            return None;
        }
        taken.total += 1;
        self.0.open.inc();
        let refusal = full.then_some(Refusal::Total(total));
        Some(Place { of: self.0.clone(), user: None, refusal })
    }
}

impl Shared {
    // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place; given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    of: Arc<Shared>,
    user: Option<Arc<str>>,
    refusal: Option<Refusal>,
}

impl Place {
    /// Counts the connection as one of a user; afterwards [`Place::refusal`] says whether that is one too many.
    pub fn belongs_to(&mut self, user: &Arc<str>) {
        if self.refusal.is_some() || self.user.is_some() {
            return;
        }
        let limit = self.of.limits.per_user;
        let mut taken = self.of.lock();
        let own = taken.users.entry(user.clone()).or_default();
        if *own >= limit {
            drop(taken);
            self.of.refused_of_user.inc();
            self.refusal = Some(Refusal::User { user: user.clone(), limit, setting: self.of.setting });
            return;
        }
        *own += 1;
        drop(taken);
        self.user = Some(user.clone());
    }

    /// Why the connection is not to be served.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusal.as_ref()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.lock();
        taken.total -= 1;
        if let Some(user) = &self.user
            && let Some(own) = taken.users.get_mut(user)
        {
            *own -= 1;
            if *own == 0 {
                taken.users.remove(user);
            }
        }
        drop(taken);
        self.of.open.dec();
    }
}
