//! The images port on containerd: finding what is there, pulling what is not, and the image records that give pulled
//! content its names.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use containerd_client::{
    services::v1::{CreateImageRequest, Image, ListImagesRequest, UpdateImageRequest},
    types::Descriptor,
};
use prost_types::FieldMask;
use tokio::sync::{RwLock, Semaphore};
use tonic::{Code, Status};

use super::{
    Credential, ImageError, ImageSettings, Images, Progress,
    ingest::Blob,
    leftovers::{self, LeftOvers},
    local::{ID_LABEL, LocalImage, LocalImages},
    names::Name,
    pull::{Counters, PARALLEL, Pull, Pulled},
    registry::Endpoint,
    share::{Flights, KeyedLocks},
    unpack,
};
use crate::{
    containerd::Containerd,
    failpoint,
    model::{ImageInfo, chain},
};

/// How often progress is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

type Outcome = Result<ImageInfo, Arc<ImageError>>;

/// The adapter. Cheap to clone.
#[derive(Clone)]
pub struct ContainerdImages {
    client: Containerd,
    local: LocalImages,
    left: Arc<LeftOvers>,
    snapshotter: String,
    settings: Arc<ImageSettings>,
    pulls: Arc<Flights<Outcome, Counters>>,
    locks: Arc<KeyedLocks>,
    slots: Arc<Semaphore>,
    /// Read by every pull for as long as it relies on what it found in the store, which no lease of its own keeps.
    pulling: Arc<RwLock<()>>,
}

impl ContainerdImages {
    /// Needs no connection yet.
    pub fn new(client: Containerd, snapshotter: &str, settings: ImageSettings) -> Self {
        Self {
            local: LocalImages::new(client.clone()),
            left: Arc::new(LeftOvers::new(client.clone())),
            client,
            snapshotter: snapshotter.to_owned(),
            settings: Arc::new(settings),
            pulls: Arc::default(),
            locks: Arc::default(),
            slots: Arc::new(Semaphore::new(PARALLEL)),
            pulling: Arc::default(),
        }
    }

    async fn found(&self, written: &str, name: &Name) -> Result<Option<ImageInfo>, ImageError> {
        let failed = |status: Status| store_error(written, "look it up", &status);
        let Some(image) = self.local.find(&name.local()).await.map_err(failed)? else { return Ok(None) };
        let chain = &image.content.chain_id;
        let unpacked = chain.is_empty()
            || unpack::present(&self.client, &self.snapshotter, chain).await.map_err(failed)?;
        // What a lease keeps may be what a pull goes on with, of this image's next version or of another with the same
        // layers: it ends when there is none, at one of the next times that the image is asked for.
        if unpacked
            && let Ok(_nobody_pulls) = self.pulling.try_write()
            && let Err(error) = self.left.end(&image.name).await
        {
            // Until it expires, or the image is asked for again.
            tracing::debug!(image = written, %error, "the lease of a pull that was cut short stays");
        }
        Ok(unpacked.then(|| info(written, &image)))
    }

    /// All endpoints in order; the last one's error is the one that counts, unless an earlier one said more than
    /// that it lets nobody in.
    async fn pull_now(
        self,
        written: String,
        credentials: Vec<Credential>,
        counters: Arc<Counters>,
    ) -> Outcome {
        let name = Name::parse(&written)?;
        let source = name.source(&self.settings.aliases)?;
        let mut last = None;
        let relying = self.pulling.read().await;
        for endpoint in Endpoint::all(&written, &source, &self.settings, &credentials)? {
            match self.pull_from(endpoint, &written, &name, counters.clone()).await {
                Ok(pulled) => {
                    drop(relying);
                    return self.record(&written, &name, &pulled).await.map_err(Arc::new);
                }
                // What containerd refuses it will refuse again.
                Err(error @ ImageError::Store { .. }) => return Err(Arc::new(error)),
                Err(error) => last = Some(error),
            }
        }
        Err(Arc::new(
            last.unwrap_or_else(|| store_error(&written, "pull it", &Status::internal("no endpoint"))),
        ))
    }

    async fn pull_from(
        &self,
        endpoint: Endpoint,
        written: &str,
        name: &Name,
        counters: Arc<Counters>,
    ) -> Result<Pulled, ImageError> {
        let failed = |status: Status| store_error(written, "lease it", &status);
        self.left.read().await.map_err(failed)?;
        let leased = self.client.leased(&leftovers::purpose(&name.local())).await.map_err(failed)?;
        failpoint::reach("images.pull.leased", written);
        let pull = Pull {
            client: leased.clone(),
            endpoint: Arc::new(endpoint),
            written: written.to_owned(),
            snapshotter: self.snapshotter.clone(),
            locks: self.locks.clone(),
            slots: self.slots.clone(),
            counters,
        };
        let result = pull.run().await;
        // A failed pull keeps its lease until it expires: the next attempt goes on with what it has.
        if let Ok(pulled) = &result {
            failpoint::reach("images.pull.kept", written);
            self.name(name, pulled).await.map_err(|status| store_error(written, "name it", &status))?;
            failpoint::reach("images.pull.named", written);
            leased.release().await.map_err(failed)?;
        }
        result
    }

