//! Counters of the name server.

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Zone {
    Cluster,
    Forward,
    Invalid,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    zone: Zone,
    /// One of a closed set, whatever an upstream answers.
    rcode: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ZoneLabels {
    zone: Zone,
}

/// Counters of the name server.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<ZoneLabels, Histogram>,
    pub(super) cache_hits: Counter,
    pub(super) upstream_failures: Counter,
}

impl Metrics {
    /// Registers them as `gantry_agent_dns_*`.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| {
                // From a table look-up to a resolver that hardly answers.
                Histogram::new([0.000_05, 0.000_1, 0.000_25, 0.001, 0.005, 0.025, 0.1, 0.5, 2.0, 5.0])
            }),
            cache_hits: Counter::default(),
            upstream_failures: Counter::default(),
        };
        registry.register(
            "gantry_agent_dns_requests",
            "Questions answered, by where the answer came from and its response code",
            metrics.requests.clone(),
        );
        registry.register(
            "gantry_agent_dns_request_duration_seconds",
            "Time from the arrival of a question to its answer",
            metrics.duration.clone(),
        );
        registry.register(
            "gantry_agent_dns_cache_hits",
            "Questions for names outside the cluster answered from the cache",
            metrics.cache_hits.clone(),
        );
        registry.register(
            "gantry_agent_dns_upstream_failures",
            "Attempts to ask one of the host's name servers that brought no usable answer",
            metrics.upstream_failures.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, zone: Zone, rcode: ResponseCode, took: Duration) {
        let rcode = match rcode {
            ResponseCode::NoError => "NOERROR",
            ResponseCode::FormErr => "FORMERR",
            ResponseCode::ServFail => "SERVFAIL",
            ResponseCode::NXDomain => "NXDOMAIN",
            ResponseCode::NotImp => "NOTIMP",
            ResponseCode::Refused => "REFUSED",
            _ => "OTHER",
        };
        self.requests.get_or_create(&RequestLabels { zone, rcode }).inc();
        self.duration.get_or_create(&ZoneLabels { zone }).observe(took.as_secs_f64());
    }
}
