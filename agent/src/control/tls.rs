//! TLS towards the scheduler: verified by the cluster CA, or for the first join by a pin of its public key.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{
    CertificateDer, ServerName, UnixTime,
    pem::{self, PemObject},
};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::credentials::Credentials;

/// TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the CA holds no certificate.
    #[error(
        "the scheduler's CA in {file:?} is not a PEM certificate (copy pki/ca.crt of the scheduler's data directory there)"
    )]
    Ca {
        /// Which.
        file: PathBuf,
        /// What is wrong with it; nothing when it holds something else, or nothing.
        #[source]
        source: Option<pem::Error>,
    },
    /// rustls does not take the certificate for a CA.
    #[error(
        "the scheduler's CA in {file:?} cannot be trusted (copy pki/ca.crt of the scheduler's data directory there)"
    )]
    Untrusted {
        /// Which.
        file: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// rustls refused.
    #[error("cannot set up TLS to the scheduler")]
    Config(#[source] rustls::Error),
    /// Not `sha256:` and 64 hexadecimal digits.
    #[error("ca_hash {0:?} is not `sha256:` followed by 64 hexadecimal digits")]
    Pin(String),
}

/// SHA-256 of the cluster CA's public key, as `gantry-scheduler` prints it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaPin([u8; 32]);

impl CaPin {
    /// Parses `sha256:<hex>`.
    pub fn parse(text: &str) -> Result<Self, TlsError> {
        let bad = || TlsError::Pin(text.to_owned());
        let hex = text.strip_prefix("sha256:").filter(|h| h.len() == 64 && h.is_ascii()).ok_or_else(bad)?;
        let mut pin = [0; 32];
        for (i, byte) in pin.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(pin))
    }

    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        X509Certificate::from_der(certificate)
            .is_ok_and(|(_, c)| Sha256::digest(c.public_key().raw).as_slice() == self.0)
    }
}

/// How the scheduler is known.
#[derive(Clone, Debug)]
pub(super) enum Trust {
    /// By certificates.
    Ca {
        /// Where they are from.
        file: PathBuf,
        /// PEM.
        pem: Vec<u8>,
    },
    /// By the CA's public key.
    Pin(CaPin),
}

/// A client configuration; `identity` is absent before the node has joined.
pub(super) fn client_config(
    trust: &Trust,
    identity: Option<&Credentials>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Config)?;
    let builder = match trust {
        Trust::Ca { file, pem } => builder.with_root_certificates(roots(file, pem)?),
        Trust::Pin(pin) => {
            let verifier = Arc::new(PinVerifier { pin: *pin, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.certificates.clone(), identity.key.clone_key())
            .map_err(TlsError::Config)?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

fn roots(file: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let no_ca = |source| TlsError::Ca { file: file.to_owned(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| no_ca(Some(error)))?;
        let untrusted = |source| TlsError::Untrusted { file: file.to_owned(), source };
        roots.add(certificate).map_err(untrusted)?;
    }
    if roots.is_empty() { Err(no_ca(None)) } else { Ok(roots) }
}

/// Finds the pinned CA in what the server presents and verifies the rest by it, name and dates included.
#[derive(Debug)]
struct PinVerifier {
    pin: CaPin,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for PinVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let unknown = || rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        let ca = intermediates.iter().find(|c| self.pin.matches(c)).ok_or_else(unknown)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|_: VerifierBuilderError| unknown())?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_hash_in_hexadecimal() {
        assert!(CaPin::parse(&format!("sha256:{}", "0a".repeat(32))).is_ok());
        for text in ["", "0a", "sha256:", "sha1:00", &format!("sha256:{}", "zz".repeat(32))] {
            assert!(matches!(CaPin::parse(text), Err(TlsError::Pin(_))), "{text}");
        }
    }

    #[test]
    fn a_ca_that_is_none_is_told_with_its_file_and_what_is_wrong() {
        let told = |pem: &[u8]| {
            let trust = Trust::Ca { file: "/etc/gantry/ca.crt".into(), pem: pem.to_vec() };
            let error = client_config(&trust, None).expect_err("taken for a CA");
            crate::model::Chain(&error).to_string()
        };
        let file = "the scheduler's CA in \"/etc/gantry/ca.crt\"";
        let remedy = "(copy pki/ca.crt of the scheduler's data directory there)";
        assert_eq!(told(b"nonsense"), format!("{file} is not a PEM certificate {remedy}"));
        let cut = told(b"-----BEGIN CERTIFICATE-----\nMIIB");
        assert!(cut.starts_with(&format!("{file} is not a PEM certificate {remedy}: ")), "{cut}");
        let empty = told(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        assert!(empty.starts_with(&format!("{file} cannot be trusted {remedy}: ")), "{empty}");
    }
}
