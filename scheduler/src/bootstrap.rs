//! What a cluster has from its first moment: the data directory, the system's namespaces, and the Service
//! `kubernetes` with its endpoints, by which pods reach the API.

use std::{fs, os::unix::fs::DirBuilderExt as _, path::Path};

use serde_json::{Value, json};

use crate::{
    config::Config,
    model::{ApiError, Reason, Resource},
    objects::{Objects, WriteOptions},
    store::OpenError,
};

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

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
    for name in NAMESPACES {
        let namespace = json!({"metadata": {"name": name}});
        ensure(objects, Resource::NAMESPACES, None, namespace, &options).await?;
    }
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
    let slice = json!({
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": family,
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    });
    put(objects, Resource::ENDPOINT_SLICES, "default", slice, &options).await?;
    let endpoints = json!({
        "metadata": {"name": "kubernetes", "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
        "subsets": [{"addresses": [{"ip": address}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}],
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
