//! Services whose endpoints come apart from them.

use super::*;

/// A service without its endpoints.
fn head(generation: u64) -> pb::Update {
    let mut update = service(generation, "web");
    if let Some(pb::update::Body::Service(service)) = &mut update.body {
        service.sliced = true;
        service.ports[0].endpoints.clear();
        service.ports[0].name = "dns".to_owned();
    }
    update
}

fn slice(generation: u64, name: &str, endpoints: &[(&str, bool)]) -> pb::Update {
    let port = pb::SlicePort { name: "dns".to_owned(), protocol: pb::Protocol::Udp.into(), port: 5353 };
    let endpoint = |(address, ready): &(&str, bool)| pb::Endpoint {
        address: (*address).to_owned(),
        ready: *ready,
        hostname: "host".to_owned(),
        ..Default::default()
    };
    let body = pb::EndpointSlice {
        ports: vec![port],
        endpoints: endpoints.iter().map(endpoint).collect(),
        ..Default::default()
    };
    pb::Update {
        generation,
        kind: pb::ObjectKind::EndpointSlice.into(),
        namespace: "d".into(),
        name: name.into(),
        body: Some(pb::update::Body::EndpointSlice(body)),
        ..pb::Update::default()
    }
}

fn gone(generation: u64, update: pb::Update) -> pb::Update {
    pb::Update { generation, removed: true, body: None, ..update }
}

/// The endpoints of the one service; `None` when there is no service.
fn shown(state: &State) -> Option<Vec<(String, bool)>> {
    let table = state.desired().borrow().table.clone().unwrap();
    let service = table.services.values().next()?;
    let endpoints = service.ports[0].endpoints.iter();
    Some(endpoints.map(|endpoint| (endpoint.address.to_string(), endpoint.ready)).collect())
}

fn endpoints(expected: &[(&str, bool)]) -> Option<Vec<(String, bool)>> {
    Some(expected.iter().map(|(address, ready)| (format!("{address}:5353"), *ready)).collect())
}

#[tokio::test]
async fn a_service_is_shown_with_all_of_its_slices_in_whatever_order_they_come_and_go() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &slice(1, "web/a", &[("10.1.0.2", true)]));
    // Another service, of which this one's name is the beginning.
    send(&mut state, &slice(2, "webs/a", &[("10.1.0.99", true)]));
    state.end_snapshot(2);
    state.commit().await;
    assert_eq!(shown(&state), None, "a slice before its service");
    for (update, expected) in [
        (head(3), endpoints(&[("10.1.0.2", true)])),
        (slice(4, "web/b", &[("10.1.0.10", true)]), endpoints(&[("10.1.0.2", true), ("10.1.0.10", true)])),
        // In two slices while it moves: the better state counts.
        (
            slice(5, "web/b", &[("10.1.0.2", false), ("10.1.0.3", false)]),
            endpoints(&[("10.1.0.2", true), ("10.1.0.3", false)]),
        ),
        (gone(6, slice(0, "web/a", &[])), endpoints(&[("10.1.0.2", false), ("10.1.0.3", false)])),
        (gone(7, head(0)), None),
        (head(8), endpoints(&[("10.1.0.2", false), ("10.1.0.3", false)])),
        (gone(9, slice(0, "web/b", &[])), endpoints(&[])),
        // As schedulers of before tell it, and back.
        (service(10, "web"), Some(vec![("10.1.0.2:8080".to_owned(), true)])),
        (slice(11, "web/c", &[("10.1.0.4", true)]), Some(vec![("10.1.0.2:8080".to_owned(), true)])),
        (head(12), endpoints(&[("10.1.0.4", true)])),
    ] {
        let generation = update.generation;
        assert!(matches!(send(&mut state, &update), Taken::Done));
        state.commit().await;
        assert_eq!(shown(&state), expected, "{generation}");
        assert_eq!(state.accepted(), mark(1, generation));
        state.flush_table().await;
        assert_eq!(shown(&load(dir.path())), expected, "{generation}, after a restart");
    }
    let table = state.desired().borrow().table.clone().unwrap();
    let service = table.services.values().next().unwrap();
    // The rest of the service is as it was, and what came last brought it.
    assert_eq!((service.generation, service.ports[0].endpoints[0].hostname.as_str()), (12, "host"));
    assert_eq!(service.affinity, Some(std::time::Duration::from_secs(9)));
    assert_eq!(table.services.len(), 1);
}

#[tokio::test]
async fn what_comes_in_one_batch_is_shown_together() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &head(1));
    send(&mut state, &slice(2, "web/a", &[("10.1.0.2", true)]));
    state.commit().await;
    assert!(state.desired().borrow().table.is_none(), "half a snapshot is not shown");
    state.end_snapshot(2);
    state.commit().await;
    assert_eq!(shown(&state), endpoints(&[("10.1.0.2", true)]));
    // An endpoint moves to another slice.
    send(&mut state, &slice(3, "web/a", &[]));
    send(&mut state, &slice(4, "web/b", &[("10.1.0.2", true)]));
    let mut desired = state.desired();
    desired.mark_unchanged();
    state.commit().await;
    assert_eq!(shown(&state), endpoints(&[("10.1.0.2", true)]));
    assert_eq!(desired.borrow_and_update().generation, 4);
}

