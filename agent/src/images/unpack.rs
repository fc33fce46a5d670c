//! Layers into snapshots: each layer is applied on top of the one below by containerd's diff service and committed
//! under the name that all containerd clients compute, so an image that anybody unpacked is not unpacked again.

use std::{collections::HashMap, time::Duration};

use containerd_client::{
    services::v1::{
        ApplyRequest,
        snapshots::{
            CommitSnapshotRequest, PrepareSnapshotRequest, RemoveSnapshotRequest, StatSnapshotRequest,
        },
    },
    types::Descriptor,
};
use tonic::{Code, Status};

use super::ingest::Blob;
use crate::{
    containerd::{Containerd, absent_is_ok},
    failpoint,
};

/// Gigabytes on a slow disk.
const UNPACK: Duration = Duration::from_secs(30 * 60);

/// Whether the snapshot is there.
pub(super) async fn present(client: &Containerd, snapshotter: &str, name: &str) -> Result<bool, Status> {
    let request = StatSnapshotRequest { snapshotter: snapshotter.to_owned(), key: name.to_owned() };
    match client.snapshots().stat(client.request(request)).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status),
    }
}

/// Applies one layer on `parent` (empty for the first) and commits it as `name`.
pub(super) async fn layer(
    client: &Containerd,
    snapshotter: &str,
    layer: &Blob,
    diff_id: &str,
    parent: &str,
    name: &str,
) -> Result<(), Status> {
    if present(client, snapshotter, name).await? {
        return Ok(());
    }
    let key = format!("gantry-unpack-{} {name}", uuid::Uuid::new_v4());
    let result = apply(client, snapshotter, layer, diff_id, parent, &key).await;
    failpoint::reach("images.unpack.applied", diff_id);
    let committed = match result {
        Ok(()) => commit(client, snapshotter, name, &key).await,
        Err(status) => Err(status),
    };
    if committed.is_err() {
        let request = RemoveSnapshotRequest { snapshotter: snapshotter.to_owned(), key };
        absent_is_ok(client.snapshots().remove(client.request(request)).await)?;
    }
    match committed {
        Err(status) if status.code() == Code::AlreadyExists => Ok(()),
        other => other,
    }
}

async fn apply(
    client: &Containerd,
    snapshotter: &str,
    layer: &Blob,
    diff_id: &str,
    parent: &str,
    key: &str,
) -> Result<(), Status> {
    let prepare = PrepareSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        key: key.to_owned(),
        parent: parent.to_owned(),
        labels: HashMap::new(),
    };
    let mounts = client.snapshots().prepare(client.request(prepare)).await?.into_inner().mounts;
    let diff = Descriptor {
        media_type: layer.media_type.clone(),
        digest: layer.digest.clone(),
        size: i64::try_from(layer.size).unwrap_or_default(),
        ..Descriptor::default()
    };
    let request = ApplyRequest { diff: Some(diff), mounts, ..ApplyRequest::default() };
    let mut request = client.request(request);
    request.set_timeout(UNPACK);
    let applied = client.diff().apply(request).await?.into_inner().applied.unwrap_or_default();
    if applied.digest != diff_id {
        let (layer, found) = (&layer.digest, applied.digest);
        return Err(Status::data_loss(format!("layer {layer} unpacks to {found} instead of {diff_id}")));
    }
    Ok(())
}

async fn commit(client: &Containerd, snapshotter: &str, name: &str, key: &str) -> Result<(), Status> {
    let request = CommitSnapshotRequest {
        snapshotter: snapshotter.to_owned(),
        name: name.to_owned(),
        key: key.to_owned(),
        labels: HashMap::new(),
    };
    client.snapshots().commit(client.request(request)).await.map(drop)
}
