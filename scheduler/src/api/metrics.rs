//! What the API counts, under the names that Kubernetes dashboards use.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use super::route::Route;
use crate::{
    access::RequestInfo,
    kinds::{Kind, Subresource, Text},
};

/// Upstream's buckets of request latency, thinned.
const SECONDS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// What was asked. Values come from the kind table and fixed lists, so their number is bounded.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) verb: &'static str,
    pub(super) group: Text,
    pub(super) resource: Text,
    pub(super) subresource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    verb: &'static str,
    group: Text,
    resource: Text,
    subresource: &'static str,
    code: u16,
}

/// What a request counts as. Verbs are as upstream's metrics have them; what leads into a container is a connection,
/// whatever its method.
pub(super) fn label(route: &Route<'_>, info: &RequestInfo<'_>) -> Request {
    let of = |kind: &Kind| (kind.group.clone(), kind.plural.clone());
    let ((group, resource), sub) = match route {
        Route::Collection(kind, _) | Route::Watch(kind, ..) => (of(kind), None),
        Route::Object(kind, _, _, sub) => (of(kind), *sub),
        Route::Bindings(..) => ((Text::default(), "bindings".into()), None),
        Route::Review(..) => (("authorization.k8s.io".into(), "reviews".into()), None),
        Route::Other => ((Text::default(), Text::default()), None),
    };
    let verb = match info.verb {
        _ if sub.is_some_and(super::connects) => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => "OTHER",
    };
    Request { verb, group, resource, subresource: sub.map_or("", Subresource::name) }
}

/// The API's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    requests: Family<Answer, Counter>,
    seconds: Family<Request, Histogram, fn() -> Histogram>,
    watches: Family<Request, Gauge>,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            watches: Family::default(),
        };
        registry.register(
            "apiserver_request",
            "Requests by verb, resource and code.",
            metrics.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time until the answer was ready; watches and streams are not in it.",
            metrics.seconds.clone(),
        );
        registry.register("apiserver_longrunning_requests", "Open watches.", metrics.watches.clone());
        metrics
    }

    pub(super) fn answered(&self, request: &Request, code: u16, took: Duration) {
        let Request { verb, group, resource, subresource } = request.clone();
        self.requests.get_or_create(&Answer { verb, group, resource, subresource, code }).inc();
        if verb != "WATCH" && verb != "CONNECT" {
            self.seconds.get_or_create(request).observe(took.as_secs_f64());
        }
    }

    /// Counts an open watch until the guard goes.
    pub(super) fn watching(&self, request: &Request) -> Watching {
        let gauge = self.watches.get_or_create_owned(request);
        gauge.inc();
        Watching(gauge)
    }
}

/// An open watch.
pub(super) struct Watching(Gauge);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.dec();
    }
}
