//! What the image remembers, and that nothing of it changes when it is laid to rest.

use serde_json::json;

use super::*;
use crate::store::{Change, Draft, Expect, stage::Stage};

fn change(image: &Image, name: &str, bytes: usize) {
    let key = Key::namespaced(Resource::CONFIG_MAPS, "default", name);
    let value = json!({"metadata": {"name": name}, "data": "x".repeat(bytes)});
    let expect = image.get(&key).map_or(Expect::Absent, |o| Expect::At(o.revision));
    let draft = Draft::new(key, &value, &Default::default()).unwrap();
    let events = Stage::new(image).add(vec![Change::Put { draft, expect }]).unwrap();
    image.apply(events).tell();
}

fn kept(image: &Image) -> usize {
    let state = image.read();
    let events = state.tables.values().flat_map(|table| table.history.all());
    assert_eq!(state.weight, events.map(|event| weight(&event)).sum::<usize>());
    assert!(state.weight <= HISTORY_BYTES, "{}", state.weight);
    state.order.len()
}

#[test]
fn what_changes_often_is_remembered_up_to_the_bound_and_what_is_there_costs_nothing() {
    let image = Image::default();
    for n in 0..100 {
        change(&image, &format!("{n}"), 1 << 20);
    }
    assert_eq!(kept(&image), 100, "creations keep nothing alive but what is there");
    for n in 0..100 {
        change(&image, &format!("{}", n % 2), 1 << 20);
    }
    let events = kept(&image);
    assert!((10..16).contains(&events), "{events} events of a mebibyte each");
}

#[test]
fn all_resources_reach_back_to_the_same_revision() {
    let image = Arc::new(Image::default());
    let lease = |n: usize| {
        let key = Key::namespaced(Resource::LEASES, "default", "quiet");
        let value = json!({"metadata": {"name": "quiet"}, "n": n});
        let expect = image.get(&key).map_or(Expect::Absent, |o| Expect::At(o.revision));
        let draft = Draft::new(key, &value, &Default::default()).unwrap();
        image.apply(Stage::new(&image).add(vec![Change::Put { draft, expect }]).unwrap()).tell();
        image.revision()
    };
    let (first, _) = (lease(0), change(&image, "busy", 1 << 20));
    for _ in 0..10 {
        change(&image, "busy", 1 << 20);
    }
    let later = lease(1);
    assert!(image.watch(Resource::LEASES, first).is_ok());
    for _ in 0..20 {
        change(&image, "busy", 1 << 20);
    }
    let resumed = image.watch(Resource::LEASES, first);
    assert!(
        matches!(resumed, Err(StoreError::Compacted { oldest, .. }) if oldest == first || oldest == later),
        "{resumed:?}"
    );
    kept(&image);
}

/// Numbers without a pattern, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

const KINDS: [Resource; 2] = [Resource::PODS, Resource::EVENTS];

/// Creates, replaces or deletes one of a few objects.
fn some_change(image: &Image, dice: &mut Dice) -> Change {
    let resource = KINDS[usize::from(dice.below(3) == 0)];
    let namespace = ["one", "two"][usize::from(dice.below(2) == 0)];
    let name = format!("object-{}", dice.below(300));
    let key = Key::namespaced(resource, namespace, &name);
    let present = image.get(&key);
    if let Some(object) = present.as_ref().filter(|_| dice.below(3) == 0) {
        return Change::Delete { key, expect: object.revision };
    }
    let phase = ["Pending", "Running"][usize::from(dice.below(2) == 0)];
    let mut value = json!({"apiVersion": "v1", "kind": "Thing", "metadata": {"name": name, "namespace": namespace,
        "uid": format!("uid-of-{name}"), "labels": {"app": format!("app-{}", dice.below(5))},
        "ownerReferences": [{"uid": format!("owner-{}", dice.below(9))}]},
        "spec": {"containers": [{"name": "main", "image": "registry.example/web:1", "terminationMessagePolicy": "File"}]},
        "status": {"phase": phase, "n": dice.below(1 << 30)}});
    if dice.below(4) == 0 {
        value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    }
    let paths: Paths = ["status.phase".into(), "spec.nodeName".into()].into();
    let draft = Draft::new(key, &value, &paths).unwrap();
    Change::Put { draft, expect: present.map_or(Expect::Absent, |o| Expect::At(o.revision)) }
}

fn same(one: &Object, two: &Object) -> bool {
    let parts = |o: &Object| {
        (
            o.key.clone(),
            o.revision,
            o.uid.clone(),
            o.labels.clone(),
            o.owners.clone(),
            o.deleting,
            o.json.clone(),
        )
    };
    parts(one) == parts(two) && one.fields == two.fields
}

fn same_events(one: &Event, two: &Event) -> bool {
    let previous = match (&one.previous, &two.previous) {
        (Some(one), Some(two)) => same(one, two),
        (one, two) => one.is_none() && two.is_none(),
    };
    same(&one.object, &two.object) && previous && one.deleted == two.deleted
}

fn with_seldom(resource: Resource) -> Image {
    Loading::new(Revision::default(), vec![resource], Vec::new()).done()
}

fn everything(resource: Resource, at: Option<Revision>, limit: Option<usize>) -> Scan {
    Scan { resource, namespace: Some("one".into()), after: None, at, limit, with: Vec::new() }
}

