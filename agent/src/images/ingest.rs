//! Blobs from a registry into containerd's content store. An interrupted download goes on where it stopped, also
//! after a restart of the agent; containerd verifies the digest before the blob becomes visible.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use containerd_client::services::v1::{
    AbortRequest, Info, InfoRequest, StatusRequest, UpdateRequest, WriteAction, WriteContentRequest,
    WriteContentResponse,
};
use futures::StreamExt;
use prost_types::FieldMask;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{ImageError, registry::Endpoint};
use crate::{containerd::Containerd, failpoint};

/// One message to containerd; its limit is 16 MiB. With the downloads of a node at a time this bounds their memory.
const CHUNK: usize = 256 << 10;
/// A store that takes longer for one message hangs.
const SILENCE: Duration = Duration::from_secs(60);

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) media_type: String,
}

/// What can go wrong with one blob.
pub(super) enum IngestError {
    Registry(ImageError),
    Store(Status),
}

impl From<Status> for IngestError {
    fn from(status: Status) -> Self {
        Self::Store(status)
    }
}

/// Whether the blob is complete in the store.
pub(super) async fn present(client: &Containerd, digest: &str) -> Result<bool, Status> {
    let request = client.request(InfoRequest { digest: digest.to_owned() });
    match client.content().info(request).await {
        Ok(_) => Ok(true),
        Err(status) if status.code() == Code::NotFound => Ok(false),
        Err(status) => Err(status),
    }
}

/// Downloads a blob that is not there yet. `done` counts its bytes.
pub(super) async fn download(
    client: &Containerd,
    endpoint: &Endpoint,
    blob: &Blob,
    done: &AtomicU64,
) -> Result<(), IngestError> {
    if present(client, &blob.digest).await? {
        done.fetch_add(blob.size, Ordering::Relaxed);
        return Ok(());
    }
    let reference = format!("gantry-{}", blob.digest);
    let have = stored(client, &reference).await?;
    // A complete but uncommitted download cannot be asked for with a range: it is fetched again.
    let wanted = if have < blob.size { have } else { 0 };
    let (start, mut stream) = endpoint.blob(&blob.digest, wanted).await.map_err(IngestError::Registry)?;
    if start != have {
        abort(client, &reference).await?;
    }
    let mut writer = Writer::open(client, reference.clone(), blob, start).await?;
    done.fetch_add(start, Ordering::Relaxed);
    let mut chunk = Vec::with_capacity(CHUNK);
    while let Some(bytes) = stream.next().await {
        let bytes = bytes.map_err(|error| {
            IngestError::Registry(
                endpoint.error(format!("the download of {} broke", blob.digest), Some(error.into())),
            )
        })?;
        done.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        chunk.extend_from_slice(&bytes);
        if chunk.len() >= CHUNK {
            writer.write(std::mem::replace(&mut chunk, Vec::with_capacity(CHUNK))).await?;
        }
    }
    writer.write(chunk).await?;
    failpoint::reach("images.ingest.written", endpoint.written());
    let committed = writer.commit(HashMap::new()).await;
    if committed.is_err() {
        // Wrong bytes stay wrong: the next attempt starts from nothing.
        abort(client, &reference).await?;
    }
    Ok(committed?)
}

/// Stores bytes that are already here (manifests).
pub(super) async fn store(
    client: &Containerd,
    bytes: Bytes,
    blob: &Blob,
    labels: HashMap<String, String>,
) -> Result<(), Status> {
    if present(client, &blob.digest).await? {
        return label(client, &blob.digest, labels).await;
    }
    let mut writer = Writer::open(client, format!("gantry-{}", blob.digest), blob, 0).await?;
    writer.write(bytes.to_vec()).await?;
    writer.commit(labels).await
}

