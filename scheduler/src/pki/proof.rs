//! Proof that somebody has the key of a certificate that the cluster CA signed, be it expired: by a signature over what
//! they ask for.

use std::{sync::Arc, time::Duration};

use rustls::{
    RootCertStore, SignatureScheme,
    crypto::ring,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{Authority, Identity, PkiError, key::KeyRecord};

/// Why something is no proof. The asker learns it, so that an honest one can tell what is wrong with it.
#[derive(Debug, thiserror::Error)]
pub enum ProofRefusal {
    /// Not a certificate.
    #[error("the last certificate does not parse")]
    Malformed,
    /// Another CA's, or not one for clients.
    #[error("the last certificate is not of this cluster's CA")]
    Foreign(#[source] rustls::Error),
    /// It names another.
    #[error("the last certificate is not one of node {0}")]
    OtherNode(String),
    /// Signed by another key, or another request was signed.
    #[error("the request is not signed with the key of the last certificate")]
    Signature,
    /// rustls refused the CA.
    #[error(transparent)]
    Failed(#[from] PkiError),
}

impl Authority {
    /// Checks that `signature` over `message` was made with the key of `certificate`, which this CA signed for `node` some
    /// time or other. Which key it is.
    pub fn proven_key(
        &self,
        certificate: &[u8],
        node: &str,
        message: &[u8],
        signature: &[u8],
    ) -> Result<KeyRecord, ProofRefusal> {
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| ProofRefusal::Malformed)?;
        // That it has expired is why it is shown: it must have been good when it was.
        let last = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or_default();
        let then = UnixTime::since_unix_epoch(Duration::from_secs(last.saturating_sub(1)));
        self.client_verifier()?
            .verify_client_cert(&CertificateDer::from(certificate), &[], then)
            .map_err(ProofRefusal::Foreign)?;
        if Identity::of(certificate).as_ref().and_then(Identity::node) != Some(node) {
            return Err(ProofRefusal::OtherNode(node.to_owned()));
        }
        let key = &parsed.public_key().subject_public_key.data;
        let known = ring::default_provider().signature_verification_algorithms.mapping;
        let known = known.iter().find(|(scheme, _)| *scheme == SignatureScheme::ECDSA_NISTP256_SHA256);
        let made_by = |(_, algorithms): &(
            SignatureScheme,
            &[&dyn rustls_pki_types::SignatureVerificationAlgorithm],
        )| {
            algorithms.iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
        };
        if !known.is_some_and(made_by) {
            return Err(ProofRefusal::Signature);
        }
        KeyRecord::of(certificate).ok_or(ProofRefusal::Malformed)
    }

    /// Takes client certificates of this CA.
    pub(super) fn client_verifier(&self) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca_der().clone()).map_err(PkiError::Tls)?;
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        verifier.allow_unauthenticated().build().map_err(PkiError::Verifier)
    }
}
