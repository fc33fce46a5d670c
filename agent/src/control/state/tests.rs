//! Updates in, ledger and desired state out; restarts between.

mod learning;
mod slices;

use serde_json::json;

use super::*;
use learning::tomorrow;

fn pod(generation: u64, name: &str) -> pb::Update {
    let json = json!({"metadata": {"name": name, "namespace": "d"}, "spec": {"containers": []}});
    pb::Update {
        generation,
        kind: pb::ObjectKind::Pod.into(),
        namespace: "d".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        body: Some(pb::update::Body::Json(json.to_string().into())),
        ..pb::Update::default()
    }
}

fn service(generation: u64, name: &str) -> pb::Update {
    let port = pb::ServicePort {
        port: 80,
        protocol: pb::Protocol::Udp.into(),
        endpoints: vec![pb::Endpoint {
            address: "10.1.0.2".into(),
            port: 8080,
            ready: true,
            node: "n".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let body = pb::Service {
        r#type: "LoadBalancer".into(),
        cluster_ips: vec!["10.0.0.1".into()],
        load_balancer_ips: vec!["192.0.2.1".into(), "192.0.2.2".into()],
        announcers: vec![String::new(), "n".into()],
        affinity_seconds: 9,
        source_ranges: vec!["10.0.0.0/8".into()],
        health_check_node_port: 30_100,
        ports: vec![port],
        ..Default::default()
    };
    pb::Update {
        generation,
        kind: pb::ObjectKind::Service.into(),
        namespace: "d".into(),
        name: name.into(),
        body: Some(pb::update::Body::Service(body)),
        ..pb::Update::default()
    }
}

fn network() -> ClusterNetwork {
    ClusterNetwork {
        domain: "cluster.local".into(),
        service_cidr: "10.0.0.0/16".parse().unwrap(),
        pod_cidr: "10.1.0.0/16".parse().unwrap(),
        node_pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        dns_ip: "10.0.0.10".parse().unwrap(),
        node_ports: (30000, 32767),
    }
}

fn send(state: &mut State, update: &pb::Update) -> Taken {
    state.apply(&update.encode_to_vec().into()).unwrap()
}

fn refused(state: &mut State, update: &pb::Update) -> ConvertError {
    match send(state, update) {
        Taken::NotUnderstood { error, .. } => error,
        other => panic!("{other:?}"),
    }
}

fn mark(epoch: u64, generation: u64) -> Mark {
    Mark { epoch, generation }
}

fn load(dir: &std::path::Path) -> State {
    State::load(Arc::new(Ledger::open(dir).unwrap())).unwrap()
}

#[tokio::test]
async fn a_restart_finds_what_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    let desired = state.desired();
    state.begin(7, true).unwrap();
    state.set_network(network());
    send(&mut state, &pod(3, "a"));
    send(&mut state, &service(5, "s"));
    state.commit().await;
    assert!(desired.borrow().pods.is_empty(), "half a snapshot is not shown");
    state.end_snapshot(9);
    state.commit().await;
    assert_eq!((desired.borrow().generation, state.durable()), (9, Mark::default()));
    state.flush_table().await;
    assert_eq!(state.durable(), mark(7, 9));

    send(&mut state, &pod(12, "b"));
    state.commit().await;
    let before = desired.borrow().clone();
    let again = load(dir.path());
    // The table was last written at 9: the session goes on from there.
    assert_eq!(again.accepted(), mark(7, 9));
    assert_eq!(*again.networks().borrow(), Some(network()));
    let after = again.desired().borrow().clone();
    assert_eq!(before.pods.keys().collect::<Vec<_>>(), after.pods.keys().collect::<Vec<_>>());
    let table = |desired: &Desired| desired.table.clone().unwrap();
    assert_eq!(table(&before).services, table(&after).services);
    let after = table(&after);
    let spec = after.services.values().next().unwrap();
    assert_eq!(spec.load_balancer_ips[1].1, Some("n".into()));
    assert_eq!(spec.ports[0].endpoints[0].address, "10.1.0.2:8080".parse().unwrap());
}

#[tokio::test]
async fn stale_updates_are_left_out_and_a_new_snapshot_replaces_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &pod(3, "a"));
    state.end_snapshot(5);
    send(&mut state, &pod(5, "late"));
    state.commit().await;
    assert_eq!(state.desired().borrow().pods.len(), 1);
    send(&mut state, &pb::Update { removed: true, body: None, ..pod(6, "a") });
    state.commit().await;
    assert!(state.desired().borrow().pods.is_empty());
    state.begin(2, true).unwrap();
    send(&mut state, &pod(1, "c"));
    state.end_snapshot(1);
    state.commit().await;
    let desired = state.desired().borrow().clone();
    assert_eq!((desired.epoch, desired.generation), (2, 1));
    assert_eq!(desired.pods.keys().map(crate::model::PodUid::as_str).collect::<Vec<_>>(), ["uid-c"]);
}

