//! The cluster CA: made at the first start, kept in two files, signs everything else.

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SerialNumber,
};
use rustls_pki_types::{CertificateDer, DnsName, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{
    NODE_USER_PREFIX, NODES_GROUP, PkiError, files,
    key::{KeyRecord, key_fingerprint},
};

/// A certificate outlives clocks that differ by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
/// The CA's own lifetime: as long as upstream's.
const CA_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// From when to when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Not before; a little in the past, for clocks that differ.
    pub from: SystemTime,
    /// Not after.
    pub until: SystemTime,
}

impl Validity {
    /// `lifetime` from `now` on.
    pub fn starting(now: SystemTime, lifetime: Duration) -> Self {
        // Holders renew at two thirds of the whole: the skew must stay a small part of it.
        Self { from: now - CLOCK_SKEW.min(lifetime / 10), until: now + lifetime }
    }

    /// The end in Unix seconds.
    pub fn until_unix(&self) -> i64 {
        OffsetDateTime::from(self.until).unix_timestamp()
    }
}

/// A client certificate with its key, for people and tools.
pub struct ClientCertificate {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, PKCS#8.
    pub key_pem: String,
}

/// What a node gets back for its CSR.
#[derive(Clone, Debug)]
pub struct NodeCertificate {
    /// Leaf first.
    pub certificate_pem: String,
    /// Its end.
    pub validity: Validity,
    /// Its key.
    pub key: KeyRecord,
}

/// The cluster CA. Not Debug: it holds the key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    ca_der: CertificateDer<'static>,
    ca_pem: String,
}

impl Authority {
    /// Loads the CA from `dir`, or makes one there when neither of its files exists.
    pub fn open(dir: &Path, now: SystemTime) -> Result<Self, PkiError> {
        files::make_dir(dir)?;
        // Of a first start and a command beside it, only one makes the CA.
        let _held = files::lock(dir)?;
        let (key_path, cert_path) = (dir.join("ca.key"), dir.join("ca.crt"));
        match (files::read(&key_path)?, files::read(&cert_path)?) {
            (Some(key), Some(cert)) => Self::load(&key, &cert).map_err(|what| PkiError::Damaged {
                path: if what == "CA key" { key_path } else { cert_path },
                what,
            }),
            (None, None) => {
                let (key_pem, authority) = Self::create(now)?;
                // The key first: a certificate without its key is what `Incomplete` cannot repair.
                files::write(&key_path, key_pem.as_bytes())?;
                files::write(&cert_path, authority.ca_pem.as_bytes())?;
                Ok(authority)
            }
            // A crash between the two writes of the first start leaves a key that signed nothing yet.
            (Some(key), None) => {
                let key = parse_key(&key).ok_or(PkiError::Damaged { path: key_path, what: "CA key" })?;
                let authority = Self::self_sign(key, now)?;
                files::write(&cert_path, authority.ca_pem.as_bytes())?;
                Ok(authority)
            }
            (None, Some(_)) => Err(PkiError::Incomplete { missing: key_path, present: cert_path }),
        }
    }

    fn create(now: SystemTime) -> Result<(String, Self), PkiError> {
        let key = generate_key()?;
        let key_pem = key.serialize_pem();
        Ok((key_pem, Self::self_sign(key, now)?))
    }

    fn self_sign(key: KeyPair, now: SystemTime) -> Result<Self, PkiError> {
        let mut params = parameters(Validity::starting(now, CA_LIFETIME));
        params.distinguished_name.push(DnType::CommonName, "gantry-ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let cert = params.self_signed(&key).map_err(crypto("sign the cluster CA"))?;
        let (ca_pem, ca_der) = (cert.pem(), cert.der().clone());
        Ok(Self { issuer: Issuer::new(params, key), ca_der, ca_pem })
    }

    fn load(key: &[u8], cert: &[u8]) -> Result<Self, &'static str> {
        let key = parse_key(key).ok_or("CA key")?;
        let ca_der = CertificateDer::from_pem_slice(cert).map_err(|_| "CA certificate")?;
        let (_, parsed) = X509Certificate::from_der(&ca_der).map_err(|_| "CA certificate")?;
        // The key of another CA would sign certificates that nobody can verify.
        if parsed.public_key().subject_public_key.data != key.public_key_raw() {
            return Err("CA certificate");
        }
        let ca_pem = String::from_utf8(cert.to_vec()).map_err(|_| "CA certificate")?;
        let issuer = Issuer::from_ca_cert_der(&ca_der, key).map_err(|_| "CA certificate")?;
        Ok(Self { issuer, ca_der: ca_der.into_owned(), ca_pem })
    }

