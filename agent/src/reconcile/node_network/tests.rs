//! The node's network on the fake node: what is wanted is set, what others undo is set again, what is found out is told.

use super::*;
use crate::{
    lifecycle::Gates,
    testing::{FakeNode, State, view},
};

struct Running {
    fake: FakeNode,
    gates: Gates,
    ranges: watch::Sender<Option<ClusterNetwork>>,
    table: TableNetwork,
    view: watch::Receiver<Arc<NodeView>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(fake: FakeNode, known: bool, fixed_addresses: bool) -> Running {
    let mut node = view("/nowhere".as_ref());
    let cluster = node.cluster.take();
    if !fixed_addresses {
        node.addresses.clear();
    }
    let (view, seen) = watch::channel(Arc::new(node));
    let (ranges, followed) = watch::channel(cluster.filter(|_| known));
    let (gates, table) = (Gates::default(), TableNetwork::default());
    let ports = fake.ports();
    let parts = NodeNetworking {
        network: ports.network,
        dataplane: ports.dataplane,
        ranges: followed,
        table: table.clone(),
        view,
        fixed_addresses,
        configured: gates.register("network"),
    };
    let networker = NodeNetworker::start(parts).await;
    let task = tokio::spawn(networker.run(CancellationToken::new()));
    Running { fake, gates, ranges, table, view: seen, task }
}

fn count(state: &State, line: &str) -> usize {
    state.log.iter().filter(|logged| logged.starts_with(line)).count()
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

impl Running {
    async fn addresses(&self, wanted: &[IpAddr]) {
        let mut view = self.view.clone();
        view.wait_for(|view| view.addresses == wanted).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_ledger_knows_is_in_force_before_anything_begins() {
    let node = start(FakeNode::new(), true, false).await;
    assert!(node.gates.closed().is_empty());
    assert!(node.view.borrow().cluster.is_some());
    assert_eq!(node.view.borrow().addresses, [address(1)]);
    assert_eq!(count(&node.fake.state(), r#"uplink Some("up0")"#), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_known_is_not_asked_for() {
    let node = start(FakeNode::new(), false, false).await;
    node.fake.state().node_network.peers = Some(Arc::default());
    tokio::time::sleep(3 * REPAIR).await;
    let state = node.fake.state().node_network.clone();
    assert_eq!(state, NodeWants { peers: Some(Arc::default()), ..NodeWants::default() }, "untouched");
    assert_eq!(node.gates.closed(), ["network"]);
    let ranges = view("/nowhere".as_ref()).cluster;
    node.ranges.send_replace(ranges.clone());
    node.fake.until("the ranges", |state| state.node_network.cluster == ranges).await;
}

#[tokio::test(start_paused = true)]
async fn an_address_that_comes_late_or_changes_is_the_nodes_and_one_that_went_stays() {
    let fake = FakeNode::new();
    (fake.state().addresses, fake.state().uplink) = (Vec::new(), None);
    let node = start(fake, true, false).await;
    assert!(node.view.borrow().addresses.is_empty());
    node.fake.change_network(|state| {
        state.uplink = Some("up0".to_owned());
        state.addresses = vec![address(7)];
    });
    let began = Instant::now();
    node.addresses(&[address(7)]).await;
    assert!(began.elapsed() < Duration::from_secs(1), "nobody waits for the repair");
    node.fake.until("the uplink", |state| count(state, r#"uplink Some("up0")"#) > 0).await;
    node.fake.change_network(|state| state.addresses = Vec::new());
    tokio::time::sleep(2 * REPAIR).await;
    assert_eq!(node.view.borrow().addresses, [address(7)], "no address is no news");
    node.fake.change_network(|state| state.addresses = vec![address(8)]);
    node.addresses(&[address(8)]).await;
}

#[tokio::test(start_paused = true)]
async fn addresses_of_the_configuration_stay() {
    let node = start(FakeNode::new(), true, true).await;
    node.fake.change_network(|state| state.addresses = vec![address(9)]);
    tokio::time::sleep(2 * REPAIR).await;
    assert_eq!(node.view.borrow().addresses, [address(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_others_remove_is_back_within_a_second_and_without_a_ring_by_the_repair() {
    let node = start(FakeNode::new(), true, false).await;
    node.table.want_peers(&Peers::default());
    let mut outcome = node.table.outcome();
    assert!(node.table.settled(&mut outcome).await.failures.is_empty());
    node.fake.change_network(|state| state.node_network.peers = None);
    let began = Instant::now();
    node.fake.until("the routes", |state| state.node_network.peers.is_some()).await;
    assert!(began.elapsed() < Duration::from_secs(1));
    node.fake.state().node_network.cluster = None;
    node.fake.until("the ranges", |state| state.node_network.cluster.is_some()).await;
    assert!(began.elapsed() <= REPAIR + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_tried_again_and_its_end_is_told() {
    let node = start(FakeNode::new(), true, false).await;
    let mut outcome = node.table.outcome();
    node.fake.state().failures.insert("peers", ["no such device"; 3].map(str::to_owned).into());
    node.table.want_peers(&Peers::default());
    let settled = node.table.settled(&mut outcome).await;
    assert_eq!(settled.failures.len(), 1);
    assert!(settled.failures[0].0 == Part::Peers && settled.failures[0].1.contains("no such device"));
    assert!(node.gates.closed().is_empty(), "the ranges are in force");
    outcome.wait_for(|outcome| outcome.failures.is_empty()).await.unwrap();
    assert_eq!(count(&node.fake.state(), "peers failed"), 3);
    node.fake.state().failures.insert("settle", ["out of buffers".to_owned()].into());
    node.table.want_announced([address(100)].into());
    assert!(!node.table.settled(&mut outcome).await.failures.is_empty(), "nobody waits for ever");
    outcome.wait_for(|outcome| outcome.failures.is_empty()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ranges_that_are_not_in_force_any_more_close_the_gate_and_stay_in_view() {
    let node = start(FakeNode::new(), true, false).await;
    node.fake.state().failures.insert("ranges", ["no nft"; 2].map(str::to_owned).into());
    node.fake.change_network(|state| state.node_network.cluster = None);
    let mut outcome = node.table.outcome();
    outcome.wait_for(|outcome| !outcome.failures.is_empty()).await.unwrap();
    assert_eq!(node.gates.closed(), ["network"]);
    assert!(node.view.borrow().cluster.is_some(), "pods go on");
    node.gates.all_open().await;
    assert_eq!(count(&node.fake.state(), "ranges failed"), 2);
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_cannot_be_attached_is_tried_again() {
    let fake = FakeNode::new();
    fake.state().failures.insert("uplink", ["busy"; 2].map(str::to_owned).into());
    let node = start(fake, true, false).await;
    node.fake.until("three tries", |state| count(state, "uplink") == 3).await;
    tokio::time::sleep(REPAIR / 2).await;
    assert_eq!(count(&node.fake.state(), "uplink"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_is_looked_at_by_the_repair_alone_and_a_storm_is_one_look() {
    let node = start(FakeNode::new(), true, false).await;
    tokio::time::sleep(10 * REPAIR + Duration::from_secs(1)).await;
    let looks = count(&node.fake.state(), "uplink");
    assert_eq!((looks, count(&node.fake.state(), "thorough")), (11, 11));
    for _ in 0..50 {
        node.fake.change_network(|_| ());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(count(&node.fake.state(), "uplink"), looks + 1);
    assert_eq!(count(&node.fake.state(), "thorough"), looks, "a ring asks for no rules");
}
