//! The node's key and certificate. Keys are made here and never leave the node; key and certificate are one file,
//! so that a crash cannot leave a certificate with another key.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey as _};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::files::{self, FileError};
use crate::model::NodeName;

/// Something is wrong with the credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// Key generation.
    #[error("cannot make a key and a certificate request")]
    Generate(#[source] rcgen::Error),
    /// Signing.
    #[error("cannot sign with the key of the last certificate")]
    Sign(#[source] rcgen::Error),
    /// What the scheduler sent, or what is stored, is not a certificate for our key.
    #[error("the certificate is not one for this node's key")]
    Certificate,
}

/// A key that has no certificate yet.
pub(super) struct Request {
    key: KeyPair,
    /// PKCS#10, to be signed.
    pub(super) csr_der: Vec<u8>,
}

impl Request {
    pub(super) fn new(node: &NodeName) -> Result<Self, CredentialError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(CredentialError::Generate)?;
        let mut params = CertificateParams::default();
        // Informative: the scheduler writes the subject itself.
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        let csr = params.serialize_request(&key).map_err(CredentialError::Generate)?;
        Ok(Self { key, csr_der: csr.der().to_vec() })
    }
}

/// A certificate with its key. Not Debug: it holds the key.
pub(super) struct Credentials {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    pub(super) from: SystemTime,
    pub(super) until: SystemTime,
}

impl Credentials {
    /// When to renew: two thirds into the lifetime.
    pub(super) fn renewal(&self) -> SystemTime {
        self.from + self.until.duration_since(self.from).unwrap_or_default() * 2 / 3
    }

    pub(super) fn expired(&self, now: SystemTime) -> bool {
        self.until <= now
    }

    /// The certificate, and a signature that shows that its key is here.
    pub(super) fn prove(&self, message: &[u8]) -> Result<(Vec<u8>, Vec<u8>), CredentialError> {
        let leaf = self.certificates.first().ok_or(CredentialError::Certificate)?;
        let key = KeyPair::try_from(&self.key).map_err(CredentialError::Sign)?;
        Ok((leaf.to_vec(), key.sign(message).map_err(CredentialError::Sign)?))
    }

    fn parse(pem: &[u8]) -> Option<Self> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().ok()?;
        let key = PrivateKeyDer::from_pem_slice(pem).ok()?;
        let (_, leaf) = X509Certificate::from_der(certificates.first()?).ok()?;
        let time = |t: i64| Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(t).ok()?));
        let from = time(leaf.validity().not_before.timestamp())?;
        let until = time(leaf.validity().not_after.timestamp())?;
        let pair = KeyPair::try_from(&key).ok()?;
        let ours = leaf.public_key().subject_public_key.data == pair.public_key_raw();
        ours.then(|| Self { certificates: certificates.clone(), key: key.clone_key(), from, until })
    }
}

/// Where credentials are kept.
#[derive(Clone, Debug)]
pub(super) struct CredentialStore {
    dir: PathBuf,
}

impl CredentialStore {
    pub(super) fn open(dir: &Path) -> Result<Self, CredentialError> {
        files::make_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn node_file(&self) -> PathBuf {
        self.dir.join("node.pem")
    }

    fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// The stored credentials; `None` before the first join.
    pub(super) fn load(&self) -> Result<Option<Credentials>, CredentialError> {
        match files::read(&self.node_file())? {
            None => Ok(None),
            Some(pem) => Credentials::parse(&pem).map(Some).ok_or(CredentialError::Certificate),
        }
    }

    /// The cluster CA as it was learned when joining.
    pub(super) fn ca(&self) -> Result<(PathBuf, Vec<u8>), CredentialError> {
        let file = self.ca_file();
        let pem = files::read_present(&file)?;
        Ok((file, pem))
    }

    /// Stores what the scheduler signed for `request`.
    pub(super) fn install(
        &self,
        request: &Request,
        certificate_pem: &[u8],
        ca_pem: &[u8],
    ) -> Result<Credentials, CredentialError> {
        let mut pem = certificate_pem.to_vec();
        pem.push(b'\n');
        pem.extend_from_slice(request.key.serialize_pem().as_bytes());
        let credentials = Credentials::parse(&pem).ok_or(CredentialError::Certificate)?;
        files::write(&self.ca_file(), ca_pem)?;
        files::write(&self.node_file(), &pem)?;
        Ok(credentials)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_certificate_for_another_key_is_not_installed() {
        let dir = tempfile::tempdir().unwrap();
        let store = CredentialStore::open(&dir.path().join("pki")).unwrap();
        assert!(store.load().unwrap().is_none());
        let request = Request::new(&"n".into()).unwrap();
        let signed = |key: &KeyPair| CertificateParams::default().self_signed(key).unwrap().pem();
        let other = KeyPair::generate().unwrap();
        let refused = store.install(&request, signed(&other).as_bytes(), b"");
        assert!(matches!(refused, Err(CredentialError::Certificate)));
        store.install(&request, signed(&request.key).as_bytes(), b"ca").unwrap();
        assert!(store.load().unwrap().is_some());
        let mode = std::fs::metadata(store.node_file()).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
    }
}
