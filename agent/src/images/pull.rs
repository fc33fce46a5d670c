//! One pull from one endpoint: manifest, configuration and layers into the content store under a lease, layers
//! unpacked in order while later ones still download, and labels that keep all of it from being garbage.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use oci_spec::image::{Descriptor, ImageConfiguration, ImageManifest};
use tokio::{sync::Semaphore, task::JoinSet};
use tonic::Status;

use super::{
    ImageError,
    ingest::{self, Blob, IngestError},
    local::{LocalImages, chain_ids},
    platform,
    registry::Endpoint,
    share::KeyedLocks,
    unpack,
};
use crate::{containerd::Containerd, failpoint};

/// Layers at a time on a node, of all its pulls together: enough to fill a link over long round trips, few enough to be
/// fair to others and to bound the memory that they take.
pub(super) const PARALLEL: usize = 4;

/// Bytes of a pull so far; shared by everybody who waits for it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) done: AtomicU64,
    pub(super) total: AtomicU64,
}

/// What a pull leaves: the digest that names the image.
#[derive(Clone, Debug)]
pub(super) struct Pulled {
    pub(super) target: Blob,
}

/// A pull in progress.
pub(super) struct Pull {
    /// With a lease.
    pub(super) client: Containerd,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) written: String,
    pub(super) snapshotter: String,
    pub(super) locks: Arc<KeyedLocks>,
    /// For one layer each; the node's.
    pub(super) slots: Arc<Semaphore>,
    pub(super) counters: Arc<Counters>,
}

/// The documents of an image as the registry has them.
struct Documents {
    /// Index and manifest, or the manifest alone; the first names the image.
    chain: Vec<(Bytes, Blob)>,
    manifest: ImageManifest,
}

impl Pull {
    pub(super) async fn run(self) -> Result<Pulled, ImageError> {
        self.endpoint.authenticate().await;
        let documents = self.documents().await?;
        let layers: Vec<Blob> = documents.manifest.layers().iter().map(blob).collect();
        let config = blob(documents.manifest.config());
        let total = layers.iter().map(|l| l.size).sum::<u64>() + config.size;
        self.counters.total.store(total, Ordering::Relaxed);
        self.counters.done.store(0, Ordering::Relaxed);
        let parts = Arc::new(Parts {
            client: self.client.clone(),
            endpoint: self.endpoint.clone(),
            locks: self.locks.clone(),
            counters: self.counters.clone(),
        });
        parts.fetch(&config).await.map_err(|e| self.failed(e))?;
        let chain = self.layers(&parts, &config, &layers).await?;
        failpoint::reach("images.pull.unpacked", &self.written);
        self.keep(&documents, &config, &layers, chain.last())
            .await
            .map_err(|status| self.store("keep it", &status))?;
        let target = documents.chain.into_iter().next().map(|(_, blob)| blob);
        let target = target.ok_or_else(|| self.store("name it", &Status::internal("no manifest")))?;
        Ok(Pulled { target })
    }

