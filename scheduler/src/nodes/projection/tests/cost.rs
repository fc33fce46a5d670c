//! What one change of an endpoint costs.

use std::time::Instant;

use super::*;
use crate::nodes::convert::update;

const SLICES: usize = 10;
const ENDPOINTS: usize = 100;

/// A slice of the service `web`; of its first endpoint it is told whether it is ready.
fn slice(slice: usize, ready: bool) -> Vec<u8> {
    let endpoint = |n: usize| {
        json!({"addresses": [format!("10.{slice}.{}.{}", n / 200, n % 200 + 1)], "nodeName": format!("node-{}", n % 50),
            "conditions": {"ready": n > 0 || ready, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": format!("web-7d4b9c6f5d-{slice}{n:03}"), "namespace": "default",
                "uid": format!("6f1c0000-0000-4000-8000-{slice:04}{n:08}")}})
    };
    let endpoints: Vec<_> = (0..ENDPOINTS).map(endpoint).collect();
    json!({"addressType": "IPv4", "metadata": {"name": format!("web-{slice}"), "namespace": "default"},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints})
    .to_string()
    .into_bytes()
}

fn tell(projection: &mut Projection, n: usize, ready: bool) {
    let body = serde_json::from_slice(&slice(n, ready)).unwrap();
    projection.slice(&name(&format!("web-{n}")), Some("web"), &body);
}

fn world() -> Projection {
    let mut projection = Projection::default();
    let service = json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}});
    projection.service(&name("web"), serde_json::from_value(service).unwrap());
    (0..SLICES).for_each(|n| tell(&mut projection, n, true));
    projection.flush();
    projection
}

fn bytes(item: &Item) -> Bytes {
    match update(item).kind {
        Some(pb::scheduler_message::Kind::Update(bytes)) => bytes,
        other => panic!("{other:?}"),
    }
}

fn news(projection: &mut Projection, form: Form) -> Vec<Item> {
    projection.flush().into_iter().map(|(_, item)| item).filter(|item| item.is_for(form)).collect()
}

#[test]
fn a_change_of_an_endpoint_sends_its_slice_alone_encoded_once() {
    let mut projection = world();
    let before = projection.generation();
    tell(&mut projection, 3, false);
    let sent = news(&mut projection, Form::Apart);
    assert_eq!(sent.len(), 1, "{sent:?}");
    assert_eq!((sent[0].key.kind, &*sent[0].key.name.name), (ItemKind::Slice, "web/web-3"));
    let first = bytes(&sent[0]);
    let again = bytes(&projection.since("n1", Form::Apart, before).unwrap()[0]);
    assert!(std::ptr::eq(first.as_ptr(), again.as_ptr()));
    let all: usize = projection.snapshot("n1", Form::Whole).iter().map(|item| bytes(item).len()).sum();
    assert!(first.len() * SLICES < all + all / 5, "{} of {all}", first.len());
    // The same again, in whatever order, is no news; a removal is of the slice alone, too.
    tell(&mut projection, 3, false);
    assert!(projection.flush().is_empty());
    projection.slice_gone(&name("web-3"));
    let sent = news(&mut projection, Form::Apart);
    assert!(matches!(&sent[..], [Item { body: Body::Removed, .. }]), "{sent:?}");
}

#[test]
fn slices_come_before_their_service_and_outlive_it() {
    let mut projection = Projection::default();
    tell(&mut projection, 0, true);
    assert_eq!(news(&mut projection, Form::Apart).len(), 1);
    assert!(projection.snapshot("n1", Form::Whole).is_empty());
    let service = json!({"spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "http", "port": 80}]}});
    projection.service(&name("web"), serde_json::from_value(service).unwrap());
    let items = projection.flush();
    let whole: Vec<_> = items.iter().filter(|(_, item)| item.is_for(Form::Whole)).collect();
    let Body::Whole(parts) = &whole[0].1.body else { panic!("{whole:?}") };
    assert_eq!(parts.told.joined().ports[0].endpoints.len(), ENDPOINTS);
    let order: Vec<_> = projection.snapshot("n1", Form::Apart).iter().map(|item| item.key.kind).collect();
    assert_eq!(order, [ItemKind::Slice, ItemKind::Service]);
    projection.service_gone(&name("web"));
    let gone = projection.flush();
    assert!(matches!(&gone[..], [(Audience::All, Item { body: Body::Removed, .. })]), "{gone:?}");
    assert_eq!(projection.snapshot("n1", Form::Apart).len(), 1);
}

/// `cargo test -p gantry-scheduler --lib cost -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, for docs/adr/0029"]
fn what_a_change_of_one_endpoint_costs() {
    const ROUNDS: u32 = 200;
    let mut projection = world();
    let changed: Vec<EndpointSlice> =
        [false, true].map(|ready| serde_json::from_slice(&slice(3, ready)).unwrap()).into();
    for form in [Form::Whole, Form::Apart] {
        let (mut compile, mut encode, mut size) = (std::time::Duration::ZERO, std::time::Duration::ZERO, 0);
        for round in 0..ROUNDS {
            let began = Instant::now();
            projection.slice(&name("web-3"), Some("web"), &changed[round as usize % 2]);
            let items = news(&mut projection, form);
            compile += began.elapsed();
            let began = Instant::now();
            size = items.iter().map(|item| bytes(item).len()).sum();
            encode += began.elapsed();
        }
        eprintln!(
            "{form:?}: {size} bytes, compiled in {:?}, encoded in {:?}",
            compile / ROUNDS,
            encode / ROUNDS
        );
    }
}
