//! The name server end to end over loopback, the zones by the Kubernetes DNS specification, and packets that no
//! client should send.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use prometheus_client::registry::Registry;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
};
use tokio_util::sync::CancellationToken;

use super::{
    reply::{Step, consider, encode_datagram},
    *,
};
use crate::model::{Endpoint, Protocol, ServiceId, ServicePort, ServiceSpec, ServiceType};

fn endpoint(address: &str, hostname: &str, ready: bool) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        node: None,
        ready,
        serving: ready,
        terminating: false,
        hostname: hostname.into(),
        pod: String::new(),
    }
}

fn service(cluster_ips: &[&str], ports: Vec<ServicePort>) -> ServiceSpec {
    ServiceSpec {
        generation: 1,
        kind: ServiceType::ClusterIp,
        cluster_ips: cluster_ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        headless: cluster_ips.is_empty(),
        external_name: None,
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        affinity: None,
        internal_local: false,
        external_local: false,
        publish_not_ready: false,
        health_port: None,
        source_ranges: Vec::new(),
        ports,
    }
}

fn port(name: &str, protocol: Protocol, port: u16, endpoints: Vec<Endpoint>) -> ServicePort {
    ServicePort { name: name.into(), protocol, port, node_port: None, endpoints }
}

fn external(target: &str) -> ServiceSpec {
    ServiceSpec {
        kind: ServiceType::ExternalName,
        headless: false,
        external_name: Some(target.into()),
        ..service(&[], Vec::new())
    }
}