fn broken(update: pb::Update) -> pb::Update {
    let body = Some(pb::update::Body::Json(json!({"spec": {"containers": "none"}}).to_string().into()));
    pb::Update { body, ..update }
}

#[tokio::test]
async fn what_is_not_understood_is_not_unwanted() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &pod(1, "a"));
    send(&mut state, &pod(2, "b"));
    state.end_snapshot(2);
    state.commit().await;
    // In an update, by uid; in a snapshot, where the uid may be missing.
    refused(&mut state, &broken(pod(3, "a")));
    state.commit().await;
    assert_eq!((state.accepted(), state.failed().len()), (mark(1, 3), 1));
    state.begin(2, true).unwrap();
    refused(&mut state, &broken(pod(1, "a")));
    refused(&mut state, &broken(pb::Update { uid: String::new(), ..pod(2, "b") }));
    refused(&mut state, &broken(pod(3, "new")));
    state.end_snapshot(3);
    state.commit().await;
    let names = |state: &State| {
        let desired = state.desired().borrow().clone();
        desired.pods.keys().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&state), ["uid-a", "uid-b"]);
    let failed = state.failed();
    let told: Vec<_> = failed.iter().map(|f| (f.name.as_str(), f.generation)).collect();
    assert_eq!(told, [("a", 1), ("b", 2), ("new", 3)]);
    assert!(failed[0].message.starts_with("Pod d/a does not decode: "), "{}", failed[0].message);
    // Understood again, it is as any other.
    send(&mut state, &pb::Update { removed: true, body: None, ..pod(4, "a") });
    state.commit().await;
    assert_eq!((names(&state), state.failed().len()), (vec!["uid-b".to_owned()], 2));
}

#[tokio::test]
async fn a_ledger_that_is_not_understood_counts_as_none() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let mut draft = Draft::new();
    frame(&Header { schema: SCHEMA, epoch: 3, generation: 9, network: None }, draft.content());
    for update in [pod(1, "a"), broken(pod(2, "b"))] {
        update.encode_length_delimited(draft.content()).unwrap();
    }
    ledger.store(Section::Work, draft).unwrap();
    let state = load(dir.path());
    assert_eq!(state.accepted(), Mark::default());
    assert!(state.desired().borrow().pods.is_empty(), "half of the pods would be taken for all of them");
}

#[tokio::test]
async fn a_secret_that_does_not_decode_is_not_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    let update = pb::Update {
        kind: pb::ObjectKind::Secret.into(),
        generation: 1,
        body: Some(pb::update::Body::Json(json!({"data": "hunter2"}).to_string().into())),
        ..Default::default()
    };
    let error = refused(&mut state, &update);
    assert!(!Chain(&error).to_string().contains("hunter2"));
    state.end_snapshot(1);
    assert!(!state.failed()[0].message.contains("hunter2"));
}

#[tokio::test]
async fn a_table_that_cannot_be_read_is_not_known_and_not_empty() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &pod(1, "a"));
    send(&mut state, &service(2, "web"));
    state.end_snapshot(2);
    state.commit().await;
    state.flush_table().await;
    assert!(load(dir.path()).desired().borrow().table.is_some());
    for spoil in [|path| std::fs::write(path, b"spoilt").unwrap(), |path| std::fs::remove_file(path).unwrap()]
    {
        let spoil: fn(std::path::PathBuf) = spoil;
        spoil(dir.path().join("table.ledger"));
        let mut state = load(dir.path());
        let desired = state.desired().borrow().clone();
        assert_eq!((desired.pods.len(), desired.table.is_none()), (1, true));
        assert_eq!(state.accepted(), Mark::default());
        // Nobody goes on from there; a snapshot makes it known, be it empty.
        state.begin(1, false).unwrap_err();
        state.begin(0, false).unwrap_err();
        state.begin(1, true).unwrap();
        send(&mut state, &pod(1, "a"));
        state.end_snapshot(3);
        state.commit().await;
        state.flush_table().await;
        assert!(state.desired().borrow().table.is_some());
    }
}

