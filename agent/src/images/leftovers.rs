//! What an agent left that was killed in a pull: a lease, which keeps what it had downloaded, so that the next pull of the
//! image goes on with it. Once the image is there, all that the lease still keeps is garbage: half unpacked layers.
//!
//! In: images as they are found to be whole. Out: their leases ended. Never ends a lease of this agent's own.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::OnceCell;
use tonic::Status;

use crate::containerd::{Containerd, LeaseId};

/// Before the image's name in the store, what a pull's lease is for.
const PREFIX: &str = "pull ";

/// What a pull of this image has its lease for.
pub(super) fn purpose(image: &str) -> String {
    format!("{PREFIX}{image}")
}

type Leases = HashMap<String, Vec<LeaseId>>;

/// See the module.
#[derive(Debug)]
pub(super) struct LeftOvers {
    client: Containerd,
    /// By image. Read once: before the first pull of this agent all are of earlier ones.
    found: OnceCell<Mutex<Leases>>,
}

impl LeftOvers {
    pub(super) fn new(client: Containerd) -> Self {
        Self { client, found: OnceCell::new() }
    }

    /// To be called before this agent makes a lease.
    pub(super) async fn read(&self) -> Result<(), Status> {
        self.leases().await.map(drop)
    }

    /// This image is there, whole.
    pub(super) async fn end(&self, image: &str) -> Result<(), Status> {
        let left = self.leases().await?.get(image).cloned().unwrap_or_default();
        for id in left {
            self.client.end_lease(id).await?;
        }
        self.leases().await?.remove(image);
        Ok(())
    }

    async fn leases(&self) -> Result<MutexGuard<'_, Leases>, Status> {
        let found = self.found.get_or_try_init(|| async {
            let mut leases = Leases::new();
            for (purpose, id) in self.client.leases_by_purpose().await? {
                if let Some(image) = purpose.strip_prefix(PREFIX) {
                    leases.entry(image.to_owned()).or_default().push(id);
                }
            }
            Ok::<_, Status>(Mutex::new(leases))
        });
        Ok(found.await?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