    /// The CA certificate for kubeconfigs and agents.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The CA certificate.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// What a machine that joins can pin instead of carrying the CA file: `sha256:` and the hash of the CA's
    /// SubjectPublicKeyInfo in hex, as kubeadm has it.
    pub fn ca_hash(&self) -> String {
        // The CA was made or checked by us: it parses.
        key_fingerprint(&self.ca_der).unwrap_or_default()
    }

    /// A serving certificate for DNS names and IP addresses.
    pub(super) fn serving(
        &self,
        names: &[String],
        validity: Validity,
    ) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), PkiError> {
        let key = generate_key()?;
        let mut params = parameters(validity);
        params.distinguished_name.push(DnType::CommonName, "gantry-scheduler");
        params.subject_alt_names = names.iter().map(|n| alternative_name(n)).collect::<Result<_, _>>()?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer).map_err(crypto("sign a serving certificate"))?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok((cert.der().clone(), key))
    }

    /// A client certificate with a new key: `user` as common name, `groups` as organisations.
    pub fn client(
        &self,
        user: &str,
        groups: &[&str],
        validity: Validity,
    ) -> Result<ClientCertificate, PkiError> {
        let key = generate_key()?;
        let params = client_parameters(user, groups, validity);
        let cert = params.signed_by(&key, &self.issuer).map_err(crypto("sign a client certificate"))?;
        Ok(ClientCertificate { certificate_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a node's CSR. Only its key is taken: subject, usages and lifetime are ours.
    pub fn sign_node(
        &self,
        csr_der: &[u8],
        node: &str,
        validity: Validity,
    ) -> Result<NodeCertificate, PkiError> {
        if !is_node_name(node) {
            return Err(PkiError::NodeName(node.to_owned()));
        }
        // Verifies the request's signature by its own key: proof that the asker holds it.
        let mut request =
            CertificateSigningRequestParams::from_der(&csr_der.into()).map_err(|_| PkiError::Request)?;
        request.params = client_parameters(&format!("{NODE_USER_PREFIX}{node}"), &[NODES_GROUP], validity);
        let cert = request.signed_by(&self.issuer).map_err(crypto("sign a node certificate"))?;
        let key = KeyRecord::of(cert.der()).ok_or(PkiError::Request)?;
        Ok(NodeCertificate { certificate_pem: cert.pem(), validity, key })
    }
}

fn generate_key() -> Result<KeyPair, PkiError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(crypto("generate a key"))
}

fn parse_key(pem: &[u8]) -> Option<KeyPair> {
    KeyPair::from_pem(std::str::from_utf8(pem).ok()?).ok()
}

fn parameters(validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.not_before = validity.from.into();
    params.not_after = validity.until.into();
    // rcgen derives the serial from the key: two certificates of one key would share it.
    params.serial_number = Some(SerialNumber::from_slice(&positive(rand::random())));
    params
}

/// RFC 5280 wants a positive serial of at most 20 octets.
fn positive(mut serial: [u8; 16]) -> [u8; 16] {
    serial[0] &= 0x7f;
    serial
}

fn client_parameters(user: &str, groups: &[&str], validity: Validity) -> CertificateParams {
    let mut params = parameters(validity);
    for group in groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    params.distinguished_name.push(DnType::CommonName, user);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn alternative_name(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let bad = || PkiError::SubjectName(name.to_owned());
    DnsName::try_from(name).map_err(|_| bad())?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| bad())?))
}

/// Whether a node can have this name.
pub fn is_node_name(name: &str) -> bool {
    let label = |l: &str| {
        let bytes = l.as_bytes();
        let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        bytes.iter().all(inner)
            && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
            && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
    };
    name.len() <= 253 && name.split('.').all(label)
}

fn crypto(operation: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError::Crypto { operation, source }
}
