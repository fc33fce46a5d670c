//! One pull's conversation with a registry: manifests and blobs through the OCI distribution protocol, and what went
//! wrong in the words that users know. Verifies manifests against their digests; blobs are verified where they are
//! stored. Never stores anything.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{BlobResponse, ClientConfig, ClientProtocol},
    errors::{OciDistributionError, OciErrorCode},
    secrets::RegistryAuth,
};

use super::{Credential, ImageError, ImageSettings, local::sha256};
use crate::model::causes;

/// A registry that does not even accept the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A registry that stops in the middle.
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// Formats of manifests that we read.
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// One place to pull from, with credentials for it.
pub(super) struct Endpoint {
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
    /// For errors: what the user wrote.
    written: String,
}

impl Endpoint {
    /// The places to ask, in order: mirrors before the registry itself, each with the pod's credentials that name it
    /// and without any. A mirror is another host, perhaps of somebody else: what was entrusted to the registry is not
    /// for it.
    pub(super) fn all(
        written: &str,
        source: &Reference,
        settings: &ImageSettings,
        credentials: &[Credential],
    ) -> Result<Vec<Self>, ImageError> {
        let mirrors = settings.mirrors.get(source.registry()).map(Vec::as_slice).unwrap_or_default();
        let mut all = Vec::new();
        for mirror in mirrors.iter().map(Some).chain([None]) {
            let mut reference = source.clone();
            if let Some(mirror) = mirror {
                reference.set_mirror_registry(mirror.clone());
            }
            let host = reference.resolve_registry().to_owned();
            let named = if mirror.is_some() { &host } else { source.registry() };
            let fitting = credentials.iter().filter(|c| credential_fits(&c.registry, named));
            let auths = fitting.map(|c| RegistryAuth::Basic(c.username.clone(), c.password.clone()));
            for auth in auths.chain([RegistryAuth::Anonymous]) {
                let client = client(&host, settings).map_err(|error| ImageError::Pull {
                    reference: written.to_owned(),
                    endpoint: host.clone(),
                    why: "no HTTP client can be made".into(),
                    source: Some(Box::new(error)),
                })?;
                all.push(Self { client, auth, reference: reference.clone(), written: written.to_owned() });
            }
        }
        Ok(all)
    }

    /// What the user wrote.
    pub(super) fn written(&self) -> &str {
        &self.written
    }

    /// Host of the registry.
    pub(super) fn host(&self) -> &str {
        self.reference.resolve_registry()
    }

    /// A manifest or index by the reference itself, or by digest. Returns its bytes and digest.
    pub(super) async fn manifest(&self, digest: Option<&str>) -> Result<(Bytes, String), ImageError> {
        let reference = match digest {
            Some(digest) => self.reference.clone_with_digest(digest.to_owned()),
            None => self.reference.clone(),
        };
        let answer = self.client.pull_manifest_raw(&reference, &self.auth, &MANIFEST_TYPES).await;
        let (bytes, _) = answer.map_err(|error| self.failed(&error))?;
        let actual = sha256(&bytes);
        match reference.digest() {
            Some(wanted) if wanted != actual => {
                Err(self.error(format!("the manifest's digest is {actual} instead of {wanted}"), None))
            }
            _ => Ok((bytes, actual)),
        }
    }

    /// A blob from `offset` on, and the offset that the registry really starts at.
    pub(super) async fn blob(
        &self,
        digest: &str,
        offset: u64,
    ) -> Result<(u64, BoxStream<'static, std::io::Result<Bytes>>), ImageError> {
        self.client.store_auth_if_needed(self.host(), &self.auth).await;
        if offset > 0 {
            return match self.client.pull_blob_stream_partial(&self.reference, digest, offset, None).await {
                Ok(BlobResponse::Partial(stream)) => Ok((offset, stream.boxed())),
                Ok(BlobResponse::Full(stream)) => Ok((0, stream.boxed())),
                Err(error) => Err(self.failed(&error)),
            };
        }
        let stream = self.client.pull_blob_stream(&self.reference, digest).await;
        Ok((0, stream.map_err(|error| self.failed(&error))?.boxed()))
    }

    /// Asks for a token early, so that parallel blobs do not each ask.
    pub(super) async fn authenticate(&self) {
        // A refusal shows itself at the manifest, with a better message.
        let _ = self.client.auth(&self.reference, &self.auth, RegistryOperation::Pull).await;
    }

    /// The words say it all: the error itself would repeat them.
    fn failed(&self, error: &OciDistributionError) -> ImageError {
        self.error(words(&self.reference, error), None)
    }

    /// An error of this endpoint.
    pub(super) fn error(&self, why: String, source: Option<Box<dyn Error + Send + Sync>>) -> ImageError {
        ImageError::Pull { reference: self.written.clone(), endpoint: self.host().to_owned(), why, source }
    }
}

