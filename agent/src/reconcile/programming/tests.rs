//! Programming on the fake node: what fails is named, and holds up nothing else.

use std::net::Ipv4Addr;

use super::*;
use crate::{
    lifecycle::Gates,
    model::{ClusterNetwork, Endpoint, Protocol, ServicePort, ServiceSpec, ServiceType, Table},
    reconcile::{NodeNetworker, NodeNetworking},
    testing::{FakeNode, Heard, State, view},
};

struct Running {
    heard: Arc<Heard>,
    gates: Gates,
    desired: watch::Sender<Option<Arc<Desired>>>,
    _ranges: watch::Sender<Option<ClusterNetwork>>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn start(fake: &FakeNode, wanted: Desired) -> Running {
    let (heard, gates) = (Arc::new(Heard::default()), Gates::default());
    let node = view("/nowhere".as_ref());
    let (ranges, followed) = watch::channel(node.cluster.clone());
    let (node, view) = watch::channel(Arc::new(node));
    let (desired, wanted) = watch::channel(Some(Arc::new(wanted)));
    let (ports, table_network) = (fake.ports(), TableNetwork::default());
    let networker = NodeNetworker::start(NodeNetworking {
        network: ports.network.clone(),
        dataplane: ports.dataplane.clone(),
        ranges: followed,
        table: table_network.clone(),
        view: node,
        fixed_addresses: false,
        configured: gates.register("network"),
    })
    .await;
    let programmer = Programmer {
        dataplane: ports.dataplane,
        network: ports.network,
        table_network,
        upstream: heard.clone(),
        node: view,
        names: SharedNames::default(),
        wires: Wires::default(),
        programmed: gates.register("services"),
        metrics: Arc::default(),
    };
    let stop = CancellationToken::new;
    let tasks = [tokio::spawn(networker.run(stop())), tokio::spawn(programming(programmer, wanted, stop()))];
    Running { heard, gates, desired, _ranges: ranges, tasks }
}

fn id(name: &str) -> ServiceId {
    ServiceId { namespace: "shop".into(), name: name.into() }
}

fn wanted() -> Desired {
    let service = |generation, last| {
        Arc::new(ServiceSpec {
            generation,
            kind: ServiceType::ClusterIp,
            cluster_ips: vec![Ipv4Addr::new(10, 96, 0, last).into()],
            headless: false,
            external_name: None,
            external_ips: Vec::new(),
            load_balancer_ips: Vec::new(),
            affinity: None,
            internal_local: false,
            external_local: false,
            publish_not_ready: false,
            health_port: None,
            source_ranges: Vec::new(),
            ports: Vec::new(),
        })
    };
    let services = [(id("a"), service(3, 1)), (id("b"), service(4, 2))].into_iter().collect();
    let table = Some(Arc::new(Table { services, ..Table::default() }));
    Desired { epoch: 1, generation: 7, table, ..Desired::default() }
}

fn count(fake: &FakeNode, line: &str) -> usize {
    logged(&fake.state(), line)
}

fn logged(node: &State, line: &str) -> usize {
    node.log.iter().filter(|logged| logged.starts_with(line)).count()
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_programmed_is_named_and_tried_again() {
    let fake = FakeNode::new();
    fake.state().unprogrammable.insert(id("b"));
    let running = start(&fake, wanted()).await;
    let said = running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    let (generation, failed) = &said.programmed[0];
    let failed: Vec<_> = failed.iter().map(|f| (&*f.namespace, &*f.name, f.generation)).collect();
    assert_eq!((*generation, failed), (7, vec![("shop", "b", 4)]));
    assert!(running.gates.closed().is_empty(), "the others are in service");
    fake.state().unprogrammable.clear();
    running.heard.until("a clean ack", |said| said.programmed.last().unwrap().1.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_cannot_be_reached_holds_up_no_service() {
    let fake = FakeNode::new();
    fake.state().failures.insert("peers", ["behind a router"; 3].map(str::to_owned).into());
    let running = start(&fake, wanted()).await;
    let said = running.heard.until("a failure", |said| !said.programmed.is_empty()).await;
    assert_eq!(said.programmed[0].1[0].kind, FailedKind::Peer);
    assert!(running.gates.closed().is_empty());
    running.heard.until("a clean ack", |said| said.programmed.last().unwrap().1.is_empty()).await;
    assert_eq!((count(&fake, "peers failed"), count(&fake, "peers 0")), (3, 1));
    assert_eq!(count(&fake, "publish"), 1, "only what failed is done again");
}

#[tokio::test(start_paused = true)]
async fn what_fails_later_is_told_and_so_is_its_end() {
    let fake = FakeNode::new();
    let running = start(&fake, wanted()).await;
    running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    fake.state().failures.insert("peers", ["no such device"; 2].map(str::to_owned).into());
    fake.change_network(|node| node.node_network.peers = None);
    running
        .heard
        .until("a failure", |said| said.programmed.iter().any(|(_, failed)| !failed.is_empty()))
        .await;
    running.heard.until("a clean ack", |said| said.programmed.last().unwrap().1.is_empty()).await;
    assert_eq!(count(&fake, "publish"), 1, "the datapath is nobody else's");
}

#[tokio::test(start_paused = true)]
async fn services_are_published_at_the_nodes_new_address() {
    let fake = FakeNode::new();
    let running = start(&fake, wanted()).await;
    running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    assert_eq!(fake.state().published_at, ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    let new: Vec<IpAddr> = vec!["192.0.2.9".parse().unwrap()];
    fake.change_network(|node| node.addresses.clone_from(&new));
    fake.until("the new address", |node| node.published_at == new).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_not_empty() {
    let fake = FakeNode::new();
    let running = start(&fake, Desired { table: None, ..wanted() }).await;
    // Longer than every repair and retry takes.
    tokio::time::sleep(2 * super::super::node_network::REPAIR).await;
    for line in ["publish", "peers", "announce"] {
        assert_eq!(count(&fake, line), 0, "{line}: what the kernel has stays");
    }
    assert!(running.heard.said().programmed.is_empty(), "nothing is acknowledged");
    assert!(!running.gates.closed().is_empty());
    running.desired.send_replace(Some(Arc::new(Desired { table: Some(Arc::default()), ..wanted() })));
    running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    assert!(count(&fake, "publish 0") == 1 && count(&fake, "peers") > 0, "that there is none is known now");
}

#[tokio::test(start_paused = true)]
async fn the_same_generation_of_another_epoch_is_another_table() {
    let fake = FakeNode::new();
    let running = start(&fake, wanted()).await;
    running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    let mut next = Desired { epoch: 2, ..wanted() };
    let service = next.table_mut().services.get_mut(&id("a")).unwrap();
    Arc::make_mut(service).cluster_ips = vec![Ipv4Addr::new(10, 96, 0, 77).into()];
    running.desired.send_replace(Some(Arc::new(next.clone())));
    fake.until("the other table", |node| logged(node, "publish") == 2).await;
    // The same content made anew is published no more than before.
    let services = next.table_mut().services.values_mut();
    services.for_each(|service| *service = Arc::new((**service).clone()));
    next.generation += 1;
    running.desired.send_replace(Some(Arc::new(next)));
    running.heard.until("its ack", |said| said.programmed.last().unwrap().0 == 8).await;
    assert_eq!(count(&fake, "publish"), 2);
}

#[tokio::test(start_paused = true)]
async fn what_no_try_makes_answer_is_told_and_not_tried_again() {
    let fake = FakeNode::new();
    let mut wanted = wanted();
    let service = wanted.table_mut().services.get_mut(&id("b")).unwrap();
    Arc::make_mut(service).ports.push(ServicePort {
        name: String::new(),
        protocol: Protocol::Sctp,
        port: 38_412,
        node_port: None,
        endpoints: Vec::new(),
    });
    let running = start(&fake, wanted).await;
    tokio::time::sleep(2 * MAX_RETRY).await;
    let said = running.heard.said().programmed;
    let (generation, failed) = said.last().unwrap();
    let failed: Vec<_> = failed.iter().map(|f| (&*f.name, f.generation)).collect();
    assert_eq!((*generation, failed), (7, vec![("b", 4)]));
    assert_eq!(count(&fake, "publish"), 1);
    assert!(running.gates.closed().is_empty());
}

/// One port with these endpoints.
fn leads_to(service: &Arc<ServiceSpec>, endpoints: &[&str]) -> Arc<ServiceSpec> {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().unwrap(),
        node: Some("node-1".into()),
        ready: true,
        serving: true,
        terminating: false,
        hostname: String::new(),
        pod: String::new(),
    };
    let port = ServicePort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: 80,
        node_port: Some(30_080),
        endpoints: endpoints.iter().map(endpoint).collect(),
    };
    Arc::new(ServiceSpec { ports: vec![port], ..(**service).clone() })
}

fn set(addresses: &[&str]) -> Option<BTreeSet<String>> {
    Some(addresses.iter().map(|address| (*address).to_owned()).collect())
}

/// The agent's whole way from a desired state to the table, which is the real one: what is acknowledged is what connections
/// meet, through endpoints that change, an agent that starts again, and a table that is not known for a while.
#[tokio::test(start_paused = true)]
async fn what_is_acknowledged_is_what_connections_meet() {
    let fake = FakeNode::new();
    let mut first = wanted();
    let services = &mut first.table_mut().services;
    let web = leads_to(&services[&id("a")], &["10.244.0.2:8080", "10.244.1.2:8080"]);
    services.insert(id("a"), web.clone());
    let running = start(&fake, first.clone()).await;
    running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    // At its cluster address, at the node's port, and nowhere else; the other service has no port.
    let both = set(&["10.244.0.2:8080", "10.244.1.2:8080"]);
    assert_eq!(fake.answers("10.96.0.1:80"), both);
    assert_eq!(fake.answers("192.0.2.1:30080"), both);
    assert_eq!((fake.answers("10.96.0.1:30080"), fake.answers("10.96.0.2:80")), (None, None));

    let mut second = Desired { generation: 8, ..first.clone() };
    second.table_mut().services.insert(id("a"), leads_to(&web, &["10.244.1.2:8080"]));
    running.desired.send_replace(Some(Arc::new(second.clone())));
    running.heard.until("the second ack", |said| said.programmed.last().unwrap().0 == 8).await;
    assert_eq!(fake.answers("10.96.0.1:80"), set(&["10.244.1.2:8080"]));
    drop(running);

    // Another agent, which does not know the table yet: everything goes on as it was.
    let running = start(&fake, Desired { table: None, ..second.clone() }).await;
    tokio::time::sleep(2 * MAX_RETRY).await;
    assert_eq!(fake.answers("192.0.2.1:30080"), set(&["10.244.1.2:8080"]));
    // What went while it was away is taken back with the first table that is known.
    let mut third = Desired { generation: 9, ..second };
    let services = &mut third.table_mut().services;
    services.remove(&id("a"));
    let other = leads_to(&services[&id("b")], &[]);
    services.insert(id("b"), other);
    running.desired.send_replace(Some(Arc::new(third)));
    running.heard.until("the third ack", |said| said.programmed.last().is_some_and(|(of, _)| *of == 9)).await;
    assert_eq!(fake.answers("10.96.0.1:80"), None);
    assert_eq!(fake.answers("10.96.0.2:80"), set(&[]), "refused: there is no endpoint");
}

/// More than the kernel has room for: the table says which, and serves the rest until there is room.
#[tokio::test(start_paused = true)]
async fn a_table_that_is_full_names_whom_it_cannot_serve() {
    let fake = FakeNode::new();
    let mut full = wanted();
    let services = &mut full.table_mut().services;
    let one = services.remove(&id("a")).unwrap();
    services.clear();
    // Two frontends of the node's port and one of the cluster address each.
    for number in 0..90_u8 {
        let mut service = (*leads_to(&one, &["10.244.0.2:8080"])).clone();
        service.cluster_ips = vec![Ipv4Addr::new(10, 96, 1, number).into()];
        service.ports[0].node_port = Some(30_000 + u16::from(number));
        services.insert(id(&format!("s{number:02}")), Arc::new(service));
    }
    let running = start(&fake, full.clone()).await;
    let said = running.heard.until("an ack", |said| !said.programmed.is_empty()).await;
    let failed: Vec<&str> = said.programmed[0].1.iter().map(|failed| failed.name.as_str()).collect();
    assert_eq!(failed, ["s85", "s86", "s87", "s88", "s89"]);
    assert_eq!(fake.answers("10.96.1.84:80"), set(&["10.244.0.2:8080"]));
    let mut fitting = Desired { generation: 8, ..full };
    fitting.table_mut().services.retain(|id, _| &*id.name > "s10");
    running.desired.send_replace(Some(Arc::new(fitting)));
    running.heard.until("a clean ack", |said| said.programmed.last().unwrap().1.is_empty()).await;
    assert_eq!(fake.answers("10.96.1.89:80"), set(&["10.244.0.2:8080"]));
}

#[test]
fn what_is_not_served_is_told_once_in_the_same_words() {
    let failed = |name: &str, generation, message: &str| FailedObject {
        kind: FailedKind::Service,
        namespace: "default".into(),
        name: name.into(),
        generation,
        message: message.into(),
    };
    let before = [failed("a", 1, "port 1"), failed("b", 1, "port 2")];
    let now = [failed("a", 2, "port 1"), failed("b", 2, "port 3"), failed("c", 1, "port 1")];
    let told: Vec<&str> = news(&before, &now).map(|failed| failed.name.as_str()).collect();
    assert_eq!(told, ["b", "c"]);
}
