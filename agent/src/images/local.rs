//! Reads images that are already in containerd: image record -> (index ->) manifest -> configuration. What is
//! named by a digest never changes, so it is read once and kept. Never writes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use containerd_client::services::v1::{GetImageRequest, Image, ReadContentRequest};
use oci_spec::image::{Config, ImageConfiguration, ImageManifest};
use sha2::{Digest, Sha256};
use tonic::{Code, Status};

use super::platform;
use crate::containerd::Containerd;

/// Label of an image record: `repository@digest` of the first pull.
pub(crate) const ID_LABEL: &str = "gantry.dev/image-id";

/// Larger manifests and configurations than this are refused: registries allow 4 MiB.
const MAX_JSON: usize = 8 << 20;

/// An image as far as running it needs.
#[derive(Clone, Debug)]
pub(crate) struct LocalImage {
    /// Name in the image store.
    pub(crate) name: String,
    /// `repository@sha256:...`.
    pub(crate) id: String,
    /// The rest, shared between names of one image.
    pub(crate) content: Arc<ImageContent>,
}

/// What the digest alone determines.
#[derive(Clone, Debug)]
pub(crate) struct ImageContent {
    /// How to run it.
    pub(crate) config: Config,
    /// Snapshot that holds all layers.
    pub(crate) chain_id: String,
    /// Compressed bytes of all layers.
    pub(crate) size: u64,
}

/// Reads and remembers.
#[derive(Clone, Debug)]
pub(crate) struct LocalImages {
    client: Containerd,
    known: Arc<Mutex<HashMap<String, Arc<ImageContent>>>>,
}

impl LocalImages {
    pub(crate) fn new(client: Containerd) -> Self {
        Self { client, known: Arc::default() }
    }

    /// The image of this record name; `None` when there is no record or its content is incomplete.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<LocalImage>, Status> {
        let request = self.client.request(GetImageRequest { name: name.to_owned() });
        let record = match self.client.images().get(request).await {
            Ok(answer) => answer.into_inner().image.unwrap_or_default(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        let digest = record.target.as_ref().map(|t| t.digest.clone()).unwrap_or_default();
        let content = match self.content(&digest).await {
            Ok(content) => content,
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(status),
        };
        Ok(Some(LocalImage { id: image_id(&record, &digest), name: record.name, content }))
    }

    async fn content(&self, digest: &str) -> Result<Arc<ImageContent>, Status> {
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = known().get(digest) {
            return Ok(content.clone());
        }
        let manifest = self.manifest(digest).await?;
        let config: ImageConfiguration = parse(&self.read(manifest.config().digest().as_ref()).await?)?;
        let content = Arc::new(ImageContent {
            chain_id: chain_ids(config.rootfs().diff_ids()).pop().unwrap_or_default(),
            size: manifest.layers().iter().map(oci_spec::image::Descriptor::size).sum(),
            config: config.config().clone().unwrap_or_default(),
        });
        known().insert(digest.to_owned(), content.clone());
        Ok(content)
    }

    /// The manifest for this machine, behind an index or not.
    async fn manifest(&self, digest: &str) -> Result<ImageManifest, Status> {
        let bytes = self.read(digest).await?;
        let document: platform::Document = parse(&bytes)?;
        match document.manifests {
            None => parse(&bytes),
            Some(entries) => {
                let entry = platform::select(&entries)
                    .ok_or_else(|| Status::not_found(format!("{digest} has no image for this platform")))?;
                parse(&self.read(&entry.digest).await?)
            }
        }
    }

    /// A small blob from the content store, checked against its digest.
    pub(crate) async fn read(&self, digest: &str) -> Result<Vec<u8>, Status> {
        let request = ReadContentRequest { digest: digest.to_owned(), offset: 0, size: 0 };
        let mut stream = self.client.content().read(self.client.request(request)).await?.into_inner();
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.message().await? {
            if bytes.len() + chunk.data.len() > MAX_JSON {
                return Err(Status::data_loss(format!("{digest} is too large for a manifest")));
            }
            bytes.extend_from_slice(&chunk.data);
        }
        if sha256(&bytes) != digest {
            return Err(Status::data_loss(format!("{digest} is damaged in the content store")));
        }
        Ok(bytes)
    }
}

/// The label of our own pulls; for an imported image its name with the digest.
fn image_id(record: &Image, digest: &str) -> String {
    if let Some(id) = record.labels.get(ID_LABEL) {
        return id.clone();
    }
    let name = record.name.split('@').next().unwrap_or_default();
    let repository = match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    };
    format!("{repository}@{digest}")
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, Status> {
    serde_json::from_slice(bytes).map_err(|error| Status::data_loss(format!("image content: {error}")))
}

/// `sha256:<hex>` of the bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("sha256:{digest:x}")
}

/// Names of the snapshots after each layer: the digest of the parent's name and the layer's.
pub(crate) fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(parent) => sha256(format!("{parent} {diff_id}").as_bytes()),
        });
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_of_one_layer_is_the_layer() {
        assert_eq!(chain_ids(&["sha256:a".into()]), ["sha256:a"]);
        assert!(chain_ids(&[]).is_empty());
    }

    #[test]
    fn chain_hashes_parent_and_layer() {
        let chain = chain_ids(&["sha256:a".into(), "sha256:b".into()]);
        assert_eq!(chain[1], sha256(b"sha256:a sha256:b"));
    }

    #[test]
    fn id_of_an_imported_image_drops_the_tag_but_not_a_port() {
        let record = |name: &str| Image { name: name.into(), ..Image::default() };
        assert_eq!(image_id(&record("localhost:5000/app:1"), "sha256:x"), "localhost:5000/app@sha256:x");
        assert_eq!(image_id(&record("localhost:5000/app"), "sha256:x"), "localhost:5000/app@sha256:x");
    }
}