/// Adds labels to a blob: they are what keeps the blobs it names from being garbage.
pub(super) async fn label(
    client: &Containerd,
    digest: &str,
    labels: HashMap<String, String>,
) -> Result<(), Status> {
    let paths = labels.keys().map(|name| format!("labels.{name}")).collect();
    let info = Info { digest: digest.to_owned(), labels, ..Info::default() };
    let request = UpdateRequest { info: Some(info), update_mask: Some(FieldMask { paths }) };
    client.content().update(client.request(request)).await.map(drop)
}

async fn stored(client: &Containerd, reference: &str) -> Result<u64, Status> {
    let request = client.request(StatusRequest { r#ref: reference.to_owned() });
    match client.content().status(request).await {
        Ok(answer) => {
            Ok(answer.into_inner().status.map_or(0, |s| u64::try_from(s.offset).unwrap_or_default()))
        }
        Err(status) if status.code() == Code::NotFound => Ok(0),
        Err(status) => Err(status),
    }
}

async fn abort(client: &Containerd, reference: &str) -> Result<(), Status> {
    let request = client.request(AbortRequest { r#ref: reference.to_owned() });
    crate::containerd::absent_is_ok(client.content().abort(request).await)
}

/// One ingest. Each message is answered, which bounds what is under way.
struct Writer {
    requests: mpsc::Sender<WriteContentRequest>,
    answers: Streaming<WriteContentResponse>,
    offset: i64,
    total: i64,
    expected: String,
}

impl Writer {
    async fn open(client: &Containerd, reference: String, blob: &Blob, start: u64) -> Result<Self, Status> {
        let number = |n: u64| i64::try_from(n).map_err(|_| Status::out_of_range("blob size"));
        let (requests, stream) = mpsc::channel(1);
        let first = WriteContentRequest {
            action: WriteAction::Stat.into(),
            r#ref: reference,
            total: number(blob.size)?,
            expected: blob.digest.clone(),
            ..WriteContentRequest::default()
        };
        requests.try_send(first).map_err(|_| Status::internal("the first message does not fit"))?;
        let mut content = client.content();
        let opened = content.write(client.open_ended(ReceiverStream::new(stream)));
        let answers = in_time(opened).await?.into_inner();
        let (offset, total) = (number(start)?, number(blob.size)?);
        let mut writer = Self { requests, answers, offset, total, expected: blob.digest.clone() };
        let stat = writer.answer().await?;
        if stat.offset != offset {
            return Err(Status::aborted(format!("the store has {} bytes and not {offset}", stat.offset)));
        }
        Ok(writer)
    }

    async fn write(&mut self, data: Vec<u8>) -> Result<(), Status> {
        if data.is_empty() {
            return Ok(());
        }
        let length = i64::try_from(data.len()).unwrap_or_default();
        self.send(WriteAction::Write, data, HashMap::new()).await?;
        self.offset += length;
        Ok(())
    }

    async fn commit(mut self, labels: HashMap<String, String>) -> Result<(), Status> {
        match self.send(WriteAction::Commit, Vec::new(), labels).await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            other => other,
        }
    }

    async fn send(
        &mut self,
        action: WriteAction,
        data: Vec<u8>,
        labels: HashMap<String, String>,
    ) -> Result<(), Status> {
        let request = WriteContentRequest {
            action: action.into(),
            total: self.total,
            expected: self.expected.clone(),
            offset: self.offset,
            data,
            labels,
            ..WriteContentRequest::default()
        };
        // A closed channel means that the call has ended: its answer tells why.
        let _ = self.requests.send(request).await;
        self.answer().await.map(drop)
    }

    async fn answer(&mut self) -> Result<WriteContentResponse, Status> {
        let answer = in_time(self.answers.message()).await?;
        answer.ok_or_else(|| Status::unavailable("containerd ended the write"))
    }
}

/// A write may take hours, but each message of it is answered soon.
async fn in_time<T>(answer: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let silent = || Status::deadline_exceeded("containerd stopped in the middle of a write");
    tokio::time::timeout(SILENCE, answer).await.unwrap_or_else(|_| Err(silent()))
}
