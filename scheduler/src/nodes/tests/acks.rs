//! What acknowledgements tell: of objects, of kinds, and of how far an agent is.

use futures::StreamExt as _;

use super::*;

#[tokio::test]
async fn what_a_node_does_not_know_or_cannot_take_up_is_told() {
    let port = Port::open().await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"ports": [{"port": 80}]}});
    port.objects.create(Resource::SERVICES, Some("default"), service, &admin()).await.unwrap();
    port.pod("theirs", "n2").await;
    let mut n1 = port.session("n1").await;
    n1.hello().await;
    let failed = |kind: pb::ObjectKind, name: &str| pb::Failed {
        kind: kind.into(),
        namespace: "default".into(),
        name: name.into(),
        message: "it is full".into(),
        ..Default::default()
    };
    let mut beats = 0;
    let mut says = async |failed: Vec<pb::Failed>, unknown_kinds: Vec<i32>| {
        let ack = pb::Ack { accepted: 1, programmed: 1, failed, unknown_kinds };
        n1.say(pb::agent_message::Kind::Ack(ack)).await;
        beats += 1;
        n1.say(pb::agent_message::Kind::Heartbeat(pb::Heartbeat { sequence: beats, ..Default::default() }))
            .await;
        n1.expect(|k| matches!(k, Kind::Heartbeat(h) if h.sequence == beats).then_some(())).await;
        let node: Value = port.objects.get(Resource::NODES, None, "n1").await.unwrap().decode().unwrap();
        let conditions = node["status"]["conditions"].as_array().unwrap();
        let outdated = conditions.iter().find(|c| c["type"] == "AgentOutdated");
        outdated
            .map(|c| (c["status"].as_str().unwrap().to_owned(), c["message"].as_str().unwrap().to_owned()))
    };
    assert_eq!(says(Vec::new(), Vec::new()).await, None, "no word of what never was");
    let objects = || vec![failed(pb::ObjectKind::Service, "web"), failed(pb::ObjectKind::Pod, "theirs")];
    for _ in 0..2 {
        let (status, message) = says(objects(), vec![99]).await.unwrap();
        assert_eq!(status, "True");
        assert!(message.contains("does not know kind 99"), "{message}");
    }
    assert_eq!(says(Vec::new(), Vec::new()).await.unwrap().0, "False", "it learned the kind");
    let mut changes = port.objects.watch(Resource::EVENTS, Selection::default(), None).await.unwrap();
    let told = async {
        loop {
            let events = port.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap();
            let events: Vec<Value> = events.items.iter().map(|e| e.decode().unwrap()).collect();
            let of = |reason: &str| {
                let of = events.iter().filter(|e| e["reason"] == reason);
                let mut of: Vec<_> = of
                    .map(|e| {
                        (
                            e["involvedObject"]["kind"].clone(),
                            e["involvedObject"]["name"].clone(),
                            e["count"].clone(),
                        )
                    })
                    .map(|told| {
                        format!("{}/{} {}", told.0.as_str().unwrap(), told.1.as_str().unwrap(), told.2)
                    })
                    .collect();
                of.sort();
                of
            };
            let (failed, unknown) = (of("NotProgrammed"), of("UnknownKinds"));
            if failed.len() == 2 && unknown.len() == 1 {
                // Each once, and of a pod that is not its own the node can only tell as of itself.
                assert_eq!(
                    (failed, unknown),
                    (vec!["Node/n1 1".to_owned(), "Service/web 1".to_owned()], vec!["Node/n1 1".to_owned()])
                );
                return;
            }
            changes.next().await.unwrap().unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), told).await.expect("events say so");
}

#[tokio::test]
async fn what_an_agent_had_of_another_epoch_counts_for_nothing() {
    let port = Port::open().await;
    let channel = port.dial(Some(&port.node_certificate("n1"))).await.unwrap();
    let mut n1 = Peer::start(channel).await.unwrap();
    let pb::agent_message::Kind::Hello(hello) = hello("boot", "instance") else { unreachable!() };
    let hello = pb::AgentHello { epoch: 1, accepted: 1 << 40, programmed: 1 << 40, ..hello };
    n1.say(pb::agent_message::Kind::Hello(hello)).await;
    assert!(n1.hello().await.snapshot);
    assert_eq!(port.nodes.programmed(1 << 20), Convergence { programmed: 0, connected: 1 });
}
