use serde_json::{Value, json};

use super::*;
use crate::placement::{aside::FORGOTTEN, hint::NodeChange};

fn id(name: &str) -> Id {
    Id::new("default", name)
}

fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
    queue.pop(now).map(|a| a.id.name.to_string())
}

fn aside(queue: &mut Queue, reason: Rejection, now: Instant) {
    aside_as(queue, &Arc::default(), reason, now);
}

fn aside_as(queue: &mut Queue, shape: &Arc<Shape>, reason: Rejection, now: Instant) {
    let attempt = queue.pop(now).unwrap();
    queue.set_aside(attempt, shape.clone(), [reason].into(), now);
}

fn hint(queue: &mut Queue, hint: &Hint, now: Instant) {
    queue.hint(hint, &Namespaces::new(), now);
}

#[expect(clippy::needless_pass_by_value, reason = "each call makes both")]
fn shape(labels: Value, spec: Value) -> Arc<Shape> {
    let pod = json!({"metadata": {"namespace": "default", "labels": labels}, "spec": spec});
    Arc::new(Shape::of(&serde_json::from_value(pod).unwrap()))
}

fn asking(cpu: &str) -> Arc<Shape> {
    shape(json!({}), json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}))
}

#[test]
fn priority_comes_first_then_age() {
    let mut queue = Queue::default();
    for (name, priority) in [("a", 0), ("b", 0), ("high", 10), ("a", 99)] {
        queue.add(&id(name), priority);
    }
    let now = Instant::now();
    let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
    assert_eq!(order, ["high", "a", "b"]);
}

#[test]
fn only_what_could_help_brings_a_pod_back() {
    let mut queue = Queue::default();
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    queue.add(&id("a"), 0);
    aside(&mut queue, Rejection::NodeAffinity, now);
    hint(&mut queue, &Hint::PodLeft(asking("1")), later);
    assert_eq!(pop(&mut queue, later), None);
    hint(&mut queue, &Hint::NodeCame, later);
    assert_eq!(pop(&mut queue, later).as_deref(), Some("a"), "at once: its wait is long over");
}

#[test]
fn a_pod_for_which_nothing_changed_stays_where_it_is() {
    let mut queue = Queue::default();
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    queue.add(&id("a"), 0);
    aside(&mut queue, Rejection::Insufficient { resource: "example.com/gpu".to_owned(), never: true }, now);
    let more = |resource: &str| {
        Hint::NodeChanged(NodeChange { more: [resource.to_owned()].into(), ..NodeChange::default() })
    };
    let labels = Hint::NodeChanged(NodeChange { labels: true, ..NodeChange::default() });
    let (left, came) = (Hint::PodLeft(asking("1")), Hint::PodCame(asking("1")));
    for happened in [left, came, Hint::NodeLeft, Hint::Namespace, labels, more("memory")] {
        hint(&mut queue, &happened, later);
        assert_eq!(pop(&mut queue, later), None, "{happened:?}");
    }
    hint(&mut queue, &more("example.com/gpu"), later);
    assert_eq!(pop(&mut queue, later).as_deref(), Some("a"));
}

#[test]
fn a_hint_does_not_shorten_the_wait() {
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.add(&id("a"), 0);
    aside(&mut queue, Rejection::TooManyPods, now);
    hint(&mut queue, &Hint::PodLeft(asking("1")), now);
    assert_eq!(pop(&mut queue, now), None);
    assert_eq!(queue.next_wake(now), Some(now + FIRST_WAIT));
    assert_eq!(pop(&mut queue, now + FIRST_WAIT).as_deref(), Some("a"));
}

#[test]
fn waits_double_up_to_a_bound_and_nothing_is_forgotten() {
    assert_eq!([1, 2, 3, 4, 5, 90].map(|n| wait(n).as_secs()), [1, 2, 4, 8, 10, 10]);
    let mut queue = Queue::default();
    let now = Instant::now();
    queue.add(&id("a"), 0);
    aside(&mut queue, Rejection::NodeAffinity, now);
    queue.flush(now + Duration::from_secs(299));
    assert_eq!(queue.depths(), Depths { aside: 1, ..Depths::default() });
    queue.flush(now + FORGOTTEN);
    assert_eq!(queue.depths(), Depths { active: 1, ..Depths::default() });
    queue.remove(&id("a"));
    assert_eq!(queue.depths(), Depths::default());
}

#[test]
fn a_pod_that_leaves_brings_back_only_those_that_wait_for_what_it_had() {
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    let anti = json!({"containers": [], "affinity": {"podAntiAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "db"}}}]}}});
    let even = json!({"containers": [], "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "db"}}}]});
    let port = json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let (db, web) = (json!({"app": "db"}), json!({"app": "web"}));
    let cpu = Rejection::Insufficient { resource: "cpu".to_owned(), never: false };
    let cases = [
        (asking("1"), cpu.clone(), asking("1"), true),
        (asking("1"), cpu, shape(json!({}), json!({"containers": []})), false),
        (shape(web.clone(), anti.clone()), Rejection::AntiAffinity, shape(db.clone(), json!({})), true),
        (shape(web.clone(), anti.clone()), Rejection::AntiAffinity, shape(web.clone(), json!({})), false),
        (
            shape(db.clone(), json!({})),
            Rejection::ExistingAntiAffinity,
            shape(web.clone(), anti.clone()),
            true,
        ),
        (shape(web.clone(), json!({})), Rejection::ExistingAntiAffinity, shape(web.clone(), anti), false),
        (shape(web.clone(), even.clone()), Rejection::Spread, shape(db, json!({})), true),
        (shape(web.clone(), even), Rejection::Spread, shape(web.clone(), json!({})), false),
        (shape(json!({}), port.clone()), Rejection::HostPort, shape(web.clone(), port.clone()), true),
        (shape(json!({}), port), Rejection::HostPort, shape(web, json!({})), false),
    ];
    for (waiting, reason, left, back) in cases {
        let mut queue = Queue::default();
        queue.add(&id("a"), 0);
        aside_as(&mut queue, &waiting, reason.clone(), now);
        hint(&mut queue, &Hint::PodLeft(left.clone()), later);
        assert_eq!(pop(&mut queue, later).is_some(), back, "{reason:?} and {left:?}");
    }
}

#[test]
fn equals_come_back_together_and_one_that_was_removed_does_not() {
    let mut queue = Queue::default();
    let now = Instant::now();
    let later = now + Duration::from_secs(60);
    for name in ["a", "b", "c", "d"] {
        queue.add(&id(name), 0);
        aside(&mut queue, Rejection::TooManyPods, now);
    }
    queue.remove(&id("b"));
    queue.touch(&id("c"), later);
    assert_eq!(queue.depths(), Depths { active: 1, aside: 2, ..Depths::default() });
    hint(&mut queue, &Hint::PodLeft(Arc::default()), later);
    let order: Vec<_> = std::iter::from_fn(|| pop(&mut queue, later)).collect();
    assert_eq!(order, ["a", "c", "d"]);
    assert_eq!(queue.depths(), Depths::default());
}