#[tokio::test]
async fn a_slice_that_is_not_understood_leaves_its_service_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &head(1));
    send(&mut state, &slice(2, "web/a", &[("10.1.0.2", true)]));
    state.end_snapshot(2);
    refused(&mut state, &slice(3, "web/a", &[("10.1.0.x", true)]));
    refused(&mut state, &slice(4, "nobodys", &[]));
    state.commit().await;
    let told = |state: &State| {
        let failed = state.failed().into_iter();
        failed.map(|f| (f.kind, f.name, f.generation)).collect::<Vec<_>>()
    };
    let kind = crate::model::FailedKind::EndpointSlice;
    let failed = vec![(kind, "nobodys".to_owned(), 4), (kind, "web/a".to_owned(), 3)];
    assert_eq!((shown(&state), told(&state)), (endpoints(&[("10.1.0.2", true)]), failed.clone()));
    // A snapshot that brings it again keeps what was accepted before.
    state.begin(2, true).unwrap();
    refused(&mut state, &slice(1, "web/a", &[("10.1.0.x", true)]));
    send(&mut state, &head(2));
    state.end_snapshot(2);
    state.commit().await;
    state.flush_table().await;
    assert_eq!(shown(&state), endpoints(&[("10.1.0.2", true)]));
    assert_eq!(shown(&load(dir.path())), shown(&state));
    send(&mut state, &slice(3, "web/a", &[("10.1.0.5", true)]));
    state.commit().await;
    assert_eq!((shown(&state), state.failed().len()), (endpoints(&[("10.1.0.5", true)]), 0));
}

/// An agent that did not know slices was sent whole services: slices alone would have nothing to be put into.
#[tokio::test]
async fn a_ledger_of_before_slices_keeps_its_services_and_asks_for_everything() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    for section in [Section::Work, Section::Table] {
        let mut draft = Draft::new();
        let header = Header { schema: 1, epoch: 3, generation: 9, network: None };
        frame(&header, draft.content());
        if section == Section::Table {
            service(1, "web").encode_length_delimited(draft.content()).unwrap();
        }
        ledger.store(section, draft).unwrap();
    }
    let state = load(dir.path());
    assert_eq!(state.accepted(), Mark::default());
    assert_eq!(shown(&state), Some(vec![("10.1.0.2:8080".to_owned(), true)]));
}

/// `cargo test -p gantry-agent --lib slices -- --ignored --nocapture`
#[tokio::test]
#[ignore = "a measurement, for docs/adr/0029"]
async fn what_a_change_of_one_endpoint_costs() {
    const ROUNDS: u32 = 200;
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    let addresses: Vec<String> = (0..1000).map(|n| format!("10.1.{}.{}", n / 200, n % 200 + 1)).collect();
    let part = |generation, n: usize, ready: bool| {
        let of = &addresses[n * 100..(n + 1) * 100];
        let endpoints: Vec<_> = of.iter().enumerate().map(|(n, a)| (a.as_str(), n > 0 || ready)).collect();
        let mut update = slice(generation, &format!("web/{n}"), &endpoints);
        if let Some(pb::update::Body::EndpointSlice(slice)) = &mut update.body {
            for (n, endpoint) in slice.endpoints.iter_mut().enumerate() {
                endpoint.node = format!("node-{}", n % 50);
                endpoint.hostname.clear();
                endpoint.pod_uid = format!("6f1c0000-0000-4000-8000-{n:012}");
            }
        }
        update
    };
    let body = |update: &pb::Update| match &update.body {
        Some(pb::update::Body::EndpointSlice(slice)) => slice.clone(),
        _ => pb::EndpointSlice::default(),
    };
    let slices: Vec<_> = (0..10).map(|n| body(&part(0, n, true))).collect();
    let whole = |generation, ready: bool| {
        let mut update = head(generation);
        let mut slices = slices.clone();
        slices[3].endpoints[0].ready = ready;
        if let Some(pb::update::Body::Service(service)) = &mut update.body {
            *service = gantry_proto::joined(service.clone(), slices.iter());
        }
        update
    };
    state.begin(1, true).unwrap();
    (0..10).for_each(|n| drop(send(&mut state, &part(1, n, true))));
    send(&mut state, &head(1));
    state.end_snapshot(1);
    state.commit().await;
    let mut generation = 1;
    for form in ["apart", "whole"] {
        let updates: Vec<Bytes> = (0..ROUNDS)
            .map(|round| {
                generation += 1;
                let ready = round % 2 == 1;
                let update =
                    if form == "apart" { part(generation, 3, ready) } else { whole(generation, ready) };
                update.encode_to_vec().into()
            })
            .collect();
        let began = std::time::Instant::now();
        for raw in &updates {
            state.apply(raw).unwrap();
            state.commit().await;
        }
        eprintln!("{form}: {} bytes, taken up in {:?}", updates[0].len(), began.elapsed() / ROUNDS);
    }
}
