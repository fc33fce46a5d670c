use serde_json::json;

use super::*;
use crate::{
    objects::{Patch, Selection, WriteOptions},
    tasks::Tasks,
};

fn event(name: &str, times: &serde_json::Value) -> serde_json::Value {
    let mut event = json!({"metadata": {"name": name}, "involvedObject": {"namespace": "default"}});
    if let (Some(event), Some(times)) = (event.as_object_mut(), times.as_object()) {
        event.extend(times.clone());
    }
    event
}

struct World {
    objects: Objects,
    sweep: Sweep,
}

impl World {
    /// With events that were there before.
    async fn new(before: usize) -> Self {
        let objects = Objects::in_memory(Vec::new()).await.unwrap();
        let (cache, ages, tasks) = (Cache::default(), Arc::new(Ages::default()), Tasks::default());
        let client = Client::new(&objects, &cache, "test");
        let sweep = Sweep { cache, client, ages: ages.clone() };
        let world = Self { objects, sweep };
        for n in 0..before {
            world.create(&format!("before-{n}")).await;
        }
        tasks.essential("ages", ages::follow(world.objects.clone(), ages));
        world.noted(before).await;
        world
    }

    async fn create(&self, name: &str) {
        let (body, options) = (event(name, &json!({})), WriteOptions::controller("test"));
        self.objects.create(Resource::EVENTS, Some("default"), body, &options).await.unwrap();
    }

    async fn noted(&self, count: usize) {
        crate::controllers::tests::until("events noted", async || {
            (self.sweep.ages.count() == count).then_some(())
        })
        .await;
    }

    async fn left(&self) -> usize {
        self.objects.list(Resource::EVENTS, &Selection::default()).await.unwrap().items.len()
    }
}

fn in_minutes(minutes: i64) -> Timestamp {
    Timestamp::now().saturating_add(SignedDuration::from_mins(minutes)).unwrap()
}

#[tokio::test]
async fn a_sweep_looks_at_what_may_have_ended_and_at_nothing_else() {
    let world = World::new(3).await;
    // Nothing is known of the age of what was there; once it was looked at, it is.
    assert_eq!(world.sweep.events(in_minutes(1)).await.unwrap(), 3);
    for n in 0..100 {
        world.create(&format!("e{n}")).await;
    }
    world.noted(103).await;
    for _ in 0..10 {
        assert_eq!(world.sweep.events(in_minutes(30)).await.unwrap(), 0);
    }
    let told = json!({"count": 2, "lastTimestamp": in_minutes(50).to_string()});
    let options = WriteOptions::controller("test");
    let patch = Patch::Merge(told);
    world.objects.patch(Resource::EVENTS, Some("default"), "e7", None, patch, &options).await.unwrap();
    assert_eq!(world.sweep.events(in_minutes(61)).await.unwrap(), 103);
    assert_eq!(world.left().await, 1, "the one that was told again");
    assert_eq!(world.sweep.events(in_minutes(100)).await.unwrap(), 0);
    assert_eq!(world.sweep.events(in_minutes(111)).await.unwrap(), 1);
    assert_eq!(world.left().await, 0);
}

#[tokio::test]
async fn an_event_lives_from_when_it_was_last_seen() {
    let world = World::new(0).await;
    let seen = |times: serde_json::Value| {
        let objects = world.objects.clone();
        async move {
            let (body, options) = (event("e", &times), WriteOptions::controller("test"));
            let written =
                objects.create(Resource::EVENTS, Some("default"), body, &options).await.unwrap().object;
            let delete = DeleteOptions::default();
            objects.remove(Resource::EVENTS, Some("default"), "e", &delete, &options).await.unwrap();
            last_seen(&written).unwrap()
        }
    };
    let late = "2100-01-01T05:00:00Z";
    let expected: Timestamp = late.parse().unwrap();
    assert_eq!(seen(json!({"lastTimestamp": late})).await, expected);
    assert!(
        seen(json!({"lastTimestamp": "2020-01-01T05:00:00Z"})).await > in_minutes(-5),
        "since it was made"
    );
}