    async fn documents(&self) -> Result<Documents, ImageError> {
        let (bytes, digest) = self.endpoint.manifest(None).await?;
        let document: platform::Document = self.parse(&bytes)?;
        let first = document_blob(&bytes, digest, &document);
        let Some(entries) = document.manifests else {
            let manifest = self.parse(&bytes)?;
            return Ok(Documents { chain: vec![(bytes, first)], manifest });
        };
        let entry = platform::select(&entries).ok_or_else(|| {
            let platform = platform::architecture();
            self.endpoint
                .error(format!("no match for platform linux/{platform} in manifest: not found"), None)
        })?;
        let (inner, digest) = self.endpoint.manifest(Some(&entry.digest)).await?;
        let document = self.parse(&inner)?;
        let second = document_blob(&inner, digest, &document);
        let manifest = self.parse(&inner)?;
        Ok(Documents { chain: vec![(bytes, first), (inner, second)], manifest })
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ImageError> {
        serde_json::from_slice(bytes)
            .map_err(|error| self.endpoint.error("its manifest cannot be read".into(), Some(error.into())))
    }

    /// Downloads all layers and unpacks each as soon as it and those below it are there.
    async fn layers(
        &self,
        parts: &Arc<Parts>,
        config: &Blob,
        layers: &[Blob],
    ) -> Result<Vec<String>, ImageError> {
        let bytes = LocalImages::new(self.client.clone()).read(&config.digest).await;
        let bytes = bytes.map_err(|status| self.store("read its configuration", &status))?;
        let configuration: ImageConfiguration = self.parse(&bytes)?;
        let diff_ids = configuration.rootfs().diff_ids();
        if diff_ids.len() != layers.len() {
            let why = format!("it has {} layers and {} layer digests", layers.len(), diff_ids.len());
            return Err(self.endpoint.error(why, None));
        }
        let chain = chain_ids(diff_ids);
        let (mut downloads, mut arrived) = (self.start_downloads(parts, layers), vec![false; layers.len()]);
        for (index, layer) in layers.iter().enumerate() {
            while !arrived[index] {
                let Some(joined) = downloads.join_next().await else { break };
                let joined = joined
                    .map_err(|error| self.store("download it", &Status::internal(error.to_string())))?;
                arrived[joined.map_err(|error| self.failed(error))?] = true;
            }
            failpoint::reach("images.pull.fetched", &self.written);
            let parent = index.checked_sub(1).map_or("", |below| chain[below].as_str());
            let _lock = self.locks.lock(&chain[index]).await;
            let name = &chain[index];
            unpack::layer(&self.client, &self.snapshotter, layer, &diff_ids[index], parent, name)
                .await
                .map_err(|status| self.store("unpack it", &status))?;
        }
        Ok(chain)
    }

    /// Dropping the set ends the downloads.
    fn start_downloads(&self, parts: &Arc<Parts>, layers: &[Blob]) -> JoinSet<Result<usize, IngestError>> {
        let mut downloads = JoinSet::new();
        for (index, layer) in layers.iter().cloned().enumerate() {
            let (parts, slots) = (parts.clone(), self.slots.clone());
            downloads.spawn(async move {
                // Never closed.
                let _slot = slots.acquire().await;
                parts.fetch(&layer).await.map(|()| index)
            });
        }
        downloads
    }

    /// Stores the documents with references to what they name: index -> manifest -> configuration and layers ->
    /// snapshot.
    async fn keep(
        &self,
        documents: &Documents,
        config: &Blob,
        layers: &[Blob],
        snapshot: Option<&String>,
    ) -> Result<(), Status> {
        if let Some(snapshot) = snapshot {
            let label = format!("containerd.io/gc.ref.snapshot.{}", self.snapshotter);
            ingest::label(&self.client, &config.digest, [(label, snapshot.clone())].into()).await?;
        }
        let mut labels: HashMap<String, String> = layers
            .iter()
            .enumerate()
            .map(|(i, layer)| (format!("containerd.io/gc.ref.content.l.{i}"), layer.digest.clone()))
            .collect();
        labels.insert("containerd.io/gc.ref.content.config".to_owned(), config.digest.clone());
        for (bytes, blob) in documents.chain.iter().rev() {
            let _lock = self.locks.lock(&blob.digest).await;
            ingest::store(&self.client, bytes.clone(), blob, labels).await?;
            labels = [("containerd.io/gc.ref.content.m.0".to_owned(), blob.digest.clone())].into();
        }
        Ok(())
    }

    fn failed(&self, error: IngestError) -> ImageError {
        match error {
            IngestError::Registry(error) => error,
            IngestError::Store(status) => self.store("store it", &status),
        }
    }

    fn store(&self, what: &str, status: &Status) -> ImageError {
        ImageError::Store {
            reference: self.written.clone(),
            why: format!("containerd could not {what}: {}", status.message()),
            source: None,
        }
    }
}

/// What the downloads share.
struct Parts {
    client: Containerd,
    endpoint: Arc<Endpoint>,
    locks: Arc<KeyedLocks>,
    counters: Arc<Counters>,
}

impl Parts {
    async fn fetch(&self, blob: &Blob) -> Result<(), IngestError> {
        // Another pull may be fetching the same layer: it is then there when we get the lock.
        let _lock = self.locks.lock(&blob.digest).await;
        ingest::download(&self.client, &self.endpoint, blob, &self.counters.done).await
    }
}

fn blob(descriptor: &Descriptor) -> Blob {
    Blob {
        digest: descriptor.digest().to_string(),
        size: descriptor.size(),
        media_type: descriptor.media_type().to_string(),
    }
}

fn document_blob(bytes: &Bytes, digest: String, document: &platform::Document) -> Blob {
    let default = if document.manifests.is_some() {
        "application/vnd.oci.image.index.v1+json"
    } else {
        "application/vnd.oci.image.manifest.v1+json"
    };
    let media_type = document.media_type.clone().unwrap_or_else(|| default.to_owned());
    Blob { digest, size: bytes.len() as u64, media_type }
}
