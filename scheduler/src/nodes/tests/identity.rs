//! Which machine has the name of a node: by the key of its last certificate, or by an operator's word.

use rcgen::SigningKey as _;
use tonic::Status;

use super::*;
use crate::nodes::keys;

/// What a machine has in its state directory.
struct Machine {
    node: &'static str,
    key: KeyPair,
    certificate: ClientCertificate,
}

impl Machine {
    fn of(node: &'static str, certificate: ClientCertificate) -> Self {
        Self { node, key: KeyPair::from_pem(&certificate.key_pem).unwrap(), certificate }
    }

    /// A join with the proof of its key, and a token if there is one.
    fn rejoin(&self, token: &str) -> pb::JoinRequest {
        let mut request = join_request(token, self.node);
        let message = gantry_proto::signed_in_join(self.node, &request.csr_der);
        let leaf = CertificateDer::from_pem_slice(self.certificate.certificate_pem.as_bytes()).unwrap();
        request.last_certificate_der = leaf.to_vec().into();
        request.proof = self.key.sign(&message).unwrap().into();
        request
    }
}

impl Port {
    async fn join(&self, request: pb::JoinRequest) -> Result<pb::JoinResponse, Status> {
        let mut client = BootstrapClient::new(self.dial(None).await.unwrap());
        client.join(request).await.map(tonic::Response::into_inner)
    }

    /// A machine that joined with a token.
    async fn joined(&self, node: &'static str, token: &Token) -> Machine {
        let key = KeyPair::generate().unwrap();
        let csr = CertificateParams::default().serialize_request(&key).unwrap().der().to_vec();
        let request = pb::JoinRequest { csr_der: csr.into(), ..join_request(&token.reveal(), node) };
        let answer = self.join(request).await.unwrap();
        let certificate_pem = String::from_utf8(answer.certificate_pem.to_vec()).unwrap();
        Machine {
            node,
            certificate: ClientCertificate { certificate_pem, key_pem: key.serialize_pem() },
            key,
        }
    }

    /// What a machine is told that opens a session; nothing when it is let in.
    async fn greets(&self, machine: &Machine) -> String {
        self.greets_with(&machine.certificate).await
    }

    async fn greets_with(&self, certificate: &ClientCertificate) -> String {
        let channel = self.dial(Some(certificate)).await.unwrap();
        let mut peer = Peer::start(channel).await.unwrap();
        peer.say(hello("boot", "instance")).await;
        peer.hello().await.refusal
    }

    fn token(&self, node: Option<&str>) -> Token {
        let token = Token::generate();
        self.tokens.add_for(&token, Some(DAY), "", node, SystemTime::now()).unwrap();
        token
    }

    async fn recorded(&self, node: &str) -> Option<String> {
        let node: Value = self.objects.get(Resource::NODES, None, node).await.unwrap().decode().unwrap();
        node["metadata"]["annotations"][keys::ANNOTATION].as_str().map(str::to_owned)
    }
}

fn days_ago(days: u32) -> SystemTime {
    SystemTime::now() - days * DAY
}

