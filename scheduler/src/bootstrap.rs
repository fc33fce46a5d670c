//! What a cluster has from its first moment: the data directory, the system's namespaces, the classes
//! of the runtimes that agents know by themselves, and the Service
//! `kubernetes` with its endpoints, by which pods reach the API. The last two are put back when somebody deletes them.

use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path, time::Duration};

use futures::{StreamExt as _, stream};
use serde_json::{Value, json};

use crate::{
    config::Config,
    model::{ApiError, Chain, FieldSelector, Reason, Resource},
    objects::{Objects, Selection, WatchEvent, WriteOptions},
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
    for resource in [Resource::SERVICES, Resource::ENDPOINT_SLICES, Resource::ENDPOINTS] {
        let fields = FieldSelector::parse("metadata.name=kubernetes").unwrap_or_default();
        let selection = Selection { namespace: Some("default".into()), fields, ..Selection::default() };
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
    use super::*;
    use crate::objects::DeleteOptions;

    #[tokio::test(start_paused = true)]
    async fn the_service_of_the_api_and_its_endpoints_come_back() {
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let config = Config::parse("", "test".as_ref()).unwrap();
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
            let spec = |object: &crate::model::Object| object.decode::<Value>().unwrap()["spec"].clone();
            assert_eq!(spec(&back), spec(&before), "{resource}");
        }
        keeping.abort();
        api_service(&objects, &config).await.unwrap();
        let whole = objects.revision();
        api_service(&objects, &config).await.unwrap();
        assert_eq!(objects.revision(), whole, "repairing what is whole writes nothing: it would never end");
    }
}
