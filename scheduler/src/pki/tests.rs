use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn csr(common_name: &str) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().der().to_vec()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn of_many_that_open_it_at_once_one_makes_the_authority() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let open = || Authority::open(&dir, now()).unwrap().ca_pem().to_owned();
    let all: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|one| *one == all[0]), "each that made one signs for itself alone");
}

#[test]
fn the_authority_is_made_once_and_loaded_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let first = Authority::open(&dir, now()).unwrap();
    let second = Authority::open(&dir, now() + DAY).unwrap();
    assert_eq!(first.ca_pem(), second.ca_pem());
    assert_eq!(first.ca_hash(), second.ca_hash());
    assert!(first.ca_hash().starts_with("sha256:") && first.ca_hash().len() == 7 + 64);
    assert_eq!((mode(&dir), mode(&dir.join("ca.key"))), (0o700, 0o600));
}

#[test]
fn a_ca_without_its_key_or_with_a_foreign_one_is_refused() {
    let one = tempfile::tempdir().unwrap();
    let two = tempfile::tempdir().unwrap();
    Authority::open(one.path(), now()).unwrap();
    Authority::open(two.path(), now()).unwrap();
    std::fs::copy(two.path().join("ca.key"), one.path().join("ca.key")).unwrap();
    assert!(matches!(Authority::open(one.path(), now()), Err(PkiError::Damaged { .. })));
    std::fs::remove_file(one.path().join("ca.key")).unwrap();
    assert!(matches!(Authority::open(one.path(), now()), Err(PkiError::Incomplete { .. })));
}

#[test]
fn a_node_certificate_has_our_subject_whatever_the_request_says() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), now()).unwrap();
    let validity = Validity::starting(now(), DAY);
    let signed = authority.sign_node(&csr("kubernetes-admin"), "node-1", validity).unwrap();
    let der = CertificateDer::from_pem_slice(signed.certificate_pem.as_bytes()).unwrap();
    let identity = Identity::of(&der).unwrap();
    assert_eq!((identity.user.as_str(), identity.node()), ("system:node:node-1", Some("node-1")));
    assert_eq!(identity.groups, ["system:nodes"]);

    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let usage = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth && !cert.is_ca());
    assert_eq!(cert.validity().not_after.timestamp(), validity.until_unix());
    let (_, ca) = X509Certificate::from_der(authority.ca_der()).unwrap();
    cert.verify_signature(Some(ca.public_key())).unwrap();
}

#[test]
fn bad_names_and_tampered_requests_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), now()).unwrap();
    let validity = Validity::starting(now(), DAY);
    for name in ["", "Node", "a..b", "-a", "a-", "a b", "a,O=system:masters", &"a".repeat(254)] {
        assert!(
            matches!(authority.sign_node(&csr("x"), name, validity), Err(PkiError::NodeName(_))),
            "{name:?}"
        );
    }
    let mut tampered = csr("node-1");
    let last = tampered.len() - 1;
    tampered[last] ^= 1;
    assert!(matches!(authority.sign_node(&tampered, "node-1", validity), Err(PkiError::Request)));
    assert!(matches!(authority.sign_node(b"rubbish", "node-1", validity), Err(PkiError::Request)));
}

#[test]
fn an_identity_is_a_node_only_with_name_and_group() {
    let identity = |user: &str, groups: &[&str]| Identity {
        user: user.to_owned(),
        groups: groups.iter().map(|g| (*g).to_owned()).collect(),
    };
    assert_eq!(identity("system:node:a", &["system:nodes"]).node(), Some("a"));
    assert_eq!(identity("system:node:a", &["system:masters"]).node(), None);
    assert_eq!(identity("system:node:", &["system:nodes"]).node(), None);
    assert_eq!(identity("a", &["system:nodes"]).node(), None);
}

#[test]
fn the_kubeconfig_names_server_ca_and_client() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::open(dir.path(), now()).unwrap();
    let client =
        authority.client("kubernetes-admin", &["system:masters"], Validity::starting(now(), DAY)).unwrap();
    let path = dir.path().join("kubeconfig");
    write_kubeconfig(&path, "https://127.0.0.1:6443", &authority, "kubernetes-admin", &client).unwrap();
    assert_eq!(mode(&path), 0o600);
    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(config["current-context"], config["contexts"][0]["name"]);
    assert_eq!(config["contexts"][0]["context"]["user"], config["users"][0]["name"]);
}

#[test]
fn a_serving_certificate_names_hosts_and_addresses_and_changes_on_reissue() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::open(dir.path(), now()).unwrap());
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let serving = Serving::issue(Arc::clone(&authority), names, DAY, now()).unwrap();
    server_config(&authority, Arc::clone(&serving), Alpn::Http).unwrap();
    serving.reissue(now() + DAY).unwrap();
    let (cert, _) = authority
        .serving(&["10.0.0.1".to_owned(), "api".to_owned()], Validity::starting(now(), DAY))
        .unwrap();
    let (_, parsed) = X509Certificate::from_der(&cert).unwrap();
    let names = &parsed.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(names.len(), 2);
    assert!(matches!(
        Serving::issue(authority, vec!["not a name".to_owned()], DAY, now()),
        Err(PkiError::SubjectName(_))
    ));
}

#[test]
fn tokens_hold_until_they_expire_and_are_stored_hashed() {
    let dir = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(dir.path()).unwrap();
    let token = Token::generate();
    tokens.add(&token, Some(DAY), "first node", now()).unwrap();
    let grant = TokenGrant { id: token.id().clone(), node: None };
    assert_eq!(tokens.verify(&token.reveal(), now()).unwrap(), Ok(grant));
    assert_eq!(
        tokens.verify(&token.reveal(), now() + DAY).unwrap(),
        Err(TokenRefusal::Expired(token.id().clone()))
    );
    let stored = std::fs::read_to_string(dir.path().join("tokens.json")).unwrap();
    let secret = token.reveal().split_once('.').unwrap().1.to_owned();
    assert!(!stored.contains(&secret) && !format!("{token:?}").contains(&secret));
    assert_eq!(mode(&dir.path().join("tokens.json")), 0o600);

    let wrong = format!("{}.{}", token.id(), "0".repeat(16));
    assert_eq!(tokens.verify(&wrong, now()).unwrap(), Err(TokenRefusal::Wrong(token.id().clone())));
    for text in ["", "abc", "abcdef.short", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef.x"] {
        assert_eq!(tokens.verify(text, now()).unwrap(), Err(TokenRefusal::Malformed), "{text}");
    }
    assert!(matches!(
        tokens.verify(&Token::generate().reveal(), now()).unwrap(),
        Err(TokenRefusal::Unknown(_))
    ));
    assert!(tokens.remove(&token.id().to_string()).unwrap());
    assert!(matches!(tokens.verify(&token.reveal(), now()).unwrap(), Err(TokenRefusal::Unknown(_))));
}
