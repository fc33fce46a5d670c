//! The listener: who completes the handshake and as whom.

use std::{io, net::SocketAddr, time::SystemTime};

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::pem::PemObject as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;
use crate::{
    connections::{self, Limits, Places},
    pki::{Alpn, Authority, ClientCertificate, Serving, Validity, server_config},
};

pub(super) const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
pub(super) const PLENTY: Limits = Limits { total: 100, per_user: 100 };

fn authority(dir: &tempfile::TempDir) -> Arc<Authority> {
    Arc::new(Authority::open(dir.path(), SystemTime::now()).unwrap())
}

pub(super) fn certificate(authority: &Authority, groups: &[&str], from: SystemTime) -> ClientCertificate {
    authority.client("someone", groups, Validity::starting(from, HOUR)).unwrap()
}

/// The API behind its listener.
pub(super) struct Listening {
    pub(super) f: Fixture,
    pub(super) ca: Arc<Authority>,
    pub(super) address: SocketAddr,
    running: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Listening {
    pub(super) async fn with(limits: Limits) -> Self {
        let (f, dir) = (Fixture::new().await, tempfile::tempdir().unwrap());
        let ca = authority(&dir);
        let names = vec!["localhost".to_owned()];
        let serving = Serving::issue(ca.clone(), names, HOUR, SystemTime::now()).unwrap();
        let server = Server::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = server.address();
        let tls = server_config(&ca, serving, Alpn::Http).unwrap();
        let places = Places::api(limits, &connections::Metrics::default());
        let running = tokio::spawn(server.run(f.api.clone(), tls, places, f.stop.clone()));
        Self { f, ca, address, running, _dir: dir }
    }

    /// A connection of somebody.
    pub(super) async fn connect(&self, client: Option<&ClientCertificate>) -> io::Result<Sender> {
        connect(self.address, &self.ca, client).await
    }
}

pub(super) type Sender = hyper::client::conn::http1::SendRequest<Empty<bytes::Bytes>>;

pub(super) fn ask(uri: &str) -> Request<Empty<bytes::Bytes>> {
    Request::get(uri).header("host", "localhost").body(Empty::new()).unwrap()
}

/// `GET /api/v1/namespaces` over TLS; the status code, or why there was no answer.
async fn get(address: SocketAddr, ca: &Authority, client: Option<&ClientCertificate>) -> io::Result<u16> {
    let mut sender = connect(address, ca, client).await?;
    let response = sender.send_request(ask("/api/v1/namespaces")).await;
    Ok(response.map_err(io::Error::other)?.status().as_u16())
}

async fn connect(
    address: SocketAddr,
    ca: &Authority,
    client: Option<&ClientCertificate>,
) -> io::Result<Sender> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.ca_der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = match client {
        None => builder.with_no_client_auth(),
        Some(client) => {
            let chain = CertificateDer::pem_slice_iter(client.certificate_pem.as_bytes());
            let key = PrivateKeyDer::from_pem_slice(client.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
        }
    };
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    Ok(sender)
}

#[tokio::test]
async fn only_certificates_of_the_cluster_get_in() {
    let Listening { f, ca, address, running, _dir } = Listening::with(PLENTY).await;
    let theirs = tempfile::tempdir().unwrap();
    let foreign = authority(&theirs);
    let now = SystemTime::now();

    let admin = certificate(&ca, &["system:masters"], now);
    assert_eq!(get(address, &ca, Some(&admin)).await.unwrap(), 200);
    assert_eq!(get(address, &ca, None).await.unwrap(), 401);
    let nobody = certificate(&ca, &["visitors"], now);
    assert_eq!(get(address, &ca, Some(&nobody)).await.unwrap(), 403);
    let expired = certificate(&ca, &["system:masters"], now - 3 * HOUR);
    assert!(get(address, &ca, Some(&expired)).await.is_err());
    let stranger = certificate(&foreign, &["system:masters"], now);
    assert!(get(address, &ca, Some(&stranger)).await.is_err());
    assert!(get(address, &foreign, Some(&admin)).await.is_err(), "a client that trusts another CA");

    f.stop.cancel();
    running.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
