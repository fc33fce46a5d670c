//! The connection to containerd: one lazily opened channel that reconnects by itself, and requests that carry our
//! namespace (and a lease while something is not yet referenced). Never interprets answers.

use std::{path::Path, sync::Arc, time::Duration};

use containerd_client::services::v1::{
    Container, CreateRequest, DeleteRequest, Lease, ListRequest, UpdateContainerRequest,
    containers_client::ContainersClient, content_client::ContentClient, diff_client::DiffClient,
    events_client::EventsClient, images_client::ImagesClient, leases_client::LeasesClient,
    snapshots::snapshots_client::SnapshotsClient, tasks_client::TasksClient, version_client::VersionClient,
};
use hyper_util::rt::TokioIo;
use prost_types::FieldMask;
use tokio::net::UnixStream;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

/// Several hundred container records with their OCI specs fit; tonic's own bound is 4 MiB.
const MAX_MESSAGE: usize = 128 << 20;

/// Label of a lease: what it is for.
const PURPOSE: &str = "gantry.dev/purpose";

/// A containerd that takes longer hangs; the kubelet's default.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The socket or the namespace in the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{value:?} is not a containerd namespace")]
pub struct InvalidNamespace {
    value: String,
}

/// Names a lease.
#[derive(Clone, Debug)]
pub(crate) struct LeaseId(String);

/// A handle to one containerd namespace. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Containerd {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
    lease: Option<MetadataValue<Ascii>>,
    socket: Arc<Path>,
}

macro_rules! clients {
    ($($name:ident: $client:ident),*) => {
        $(pub(crate) fn $name(&self) -> $client<Channel> {
            $client::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE)
        })*
    };
}

impl Containerd {
    /// Connects when first used, and again whenever containerd was restarted.
    pub fn new(socket: &Path, namespace: &str) -> Result<Self, InvalidNamespace> {
        let invalid = || InvalidNamespace { value: namespace.to_owned() };
        let ok = !namespace.is_empty()
            && namespace.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let namespace = if ok { namespace.parse().map_err(|_| invalid())? } else { return Err(invalid()) };
        let shared: Arc<Path> = socket.into();
        let socket = Arc::clone(&shared);
        // The URI is never resolved: the connector ignores it.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(
            tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(&*socket).await?)) }
            }),
        );
        Ok(Self { channel, namespace, lease: None, socket: shared })
    }

    /// Where containerd listens.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// The namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace.to_str().unwrap_or_default()
    }

    /// A request with our namespace, and a deadline that ends it on both sides.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = self.open_ended(message);
        request.set_timeout(DEADLINE);
        request
    }

    /// A request that may take as long as it takes: waiting for a process, following events, moving content. Whoever
    /// makes one bounds it by other means.
    pub(crate) fn open_ended<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.namespace.clone());
        if let Some(lease) = &self.lease {
            request.metadata_mut().insert("containerd-lease", lease.clone());
        }
        request
    }

    /// A handle whose writes are kept from containerd's garbage collector until `release`, or for an hour when we
    /// die before. `purpose` tells a later process whether it wants what was written.
    pub(crate) async fn leased(&self, purpose: &str) -> Result<Self, Status> {
        let id = format!("gantry-{}", uuid::Uuid::new_v4());
        let expire = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
        let labels = [("containerd.io/gc.expire", expire.to_string()), (PURPOSE, purpose.to_owned())];
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let lease = id.parse().map_err(|_| Status::internal("lease id is not ASCII"))?;
        self.leases().create(self.request(CreateRequest { id, labels })).await?;
        Ok(Self { lease: Some(lease), ..self.clone() })
    }

    /// All leases of ours, by what they are for.
    pub(crate) async fn leases_by_purpose(&self) -> Result<Vec<(String, LeaseId)>, Status> {
        let filters = vec![format!("labels.{PURPOSE:?}")];
        let found = self.leases().list(self.request(ListRequest { filters })).await?.into_inner();
        let purpose = |Lease { id, mut labels, .. }: Lease| Some((labels.remove(PURPOSE)?, LeaseId(id)));
        Ok(found.leases.into_iter().filter_map(purpose).collect())
    }

    /// Ends a lease that a process left which died before it released it, and takes away what nothing else keeps.
    pub(crate) async fn end_lease(&self, LeaseId(id): LeaseId) -> Result<(), Status> {
        absent_is_ok(self.leases().delete(self.request(DeleteRequest { id, sync: true })).await)
    }

    /// Ends all leases of this purpose. None may be in use.
    pub(crate) async fn end_leases(&self, purpose: &str) -> Result<(), Status> {
        for (known, id) in self.leases_by_purpose().await? {
            if known == purpose {
                self.end_lease(id).await?;
            }
        }
        Ok(())
    }

    /// Adds labels to a container's record.
    pub(crate) async fn label(&self, native: &str, facts: &[(&str, String)]) -> Result<(), Status> {
        let record = Container {
            id: native.to_owned(),
            labels: facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
            ..Container::default()
        };
        let paths = facts.iter().map(|(name, _)| format!("labels.{name}")).collect();
        let request =
            UpdateContainerRequest { container: Some(record), update_mask: Some(FieldMask { paths }) };
        self.containers().update(self.request(request)).await.map(drop)
    }

    /// Ends the lease: what nothing refers to by now is garbage.
    pub(crate) async fn release(self) -> Result<(), Status> {
        let Some(id) = self.lease.as_ref().and_then(|l| l.to_str().ok()).map(str::to_owned) else {
            return Ok(());
        };
        absent_is_ok(self.leases().delete(self.request(DeleteRequest { id, sync: false })).await)
    }

    clients! {
        version: VersionClient, containers: ContainersClient, tasks: TasksClient, snapshots: SnapshotsClient,
        images: ImagesClient, content: ContentClient, diff: DiffClient, events: EventsClient, leases: LeasesClient
    }
}

/// For deletions: what is not there is deleted.
pub(crate) fn absent_is_ok<T>(result: Result<T, Status>) -> Result<(), Status> {
    match result {
        Ok(_) => Ok(()),
        Err(status) if status.code() == Code::NotFound => Ok(()),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use containerd_client::services::v1::ListTasksRequest;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_containerd_that_hangs_does_not_hang_us() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        // It accepts and never says a word.
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let client = Containerd::new(&socket, "test").unwrap();
        let began = tokio::time::Instant::now();
        let answer = client.tasks().list(client.request(ListTasksRequest::default())).await;
        assert_eq!(answer.unwrap_err().code(), Code::Cancelled);
        assert_eq!(began.elapsed().as_secs(), DEADLINE.as_secs());
    }
}
