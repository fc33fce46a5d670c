//! What a cluster has from its first moment: the data directory, the system's namespaces, the classes
//! of the runtimes that agents know by themselves, the range of service addresses that is configured, and the Service
//! `kubernetes` with its endpoints, by which pods reach the API. The last three are put back when somebody deletes them.

use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    config::Config,
    kinds::{ip_address, service::families, service_cidr},
    model::{ApiError, Chain, FieldSelector, Key, Reason, Resource},
    objects::{self, Objects, Selection, WatchEvent, WriteOptions},
    store::OpenError,
};

/// Wait between a repair that failed, or a watch that ended, and the next look.
const AGAIN: Duration = Duration::from_secs(1);

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Runtimes that pods may name without anybody having made a class for them, as long as their node has the handler.
const RUNTIMES: [&str; 2] = ["crun", "runc"];

/// Makes the data directory, open to its owner alone.
pub(crate) fn data_dir(dir: &Path) -> Result<(), OpenError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| OpenError::Path { path: dir.to_owned(), source })
}

/// Where there is no range of service addresses yet, the store is new or of a version that knew of none: the services that
/// are there keep their addresses, each gets the IPAddress that says so, and the configured range becomes an object. Runs
/// before anything follows the store, so that nobody takes it for a repair.
pub(crate) async fn service_addresses(objects: &Objects, config: &Config) -> Result<(), ApiError> {
    let default = Key::cluster(Resource::SERVICE_CIDRS, service_cidr::DEFAULT);
    if let Some(stored) = objects.stored(&default) {
        let ranges = stored.decode::<Value>().map(|range| service_cidr::ranges(&range)).unwrap_or_default();
        if !ranges.contains(&config.cluster.service_cidr.into()) {
            tracing::warn!(
                configured = %config.cluster.service_cidr, stored = ?ranges,
                "cluster.service_cidr is not the range of the ServiceCIDR kubernetes, which counts: configure that one, or \
                 delete it for the configured one to take its place once no service needs it"
            );
        }
        return Ok(());
    }
    let services = objects.list(Resource::SERVICES, &Selection::default()).await?.items;
    let mut missing = Vec::new();
    for stored in services {
        let Ok(service) = stored.decode::<Value>() else { continue };
        let (namespace, name) = (stored.key.namespace.as_deref().unwrap_or_default(), &stored.key.name);
        let own = families::addresses(&service["spec"]);
        // One that is in no range is told of by whoever repairs addresses.
        let own =
            own.into_iter().filter(|own| service_cidr::holds(&config.cluster.service_cidr.into(), *own));
        missing.extend(own.map(|address| ip_address::of_service(address, namespace, name)));
    }
    let count = missing.len();
    let options = WriteOptions::controller("bootstrap");
    let made =
        missing.into_iter().map(|address| ensure(objects, Resource::IP_ADDRESSES, None, address, &options));
    stream::iter(made).buffer_unordered(objects::GROUP).try_collect::<()>().await?;
    if count > 0 {
        tracing::info!(count, "IPAddresses made for the services of an earlier version");
    }
    // Last: where this was cut short, it begins again.
    default_range(objects, config, &options).await
}

async fn default_range(objects: &Objects, config: &Config, options: &WriteOptions) -> Result<(), ApiError> {
    let range = json!({
        "metadata": {"name": service_cidr::DEFAULT}, "spec": {"cidrs": [config.cluster.service_cidr]},
    });
    ensure(objects, Resource::SERVICE_CIDRS, None, range, options).await
}

/// Creates what is missing and brings the API's endpoint up to date.
pub(crate) async fn first_objects(objects: &Objects, config: &Config) -> Result<(), ApiError> {
    let options = WriteOptions::controller("bootstrap");
    if config.api.advertise.ip().is_loopback() {
        tracing::warn!(
            advertise = %config.api.advertise,
            "api.advertise is a loopback address: pods cannot reach the API by the Service kubernetes; set it to an \
             address of this machine"
        );
    }
    for name in NAMESPACES {
        let namespace = json!({"metadata": {"name": name}});
        ensure(objects, Resource::NAMESPACES, None, namespace, &options).await?;
    }
    for name in RUNTIMES {
        let class = json!({"metadata": {"name": name}, "handler": name});
        ensure(objects, Resource::RUNTIME_CLASSES, None, class, &options).await?;
    }
    api_service(objects, config).await
}

