//! What of the port is no conversation with a registry: beside a containerd that is scripted.

use std::{collections::BTreeMap, future::ready, sync::Mutex};

use containerd_client::{
    services::v1::{
        CreateRequest, CreateResponse, DeleteRequest, GetImageRequest, GetImageResponse, Lease, ListRequest,
        ListResponse, ReadContentRequest, ReadContentResponse,
        snapshots::{StatSnapshotRequest, StatSnapshotResponse},
    },
    types::Descriptor,
};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use tokio::net::{TcpListener, UnixListener};
use tonic::{body::Body, server::Grpc};
use tonic_prost::ProstCodec;
use tower::service_fn;

use super::*;
use crate::images::local::sha256;

/// The one that a process left which was killed in a pull.
const LEFT: &str = "left";

/// A containerd that has every image that it is asked for, unpacked, and of one a lease as well.
#[derive(Clone)]
struct Fake(Arc<State>);

struct State {
    target: String,
    blobs: BTreeMap<String, Vec<u8>>,
    left: Lease,
    /// Ids of leases.
    ended: Mutex<Vec<String>>,
}

impl Fake {
    /// With the lease of a pull of `image`.
    fn new(image: &str) -> Self {
        let layer = sha256(b"layer");
        let config = json!({"architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [layer]}});
        let config = config.to_string().into_bytes();
        let of = |media: &str, digest: &str, size: usize| json!({"mediaType": media, "digest": digest, "size": size});
        let manifest = json!({"schemaVersion": 2,
            "config": of("application/vnd.oci.image.config.v1+json", &sha256(&config), config.len()),
            "layers": [of("application/vnd.oci.image.layer.v1.tar", &layer, 5)]});
        let manifest = manifest.to_string().into_bytes();
        let labels = [("gantry.dev/purpose".to_owned(), leftovers::purpose(image))].into();
        Self(Arc::new(State {
            target: sha256(&manifest),
            blobs: [config, manifest].into_iter().map(|blob| (sha256(&blob), blob)).collect(),
            left: Lease { id: LEFT.to_owned(), labels, ..Lease::default() },
            ended: Mutex::default(),
        }))
    }

    fn ended(&self) -> Vec<String> {
        self.0.ended.lock().unwrap().clone()
    }

    fn serve(&self, listener: UnixListener) {
        let fake = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = fake.clone();
                let answer = hyper::service::service_fn(move |request| {
                    let fake = fake.clone();
                    async move { Ok::<_, std::convert::Infallible>(fake.answer(request).await) }
                });
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), answer));
            }
        });
    }

    async fn answer(self, request: http::Request<Incoming>) -> http::Response<Body> {
        let state = self.0;
        match request.uri().path().trim_start_matches("/containerd.services.") {
            "images.v1.Images/Get" => {
                let target = Descriptor { digest: state.target.clone(), ..Descriptor::default() };
                let image = |name| Image { name, target: Some(target.clone()), ..Image::default() };
                unary(request, |asked: GetImageRequest| GetImageResponse { image: Some(image(asked.name)) })
                    .await
            }
            "content.v1.Content/Read" => {
                let read = service_fn(|asked: tonic::Request<ReadContentRequest>| {
                    let data = state.blobs[&asked.into_inner().digest].clone();
                    let chunk = ReadContentResponse { offset: 0, data };
                    ready(Ok(tonic::Response::new(tokio_stream::once(Ok(chunk)))))
                });
                Grpc::new(ProstCodec::default()).server_streaming(read, request).await
            }
            "snapshots.v1.Snapshots/Stat" => {
                unary(request, |_: StatSnapshotRequest| StatSnapshotResponse::default()).await
            }
            "leases.v1.Leases/List" => {
                unary(request, |_: ListRequest| ListResponse { leases: vec![state.left.clone()] }).await
            }
            "leases.v1.Leases/Create" => unary(request, |_: CreateRequest| CreateResponse::default()).await,
            "leases.v1.Leases/Delete" => {
                unary(request, |asked: DeleteRequest| state.ended.lock().unwrap().push(asked.id)).await
            }
            other => Status::unimplemented(other).into_http(),
        }
    }
}

/// Answers one message with another.
async fn unary<A, B>(request: http::Request<Incoming>, answer: impl Fn(A) -> B) -> http::Response<Body>
where
    A: Message + Default + 'static,
    B: Message + Default + 'static,
{
    let answer =
        service_fn(|asked: tonic::Request<A>| ready(Ok(tonic::Response::new(answer(asked.into_inner())))));
    Grpc::new(ProstCodec::default()).unary(answer, request).await
}

#[tokio::test]
async fn what_an_earlier_pull_left_is_kept_while_another_may_rely_on_it() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("containerd.sock");
    let fake = Fake::new("docker.io/library/whole:1");
    fake.serve(UnixListener::bind(&socket).unwrap());
    let client = Containerd::new(&socket, "test").unwrap();
    let images = ContainerdImages::new(client, "overlayfs", ImageSettings::default());
    // A pull that goes on for as long as its registry says nothing. What it finds in the store, such as a layer that the
    // left lease alone keeps, must be there until it has ended.
    let registry = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("{}/other:1", registry.local_addr().unwrap());
    let pull = tokio::spawn({
        let images = images.clone();
        async move { images.pull(&other, &[], Arc::new(|_| ())).await }
    });
    let (silent, _) = registry.accept().await.unwrap();
    assert!(images.find("whole:1").await.unwrap().is_some());
    assert_eq!(fake.ended(), [""; 0], "the pull may go on with what it keeps");
    drop((silent, registry));
    let failed = pull.await.unwrap().unwrap_err();
    assert!(matches!(failed, ImageError::Pull { .. }), "{failed:?}");
    assert!(images.find("whole:1").await.unwrap().is_some());
    assert_eq!(fake.ended(), [LEFT], "nobody pulls, and the image is whole");
}

#[test]
fn whoever_waited_for_a_pull_is_told_the_whole_cause() {
    let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
    let inner = ImageError::Store {
        reference: "app:1".into(),
        why: "its certificate is of another".into(),
        source: Some(refused.into()),
    };
    let error = ImageError::Pull {
        reference: "app:1".into(),
        endpoint: "registry".into(),
        why: "it cannot be reached".into(),
        source: Some(Box::new(inner)),
    };
    assert_eq!(chain(&copy(&error)), chain(&error));
}
