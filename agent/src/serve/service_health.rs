//! `healthCheckNodePort`: a load balancer outside asks each node whether it has endpoints of a service whose traffic
//! must not leave the node it came to. Answered as kube-proxy answers: 200 with a ready endpoint here, else 503.
//! Follows the desired services; never changes anything.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::model::{Desired, NodeName, NodeView, ServiceId, ServiceSpec, ServiceTable};

/// A port that somebody else has is tried again after this time.
const RETRY: Duration = Duration::from_secs(10);

/// A port that is answered.
struct Answering {
    port: u16,
    /// Ready endpoints on this node.
    endpoints: Arc<AtomicUsize>,
    /// Ends the listener.
    _stop: DropGuard,
}

/// Answers on the health ports of all services until cancelled.
pub async fn service_health(
    mut desired: watch::Receiver<Option<Arc<Desired>>>,
    node: watch::Receiver<Arc<NodeView>>,
    stop: CancellationToken,
) {
    let name = node.borrow().name.clone();
    let mut answering = BTreeMap::new();
    loop {
        let current = desired.borrow_and_update().clone();
        let done = match current.as_ref().and_then(|desired| desired.table.as_ref()) {
            Some(table) => update(&table.services, &name, &mut answering, &stop).await,
            // Not known is not none: those that are answered go on.
            None => true,
        };
        let retry =
            async { if done { std::future::pending().await } else { tokio::time::sleep(RETRY).await } };
        // All cancel-safe: a watch, a timer, a flag.
        tokio::select! {
            changed = desired.changed() => if changed.is_err() { return },
            () = retry => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Opens, closes and counts; false when a port could not be opened.
async fn update(
    services: &ServiceTable,
    node: &NodeName,
    answering: &mut BTreeMap<ServiceId, Answering>,
    stop: &CancellationToken,
) -> bool {
    let wanted = |id: &ServiceId| services.get(id).and_then(|spec| port(spec));
    answering.retain(|id, answering| wanted(id) == Some(answering.port));
    let mut done = true;
    for (id, spec) in services {
        let Some(port) = port(spec) else { continue };
        let count = local_endpoints(spec, node);
        if let Some(known) = answering.get(id) {
            known.endpoints.store(count, Ordering::Relaxed);
            continue;
        }
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await {
            Ok(listener) => {
                answering.insert(id.clone(), answer(listener, id, port, count, stop));
            }
            Err(error) => {
                tracing::warn!(service = ?id, port, %error, "a service's health check port cannot be opened");
                done = false;
            }
        }
    }
    done
}

fn port(spec: &ServiceSpec) -> Option<u16> {
    spec.health_port.filter(|_| spec.external_local)
}

/// Pods of the service that are ready on this node. Those that only end still do not count: no new connections are to
/// come.
fn local_endpoints(spec: &ServiceSpec, node: &NodeName) -> usize {
    let endpoints = spec.ports.iter().flat_map(|port| &port.endpoints);
    let ready = endpoints.filter(|endpoint| endpoint.node.as_ref() == Some(node)).filter(|e| e.ready);
    let addresses: std::collections::BTreeSet<_> = ready.map(|endpoint| endpoint.address.ip()).collect();
    addresses.len()
}

fn answer(
    listener: TcpListener,
    id: &ServiceId,
    port: u16,
    count: usize,
    stop: &CancellationToken,
) -> Answering {
    let (stop, endpoints) = (stop.child_token(), Arc::new(AtomicUsize::new(count)));
    let (ended, id, counted) = (stop.clone(), id.clone(), Arc::clone(&endpoints));
    let respond = move || {
        let response = response(&id, counted.load(Ordering::Relaxed));
        async move { response }
    };
    let router = Router::new().fallback(respond);
    tokio::spawn(async move {
        // Not the graceful end, which waits for the connections that clients keep: a closed port answers nobody.
        let served = ended.run_until_cancelled(async { axum::serve(listener, router).await }).await;
        if let Some(Err(error)) = served {
            tracing::warn!(port, %error, "a service's health check port is no longer answered");
        }
    });
    Answering { port, endpoints, _stop: stop.drop_guard() }
}

fn response(id: &ServiceId, count: usize) -> Response {
    let code = if count > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({
        "service": {"namespace": &*id.namespace, "name": &*id.name},
        "localEndpoints": count,
        "serviceProxyHealthy": true,
    });
    let headers = [
        ("x-content-type-options", "nosniff".to_owned()),
        ("x-load-balancing-endpoint-weight", count.to_string()),
    ];
    (code, headers, Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        model::{Endpoint, Protocol, ServicePort, ServiceType, Table},
        testing,
    };

    fn service(health_port: u16, endpoints: &[Endpoint]) -> Arc<ServiceSpec> {
        let port = |number| ServicePort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: number,
            node_port: None,
            endpoints: endpoints.to_vec(),
        };
        Arc::new(ServiceSpec {
            generation: 1,
            kind: ServiceType::LoadBalancer,
            cluster_ips: Vec::new(),
            headless: false,
            external_name: None,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            affinity: None,
            internal_local: false,
            external_local: true,
            publish_not_ready: false,
            health_port: Some(health_port),
            source_ranges: Vec::new(),
            ports: vec![port(80), port(443)],
        })
    }

    fn endpoint(last: u8, node: &str, ready: bool) -> Endpoint {
        Endpoint {
            address: ([10, 244, 0, last], 80).into(),
            node: Some(node.into()),
            ready,
            serving: true,
            terminating: !ready,
            hostname: String::new(),
            pod: String::new(),
        }
    }

    async fn ask(port: u16) -> Option<String> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        Some(text)
    }

    async fn eventually(port: u16, what: impl Fn(Option<&str>) -> bool) {
        for _ in 0..500 {
            if what(ask(port).await.as_deref()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{:?}", ask(port).await);
    }

    #[tokio::test]
    async fn a_node_tells_its_ready_endpoints_alone() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let id = ServiceId { namespace: "shop".into(), name: "web".into() };
        let with = |endpoints: Option<Vec<Endpoint>>| {
            let services = endpoints.map(|all| (id.clone(), service(port, &all))).into_iter().collect();
            let table = Some(Arc::new(Table { services, ..Table::default() }));
            Some(Arc::new(Desired { table, ..Desired::default() }))
        };
        let both =
            vec![endpoint(1, "node-1", true), endpoint(2, "node-1", false), endpoint(3, "node-2", true)];
        let (desired, wanted) = watch::channel(with(Some(both)));
        let (_node, view) = watch::channel(Arc::new(testing::view("/test".as_ref())));
        let stop = CancellationToken::new();
        let task = tokio::spawn(service_health(wanted, view, stop.clone()));
        eventually(port, |text| text.is_some_and(|text| text.starts_with("HTTP/1.1 200"))).await;
        let text = ask(port).await.unwrap();
        assert!(text.contains("x-load-balancing-endpoint-weight: 1\r\n"), "{text}");
        assert!(text.contains(r#""localEndpoints":1"#) && text.contains(r#""name":"web""#), "{text}");

        // Only one that ends is left.
        desired.send_replace(with(Some(vec![endpoint(2, "node-1", false), endpoint(3, "node-2", true)])));
        eventually(port, |text| text.is_some_and(|text| text.starts_with("HTTP/1.1 503"))).await;
        // That nothing is known of services is not to say that there are none.
        desired.send_replace(Some(Arc::default()));
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(ask(port).await.is_some());
        desired.send_replace(with(None));
        eventually(port, |text| text.is_none()).await;
        stop.cancel();
        task.await.unwrap();
    }
}
