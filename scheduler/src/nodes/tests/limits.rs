//! How many connections a node has, and until when.

use super::*;

const SHORT: Duration = Duration::from_secs(3);

fn open(id: String) -> pb::StreamFrame {
    pb::StreamFrame { kind: Some(pb::stream_frame::Kind::Open(id)) }
}

impl Port {
    /// A certificate that ends soon.
    fn short(&self, node: &str) -> ClientCertificate {
        self.lasting(node, SHORT)
    }

    fn lasting(&self, node: &str, lifetime: Duration) -> ClientCertificate {
        let validity = Validity::starting(SystemTime::now(), lifetime);
        self.authority.client(&format!("system:node:{node}"), &["system:nodes"], validity).unwrap()
    }
}

#[tokio::test]
async fn a_stream_ends_with_the_certificate_that_opened_it() {
    let port = Port::open().await;
    let mut session = port.session("n1").await;
    session.hello().await;
    let nodes = port.nodes.clone();
    let request = pb::stream_request::Kind::PortForward(pb::PortForward { pod_uid: "u".into(), port: 80 });
    let waiting = tokio::spawn(async move { nodes.open_stream("n1", request).await });
    let id = session.expect(|k| if let Kind::Stream(s) = k { Some(s.id) } else { None }).await;
    let (to, frames) = mpsc::channel(4);
    to.send(open(id)).await.unwrap();
    let mut client = NodeClient::new(port.dial(Some(&port.short("n1"))).await.unwrap());
    let _inbound = client.stream(ReceiverStream::new(frames)).await.unwrap();
    let mut stream = waiting.await.unwrap().unwrap();
    let ended = tokio::time::timeout(4 * SHORT, stream.from_agent.recv()).await.expect("the stream ends");
    assert_eq!(ended, None);
    assert!(port.nodes.0.registry.get("n1").is_some(), "the session has another certificate");
}

#[tokio::test]
async fn a_session_ends_with_its_certificate_unless_that_is_renewed() {
    let port = Port::open().await;
    let mut ends = Peer::start(port.dial(Some(&port.short("n1"))).await.unwrap()).await.unwrap();
    ends.say(hello("boot", "instance")).await;
    assert_eq!(ends.hello().await.refusal, "");
    let mut renews = Peer::start(port.dial(Some(&port.short("n2"))).await.unwrap()).await.unwrap();
    renews.say(hello("boot", "instance")).await;
    renews.hello().await;
    let renew = pb::RenewRequest { csr_der: join_request("", "n2").csr_der };
    renews.say(pb::agent_message::Kind::Renew(renew)).await;
    renews.expect(|k| if let Kind::Renewed(r) = k { Some(r) } else { None }).await;
    // Its certificate lasts longer: when it ends, so has that which was renewed.
    let longer = port.lasting("n3", SHORT + Duration::from_secs(1));
    let mut last = Peer::start(port.dial(Some(&longer)).await.unwrap()).await.unwrap();
    for session in [&mut ends, &mut last] {
        let ended = async { while let Ok(Some(_)) = session.from.message().await {} };
        tokio::time::timeout(4 * SHORT, ended).await.expect("the session ends");
    }
    renews.say(pb::agent_message::Kind::Heartbeat(pb::Heartbeat { sequence: 7, ..Default::default() })).await;
    let answered = renews.expect(|k| if let Kind::Heartbeat(h) = k { Some(h.sequence) } else { None }).await;
    assert_eq!(answered, 7, "the renewed one goes on over the same connection");
}

#[tokio::test]
async fn a_node_with_too_many_connections_is_told_and_others_are_served() {
    let port = Port::open_with(DAY, Limits { total: 100, per_user: 1 }).await;
    let mut first = port.session("n1").await;
    assert_eq!(first.hello().await.refusal, "");
    let second = port.dial(Some(&port.node_certificate("n1"))).await.unwrap();
    let refused = Peer::start(second).await.err().expect("a second connection");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("system:node:n1 has 1 connections"), "{}", refused.message());
    assert_eq!(port.session("n2").await.hello().await.refusal, "");
}

#[tokio::test]
async fn who_shows_no_certificate_is_not_listened_to_for_long() {
    let port = Port::open().await;
    let mut client = BootstrapClient::new(port.dial(None).await.unwrap());
    let mut long = join_request("abcdef.0123456789abcdef", "n9");
    long.csr_der = vec![0; 100 << 10].into();
    assert_eq!(client.join(long).await.unwrap_err().code(), Code::OutOfRange, "refused before it is read");
    let short = join_request("abcdef.0123456789abcdef", "n9");
    assert_eq!(client.join(short).await.unwrap_err().code(), Code::Unauthenticated);
}