    /// Gives the content its name in the image store: from now on it is not garbage.
    async fn name(&self, name: &Name, pulled: &Pulled) -> Result<(), Status> {
        let Blob { digest, size, media_type } = pulled.target.clone();
        let target = Descriptor {
            media_type,
            size: i64::try_from(size).unwrap_or_default(),
            digest: digest.clone(),
            ..Descriptor::default()
        };
        let image = Image {
            name: name.local(),
            labels: [(ID_LABEL.to_owned(), format!("{}@{digest}", name.repository()))].into(),
            target: Some(target),
            ..Image::default()
        };
        let create = CreateImageRequest { image: Some(image.clone()), ..CreateImageRequest::default() };
        match self.client.images().create(self.client.request(create)).await {
            Err(status) if status.code() == Code::AlreadyExists => {
                let paths = vec!["target".to_owned(), "labels".to_owned()];
                let update = UpdateImageRequest {
                    image: Some(image),
                    update_mask: Some(FieldMask { paths }),
                    ..UpdateImageRequest::default()
                };
                self.client.images().update(self.client.request(update)).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    async fn record(&self, written: &str, name: &Name, pulled: &Pulled) -> Result<ImageInfo, ImageError> {
        let found = self.found(written, name).await?;
        found.ok_or_else(|| {
            store_error(written, "find it again", &Status::not_found(pulled.target.digest.clone()))
        })
    }
}

fn info(written: &str, image: &LocalImage) -> ImageInfo {
    ImageInfo {
        reference: written.to_owned(),
        local_name: image.name.clone(),
        id: image.id.clone(),
        user: image.content.config.user().clone().unwrap_or_default(),
        stop_signal: image.content.config.stop_signal().clone().unwrap_or_default(),
        size: image.content.size,
    }
}

fn store_error(written: &str, what: &str, status: &Status) -> ImageError {
    ImageError::Store {
        reference: written.to_owned(),
        why: format!("containerd could not {what}: {}", status.message()),
        source: None,
    }
}

/// Callers with other credentials must not share a pull that may fail for them alone.
fn flight_key(reference: &str, credentials: &[Credential]) -> String {
    let mut hasher = DefaultHasher::new();
    for credential in credentials {
        (&credential.registry, &credential.username, &credential.password).hash(&mut hasher);
    }
    format!("{reference} {:x}", hasher.finish())
}

/// The same failure for each of those who waited for one pull.
fn copy(error: &ImageError) -> ImageError {
    match error {
        ImageError::InvalidName { reference, why } => {
            ImageError::InvalidName { reference: reference.clone(), why: why.clone() }
        }
        ImageError::NeverPull { reference } => ImageError::NeverPull { reference: reference.clone() },
        ImageError::Pull { reference, endpoint, why, source } => ImageError::Pull {
            reference: reference.clone(),
            endpoint: endpoint.clone(),
            why: why.clone(),
            source: source.as_ref().map(|cause| chain(&**cause).into()),
        },
        ImageError::Store { reference, why, source } => ImageError::Store {
            reference: reference.clone(),
            why: why.clone(),
            source: source.as_ref().map(|cause| chain(&**cause).into()),
        },
    }
}

#[async_trait]
impl Images for ContainerdImages {
    async fn find(&self, reference: &str) -> Result<Option<ImageInfo>, ImageError> {
        self.found(reference, &Name::parse(reference)?).await
    }

    async fn pull(
        &self,
        reference: &str,
        credentials: &[Credential],
        progress: Arc<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<ImageInfo, ImageError> {
        let lost =
            Arc::new(store_error(reference, "pull it", &Status::internal("the pull ended unexpectedly")));
        let (images, written, own) = (self.clone(), reference.to_owned(), credentials.to_vec());
        let running = self.pulls.join(flight_key(reference, credentials), Err(lost), |counters| {
            images.pull_now(written, own, counters)
        });
        let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
        let mut result = running.result;
        loop {
            // Both may be dropped at any point: the shared result is polled again, a tick is only a tick.
            tokio::select! {
                outcome = &mut result => return outcome.map_err(|error| copy(&error)),
                _ = interval.tick() => progress(Progress {
                    done: running.progress.done.load(Ordering::Relaxed),
                    total: running.progress.total.load(Ordering::Relaxed),
                }),
            }
        }
    }

    async fn list(&self) -> Result<Vec<String>, ImageError> {
        let answer = self.client.images().list(self.client.request(ListImagesRequest::default())).await;
        let images = answer.map_err(|status| store_error("*", "list images", &status))?.into_inner().images;
        Ok(images.into_iter().map(|image| image.name).collect())
    }
}

#[cfg(test)]
mod tests;
