//! What an agent does not know, or does not understand, and an agent of another version does.

use super::*;

/// A kind that is in no version of the protocol.
const TOMORROW: i32 = 99;

pub(super) fn tomorrow(generation: u64, name: &str) -> pb::Update {
    let body = pb::update::Body::Json(json!({"data": {"rule": "deny"}}).to_string().into());
    pb::Update {
        generation,
        kind: TOMORROW,
        namespace: "d".into(),
        name: name.into(),
        body: Some(body),
        ..pb::Update::default()
    }
}

/// What an agent of tomorrow knows: that kind too, which it takes for a config map.
static TOMORROWS: [Kind; 8] = {
    let [pod, secret, config_map, service, peer, slice, node] = KINDS;
    [pod, secret, config_map, service, peer, slice, node, Kind { wire: TOMORROW, ..KINDS[2] }]
};

fn kept(state: &State) -> Vec<i32> {
    state.unknown_kinds().into_iter().collect()
}

fn config_maps(state: &State) -> Vec<String> {
    state.desired().borrow().config_maps.keys().map(|(_, name)| name.to_string()).collect()
}

#[tokio::test]
async fn a_kind_that_is_not_known_is_told_kept_and_used_by_an_agent_that_knows_it() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = || Arc::new(Ledger::open(dir.path()).unwrap());
    let mut state = State::knowing(&KINDS, ledger()).unwrap();
    state.begin(1, true).unwrap();
    let first = |taken| matches!(taken, Taken::UnknownKind { first: true, .. });
    assert!(first(send(&mut state, &tomorrow(1, "in-the-snapshot"))));
    state.end_snapshot(2);
    assert!(!first(send(&mut state, &tomorrow(3, "later"))));
    send(&mut state, &tomorrow(4, "gone"));
    send(&mut state, &pb::Update { removed: true, body: None, ..tomorrow(5, "gone") });
    state.commit().await;
    state.flush_table().await;
    // Durable as all else is, so that the next session goes on after it.
    assert_eq!((state.accepted(), state.durable()), (mark(1, 5), mark(1, 5)));
    assert_eq!((kept(&state), state.failed().len()), (vec![TOMORROW], 0));

    let again = State::knowing(&KINDS, ledger()).unwrap();
    assert_eq!((again.accepted(), kept(&again)), (mark(1, 5), vec![TOMORROW]), "as long as it knows no more");

    let mut learned = State::knowing(&TOMORROWS, ledger()).unwrap();
    assert_eq!(config_maps(&learned), ["in-the-snapshot", "later"], "without a scheduler");
    assert!(kept(&learned).is_empty());
    assert_eq!(learned.accepted(), Mark::default(), "all of it is sent again");
    learned.begin(1, true).unwrap();
    send(&mut learned, &tomorrow(3, "later"));
    learned.end_snapshot(5);
    learned.commit().await;
    learned.flush_table().await;

    // The way back: what the older agent does not know is kept, and told again.
    let back = State::knowing(&KINDS, ledger()).unwrap();
    assert_eq!((kept(&back), config_maps(&back)), (vec![TOMORROW], Vec::new()));
    assert_eq!(back.accepted(), Mark::default());
}

#[tokio::test]
async fn a_field_that_is_not_known_is_in_the_ledger_as_it_came() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    let with = |field: &str| {
        let object = json!({"spec": {"containers": [], field: "x"}}).to_string();
        pb::Update { body: Some(pb::update::Body::Json(object.into())), ..pod(1, "a") }
    };
    send(&mut state, &with("earlier"));
    // A field of the object, and field 1000 of the update itself.
    let mut raw = with("unknown").encode_to_vec();
    prost::encoding::encode_key(1000, prost::encoding::WireType::Varint, &mut raw);
    prost::encoding::encode_varint(7, &mut raw);
    state.apply(&raw.clone().into()).unwrap();
    state.end_snapshot(1);
    state.commit().await;
    let ledger = Ledger::open(dir.path()).unwrap();
    let holds = |what: &[u8]| {
        let content = ledger.load(Section::Work).unwrap().unwrap();
        content.windows(what.len()).any(|window| window == what)
    };
    assert!(holds(&raw));
    // The latest is kept, not all that ever came.
    assert!(!holds(b"earlier"));
}

#[tokio::test]
async fn what_was_not_understood_is_taken_up_by_an_agent_that_understands_it() {
    // A reader of today that cannot read the config map, and one of tomorrow that can.
    static TODAY: [Kind; 7] = {
        let [pod, secret, config_map, service, peer, slice, node] = KINDS;
        [pod, secret, Kind { read: KINDS[3].read, ..config_map }, service, peer, slice, node]
    };
    let dir = tempfile::tempdir().unwrap();
    let ledger = || Arc::new(Ledger::open(dir.path()).unwrap());
    let map = |generation, text: &str| pb::Update {
        generation,
        kind: pb::ObjectKind::ConfigMap.into(),
        namespace: "d".into(),
        name: "settings".into(),
        body: Some(pb::update::Body::Json(json!({"data": {"level": text}}).to_string().into())),
        ..pb::Update::default()
    };
    let mut state = State::knowing(&TODAY, ledger()).unwrap();
    state.begin(1, true).unwrap();
    state.end_snapshot(1);
    refused(&mut state, &map(2, "low"));
    refused(&mut state, &map(3, "high"));
    // What comes after it does not make it forgotten.
    send(&mut state, &pod(4, "a"));
    state.commit().await;
    state.flush_table().await;
    let told: Vec<_> = state.failed().into_iter().map(|f| (f.name, f.generation)).collect();
    assert_eq!(told, [("settings".to_owned(), 3)]);
    let again = State::knowing(&TODAY, ledger()).unwrap();
    assert_eq!(
        (again.failed().len(), again.desired().borrow().pods.len()),
        (1, 1),
        "a restart knows it still"
    );

    let tomorrow = load(dir.path());
    assert!(tomorrow.failed().is_empty());
    let desired = tomorrow.desired().borrow().clone();
    let level = desired.config_maps.values().next().unwrap().object.data.as_ref().unwrap()["level"].clone();
    assert_eq!(level, "high");
}

#[tokio::test]
async fn a_pod_that_is_not_understood_is_held_when_nothing_of_it_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = load(dir.path());
    state.begin(1, true).unwrap();
    send(&mut state, &pod(1, "a"));
    refused(&mut state, &broken(pod(2, "b")));
    state.end_snapshot(2);
    state.commit().await;
    let held = |state: &State| {
        let desired = state.desired().borrow().clone();
        desired.held.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(held(&state), ["uid-b"]);
    assert_eq!(held(&load(dir.path())), ["uid-b"]);
    // The removal of an earlier pod of that name is not its own.
    let earlier = pb::Update { removed: true, body: None, uid: "uid-of-before".into(), ..pod(3, "b") };
    send(&mut state, &earlier);
    state.commit().await;
    assert_eq!(held(&state), ["uid-b"]);
    send(&mut state, &pb::Update { removed: true, body: None, ..pod(4, "b") });
    state.commit().await;
    assert!(held(&state).is_empty());
}