fn client(host: &str, settings: &ImageSettings) -> Result<Client, OciDistributionError> {
    // The process may have chosen its provider already: then this changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let plain = is_loopback(host) || settings.plain_http.iter().any(|h| h == host);
    Client::try_from(ClientConfig {
        protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
        connect_timeout: Some(CONNECT_TIMEOUT),
        read_timeout: Some(READ_TIMEOUT),
        user_agent: concat!("gantry-agent/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    })
}

fn is_loopback(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .map_or(host, |(name, port)| if port.parse::<u16>().is_ok() { name } else { host });
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost" || bare.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Pull secrets name a registry as a host or, for historical reasons, as a URL.
fn credential_fits(registry: &str, host: &str) -> bool {
    let bare = registry.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.split('/').next().unwrap_or_default();
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    host == bare || (hub(host) && hub(bare))
}

/// The registry's answer, or the lack of one, as users know it.
fn words(reference: &Reference, error: &OciDistributionError) -> String {
    let name = reference.whole();
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => format!("{name}: not found"),
        OciDistributionError::RegistryError { envelope, .. } => {
            match envelope.errors.first().map(|e| &e.code) {
                Some(OciErrorCode::ManifestUnknown | OciErrorCode::NotFound) => {
                    format!("manifest unknown: {name}: not found")
                }
                Some(OciErrorCode::NameUnknown) => {
                    format!("repository name not known to registry: {name}: not found")
                }
                Some(OciErrorCode::Unauthorized) => unauthorized(reference),
                Some(OciErrorCode::Denied) => denied(reference),
                Some(OciErrorCode::Toomanyrequests) => {
                    "toomanyrequests: the registry limits how often it is asked".into()
                }
                _ => envelope.to_string(),
            }
        }
        OciDistributionError::UnauthorizedError { .. } => unauthorized(reference),
        OciDistributionError::AuthenticationFailure(_) => unauthorized(reference),
        OciDistributionError::ServerError { code: 401, .. } => unauthorized(reference),
        OciDistributionError::ServerError { code: 403, .. } => denied(reference),
        OciDistributionError::ServerError { code: 404, .. } => format!("{name}: not found"),
        OciDistributionError::ServerError { code, .. } => {
            format!("unexpected status from the registry: {code}")
        }
        OciDistributionError::RequestError(request) => transport(reference.resolve_registry(), request),
        other => other.to_string(),
    }
}

fn unauthorized(reference: &Reference) -> String {
    format!(
        "{}: 401 Unauthorized: authentication required (pull access denied, repository does not exist or may require \
         authorization)",
        reference.whole()
    )
}

fn denied(reference: &Reference) -> String {
    format!("{}: 403 Forbidden: requested access to the resource is denied", reference.whole())
}

/// The innermost cause tells what happened; the outer ones only where.
fn transport(host: &str, error: &(dyn Error + 'static)) -> String {
    let (mut text, mut dns) = (String::new(), false);
    for cause in std::iter::once(error).chain(causes(error)) {
        text = cause.to_string();
        dns |= text.contains("dns error") || text.contains("failed to lookup address");
        if let Some(io) = cause.downcast_ref::<std::io::Error>()
            && io.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return format!("dial tcp {host}: connect: connection refused");
        }
    }
    if dns { format!("lookup {host}: no such host") } else { format!("{host}: {text}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_needs_no_tls() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "10.0.0.1:5000", "registry:5000"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn credentials_fit_hosts_and_old_urls() {
        assert!(credential_fits("https://index.docker.io/v1/", "docker.io"));
        assert!(credential_fits("r.io:5000", "r.io:5000"));
        assert!(!credential_fits("r.io", "r.io:5000"));
        assert!(!credential_fits("evil.io/r.io", "r.io"));
    }

    #[test]
    fn mirrors_come_first_and_get_no_credentials_but_their_own() {
        let mirrors = [("r.io".to_owned(), vec!["localhost:1".to_owned()])].into();
        let settings = ImageSettings { mirrors, ..ImageSettings::default() };
        let credential = |registry: &str, user: &str| Credential {
            registry: registry.into(),
            username: user.into(),
            password: "p".into(),
        };
        let seen = |credentials: &[Credential]| -> Vec<(String, String)> {
            let all = Endpoint::all("r.io/a", &"r.io/a".parse().unwrap(), &settings, credentials).unwrap();
            let user = |auth: &RegistryAuth| match auth {
                RegistryAuth::Basic(user, _) => user.clone(),
                _ => String::new(),
            };
            all.iter().map(|e| (e.host().to_owned(), user(&e.auth))).collect()
        };
        let pairs = |all: &[(&str, &str)]| -> Vec<(String, String)> {
            all.iter().map(|(host, user)| ((*host).to_owned(), (*user).to_owned())).collect()
        };
        let theirs = credential("r.io", "theirs");
        let own = [("localhost:1", ""), ("r.io", "theirs"), ("r.io", "")];
        assert_eq!(seen(std::slice::from_ref(&theirs)), pairs(&own));
        let all = [("localhost:1", "own"), ("localhost:1", ""), ("r.io", "theirs"), ("r.io", "")];
        assert_eq!(seen(&[theirs, credential("localhost:1", "own")]), pairs(&all));
    }

    #[tokio::test]
    async fn an_absent_registry_is_told_as_users_know_it() {
        let refused =
            Endpoint::all("127.0.0.1:1/a", &"127.0.0.1:1/a".parse().unwrap(), &ImageSettings::default(), &[]);
        let error = refused.unwrap()[0].manifest(None).await.unwrap_err().to_string();
        assert!(error.ends_with("dial tcp 127.0.0.1:1: connect: connection refused"), "{error}");
        let source: Reference = "no-such-registry.invalid/a".parse().unwrap();
        let unknown =
            Endpoint::all("no-such-registry.invalid/a", &source, &ImageSettings::default(), &[]).unwrap();
        let error = unknown[0].manifest(None).await.unwrap_err().to_string();
        assert!(error.ends_with("lookup no-such-registry.invalid: no such host"), "{error}");
    }
}