fn names() -> Names {
    let pods = || {
        vec![
            endpoint("10.244.1.2:5432", "db-0", true),
            endpoint("10.244.2.2:5432", "db-1", true),
            endpoint("10.244.3.2:5432", "db-2", false),
        ]
    };
    let web = vec![endpoint("10.244.1.9:8080", "", true)];
    let many = (1..=200).map(|n| endpoint(&format!("10.244.9.{n}:80"), "", true)).collect();
    let all = [
        ("default", "kubernetes", service(&["10.96.0.1"], vec![port("https", Protocol::Tcp, 443, vec![])])),
        ("shop", "web", service(&["10.96.0.20"], vec![port("http", Protocol::Tcp, 80, web)])),
        // Of a range that nodes are not told of.
        ("shop", "far", service(&["203.0.113.10"], vec![port("http", Protocol::Tcp, 80, Vec::new())])),
        ("shop", "db", service(&[], vec![port("pg", Protocol::Tcp, 5432, pods())])),
        (
            "shop",
            "all",
            ServiceSpec {
                publish_not_ready: true,
                ..service(&[], vec![port("pg", Protocol::Tcp, 5432, pods())])
            },
        ),
        ("shop", "none", service(&[], vec![port("pg", Protocol::Tcp, 5432, vec![])])),
        ("shop", "many", service(&[], vec![port("", Protocol::Tcp, 80, many)])),
        ("shop", "mail", external("mail.example.org")),
        ("shop", "alias", external("web.shop.svc.cluster.local")),
        ("shop", "loop", external("loop.shop.svc.cluster.local")),
    ];
    let services = all.into_iter().map(|(namespace, name, spec)| {
        (ServiceId { namespace: namespace.into(), name: name.into() }, Arc::new(spec))
    });
    let cluster = ClusterNetwork {
        domain: "cluster.local".into(),
        service_cidr: "10.96.0.0/16".parse().unwrap(),
        pod_cidr: "10.244.0.0/16".parse().unwrap(),
        node_pod_cidrs: vec!["10.244.1.0/24".parse().unwrap()],
        dns_ip: "10.96.0.10".parse().unwrap(),
        node_ports: (30000, 32767),
    };
    Names::new(cluster, Arc::new(services.collect())).unwrap()
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

fn ask(name: &str, kind: RecordType) -> Message {
    let packet = question(name, kind).to_vec().unwrap();
    match consider(&packet, Some(&names())) {
        Step::Reply(reply) => reply,
        other => panic!("{name} {kind}: {other:?}"),
    }
}

fn addresses(reply: &Message) -> BTreeSet<String> {
    reply.answers.iter().filter_map(|record| record.data.ip_addr()).map(|ip| ip.to_string()).collect()
}

fn assert_absent(name: &str, kind: RecordType, code: ResponseCode) {
    let reply = ask(name, kind);
    assert_eq!(reply.metadata.response_code, code, "{name} {kind}");
    assert!(reply.answers.is_empty() && reply.metadata.authoritative, "{name} {kind}");
    let [soa] = reply.authorities.as_slice() else { panic!("{name} {kind}: no SOA") };
    let RData::SOA(data) = &soa.data else { panic!("{name} {kind}: no SOA") };
    assert_eq!((soa.ttl, data.minimum), (5, 5));
}

#[test]
fn services_have_their_addresses_whatever_the_case() {
    let reply = ask("Web.SHOP.svc.cluster.local.", RecordType::A);
    assert_eq!(addresses(&reply), BTreeSet::from(["10.96.0.20".into()]));
    assert_eq!(reply.answers[0].name.to_ascii(), "Web.SHOP.svc.cluster.local.", "as it was asked");
    assert_eq!(reply.answers[0].ttl, 5);
    assert!(reply.metadata.authoritative && reply.metadata.recursion_available);
    assert_eq!(reply.metadata.id, 77);
    assert!(!addresses(&ask("kubernetes.default.svc.cluster.local.", RecordType::A)).is_empty());
}

#[test]
fn absence_of_a_type_is_not_absence_of_a_name() {
    use ResponseCode::{NXDomain, NoError};
    assert_absent("web.shop.svc.cluster.local.", RecordType::AAAA, NoError);
    assert_absent("web.shop.svc.cluster.local.", RecordType::TXT, NoError);
    assert_absent("shop.svc.cluster.local.", RecordType::A, NoError);
    assert_absent("svc.cluster.local.", RecordType::A, NoError);
    assert_absent("_http._tcp.web.shop.svc.cluster.local.", RecordType::A, NoError);
    assert_absent("_tcp.web.shop.svc.cluster.local.", RecordType::SRV, NoError);
    assert_absent("nosuch.shop.svc.cluster.local.", RecordType::A, NXDomain);
    assert_absent("nosuch.svc.cluster.local.", RecordType::A, NXDomain);
    assert_absent("_udp.web.shop.svc.cluster.local.", RecordType::SRV, NXDomain);
    assert_absent("_x._tcp.web.shop.svc.cluster.local.", RecordType::SRV, NXDomain);
    assert_absent("example.com.shop.svc.cluster.local.", RecordType::A, NXDomain);
    assert_absent("www.example.com.cluster.local.", RecordType::A, NXDomain);
    assert_absent("none.shop.svc.cluster.local.", RecordType::A, NXDomain);
    assert_absent("1-2-3-4-5.shop.pod.cluster.local.", RecordType::A, NXDomain);
    assert_absent("9.0.96.10.in-addr.arpa.", RecordType::PTR, NXDomain);
}

#[test]
fn headless_services_tell_ready_endpoints_or_all() {
    let ready = BTreeSet::from(["10.244.1.2".to_string(), "10.244.2.2".into()]);
    assert_eq!(addresses(&ask("db.shop.svc.cluster.local.", RecordType::A)), ready);
    assert_eq!(addresses(&ask("all.shop.svc.cluster.local.", RecordType::A)).len(), 3);
    let one = |name| addresses(&ask(name, RecordType::A));
    assert_eq!(one("db-1.db.shop.svc.cluster.local."), BTreeSet::from(["10.244.2.2".into()]));
    assert_eq!(one("10-244-1-9.web.shop.svc.cluster.local."), BTreeSet::from(["10.244.1.9".into()]));
    assert_absent("db-2.db.shop.svc.cluster.local.", RecordType::A, ResponseCode::NXDomain);
    assert_eq!(one("10-1-2-3.shop.pod.cluster.local."), BTreeSet::from(["10.1.2.3".into()]));
}

#[test]
fn srv_records_lead_to_addresses() {
    let targets = |reply: &Message| -> BTreeSet<(String, u16)> {
        let srv = reply.answers.iter().map(|record| match &record.data {
            RData::SRV(srv) => (srv.target.to_ascii(), srv.port),
            other => panic!("{other:?}"),
        });
        srv.collect()
    };
    let reply = ask("_http._tcp.web.shop.svc.cluster.local.", RecordType::SRV);
    assert_eq!(targets(&reply), BTreeSet::from([("web.shop.svc.cluster.local.".into(), 80)]));
    assert_eq!(reply.additionals[0].data.ip_addr(), Some("10.96.0.20".parse().unwrap()));
    let reply = ask("_pg._tcp.db.shop.svc.cluster.local.", RecordType::SRV);
    let expected = ["db-0.db.shop.svc.cluster.local.", "db-1.db.shop.svc.cluster.local."];
    assert_eq!(targets(&reply), expected.map(|name| (name.to_string(), 5432)).into());
    assert_eq!(reply.additionals.len(), 2);
}

#[test]
fn addresses_have_names() {
    let names_of = |name: &str| -> BTreeSet<String> {
        let reply = ask(name, RecordType::PTR);
        reply.answers.iter().map(|record| record.data.to_string()).collect()
    };
    assert_eq!(names_of("20.0.96.10.in-addr.arpa."), ["web.shop.svc.cluster.local.".to_string()].into());
    let endpoint = ["db-0.all.shop.svc.cluster.local.".to_string(), "db-0.db.shop.svc.cluster.local.".into()];
    assert_eq!(names_of("2.1.244.10.in-addr.arpa."), endpoint.into());
    assert_eq!(names_of("10.113.0.203.in-addr.arpa."), ["far.shop.svc.cluster.local.".to_string()].into());
    let packet = question("8.8.8.8.in-addr.arpa.", RecordType::PTR).to_vec().unwrap();
    assert!(matches!(consider(&packet, Some(&names())), Step::Forward { .. }));
}

#[test]
fn aliases_are_followed_within_the_cluster_and_out_of_it() {
    let reply = ask("alias.shop.svc.cluster.local.", RecordType::A);
    assert_eq!(reply.answers.len(), 2);
    assert_eq!(addresses(&reply), BTreeSet::from(["10.96.0.20".into()]));
    assert_eq!(
        ask("loop.shop.svc.cluster.local.", RecordType::A).metadata.response_code,
        ResponseCode::ServFail
    );
    let packet = question("mail.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let Step::Forward { reply, query } = consider(&packet, Some(&names())) else { panic!() };
    assert_eq!(query.name().to_ascii(), "mail.example.org.");
    assert_eq!(reply.answers[0].record_type(), RecordType::CNAME);
}

#[test]
fn odd_requests_get_the_code_that_says_why() {
    let code = |message: &Message| match consider(&message.to_vec().unwrap(), Some(&names())) {
        Step::Reply(reply) => reply.metadata.response_code,
        other => panic!("{other:?}"),
    };
    let mut update = question("web.shop.svc.cluster.local.", RecordType::A);
    update.metadata.op_code = OpCode::Status;
    assert_eq!(code(&update), ResponseCode::NotImp);
    let mut chaos = question("version.bind.", RecordType::TXT);
    chaos.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(code(&chaos), ResponseCode::Refused);
    let mut two = question("a.", RecordType::A);
    two.add_query(Query::query(Name::from_ascii("b.").unwrap(), RecordType::A));
    assert_eq!(code(&two), ResponseCode::FormErr);
    let mut answer = question("a.", RecordType::A);
    answer.metadata.message_type = MessageType::Response;
    assert!(matches!(consider(&answer.to_vec().unwrap(), Some(&names())), Step::Ignore));
    assert!(matches!(consider(&[0; 11], Some(&names())), Step::Ignore));
}

#[test]
fn a_datagram_is_cut_to_what_the_client_takes_and_says_so() {
    let mut request = question("many.shop.svc.cluster.local.", RecordType::A);
    for (edns, limit) in [(None, 512), (Some(1000), 1000), (Some(65_000), 1232)] {
        request.edns = edns.map(|size| {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            edns
        });
        let packet = request.to_vec().unwrap();
        let Step::Reply(reply) = consider(&packet, Some(&names())) else { panic!() };
        let bytes = encode_datagram(&reply, &packet).unwrap();
        // Not one more address would have fitted.
        assert!(bytes.len() <= limit && bytes.len() > limit - 16, "{} of {limit}", bytes.len());
        let read = Message::from_vec(&bytes).unwrap();
        assert!(read.metadata.truncation && !read.answers.is_empty());
        assert_eq!(read.edns.is_some(), edns.is_some());
    }
}

#[test]
fn additional_records_fill_what_the_answers_leave() {
    let packet = question("_pg._tcp.all.shop.svc.cluster.local.", RecordType::SRV).to_vec().unwrap();
    let Step::Reply(mut reply) = consider(&packet, Some(&names())) else { panic!() };
    let address = |n| RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, n)));
    let name = reply.queries[0].name().clone();
    reply.additionals.extend((0..100).map(|n| Record::from_rdata(name.clone(), 5, address(n))));
    let bytes = encode_datagram(&reply, &packet).unwrap();
    let read = Message::from_vec(&bytes).unwrap();
    assert!(bytes.len() <= 512 && bytes.len() > 512 - 16, "{}", bytes.len());
    assert_eq!(read.answers.len(), 3);
    assert!(!read.metadata.truncation, "nothing that was asked for is missing");
}