/// Puts the API's Service and its endpoints back whenever they are deleted, and the endpoints when they are changed.
/// Cancel-safe: each look begins with what is there.
pub(crate) async fn keep_api_service(objects: Objects, config: Config) {
    loop {
        if let Err(error) = watch_api_service(&objects, &config).await {
            tracing::warn!(error = %Chain(&error), "cannot keep the service default/kubernetes, trying again");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn watch_api_service(objects: &Objects, config: &Config) -> Result<(), ApiError> {
    let mut watches = Vec::new();
    for (resource, namespace) in [
        (Resource::SERVICE_CIDRS, None),
        (Resource::SERVICES, Some("default")),
        (Resource::ENDPOINT_SLICES, Some("default")),
        (Resource::ENDPOINTS, Some("default")),
    ] {
        let fields = FieldSelector::parse("metadata.name=kubernetes").unwrap_or_default();
        let selection = Selection { namespace: namespace.map(Into::into), fields, ..Selection::default() };
        watches.push(objects.watch(resource, selection, None).await?);
    }
    // After the watches have begun, so that nothing falls between the two.
    api_service(objects, config).await?;
    let mut events = stream::select_all(watches);
    while let Some(event) = events.next().await {
        match event? {
            // Our own repair comes back as a change, and repairing what is whole changes nothing.
            WatchEvent::Deleted(_) | WatchEvent::Modified(_) => api_service(objects, config).await?,
            WatchEvent::Added(_) | WatchEvent::Bookmark(_) => {}
        }
    }
    Ok(())
}

async fn api_service(objects: &Objects, config: &Config) -> Result<(), ApiError> {
    let options = WriteOptions::controller("bootstrap");
    default_range(objects, config, &options).await?;
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let service = json!({
        "metadata": {"name": "kubernetes", "labels": labels},
        "spec": {
            "clusterIP": config.cluster.api_ip(), "type": "ClusterIP",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.api.advertise.port()}],
        },
    });
    ensure(objects, Resource::SERVICES, Some("default"), service, &options).await?;
    // The Service has no selector: its endpoints are ours to keep, and they follow the configuration.
    let (address, port) = (config.api.advertise.ip(), config.api.advertise.port());
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    // Loopback is each pod's own.
    let (ready, subsets) = if address.is_loopback() {
        (json!([]), json!([]))
    } else {
        (
            json!([{"addresses": [address], "conditions": {"ready": true}}]),
            json!([{"addresses": [{"ip": address}], "ports": ports}]),
        )
    };
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": ready,
        "ports": ports,
    });
    put(objects, Resource::ENDPOINT_SLICES, "default", slice, &options).await?;
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": subsets,
    });
    put(objects, Resource::ENDPOINTS, "default", endpoints, &options).await
}

async fn ensure(
    objects: &Objects,
    resource: Resource,
    namespace: Option<&str>,
    body: Value,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    // Looked for first: who is there has the address that is asked for, and would be told that it is taken.
    let name = body["metadata"]["name"].as_str().unwrap_or_default();
    if objects.stored(&Key::scoped(resource, namespace, name)).is_some() {
        return Ok(());
    }
    match objects.create(resource, namespace, body, options).await {
        Err(error) if error.reason == Reason::AlreadyExists => Ok(()),
        other => other.map(|_| ()),
    }
}