/// Ledgers that agents of earlier versions wrote: all is there that they had, and nothing counts as accepted.
#[test]
fn a_ledger_of_an_earlier_version_keeps_the_node_as_it_is_and_asks_for_everything() {
    for version in ["5110dc5", "e86be8c"] {
        let from =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/control/state/fixtures").join(version);
        let dir = tempfile::tempdir().unwrap();
        for file in ["ledger.key", "work.ledger", "table.ledger"] {
            std::fs::copy(from.join(file), dir.path().join(file)).unwrap();
        }
        let state = load(dir.path());
        assert_eq!((state.accepted(), state.durable()), (Mark::default(), Mark::default()), "{version}");
        assert_eq!(*state.networks().borrow(), Some(network()));
        let desired = state.desired().borrow().clone();
        let pods: Vec<_> = desired.pods.values().map(|pod| (pod.uid.as_str(), pod.generation)).collect();
        assert_eq!(pods, [("uid-a", 3), ("uid-b", 4)]);
        assert_eq!((desired.secrets.len(), desired.config_maps.len()), (1, 1));
        let table = desired.table.clone().unwrap();
        let services: Vec<_> = table.services.keys().map(|id| &*id.name).collect();
        assert_eq!((services, table.peers.len()), (vec!["db", "web"], 1));
        assert!(state.failed().is_empty() && state.unknown_kinds().is_empty());
    }
}

/// An agent of before that reads what this one writes sees no update in what it would not understand. (Of tables it reads
/// none that this one wrote.)
#[tokio::test]
async fn an_agent_of_before_reads_the_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &pod(1, "a"));
    refused(&mut state, &broken(pod(2, "b")));
    send(&mut state, &tomorrow(3, "rule"));
    state.end_snapshot(3);
    state.commit().await;
    state.flush_table().await;
    let ledger = Ledger::open(dir.path()).unwrap();
    let mut kinds = Vec::new();
    for section in [Section::Work, Section::Table] {
        let content = ledger.load(section).unwrap().unwrap();
        let header = 4 + u32::from_le_bytes(content[..4].try_into().unwrap()) as usize;
        let mut updates: Bytes = content[header..].to_vec().into();
        while !updates.is_empty() {
            kinds.push(pb::Update::decode_length_delimited(&mut updates).unwrap().kind());
        }
    }
    let none = pb::ObjectKind::Unspecified;
    assert_eq!(kinds, [pb::ObjectKind::Pod, none, none]);
}

#[tokio::test]
async fn acks_of_an_earlier_epoch_are_not_taken_into_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    state.end_snapshot(1000);
    state.commit().await;
    state.flush_table().await;
    state.begin(2, true).unwrap();
    assert_eq!((state.durable().within(1), state.durable().within(2)), (1000, 0));
}

/// An update as version 1.0 of the protocol declares it.
#[derive(Clone, PartialEq, Message)]
struct Before {
    #[prost(message, optional, tag = "2")]
    update: Option<pb::Update>,
}

#[test]
fn either_side_of_a_session_may_be_the_older_one() {
    let update = service(5, "web");
    let now = pb::SchedulerMessage {
        kind: Some(pb::scheduler_message::Kind::Update(update.encode_to_vec().into())),
    };
    let before = Before { update: Some(update) };
    assert_eq!(Before::decode(&*now.encode_to_vec()).unwrap(), before);
    assert_eq!(pb::SchedulerMessage::decode(&*before.encode_to_vec()).unwrap(), now);
}

#[tokio::test]
async fn what_the_node_is_by_the_api_is_known_after_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    let own = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}},
        "spec": {"taints": [{"key": "k", "value": "", "effect": "NoExecute"}]}});
    let update = pb::Update {
        generation: 1,
        kind: pb::ObjectKind::Node.into(),
        name: "n".into(),
        body: Some(pb::update::Body::Json(own.to_string().into())),
        ..pb::Update::default()
    };
    state.begin(1, true).unwrap();
    send(&mut state, &update);
    state.end_snapshot(2);
    state.commit().await;
    state.flush_table().await;
    let known = load(dir.path()).desired().borrow().node.clone().unwrap();
    assert_eq!((known.labels["disk"].as_str(), known.taints[0].effect.as_str()), ("ssd", "NoExecute"));
    send(&mut state, &pb::Update { generation: 3, removed: true, body: None, ..update });
    state.commit().await;
    assert_eq!(state.desired().borrow().node, None);
}
