//! How many requests are worked on at a time, as upstream has it: so many that read, so many that write, and who comes then
//! is to come again. What stays open for as long as its client likes does not count.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{
    access::{MASTERS, RequestInfo},
    model::{ApiError, Reason},
    objects::Actor,
};

/// When to come again, in seconds; upstream's.
const AGAIN: u32 = 1;

/// How many requests may be worked on at a time; 0: any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// That read.
    pub reads: usize,
    /// That write.
    pub writes: usize,
}

impl Default for InFlight {
    /// Upstream's.
    fn default() -> Self {
        Self { reads: 400, writes: 200 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Label {
    /// `readOnly` or `mutating`
    request_kind: &'static str,
}

/// Counts requests.
pub(super) struct Gate {
    reads: Lane,
    writes: Lane,
}

/// Requests of one sort.
struct Lane {
    limit: i64,
    /// What is told is what is counted.
    now: Gauge,
    refused: Counter,
}

/// A request that is worked on.
pub(super) struct Held<'a>(&'a Gauge);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Gate {
    pub(super) fn new(limits: InFlight, registry: &mut Registry) -> Self {
        let (now, most, refused) = (
            Family::<Label, Gauge>::default(),
            Family::<Label, Gauge>::default(),
            Family::<Label, Counter>::default(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests that are worked on, by what they do; those that stay open are not among them.",
            now.clone(),
        );
        registry.register(
            "gantry_inflight_requests_limit",
            "Requests that are worked on at a time before others are told to come again; 0: any number.",
            most.clone(),
        );
        registry.register(
            "gantry_inflight_requests_refused",
            "Requests that were told to come again, as too many were worked on.",
            refused.clone(),
        );
        let lane = |request_kind, limit: usize| {
            let (label, limit) = (Label { request_kind }, i64::try_from(limit).unwrap_or(i64::MAX));
            most.get_or_create(&label).set(limit);
            let (now, refused) = (now.get_or_create_owned(&label), refused.get_or_create_owned(&label));
            Lane { limit, now, refused }
        };
        Self { reads: lane("readOnly", limits.reads), writes: lane("mutating", limits.writes) }
    }

    /// Counts a request until the result is dropped. An administrator is refused at twice the number: upstream refuses him
    /// never, but in this version everyone who works with objects is one, and a limit that spares all is none.
    pub(super) fn enter(&self, info: &RequestInfo<'_>, actor: &Actor) -> Result<Option<Held<'_>>, ApiError> {
        if info.is_long_running() {
            return Ok(None);
        }
        let Lane { limit, now, refused } = if info.is_read_only() { &self.reads } else { &self.writes };
        let before = now.inc();
        let held = Held(now);
        let full = |limit: i64| limit > 0 && before >= limit;
        if full(*limit) && (full(limit.saturating_mul(2)) || !actor.is_in(MASTERS)) {
            refused.inc();
            let message = "Too many requests, please try again later.";
            let error = ApiError::new(Reason::TooManyRequests, message);
            return Err(ApiError { retry_after: Some(AGAIN), ..error });
        }
        Ok(Some(held))
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn reads_writes_and_what_stays_open_are_counted_apart() {
        let mut registry = Registry::default();
        let gate = Gate::new(InFlight { reads: 2, writes: 1 }, &mut registry);
        let (eve, admin) = (Actor::new("eve", []), Actor::new("admin", [MASTERS]));
        let path = "/api/v1/namespaces/a/pods/p";
        let read = RequestInfo::of(&Method::GET, path, false, None);
        let write = RequestInfo::of(&Method::PUT, path, false, None);
        let watch = RequestInfo::of(&Method::GET, "/api/v1/pods", true, None);
        let (first, _second) = (gate.enter(&read, &eve).unwrap(), gate.enter(&read, &eve).unwrap());
        let refused = gate.enter(&read, &eve).err().expect("a third");
        assert_eq!((refused.reason, refused.retry_after), (Reason::TooManyRequests, Some(1)));
        assert!(gate.enter(&watch, &eve).unwrap().is_none(), "a watch does not count");
        let _writing = gate.enter(&write, &eve).unwrap();
        assert!(gate.enter(&write, &eve).is_err(), "writes are counted apart");
        let _hurried = gate.enter(&write, &admin).unwrap();
        assert!(gate.enter(&write, &admin).is_err(), "an administrator has twice as much");
        drop(first);
        assert!(gate.enter(&read, &eve).is_ok());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "apiserver_current_inflight_requests{request_kind=\"readOnly\"} 1",
            "apiserver_current_inflight_requests{request_kind=\"mutating\"} 2",
            "gantry_inflight_requests_limit{request_kind=\"readOnly\"} 2",
            "gantry_inflight_requests_refused_total{request_kind=\"mutating\"} 2",
        ] {
            assert!(text.contains(line), "{line} not in {text}");
        }
    }
}