async fn put(
    objects: &Objects,
    resource: Resource,
    namespace: &str,
    body: Value,
    options: &WriteOptions,
) -> Result<(), ApiError> {
    match objects.create(resource, Some(namespace), body.clone(), options).await {
        Err(error) if error.reason == Reason::AlreadyExists => {
            objects.update(resource, Some(namespace), "kubernetes", None, body, options).await.map(|_| ())
        }
        other => other.map(|_| ()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        admission::{ServiceAddresses, ServiceRanges},
        cache::Cache,
        model::Object,
        objects::DeleteOptions,
        tasks::Tasks,
    };

    #[tokio::test(start_paused = true)]
    async fn the_service_of_the_api_and_its_endpoints_come_back() {
        let config = Config::parse("", "test".as_ref()).unwrap();
        let cache = Cache::default();
        let ranges = ServiceRanges {
            addresses: config.cluster.service_cidr,
            ports: config.cluster.node_ports.clone(),
            dns: config.cluster.dns_ip,
        };
        let plugin = ServiceAddresses::new(ranges, &cache);
        let objects = Objects::in_memory(vec![Arc::new(plugin)]).await.unwrap();
        cache.start(&objects, &Tasks::default());
        first_objects(&objects, &config).await.unwrap();
        assert!(objects.get(Resource::RUNTIME_CLASSES, None, "runc").await.is_ok());
        let keeping = tokio::spawn(keep_api_service(objects.clone(), config.clone()));
        let options = WriteOptions::controller("test");
        for resource in
            [Resource::SERVICES, Resource::ENDPOINT_SLICES, Resource::ENDPOINTS, Resource::SERVICES]
        {
            let before = objects.get(resource, Some("default"), "kubernetes").await.unwrap();
            let delete = DeleteOptions::default();
            objects.delete(resource, Some("default"), "kubernetes", &delete, &options).await.unwrap();
            let back = async {
                loop {
                    match objects.get(resource, Some("default"), "kubernetes").await {
                        Ok(found) if found.uid != before.uid => return found,
                        _ => tokio::time::sleep(Duration::from_millis(1)).await,
                    }
                }
            };
            let back = tokio::time::timeout(Duration::from_secs(5), back).await.expect("it comes back");
            let spec = |object: &Object| object.decode::<Value>().unwrap()["spec"].clone();
            assert_eq!(spec(&back), spec(&before), "{resource}");
        }
        let before = objects.get(Resource::SERVICE_CIDRS, None, "kubernetes").await.unwrap();
        let delete = DeleteOptions::default();
        objects.delete(Resource::SERVICE_CIDRS, None, "kubernetes", &delete, &options).await.unwrap();
        let back = async {
            while objects.stored(&before.key).is_none_or(|range| range.uid == before.uid) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), back).await.expect("the range comes back");
        keeping.abort();
        api_service(&objects, &config).await.unwrap();
        let whole = objects.revision();
        api_service(&objects, &config).await.unwrap();
        assert_eq!(objects.revision(), whole, "repairing what is whole writes nothing: it would never end");
    }

    /// As a version that knew of no ranges left them: no plugin gives anything here.
    async fn of_before() -> (Objects, Config) {
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let config = Config::parse("", "test".as_ref()).unwrap();
        let ports = json!([{"port": 80}]);
        for (name, spec) in [
            ("web", json!({"clusterIP": "10.96.3.4", "clusterIPs": ["10.96.3.4"], "ports": ports})),
            ("old", json!({"clusterIP": "10.96.3.5", "ports": ports})),
            ("headless", json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": ports})),
            ("external", json!({"type": "ExternalName", "externalName": "example.org"})),
            ("outside", json!({"clusterIP": "192.168.1.1", "clusterIPs": ["192.168.1.1"], "ports": ports})),
        ] {
            let body = json!({"metadata": {"name": name}, "spec": spec});
            let options = WriteOptions::controller("test");
            objects.create(Resource::SERVICES, Some("default"), body, &options).await.unwrap();
        }
        (objects, config)
    }

    async fn addresses(objects: &Objects) -> Vec<(String, String)> {
        let all = objects.list(Resource::IP_ADDRESSES, &Selection::default()).await.unwrap().items;
        let of = |object: &Object| {
            let value: Value = object.decode().unwrap();
            (object.key.name.to_string(), ip_address::service(&value).unwrap().1.to_owned())
        };
        all.iter().map(|object| of(object)).collect()
    }

    #[tokio::test]
    async fn services_of_an_earlier_version_get_their_addresses_and_do_not_change() {
        let (objects, config) = of_before().await;
        let services = async || {
            let all = objects.list(Resource::SERVICES, &Selection::default()).await.unwrap().items;
            all.iter().map(|service| (service.key.name.clone(), service.revision)).collect::<Vec<_>>()
        };
        let before = services().await;
        service_addresses(&objects, &config).await.unwrap();
        let expected = [("10.96.3.4", "web"), ("10.96.3.5", "old")];
        assert_eq!(addresses(&objects).await, expected.map(|(a, s)| (a.to_owned(), s.to_owned())));
        assert_eq!(services().await, before, "nothing rolls out");
        let range: Value =
            objects.get(Resource::SERVICE_CIDRS, None, "kubernetes").await.unwrap().decode().unwrap();
        assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/16"]));
        let whole = objects.revision();
        service_addresses(&objects, &config).await.unwrap();
        assert_eq!(objects.revision(), whole);
    }

    #[tokio::test]
    async fn an_upgrade_that_was_cut_short_is_completed() {
        let (objects, config) = of_before().await;
        let first = ip_address::of_service("10.96.3.4".parse().unwrap(), "default", "web");
        let options = WriteOptions::controller("test");
        objects.create(Resource::IP_ADDRESSES, None, first, &options).await.unwrap();
        service_addresses(&objects, &config).await.unwrap();
        assert_eq!(addresses(&objects).await.len(), 2);
    }

    #[tokio::test]
    async fn the_range_that_is_stored_counts_and_not_the_configured_one() {
        let (objects, config) = of_before().await;
        service_addresses(&objects, &config).await.unwrap();
        let other = Config::parse("[cluster]\nservice_cidr = \"10.97.0.0/16\"\n", "test".as_ref()).unwrap();
        let whole = objects.revision();
        service_addresses(&objects, &other).await.unwrap();
        assert_eq!(objects.revision(), whole);
    }
}
