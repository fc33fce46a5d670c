//! Properties of lists and watches against a plain model: a map, and the list of everything that happened.

use std::collections::BTreeMap;

use futures::StreamExt as _;
use proptest::prelude::*;
use serde_json::json;

use super::*;

/// One step of a random history over a few names, so that they collide.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, bool),
    /// Sets the label that the selection looks at.
    Label(u8, bool),
    Touch(u8),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0_u8..6;
    let step = prop_oneof![
        (name.clone(), any::<bool>()).prop_map(|(n, on)| Step::Create(n, on)),
        (name.clone(), any::<bool>()).prop_map(|(n, on)| Step::Label(n, on)),
        name.clone().prop_map(Step::Touch),
        name.prop_map(Step::Delete),
    ];
    prop::collection::vec(step, 1..60)
}

fn options() -> WriteOptions {
    WriteOptions::controller("test")
}

async fn run(objects: &Objects, step: &Step, round: usize) {
    let (resource, namespace) = (Resource::CONFIG_MAPS, Some("default"));
    let label = |on: bool| if on { "yes" } else { "no" };
    let patch = |n: &u8, body| {
        let (objects, name) = (objects.clone(), format!("n{n}"));
        async move { drop(objects.patch(resource, namespace, &name, None, Patch::Merge(body), &options()).await) }
    };
    match step {
        Step::Create(n, on) => {
            let body = json!({"metadata": {"name": format!("n{n}"), "labels": {"on": label(*on)}}});
            drop(objects.create(resource, namespace, body, &options()).await);
        }
        Step::Label(n, on) => patch(n, json!({"metadata": {"labels": {"on": label(*on)}}})).await,
        Step::Touch(n) => patch(n, json!({"data": {"round": round.to_string()}})).await,
        Step::Delete(n) => {
            let delete = DeleteOptions::default();
            drop(objects.delete(resource, namespace, &format!("n{n}"), &delete, &options()).await);
        }
    }
}

fn selection() -> Selection {
    Selection { labels: LabelSelector::parse("on=yes").unwrap(), ..Selection::default() }
}

type View = BTreeMap<String, Revision>;

fn view(objects: &[Arc<Object>]) -> View {
    objects.iter().map(|o| (o.key.name.to_string(), o.revision)).collect()
}

/// Applies an event as a client's cache does, and checks that it fits what the cache holds.
fn follow(view: &mut View, event: &WatchEvent) {
    match event {
        WatchEvent::Added(o) => {
            assert!(view.insert(o.key.name.to_string(), o.revision).is_none(), "added twice: {o:?}");
        }
        WatchEvent::Modified(o) => {
            let before = view.insert(o.key.name.to_string(), o.revision).expect("modified before added");
            assert!(before < o.revision);
        }
        WatchEvent::Deleted(o) => {
            assert!(view.remove(&*o.key.name).expect("deleted before added") < o.revision);
        }
        WatchEvent::Bookmark(_) => {}
    }
}

fn revision_of(event: &WatchEvent) -> Revision {
    match event {
        WatchEvent::Added(o) | WatchEvent::Modified(o) | WatchEvent::Deleted(o) => o.revision,
        WatchEvent::Bookmark(revision) => *revision,
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A list and the watch that goes on from it always come to the later list, in revision order, whatever
    /// the point at which the list was taken.
    #[test]
    fn a_watch_from_any_list_comes_to_the_present(steps in steps(), cut in any::<prop::sample::Index>()) {
        block_on(async {
            let objects = Objects::in_memory(Vec::new()).await.unwrap();
            let cut = cut.index(steps.len());
            let mut list = objects.list(Resource::CONFIG_MAPS, &selection()).await.unwrap();
            for (round, step) in steps.iter().enumerate() {
                run(&objects, step, round).await;
                if round == cut {
                    list = objects.list(Resource::CONFIG_MAPS, &selection()).await.unwrap();
                }
            }
            let expected = view(&objects.list(Resource::CONFIG_MAPS, &selection()).await.unwrap().items);
            let mut seen = view(&list.items);
            let mut last = list.revision;
            let mut watch =
                objects.watch(Resource::CONFIG_MAPS, selection(), Some(list.revision)).await.unwrap();
            // The end of what happened so far, as a watcher can see it.
            let end = json!({"metadata": {"name": "end", "labels": {"on": "yes"}}});
            let end = objects.create(Resource::CONFIG_MAPS, Some("default"), end, &options()).await.unwrap();
            loop {
                let event = watch.next().await.unwrap().unwrap();
                assert!(revision_of(&event) > last, "{event:?} after {last}");
                last = revision_of(&event);
                if last == end.object.revision {
                    break;
                }
                follow(&mut seen, &event);
            }
            assert_eq!(seen, expected);
        });
    }

    /// The pages of a list are the list, even when everything changes between them.
    #[test]
    fn pages_add_up_to_the_list_they_began_with(
        before in steps(), between in steps(), limit in 1_usize..4,
    ) {
        block_on(async {
            let objects = Objects::in_memory(Vec::new()).await.unwrap();
            for (round, step) in before.iter().enumerate() {
                run(&objects, step, round).await;
            }
            let whole = objects.list(Resource::CONFIG_MAPS, &selection()).await.unwrap();
            let (mut items, mut token) = (Vec::new(), None);
            let mut steps = between.iter().enumerate();
            loop {
                let page = Page { limit: Some(limit), token: token.take(), at: None };
                let page = objects.page(Resource::CONFIG_MAPS, &selection(), &page).unwrap();
                assert_eq!(page.revision, whole.revision);
                assert!(page.items.len() <= limit);
                items.extend(page.items);
                token = page.next;
                if token.is_none() {
                    break;
                }
                for (round, step) in steps.by_ref().take(3) {
                    run(&objects, step, round).await;
                }
            }
            assert_eq!(view(&items), view(&whole.items));
            assert_eq!(items.len(), whole.items.len());
        });
    }
}