proptest! {
    #[test]
    fn no_packet_makes_it_panic(packet in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Step::Reply(reply) = consider(&packet, Some(&names())) {
            let bytes = encode_datagram(&reply, &packet).unwrap();
            prop_assert!(bytes.len() <= 1232);
        }
    }

    #[test]
    fn no_damage_to_a_question_makes_it_panic(
        labels in prop::collection::vec("[a-z0-9_-]{1,12}", 0..6),
        kind in any::<u16>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let name = format!("{}.svc.cluster.local.", labels.join("."));
        let Ok(name) = Name::from_ascii(name.trim_start_matches('.')) else { return Ok(()) };
        let mut message = Message::new(1, MessageType::Query, OpCode::Query);
        message.add_query(Query::query(name, RecordType::from(kind)));
        let mut packet = message.to_vec().unwrap();
        for (place, byte) in damage {
            let place = place.index(packet.len());
            packet[place] = byte;
        }
        if let Step::Reply(reply) = consider(&packet, Some(&names())) {
            prop_assert!(encode_datagram(&reply, &packet).is_some());
        }
    }
}

/// A resolver on loopback that answers every name, by UDP cut when asked for `large.`.
async fn upstream(asked: Arc<AtomicUsize>) -> SocketAddr {
    let streams = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = streams.local_addr().unwrap();
    let datagrams = UdpSocket::bind(address).await.unwrap();
    let answer = |packet: &[u8], cut: bool| {
        let request = Message::from_vec(packet).unwrap();
        let name = request.queries[0].name().clone();
        let mut reply = request.into_response();
        if cut && name.to_ascii() == "large." {
            reply.metadata.truncation = true;
        } else {
            let data = RData::A(rdata::A(Ipv4Addr::new(192, 0, 2, 99)));
            reply.add_answer(Record::from_rdata(name, 60, data));
        }
        reply.to_vec().unwrap()
    };
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, Ordering::SeqCst);
            // A forged answer with a wrong id comes first.
            let mut forged = answer(&buffer[..length], true);
            forged[0] ^= 0xff;
            datagrams.send_to(&forged, from).await.unwrap();
            datagrams.send_to(&answer(&buffer[..length], true), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = streams.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut packet = vec![0; length.into()];
            stream.read_exact(&mut packet).await.unwrap();
            let bytes = answer(&packet, false);
            stream.write_u16(bytes.len() as u16).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        }
    });
    address
}