#[test]
fn nobody_can_tell_what_is_at_rest_from_what_is_not() {
    let (plain, resting) = (Image::default(), with_seldom(Resource::EVENTS));
    let mut dice = Dice(7);
    for _ in 0..6_000 {
        let change = some_change(&plain, &mut dice);
        plain.apply(Stage::new(&plain).add(vec![change.clone()]).unwrap()).tell();
        let news = resting.apply(Stage::new(&resting).add(vec![change]).unwrap());
        if news.may_rest() {
            resting.rest();
        }
        news.tell();
    }
    let at_rest = resting.read().past;
    assert!(at_rest >= 5_000 && plain.read().past == 0, "{at_rest}");
    kept(&resting);
    for resource in KINDS {
        let mut from = Revision::default();
        while from < plain.revision() {
            let (one, two) =
                (plain.changes(resource, from, 97).unwrap(), resting.changes(resource, from, 97).unwrap());
            assert!(one.0.len() == two.0.len() && one.1 == two.1, "{from}: {:?} {:?}", one.1, two.1);
            assert!(one.0.iter().zip(&two.0).all(|(one, two)| same_events(one, two)), "after {from}");
            from = one.1;
        }
        for at in (0..6_000).step_by(199).map(Revision).map(Some).chain([None]) {
            for limit in [None, Some(20)] {
                let running = |object: &Object| object.fields.get("status.phase") == Some("Running");
                let mut scan = everything(resource, at, limit);
                if at.is_none_or(|at| at.0 % 2 == 0) {
                    scan.with.push(("status.phase".to_owned(), "Running".to_owned()));
                }
                let (one, two) =
                    (plain.scan(&scan, &running).unwrap(), resting.scan(&scan, &running).unwrap());
                assert_eq!(
                    (one.items.len(), one.rest, one.revision),
                    (two.items.len(), two.rest, two.revision)
                );
                assert!(
                    one.items.iter().zip(&two.items).all(|(one, two)| same(one, two)),
                    "{resource} at {at:?}"
                );
            }
        }
        let state = resting.read();
        let table = &state.tables[&resource];
        // A state that is shown by a change at rest and stays whole there is one of the table, or one that a recent
        // change still shows.
        let whole =
            table.history.whole(|object| table.objects.get(&object.key).is_some_and(|held| held.is(object)));
        assert!(whole <= RECENT + TOGETHER, "{resource}: {whole}");
        let packed = table.objects.iter().filter(|held| matches!(held, Held::Packed(_))).count();
        assert!((packed > table.objects.len() / 2) == (resource == Resource::EVENTS), "{resource}: {packed}");
    }
}

#[test]
fn what_is_seldom_read_is_at_rest_from_the_start() {
    let key = |n: usize| Key::namespaced(Resource::EVENTS, "default", &format!("event-{n}"));
    let object = |n: usize| {
        let value = json!({"metadata": {"name": format!("event-{n}")}, "reason": "Started", "message": format!("number {n}"),
            "source": {"component": "kubelet", "host": "node-1"}, "count": n});
        let paths: Paths = ["message".into(), "reason".into()].into();
        Draft::new(key(n), &value, &paths).unwrap().at(Revision(n as u64 + 1))
    };
    let load = |seldom| {
        let mut loading = Loading::new(Revision(700), seldom, Vec::new());
        (0..700).for_each(|n| loading.add(object(n)));
        loading.done()
    };
    let (seldom, plain) = (load(vec![Resource::EVENTS]), load(Vec::new()));
    let packed = |image: &Image| {
        let state = image.read();
        state.tables[&Resource::EVENTS].objects.iter().filter(|held| matches!(held, Held::Packed(_))).count()
    };
    assert_eq!((packed(&seldom), packed(&plain)), (700, 0));
    assert!((0..700).all(|n| same(&seldom.get(&key(n)).unwrap(), &object(n))));
    // What others are indexed by is passed over without being unpacked, or nearly all of it.
    let with = vec![("message".to_owned(), "number 7".to_owned())];
    let scan = Scan { resource: Resource::EVENTS, namespace: None, after: None, at: None, limit: None, with };
    let looked_at = std::cell::Cell::new(0);
    let found = seldom.scan(&scan, &|object| {
        looked_at.set(looked_at.get() + 1);
        object.fields.get("message") == Some("number 7")
    });
    assert_eq!(found.unwrap().items.iter().map(|o| o.key.clone()).collect::<Vec<_>>(), [key(7)]);
    assert!((1..100).contains(&looked_at.get()), "{looked_at:?}");
}

#[test]
fn resting_beside_writes_and_forgetting_loses_nothing_to_who_watches() {
    let image = Arc::new(with_seldom(Resource::EVENTS));
    let last = Revision(20_000);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut dice = Dice(3);
            while image.revision() < last {
                let change = some_change(&image, &mut dice);
                image.apply(Stage::new(&image).add(vec![change]).unwrap()).tell();
                if dice.below(2_000) == 0 {
                    image.compact(Revision(image.revision().0.saturating_sub(700)));
                }
            }
        });
        scope.spawn(|| {
            while image.revision() < last {
                image.rest();
            }
        });
        scope.spawn(|| {
            let mut seen: HashMap<Key, Revision> = HashMap::new();
            let mut from = Revision::default();
            while from < last {
                let Ok((events, reached)) = image.changes(Resource::PODS, from, 256) else {
                    // Too slow: it would list again.
                    (seen, from) = (HashMap::new(), image.revision());
                    continue;
                };
                for event in events {
                    assert!(event.revision() > from);
                    from = event.revision();
                    let before = seen.insert(event.object.key.clone(), from);
                    let previous = event.previous.as_ref().map(|object| object.revision);
                    assert!(
                        before.is_none() || before == previous || previous.is_none(),
                        "{:?}",
                        event.object.key
                    );
                }
                from = from.max(reached);
            }
        });
    });
    kept(&image);
    let state = image.read();
    let in_past: usize = state.tables.values().map(|table| table.history.past()).sum();
    assert_eq!(in_past, state.past);
}