#[tokio::test]
async fn a_token_does_not_give_away_the_name_of_a_node_that_is_known() {
    let port = Port::open().await;
    let token = port.token(None);
    // Made ahead by an administrator, with its range: no machine has the name yet.
    let first = port.joined("n1", &token).await;
    assert_eq!(port.greets(&first).await, "");
    assert!(
        port.recorded("n1").await.unwrap().starts_with("sha256:"),
        "it survives the scheduler, with the Node"
    );

    let refused = port.join(join_request(&token.reveal(), "n1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    for part in
        ["node n1 is known already", "token create --node n1", "kubectl delete node n1", "another name"]
    {
        assert!(refused.message().contains(part), "{}", refused.message());
    }
    // Without a valid token nobody learns which names there are.
    for node in ["n1", "n7"] {
        let refused = port.join(join_request("", node)).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{node}");
    }
    assert_eq!(port.greets(&first).await, "", "the machine itself goes on");
}

#[tokio::test]
async fn an_operators_word_gives_the_name_to_another_machine() {
    let port = Port::open().await;
    let first = port.joined("n1", &port.token(None)).await;
    assert_eq!(port.greets(&first).await, "");

    let bound = port.token(Some("n1"));
    let other = port.join(join_request(&bound.reveal(), "n9")).await.unwrap_err();
    assert_eq!((other.code(), other.message().contains("for node n1 alone")), (Code::PermissionDenied, true));
    // Certificates count in seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let second = port.joined("n1", &bound).await;
    assert_eq!(port.greets(&first).await, "", "until the other is there");
    assert_eq!(port.greets(&second).await, "");
    let refusal = port.greets(&first).await;
    assert!(refusal.contains("another machine has taken the place of node n1"), "{refusal}");
    let refused = port.join(first.rejoin("")).await.unwrap_err();
    assert!(refused.message().contains("another has taken its place since"), "{}", refused.message());

    port.objects.delete(Resource::NODES, None, "n1", &DeleteOptions::default(), &admin()).await.unwrap();
    let refused = port.join(second.rejoin("")).await.unwrap_err();
    assert!(refused.message().contains("node n1 was deleted"), "{}", refused.message());
    port.joined("n1", &port.token(None)).await;
}

#[tokio::test]
async fn who_has_the_old_key_joins_again_without_a_token() {
    let port = Port::open().await;
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3", "annotations": {
        "node.gantry.dev/agent-labels": "{}"}}});
    port.objects.create(Resource::NODES, None, body, &admin()).await.unwrap();
    let expired = Machine::of("n3", port.certificate_from("n3", days_ago(3)));
    // It registered before keys were kept.
    let refused = port.join(join_request(&port.token(None).reveal(), "n3")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let answer = port.join(expired.rejoin("")).await.unwrap();
    let leaf = CertificateDer::from_pem_slice(&answer.certificate_pem).unwrap();
    assert_eq!(crate::pki::Identity::of(&leaf).unwrap().node(), Some("n3"));
    let recorded = port.recorded("n3").await.unwrap();
    assert_eq!(recorded.split(' ').count(), 2, "the answer may be lost: both keys hold: {recorded}");
    port.join(expired.rejoin("")).await.unwrap();

    // Older ones do not, nor does what proves nothing.
    let older = Machine::of("n3", port.certificate_from("n3", days_ago(5)));
    assert_eq!(port.join(older.rejoin("")).await.unwrap_err().code(), Code::FailedPrecondition);
    let another = Machine::of("n3", port.certificate_from("n2", days_ago(3)));
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = Authority::open(elsewhere.path(), days_ago(9)).unwrap();
    let validity = Validity::starting(days_ago(3), DAY);
    let foreign = Machine::of("n3", foreign.client("system:node:n3", &["system:nodes"], validity).unwrap());
    let user = Machine::of("n3", port.authority.client("system:node:n3", &["x"], validity).unwrap());
    let mut unsigned = expired.rejoin("");
    unsigned.proof = older.rejoin("").proof;
    let mut replayed = expired.rejoin("");
    replayed.csr_der = join_request("", "n3").csr_der;
    for request in [another.rejoin(""), foreign.rejoin(""), user.rejoin(""), unsigned, replayed] {
        assert_eq!(port.join(request).await.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test]
async fn of_a_renewal_both_keys_hold_until_the_new_one_is_used() {
    let port = Port::open().await;
    let body = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n4", "annotations": {
        "node.gantry.dev/agent-labels": "{}"}}, "spec": {"podCIDR": "10.1.4.0/24", "podCIDRs": ["10.1.4.0/24"]}});
    port.objects.create(Resource::NODES, None, body, &admin()).await.unwrap();
    let mut peer = port.session("n4").await;
    assert_eq!(peer.hello().await.refusal, "");
    let first = port.recorded("n4").await.expect("the first proof of a valid certificate is recorded");
    let renew = pb::RenewRequest { csr_der: join_request("", "n4").csr_der };
    peer.say(pb::agent_message::Kind::Renew(renew)).await;
    peer.expect(|k| if let Kind::Renewed(r) = k { Some(r) } else { None }).await;
    let both = port.recorded("n4").await.unwrap();
    assert!(both.starts_with(&first) && both.split(' ').count() == 2, "{both}");
    // The agent was killed before it had the answer on its disk.
    assert_eq!(port.greets_with(&port.node_certificate("n4")).await, "");
    assert_eq!(port.recorded("n4").await.unwrap(), first);
}