async fn serve(upstreams: Vec<SocketAddr>) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
    let settings = DnsSettings {
        upstreams: Upstreams::Servers(upstreams),
        timeout: Duration::from_millis(300),
        cache_entries: 64,
    };
    let shared: SharedNames = Arc::new(ArcSwapOption::from_pointee(names()));
    let metrics = Metrics::new(&mut Registry::default());
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), settings, shared, metrics).await.unwrap();
    let address = server.address().unwrap();
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.serve(stop.clone()));
    (address, stop, running)
}

async fn exchange(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&question(name, RecordType::A).to_vec().unwrap(), server).await.unwrap();
    let mut buffer = [0; 1500];
    let length =
        tokio::time::timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.unwrap().unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

#[tokio::test]
async fn names_outside_are_forwarded_once_and_kept() {
    let asked = Arc::new(AtomicUsize::new(0));
    // The own port of nobody: refused, so the next one is asked.
    let dead = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9)), 1);
    let (server, ..) = serve(vec![dead, upstream(asked.clone()).await]).await;
    let (one, two) = tokio::join!(exchange(server, "www.example.org."), exchange(server, "www.example.org."));
    assert_eq!(addresses(&one), BTreeSet::from(["192.0.2.99".into()]));
    assert_eq!(addresses(&two), addresses(&one));
    exchange(server, "WWW.example.org.").await;
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let alias = exchange(server, "mail.shop.svc.cluster.local.").await;
    assert_eq!((alias.answers.len(), addresses(&alias).len()), (2, 1));
}

#[tokio::test]
async fn a_cut_answer_is_asked_for_again_by_stream() {
    let (server, ..) = serve(vec![upstream(Arc::default()).await]).await;
    assert_eq!(addresses(&exchange(server, "large.").await), BTreeSet::from(["192.0.2.99".into()]));
}

#[tokio::test]
async fn without_an_upstream_the_cluster_is_still_answered() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (server, ..) = serve(vec![silent.local_addr().unwrap()]).await;
    let (outside, inside) =
        tokio::join!(exchange(server, "example.org."), exchange(server, "web.shop.svc.cluster.local."));
    assert_eq!(outside.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(addresses(&inside).len(), 1);
}

#[tokio::test]
async fn streams_carry_several_questions_and_end_with_the_server() {
    let (server, stop, running) = serve(Vec::new()).await;
    let mut stream = TcpStream::connect(server).await.unwrap();
    for _ in 0..3 {
        let packet = question("many.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
        stream.write_u16(packet.len() as u16).await.unwrap();
        stream.write_all(&packet).await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut bytes = vec![0; length.into()];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(Message::from_vec(&bytes).unwrap().answers.len(), 200, "whole");
    }
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(5), running).await.unwrap().unwrap();
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
}

#[test]
fn the_wish_for_unchecked_data_is_kept() {
    for wish in [false, true] {
        let mut request = question("example.org.", RecordType::A);
        request.metadata.checking_disabled = wish;
        let packet = request.to_vec().unwrap();
        let Step::Forward { reply, .. } = consider(&packet, Some(&names())) else { panic!() };
        assert_eq!(reply.metadata.checking_disabled, wish);
    }
}
