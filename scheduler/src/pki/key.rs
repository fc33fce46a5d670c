//! Which key a certificate has, in a form that can be written down. Pure.

use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Which key a certificate has, and since when: of two certificates of one name the younger was given later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// [`key_fingerprint`]
    pub fingerprint: String,
    /// Not before, in Unix seconds.
    pub from: i64,
}

impl KeyRecord {
    /// Of a certificate; `None` when it does not parse.
    pub fn of(certificate_der: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate_der).ok()?;
        let fingerprint = format!("sha256:{}", hex(&Sha256::digest(certificate.public_key().raw)));
        Some(Self { fingerprint, from: certificate.validity().not_before.timestamp() })
    }
}

/// `sha256:` and the hash of a certificate's SubjectPublicKeyInfo in hex; `None` when it does not parse.
pub fn key_fingerprint(certificate_der: &[u8]) -> Option<String> {
    KeyRecord::of(certificate_der).map(|key| key.fingerprint)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{b:02x}");
        out
    })
}
